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

    internal ResNet(string name, int classes, ModelOptions options) : base(name, variants[name].Family)
    {
        var variant = variants[name];
        var expansion = variant.Bottleneck ? 4 : 1;
        zeroLast = options.ZeroInitResidual;
        AddStage("stem",
            ("conv1", nn.Conv2d(3, 64, 7, stride: 2, padding: 3, bias: false)),
            ("bn1", nn.BatchNorm2d(64)),
            ("relu", Layers.ReLU()),
            ("maxpool", nn.MaxPool2d(3, stride: 2, padding: 1)));
        var channels = 64;
        for (var stage = 0; stage < 4; stage++)
        {
            var planes = 64 << stage;
            var layer = nn.Sequential();
            for (var i = 0; i < variant.Blocks[stage]; i++, channels = planes * expansion)
                layer.append(Block(variant, channels, planes, stride: i == 0 && stage > 0 ? 2 : 1));
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
        foreach (var block in Initialisation.Modules(this).OfType<Residual>())
            nn.init.zeros_(block.LastNorm.weight);
    }

    private static Residual Block(Variant variant, int input, int planes, int stride)
    {
        if (!variant.Bottleneck)
            return new Residual(input, planes, stride, [Layers.Conv(input, planes, stride: stride), Layers.Conv(planes, planes)]);
        var width = planes * variant.WidthPerGroup / 64 * variant.Groups;
        return new Residual(input, planes * 4, stride,
            [Layers.Conv(input, width, kernel: 1), Layers.Conv(width, width, stride: stride, groups: variant.Groups), Layers.Conv(width, planes * 4, kernel: 1)]);
    }

    /// <summary>torchvision's BasicBlock (two convolutions) or Bottleneck (three): conv, bn, relu, …, conv, bn, add, relu.</summary>
    private sealed class Residual : nn.Module<Tensor, Tensor>
    {
        private readonly (Conv2d Conv, BatchNorm2d Norm)[] steps; // an array, so that TorchSharp registers them by our names only
        private readonly Sequential? downsample;

        public Residual(int input, int output, int stride, Conv2d[] convs) : base(nameof(Residual))
        {
            steps = [.. convs.Select(conv => (conv, nn.BatchNorm2d(conv.out_channels)))];
            for (var i = 0; i < steps.Length; i++)
            {
                register_module($"conv{i + 1}", steps[i].Conv);
                register_module($"bn{i + 1}", steps[i].Norm);
            }
            if (stride != 1 || input != output)
                register_module("downsample", downsample = nn.Sequential(Layers.Conv(input, output, kernel: 1, stride), nn.BatchNorm2d(output)));
        }

        public BatchNorm2d LastNorm => steps[^1].Norm;

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
