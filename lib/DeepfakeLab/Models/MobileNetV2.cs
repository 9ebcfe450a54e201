using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>MobileNetV2: inverted residuals and linear bottlenecks (Sandler et al. 2018, arXiv:1801.04381); torchvision's <c>mobilenetv2.py</c>.</summary>
/// <remarks>Stages: <c>features.0</c> … <c>features.18</c>, <c>classifier</c>. Features: [N, 1280].</remarks>
public sealed class MobileNetV2 : VisionModel
{
    /// <summary>Table 2 of the paper: expansion, output channels, repeats, stride of the first.</summary>
    private static readonly (int Expand, int Channels, int Repeats, int Stride)[] table =
    [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];

    internal MobileNetV2(int classes, ModelOptions options) : base("mobilenet_v2", "MobileNetV2")
    {
        int Width(int count, double multiplier) => Layers.Channels(count * multiplier, options.RoundNearest);
        var width = options.WidthMultiplier;
        var norm = new Layers.Norm(Layer: options.NormLayer);
        int channels = Width(32, width), last = Width(1280, Math.Max(1, width));
        var features = nn.Sequential(Layers.ConvNormActivation(3, channels, stride: 2, norm: norm, activation: Layers.ReLU6));
        foreach (var row in options.InvertedResidualSetting ?? table)
        {
            var output = Width(row.Channels, width);
            for (var i = 0; i < row.Repeats; i++, channels = output)
                features.append(new InvertedResidual(channels, output, i == 0 ? row.Stride : 1, row.Expand, norm));
        }
        features.append(Layers.ConvNormActivation(channels, last, kernel: 1, norm: norm, activation: Layers.ReLU6));

        AddStages("features", features);
        AddHead("classifier", nn.Sequential(nn.Dropout(options.Dropout ?? 0.2), nn.Linear(last, classes)), classes, last);
    }

    internal override HeadRecipe DefaultHead => HeadRecipe.Linear(dropout: 0.2);

    internal override void InitialiseLinear(Linear layer)
    {
        nn.init.normal_(layer.weight, 0, 0.01);
        nn.init.zeros_(layer.bias);
    }

    private sealed class InvertedResidual : nn.Module<Tensor, Tensor>, Layers.IResidual
    {
        private readonly bool adds;
        private readonly Sequential conv;

        public InvertedResidual(int input, int output, int stride, int expand, Layers.Norm norm) : base(nameof(InvertedResidual))
        {
            var hidden = input * expand;
            adds = stride == 1 && input == output;
            conv = nn.Sequential();
            if (expand != 1)
                conv.append(Layers.ConvNormActivation(input, hidden, kernel: 1, norm: norm, activation: Layers.ReLU6));
            conv.append(Layers.ConvNormActivation(hidden, hidden, stride: stride, groups: hidden, norm: norm, activation: Layers.ReLU6));
            conv.append(Layers.Conv(hidden, output, kernel: 1));
            conv.append(norm.Over(output));
            RegisterComponents();
        }

        public IReadOnlyList<nn.Module> Branch => [conv];

        public bool Adds => adds;

        public override Tensor forward(Tensor x) => adds ? conv.call(x).add_(x) : conv.call(x);
    }
}
