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
                features.append(new InvertedResidualConfig(channels, 3, channels * row.Expand, output, false, false, i == 0 ? row.Stride : 1, 1,
                    norm.Over, c => new InvertedResidual(c)).Build(options));
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

        public InvertedResidual(InvertedResidualConfig c) : base(nameof(InvertedResidual))
        {
            adds = c.Stride == 1 && c.InputChannels == c.OutChannels;
            conv = nn.Sequential();
            if (c.ExpandedChannels != c.InputChannels)
                conv.append(Layers.ConvNormActivation(c.InputChannels, c.ExpandedChannels, kernel: 1, norm: c.Norm, activation: Layers.ReLU6));
            conv.append(Layers.ConvNormActivation(c.ExpandedChannels, c.ExpandedChannels, c.Kernel, c.Stride, groups: c.ExpandedChannels, c.Norm, Layers.ReLU6));
            conv.append(Layers.Conv(c.ExpandedChannels, c.OutChannels, kernel: 1));
            conv.append(c.NormLayer(c.OutChannels));
            RegisterComponents();
        }

        public IReadOnlyList<nn.Module> Branch => [conv];

        public bool Adds => adds;

        public override Tensor forward(Tensor x) => adds ? conv.call(x).add_(x) : conv.call(x);
    }
}
