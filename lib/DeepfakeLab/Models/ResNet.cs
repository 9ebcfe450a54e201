using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// ResNet (He et al. 2015, arXiv:1512.03385), Wide ResNet (Zagoruyko and Komodakis 2016, arXiv:1605.07146) and ResNeXt
/// (Xie et al. 2016, arXiv:1611.05431); torchvision's <c>resnet.py</c>.
/// </summary>
/// <remarks>
/// Stages: <c>stem</c> (conv1, bn1, relu, maxpool), <c>layer1</c> … <c>layer4</c>, <c>fc</c>. Features: [N, 512] with basic blocks,
/// [N, 2048] with bottlenecks, which have their stride in the 3x3 convolution as torchvision's do.
/// </remarks>
public sealed class ResNet : VisionModel
{
    private sealed record Variant(string Family, bool Bottleneck, int[] Blocks, int Groups = 1, int WidthPerGroup = 64);

    /// <summary>Table 1 of the first paper; the others change the groups and the bottleneck's width.</summary>
    private static readonly Dictionary<string, Variant> variants = new()
    {
        ["resnet18"] = new("ResNet", false, [2, 2, 2, 2]),
        ["resnet34"] = new("ResNet", false, [3, 4, 6, 3]),
        ["resnet50"] = new("ResNet", true, [3, 4, 6, 3]),
        ["resnet101"] = new("ResNet", true, [3, 4, 23, 3]),
        ["resnet152"] = new("ResNet", true, [3, 8, 36, 3]),
        ["wide_resnet50_2"] = new("Wide ResNet", true, [3, 4, 6, 3], WidthPerGroup: 128),
        ["wide_resnet101_2"] = new("Wide ResNet", true, [3, 4, 23, 3], WidthPerGroup: 128),
        ["resnext50_32x4d"] = new("ResNeXt", true, [3, 4, 6, 3], Groups: 32, WidthPerGroup: 4),
        ["resnext101_32x8d"] = new("ResNeXt", true, [3, 4, 23, 3], Groups: 32, WidthPerGroup: 8),
        ["resnext101_64x4d"] = new("ResNeXt", true, [3, 4, 23, 3], Groups: 64, WidthPerGroup: 4),
    };

    private readonly bool zeroLast;

    /// <summary>What all blocks of one network share.</summary>
    private sealed record Shape(bool Bottleneck, int Groups, int WidthPerGroup, Layers.Norm Norm);

    internal ResNet(string name, int classes, ModelOptions options) : base(name, variants[name].Family)
    {
        var variant = variants[name];
        var shape = new Shape(options.Block is { } block ? block == ResNetBlock.Bottleneck : variant.Bottleneck, options.Groups ?? variant.Groups,
            options.WidthPerGroup ?? variant.WidthPerGroup, new Layers.Norm(Layer: options.NormLayer));
        var replaced = options.ReplaceStrideWithDilation;
        if (!shape.Bottleneck && (shape.Groups != 1 || shape.WidthPerGroup != 64 || replaced != default))
            throw new ModelException("Basic blocks take no groups, width or dilation", name, "Use a ResNet of 50 layers or more, or leave these options out");
        if (shape.Groups < 1 || shape.WidthPerGroup < 1)
            throw new ModelException("Groups and width per group are at least 1", $"{shape.Groups} and {shape.WidthPerGroup}", "Use 1 or more of each");
        bool[] dilates = [false, replaced.Layer2, replaced.Layer3, replaced.Layer4];
        var expansion = shape.Bottleneck ? 4 : 1;
        zeroLast = options.ZeroInitResidual;
        AddStage("stem",
            ("conv1", nn.Conv2d(3, 64, 7, stride: 2, padding: 3, bias: false)),
            ("bn1", shape.Norm.Over(64)),
            ("relu", Layers.ReLU()),
            ("maxpool", nn.MaxPool2d(3, stride: 2, padding: 1)));
        var (channels, dilation) = (64, 1);
        for (var stage = 0; stage < 4; stage++)
        {
            var planes = 64 << stage;
            var layer = nn.Sequential();
            var (stride, before) = (stage > 0 && !dilates[stage] ? 2 : 1, dilation);
            dilation *= dilates[stage] ? 2 : 1;
            for (var i = 0; i < variant.Blocks[stage]; i++, channels = planes * expansion)
                layer.append(Block(shape, channels, planes, stride: i == 0 ? stride : 1, dilation: i == 0 ? before : dilation));
            AddStage($"layer{stage + 1}", ($"layer{stage + 1}", layer));
        }
        AddHead("fc", nn.Linear(channels, classes), classes, channels);
    }

