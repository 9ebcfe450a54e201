using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>EfficientNet B0 to B7 (Tan and Le 2019, arXiv:1905.11946) and V2 (2021, arXiv:2104.00298); torchvision's <c>efficientnet.py</c>.</summary>
/// <remarks>Stages: <c>features.0</c> (stem) … <c>features.8</c> (V2-S: <c>.7</c>), <c>classifier</c>. Features: [N, 1280] for B0 and V2.</remarks>
public sealed class EfficientNet : VisionModel
{
    /// <summary>One line of a table: expansion, kernel, stride of the first, input and output channels, repeats.</summary>
    private record Row(int Expand, int Kernel, int Stride, int Input, int Output, int Repeats);

    /// <summary>A stage whose expansion and depthwise convolutions are one full convolution.</summary>
    private sealed record Fused(int Expand, int Kernel, int Stride, int Input, int Output, int Repeats)
        : Row(Expand, Kernel, Stride, Input, Output, Repeats);

    /// <summary>Table 1 of the first paper; B1 to B7 scale its channels and repeats.</summary>
    private static readonly Row[] b0 =
    [
        new(1, 3, 1, 32, 16, 1),
        new(6, 3, 2, 16, 24, 2),
        new(6, 5, 2, 24, 40, 2),
        new(6, 3, 2, 40, 80, 3),
        new(6, 5, 1, 80, 112, 3),
        new(6, 5, 2, 112, 192, 4),
        new(6, 3, 1, 192, 320, 1),
    ];

    /// <summary>Table 4 of the second paper, and its larger siblings from the authors' code.</summary>
    private static readonly Row[] v2s =
    [
        new Fused(1, 3, 1, 24, 24, 2),
        new Fused(4, 3, 2, 24, 48, 4),
        new Fused(4, 3, 2, 48, 64, 4),
        new(4, 3, 2, 64, 128, 6),
        new(6, 3, 1, 128, 160, 9),
        new(6, 3, 2, 160, 256, 15),
    ];

    private static readonly Row[] v2m =
    [
        new Fused(1, 3, 1, 24, 24, 3),
        new Fused(4, 3, 2, 24, 48, 5),
        new Fused(4, 3, 2, 48, 80, 5),
        new(4, 3, 2, 80, 160, 7),
        new(6, 3, 1, 160, 176, 14),
        new(6, 3, 2, 176, 304, 18),
        new(6, 3, 1, 304, 512, 5),
    ];

    private static readonly Row[] v2l =
    [
        new Fused(1, 3, 1, 32, 32, 4),
        new Fused(4, 3, 2, 32, 64, 7),
        new Fused(4, 3, 2, 64, 96, 7),
        new(4, 3, 2, 96, 192, 10),
        new(6, 3, 1, 192, 224, 19),
        new(6, 3, 2, 224, 384, 25),
        new(6, 3, 1, 384, 640, 7),
    ];

    private sealed record Variant(Row[] Table, double Dropout, double Width = 1, double Depth = 1, Layers.Norm? Norm = null, int LastChannels = 0);

    private static readonly Layers.Norm tensorFlow = new(Eps: 0.001, Momentum: 0.01), v2Norm = new(Eps: 0.001);

    private static readonly Dictionary<string, Variant> variants = new()
    {
        ["efficientnet_b0"] = new(b0, 0.2),
        ["efficientnet_b1"] = new(b0, 0.2, Width: 1.0, Depth: 1.1),
        ["efficientnet_b2"] = new(b0, 0.3, Width: 1.1, Depth: 1.2),
        ["efficientnet_b3"] = new(b0, 0.3, Width: 1.2, Depth: 1.4),
        ["efficientnet_b4"] = new(b0, 0.4, Width: 1.4, Depth: 1.8),
        ["efficientnet_b5"] = new(b0, 0.4, Width: 1.6, Depth: 2.2, tensorFlow),
        ["efficientnet_b6"] = new(b0, 0.5, Width: 1.8, Depth: 2.6, tensorFlow),
        ["efficientnet_b7"] = new(b0, 0.5, Width: 2.0, Depth: 3.1, tensorFlow),
        ["efficientnet_v2_s"] = new(v2s, 0.2, Norm: v2Norm, LastChannels: 1280),
        ["efficientnet_v2_m"] = new(v2m, 0.3, Norm: v2Norm, LastChannels: 1280),
        ["efficientnet_v2_l"] = new(v2l, 0.4, Norm: v2Norm, LastChannels: 1280),
    };

