using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>MobileNetV3, large and small (Howard et al. 2019, arXiv:1905.02244); torchvision's <c>mobilenetv3.py</c>.</summary>
/// <remarks>Stages: <c>features.0</c> … <c>features.16</c> (small: <c>.12</c>), <c>classifier</c>. Features: [N, 960] (small: 576).</remarks>
public sealed class MobileNetV3 : VisionModel
{
    private const string RE = nameof(RE), HS = nameof(HS); // ReLU and hard swish, as the paper writes them

    private sealed record Row(int Kernel, int Expanded, int Output, bool Squeeze, string Activation, int Stride);

    /// <summary>Table 1 of the paper.</summary>
    private static readonly Row[] large =
    [
        new(3, 16, 16, false, RE, 1),
        new(3, 64, 24, false, RE, 2),
        new(3, 72, 24, false, RE, 1),
        new(5, 72, 40, true, RE, 2),
        new(5, 120, 40, true, RE, 1),
        new(5, 120, 40, true, RE, 1),
        new(3, 240, 80, false, HS, 2),
        new(3, 200, 80, false, HS, 1),
        new(3, 184, 80, false, HS, 1),
        new(3, 184, 80, false, HS, 1),
        new(3, 480, 112, true, HS, 1),
        new(3, 672, 112, true, HS, 1),
        new(5, 672, 160, true, HS, 2),
        new(5, 960, 160, true, HS, 1),
        new(5, 960, 160, true, HS, 1),
    ];

    /// <summary>Table 2 of the paper.</summary>
    private static readonly Row[] small =
    [
        new(3, 16, 16, true, RE, 2),
        new(3, 72, 24, false, RE, 2),
        new(3, 88, 24, false, RE, 1),
        new(5, 96, 40, true, HS, 2),
        new(5, 240, 40, true, HS, 1),
        new(5, 240, 40, true, HS, 1),
        new(5, 120, 48, true, HS, 1),
        new(5, 144, 48, true, HS, 1),
        new(5, 288, 96, true, HS, 2),
        new(5, 576, 96, true, HS, 1),
        new(5, 576, 96, true, HS, 1),
    ];

    private MobileNetV3(string name, Row[] table, int lastChannels, int classes, ModelOptions options) : base(name, "MobileNetV3")
    {
        int Width(int channels) => Layers.Channels(channels * options.WidthMultiplier);
        var norm = new Layers.Norm(Eps: 0.001, Momentum: 0.01, options.NormLayer);
        var (channels, tail) = (Width(16), options.ReducedTail ? 2 : 1);
        var features = nn.Sequential(Layers.ConvNormActivation(3, channels, stride: 2, norm: norm, activation: Layers.Hardswish));
        foreach (var (i, row) in table.Index())
        {
            var (inTail, firstOfTail) = (i >= table.Length - 3, i == table.Length - 3); // what torchvision calls the tail; its first block keeps its expansion
            var output = Width(row.Output / (inTail ? tail : 1));
            features.append(new InvertedResidualConfig(channels, row.Kernel, Width(row.Expanded / (inTail && !firstOfTail ? tail : 1)), output, row.Squeeze,
                row.Activation == HS, row.Stride, inTail && options.Dilated ? 2 : 1, norm.Over, c => new InvertedResidual(c)).Build(options));
            channels = output;
        }
        features.append(Layers.ConvNormActivation(channels, 6 * channels, kernel: 1, norm: norm, activation: Layers.Hardswish));

        AddStages("features", features);
        AddHead("classifier", nn.Sequential(
            nn.Linear(6 * channels, Width(lastChannels / tail)),
            nn.Hardswish(inplace: true),
            nn.Dropout(options.Dropout ?? 0.2),
            nn.Linear(Width(lastChannels / tail), classes)), classes, features: 6 * channels);
    }

    internal static MobileNetV3 Large(int classes, ModelOptions options) => new("mobilenet_v3_large", large, 1280, classes, options);

    internal static MobileNetV3 Small(int classes, ModelOptions options) => new("mobilenet_v3_small", small, 1024, classes, options);

    internal override HeadRecipe DefaultHead => HeadRecipe.Linear(dropout: 0.2);

    internal override void InitialiseLinear(Linear layer)
    {
        nn.init.normal_(layer.weight, 0, 0.01);
        nn.init.zeros_(layer.bias);
    }

    private sealed class InvertedResidual : nn.Module<Tensor, Tensor>, Layers.IResidual
    {
        private readonly bool adds;
        private readonly Sequential block = nn.Sequential();

        public InvertedResidual(InvertedResidualConfig c) : base(nameof(InvertedResidual))
        {
            Func<nn.Module<Tensor, Tensor>> activation = c.Hardswish ? Layers.Hardswish : Layers.ReLU;
            adds = c.Stride == 1 && c.InputChannels == c.OutChannels;
            if (c.ExpandedChannels != c.InputChannels)
                block.append(Layers.ConvNormActivation(c.InputChannels, c.ExpandedChannels, kernel: 1, norm: c.Norm, activation: activation));
            block.append(Layers.ConvNormActivation(c.ExpandedChannels, c.ExpandedChannels, c.Kernel, c.Dilation > 1 ? 1 : c.Stride, groups: c.ExpandedChannels, c.Norm, activation, c.Dilation));
            if (c.UseSqueezeExcitation)
                block.append(new Layers.SqueezeExcitation(c.ExpandedChannels, Layers.Channels(c.ExpandedChannels / 4), Layers.ReLU(), nn.Hardsigmoid()));
            block.append(Layers.ConvNormActivation(c.ExpandedChannels, c.OutChannels, kernel: 1, norm: c.Norm));
            RegisterComponents();
        }

        public IReadOnlyList<nn.Module> Branch => [block];

        public bool Adds => adds;

        public override Tensor forward(Tensor x) => adds ? block.call(x).add_(x) : block.call(x);
    }
}