    internal override HeadRecipe DefaultHead => HeadRecipe.Linear();

    /// <summary>torchvision leaves the linear layer as PyTorch's constructor drew it.</summary>
    internal override void InitialiseLinear(Linear layer)
    {
    }

    internal override void InitialiseRest()
    {
        if (!zeroLast)
            return;
        foreach (var norm in Initialisation.Modules(this).OfType<Residual>().Select(block => block.LastNorm).OfType<BatchNorm2d>())
            nn.init.zeros_(norm.weight);
    }

    private static Residual Block(Shape shape, int input, int planes, int stride, int dilation)
    {
        if (!shape.Bottleneck)
            return new Residual(input, planes, stride, shape.Norm, [Layers.Conv(input, planes, stride: stride), Layers.Conv(planes, planes)]);
        var width = (int)(planes * (shape.WidthPerGroup / 64.0)) * shape.Groups;
        return new Residual(input, planes * 4, stride, shape.Norm,
            [
                Layers.Conv(input, width, kernel: 1),
                Layers.Conv(width, width, stride: stride, groups: shape.Groups, dilation: dilation),
                Layers.Conv(width, planes * 4, kernel: 1),
            ]);
    }

    /// <summary>torchvision's BasicBlock (two convolutions) or Bottleneck (three): conv, bn, relu, …, conv, bn, add, relu.</summary>
    private sealed class Residual : nn.Module<Tensor, Tensor>, Layers.IResidual
    {
        private readonly (Conv2d Conv, nn.Module<Tensor, Tensor> Norm)[] steps; // an array, so that TorchSharp registers them by our names only
        private readonly Sequential? downsample;

        public Residual(int input, int output, int stride, Layers.Norm norm, Conv2d[] convs) : base(nameof(Residual))
        {
            steps = [.. convs.Select(conv => (conv, norm.Over(conv.out_channels)))];
            for (var i = 0; i < steps.Length; i++)
            {
                register_module($"conv{i + 1}", steps[i].Conv);
                register_module($"bn{i + 1}", steps[i].Norm);
            }
            if (stride != 1 || input != output)
                register_module("downsample", downsample = nn.Sequential(Layers.Conv(input, output, kernel: 1, stride), norm.Over(output)));
        }

        public nn.Module<Tensor, Tensor> LastNorm => steps[^1].Norm;

        public IReadOnlyList<nn.Module> Branch =>
            [.. steps.SelectMany(IEnumerable<nn.Module> (s) => s.Norm == LastNorm ? (nn.Module[])[s.Conv, s.Norm] : (nn.Module[])[s.Conv, s.Norm, Layers.ReLU()])];

        public bool Adds => true;

        public IReadOnlyList<nn.Module> Shortcut => downsample is null ? [] : [downsample];

        public bool EndsInReLU => true;

        public override Tensor forward(Tensor x)
        {
            using var scope = NewDisposeScope();
            var h = x;
            foreach (var (conv, norm) in steps)
            {
                h = norm.call(conv.call(h));
                if (norm != LastNorm)
                    h = h.relu_();
            }
            return h.add_(downsample is null ? x : downsample.call(x)).relu_().MoveToOuterDisposeScope();
        }
    }
}