    private readonly double dropout;

    internal EfficientNet(string name, int classes, ModelOptions options) : base(name, "EfficientNet")
    {
        var variant = variants[name];
        var rows = variant.Table.Select(row => row with
        {
            Input = Layers.Channels(row.Input * variant.Width),
            Output = Layers.Channels(row.Output * variant.Width),
            Repeats = (int)Math.Ceiling(row.Repeats * variant.Depth),
        }).ToList();
        var norm = (variant.Norm ?? Layers.Norm.Default) with { Layer = options.NormLayer };
        dropout = options.Dropout ?? variant.Dropout;

        var features = nn.Sequential(Layers.ConvNormActivation(3, rows[0].Input, stride: 2, norm: norm, activation: Layers.SiLU));
        int blocks = rows.Sum(r => r.Repeats), done = 0;
        foreach (var row in rows)
        {
            var stage = nn.Sequential();
            for (var i = 0; i < row.Repeats; i++, done++)
                stage.append(new MBConv(i == 0 ? row : row with { Input = row.Output, Stride = 1 }, norm, drop: options.StochasticDepth * done / blocks));
            features.append(stage);
        }
        var last = variant.LastChannels > 0 ? variant.LastChannels : 4 * rows[^1].Output;
        features.append(Layers.ConvNormActivation(rows[^1].Output, last, kernel: 1, norm: norm, activation: Layers.SiLU));

        AddStages("features", features);
        AddHead("classifier", nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes)), classes, last);
    }

    internal override HeadRecipe DefaultHead => HeadRecipe.Linear(dropout);

    internal override bool DrawsByOutputs => true;

    internal override void InitialiseLinear(Linear layer)
    {
        var range = 1 / Math.Sqrt(layer.weight.shape[0]);
        nn.init.uniform_(layer.weight, -range, range);
        nn.init.zeros_(layer.bias);
    }

    /// <summary>The mobile inverted bottleneck with squeeze and excitation, or its fused form without.</summary>
    private sealed class MBConv : nn.Module<Tensor, Tensor>, Layers.IResidual
    {
        private readonly bool adds;
        private readonly double drop;
        private readonly Sequential block = nn.Sequential();

        public MBConv(Row row, Layers.Norm norm, double drop) : base(nameof(MBConv))
        {
            adds = row.Stride == 1 && row.Input == row.Output;
            this.drop = drop;
            var expanded = Layers.Channels(row.Input * row.Expand);
            var expands = expanded != row.Input;
            if (row is Fused)
            {
                block.append(Layers.ConvNormActivation(row.Input, expands ? expanded : row.Output, row.Kernel, row.Stride, norm: norm, activation: Layers.SiLU));
                if (expands)
                    block.append(Layers.ConvNormActivation(expanded, row.Output, kernel: 1, norm: norm));
            }
            else
            {
                if (expands)
                    block.append(Layers.ConvNormActivation(row.Input, expanded, kernel: 1, norm: norm, activation: Layers.SiLU));
                block.append(Layers.ConvNormActivation(expanded, expanded, row.Kernel, row.Stride, groups: expanded, norm, Layers.SiLU));
                block.append(new Layers.SqueezeExcitation(expanded, Math.Max(1, row.Input / 4), Layers.SiLU(), nn.Sigmoid()));
                block.append(Layers.ConvNormActivation(expanded, row.Output, kernel: 1, norm: norm));
            }
            RegisterComponents();
        }

        public IReadOnlyList<nn.Module> Branch => [block];

        public bool Adds => adds;

        public double Drop => drop;

        public override Tensor forward(Tensor x)
        {
            if (!adds)
                return block.call(x);
            using var scope = NewDisposeScope();
            return Layers.StochasticDepth(block.call(x), drop, training).add_(x).MoveToOuterDisposeScope();
        }
    }
}
