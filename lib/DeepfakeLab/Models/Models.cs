using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>torchvision's further constructor arguments; each is read by the families that have it in torchvision, and ignored by the others.</summary>
public sealed record ModelOptions
{
    /// <summary>Probability of dropout in the head; null for the variant's own. Not for ResNets, which have none.</summary>
    public double? Dropout { get; init; }

    /// <summary>EfficientNet: the share of images whose last block is skipped in training; earlier blocks are skipped less.</summary>
    public double StochasticDepth { get; init; } = 0.2;

    /// <summary>MobileNets: all channel counts are multiplied by this and rounded to eights.</summary>
    public double WidthMultiplier { get; init; } = 1;

    /// <summary>MobileNetV2: scaled channel counts are rounded to multiples of this.</summary>
    public int RoundNearest { get; init; } = 8;

    /// <summary>MobileNetV2: its table, rows of expansion (t), output channels (c), repeats (n) and the first one's stride (s); null for the paper's.</summary>
    public IReadOnlyList<(int Expand, int Channels, int Repeats, int Stride)>? InvertedResidualSetting { get; init; }

    /// <summary>MobileNetV3: the last three blocks and the head have half the channels, for detection and segmentation.</summary>
    public bool ReducedTail { get; init; }

    /// <summary>MobileNetV3: the last three blocks are dilated by two instead of halving the image.</summary>
    public bool Dilated { get; init; }

    /// <summary>
    /// MobileNets: makes each of the inverted residual blocks, torchvision's <c>block</c>; null for the family's own, which
    /// <see cref="InvertedResidualConfig.Own"/> makes, so <c>c => c.Own(c with { Kernel = 5 })</c> has larger kernels. What is made takes
    /// and gives the channels of its configuration.
    /// </summary>
    public Func<InvertedResidualConfig, nn.Module<Tensor, Tensor>>? MobileNetBlock { get; init; }

    /// <summary>ResNets: each block's last batch norm starts with weight zero, so the block starts as the identity.</summary>
    public bool ZeroInitResidual { get; init; }

    /// <summary>ResNets: the block they are built of; null for the variant's own.</summary>
    public ResNetBlock? Block { get; init; }

    /// <summary>ResNets with bottlenecks: groups of the 3x3 convolutions (ResNeXt's cardinality); null for the variant's own.</summary>
    public int? Groups { get; init; }

    /// <summary>ResNets with bottlenecks: channels a group in the first stage; null for the variant's own.</summary>
    public int? WidthPerGroup { get; init; }

    /// <summary>ResNets with bottlenecks: whether layer2, layer3 and layer4 are dilated instead of halving the image.</summary>
    public (bool Layer2, bool Layer3, bool Layer4) ReplaceStrideWithDilation { get; init; }

    /// <summary>VGG: false leaves the weights as PyTorch's layers draw them.</summary>
    public bool InitWeights { get; init; } = true;

    /// <summary>All but VGG and MNASNet: makes the normalisation of so many channels, such as <c>c => nn.GroupNorm(8, c)</c>; null for the family's batch norm.</summary>
    public Func<long, nn.Module<Tensor, Tensor>>? NormLayer { get; init; }

    /// <summary>VGG: one linear layer for the head instead of three, whose 120 million numbers take a second to draw: for a model that is to get another.</summary>
    internal bool PlainHead { get; init; }

    /// <summary>Whether every batch norm follows a convolution as the family has it, so that one can be multiplied into the other.</summary>
    internal bool CanFold => NormLayer is null && MobileNetBlock is null;
}

/// <summary>One of a MobileNet's blocks as the network asks for it, channels already scaled; torchvision's <c>InvertedResidualConfig</c>.</summary>
/// <param name="InputChannels">Channels that come in.</param>
/// <param name="Kernel">Pixels a side of the depthwise convolution.</param>
/// <param name="ExpandedChannels">Channels between the block's two ends.</param>
/// <param name="OutChannels">Channels that must go out.</param>
/// <param name="UseSqueezeExcitation">MobileNetV3: whether channels are scaled by what all channels' means say.</param>
/// <param name="Hardswish">MobileNetV3: whether hard swish is the activation; else it is ReLU (MobileNetV2: ReLU6).</param>
/// <param name="Stride">2 where the block halves the image.</param>
/// <param name="Dilation">MobileNetV3: of the depthwise convolution, which has no stride where this is not 1.</param>
/// <param name="NormLayer">Makes the normalisation of so many channels.</param>
/// <param name="Own">Makes the family's own block.</param>
public sealed record InvertedResidualConfig(
    int InputChannels, int Kernel, int ExpandedChannels, int OutChannels, bool UseSqueezeExcitation, bool Hardswish, int Stride, int Dilation,
    Func<long, nn.Module<Tensor, Tensor>> NormLayer, Func<InvertedResidualConfig, nn.Module<Tensor, Tensor>> Own)
{
    /// <summary>The normalisation in the form that <see cref="Layers"/> takes.</summary>
    internal Layers.Norm Norm => new(Layer: NormLayer);

    /// <summary>The block that the options want, or the family's own.</summary>
    internal nn.Module<Tensor, Tensor> Build(ModelOptions options) => (options.MobileNetBlock ?? Own)(this);
}

/// <summary>What ResNets are built of: torchvision's BasicBlock (two 3x3 convolutions) and Bottleneck (1x1, 3x3, 1x1).</summary>
public enum ResNetBlock
{
    /// <summary>Two 3x3 convolutions; what ResNet-18 and 34 have.</summary>
    BasicBlock,

    /// <summary>A 3x3 convolution between two of 1x1, with four times its channels at the end; what the others have.</summary>
    Bottleneck,
}

/// <summary>Makes models by name, with weights. A method a variant; <see cref="Create"/> takes torchvision's name.</summary>
/// <remarks>All give a model on the CPU in training mode. Null weights mean <see cref="Weights.None"/>.</remarks>
public static class Models
{
    private static readonly OrderedDictionary<string, Func<string, int, ModelOptions, VisionModel>> constructors = new(StringComparer.Ordinal);

    static Models()
    {
        Add((name, classes, options) => new EfficientNet(name, classes, options), "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
            "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l");
        Add((name, classes, options) => new MnasNet(name, 0.5, classes, options), "mnasnet0_5");
        Add((name, classes, options) => new MnasNet(name, 0.75, classes, options), "mnasnet0_75");
        Add((name, classes, options) => new MnasNet(name, 1.0, classes, options), "mnasnet1_0");
        Add((name, classes, options) => new MnasNet(name, 1.3, classes, options), "mnasnet1_3");
        Add((_, classes, options) => new MobileNetV2(classes, options), "mobilenet_v2");
        Add((_, classes, options) => DeepfakeLab.MobileNetV3.Small(classes, options), "mobilenet_v3_small");
        Add((_, classes, options) => DeepfakeLab.MobileNetV3.Large(classes, options), "mobilenet_v3_large");
        Add((name, classes, options) => new ResNet(name, classes, options), "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
            "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d");
        Add((name, classes, options) => new Vgg(name, classes, options), "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn");
    }

    private static void Add(Func<string, int, ModelOptions, VisionModel> construct, params string[] names)
    {
        foreach (var name in names)
            constructors.Add(name, construct);
    }

    /// <summary>All variants, by torchvision's names, family by family.</summary>
    public static IReadOnlyList<string> Names => [.. constructors.Keys];

    /// <summary>A model with its weights loaded.</summary>
    /// <param name="name">torchvision's name, such as <c>mobilenet_v2</c>.</param>
    /// <param name="weights">Null means <see cref="Weights.None"/>: random initialisation as torchvision does it.</param>
    /// <param name="classes">Logits an image gets. Weights must have as many; use <see cref="VisionModel.WithHead"/> to change it afterwards.</param>
    /// <param name="options">torchvision's further arguments; null for its defaults.</param>
    /// <exception cref="ModelException">There is no such model.</exception>
    /// <exception cref="CheckpointException">The weights do not fit it.</exception>
    /// <exception cref="WeightsException">The weights cannot be had.</exception>
    public static VisionModel Create(string name, Weights? weights = null, int classes = 1000, ModelOptions? options = null)
    {
        var model = Construct(name, classes, options);
        try
        {
            (weights ?? Weights.None).LoadInto(model);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>The layers alone, with the numbers that PyTorch's constructors draw.</summary>
    internal static VisionModel Construct(string name, int classes = 1000, ModelOptions? options = null)
    {
        LabRuntime.Start();
        if (!constructors.TryGetValue(name, out var construct))
            throw new ModelException("There is no such model", name, "Use one of " + string.Join(", ", Names));
        var model = construct(name, classes, options ??= new ModelOptions());
        model.Options = options;
        return model;
    }

    public static VisionModel EfficientNetB0(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b0", weights, classes, options);
    public static VisionModel EfficientNetB1(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b1", weights, classes, options);
    public static VisionModel EfficientNetB2(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b2", weights, classes, options);
    public static VisionModel EfficientNetB3(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b3", weights, classes, options);
    public static VisionModel EfficientNetB4(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b4", weights, classes, options);
    public static VisionModel EfficientNetB5(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b5", weights, classes, options);
    public static VisionModel EfficientNetB6(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b6", weights, classes, options);
    public static VisionModel EfficientNetB7(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_b7", weights, classes, options);
    public static VisionModel EfficientNetV2S(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_v2_s", weights, classes, options);
    public static VisionModel EfficientNetV2M(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_v2_m", weights, classes, options);
    public static VisionModel EfficientNetV2L(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("efficientnet_v2_l", weights, classes, options);
    public static VisionModel MnasNet0_5(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mnasnet0_5", weights, classes, options);
    public static VisionModel MnasNet0_75(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mnasnet0_75", weights, classes, options);
    public static VisionModel MnasNet1_0(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mnasnet1_0", weights, classes, options);
    public static VisionModel MnasNet1_3(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mnasnet1_3", weights, classes, options);
    public static VisionModel MobileNetV2(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mobilenet_v2", weights, classes, options);
    public static VisionModel MobileNetV3Small(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mobilenet_v3_small", weights, classes, options);
    public static VisionModel MobileNetV3Large(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("mobilenet_v3_large", weights, classes, options);
    public static VisionModel ResNet18(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnet18", weights, classes, options);
    public static VisionModel ResNet34(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnet34", weights, classes, options);
    public static VisionModel ResNet50(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnet50", weights, classes, options);
    public static VisionModel ResNet101(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnet101", weights, classes, options);
    public static VisionModel ResNet152(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnet152", weights, classes, options);
    public static VisionModel WideResNet50_2(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("wide_resnet50_2", weights, classes, options);
    public static VisionModel WideResNet101_2(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("wide_resnet101_2", weights, classes, options);
    public static VisionModel ResNext50_32x4d(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnext50_32x4d", weights, classes, options);
    public static VisionModel ResNext101_32x8d(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnext101_32x8d", weights, classes, options);
    public static VisionModel ResNext101_64x4d(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("resnext101_64x4d", weights, classes, options);
    public static VisionModel Vgg11(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg11", weights, classes, options);
    public static VisionModel Vgg11Bn(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg11_bn", weights, classes, options);
    public static VisionModel Vgg13(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg13", weights, classes, options);
    public static VisionModel Vgg13Bn(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg13_bn", weights, classes, options);
    public static VisionModel Vgg16(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg16", weights, classes, options);
    public static VisionModel Vgg16Bn(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg16_bn", weights, classes, options);
    public static VisionModel Vgg19(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg19", weights, classes, options);
    public static VisionModel Vgg19Bn(Weights? weights = null, int classes = 1000, ModelOptions? options = null) => Create("vgg19_bn", weights, classes, options);
}
