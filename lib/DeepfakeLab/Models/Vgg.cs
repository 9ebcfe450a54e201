using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>VGG with 11 to 19 layers, with and without batch norm (Simonyan and Zisserman 2014, arXiv:1409.1556); torchvision's <c>vgg.py</c>.</summary>
/// <remarks>
/// Stages: <c>features.0</c> … (each layer is one), <c>classifier</c>. Features: [N, 25088], 7x7 pooled feature maps. A new head replaces
/// all three linear layers, as the original study did.
/// </remarks>
public sealed class Vgg : VisionModel
{
    private const int Pooling = 0;

    /// <summary>Table 1 of the paper: channels of the 3x3 convolutions, and max pooling between.</summary>
    private static readonly Dictionary<string, int[]> variants = new()
    {
        ["vgg11"] = [64, Pooling, 128, Pooling, 256, 256, Pooling, 512, 512, Pooling, 512, 512, Pooling],
        ["vgg13"] = [64, 64, Pooling, 128, 128, Pooling, 256, 256, Pooling, 512, 512, Pooling, 512, 512, Pooling],
        ["vgg16"] = [64, 64, Pooling, 128, 128, Pooling, 256, 256, 256, Pooling, 512, 512, 512, Pooling, 512, 512, 512, Pooling],
        ["vgg19"] = [64, 64, Pooling, 128, 128, Pooling, 256, 256, 256, 256, Pooling, 512, 512, 512, 512, Pooling, 512, 512, 512, 512, Pooling],
    };

    private readonly bool initialises;

    internal Vgg(string name, int classes, ModelOptions options) : base(name, "VGG")
    {
        initialises = options.InitWeights;
        var normalised = name.EndsWith("_bn", StringComparison.Ordinal);
        var features = nn.Sequential();
        var channels = 3;
        foreach (var width in variants[normalised ? name[..^3] : name])
        {
            if (width == Pooling)
            {
                features.append(nn.MaxPool2d(2, stride: 2));
                continue;
            }
            features.append(nn.Conv2d(channels, width, 3, padding: 1));
            if (normalised)
                features.append(options.NormLayer?.Invoke(width) ?? nn.BatchNorm2d(width));
            features.append(nn.ReLU()); // not in place: the activations before it can be cut at and kept
            channels = width;
        }
        var dropout = options.Dropout ?? 0.5;
        AddStages("features", features);
        AddHead("classifier", options.PlainHead
            ? nn.Sequential(nn.Linear(512 * 7 * 7, classes))
            : nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace: true), nn.Dropout(dropout),
                nn.Linear(4096, 4096), nn.ReLU(inplace: true), nn.Dropout(dropout),
                nn.Linear(4096, classes)), classes, features: 512 * 7 * 7);
    }

    internal override void Initialise()
    {
        if (initialises)
            base.Initialise();
    }

    internal override HeadRecipe DefaultHead => HeadRecipe.Linear(dropout: 0.5);

    internal override void InitialiseLinear(Linear layer)
    {
        nn.init.normal_(layer.weight, 0, 0.01);
        nn.init.zeros_(layer.bias);
    }

    internal override int PooledSide => 7;

    private protected override Tensor Pool(Tensor maps)
    {
        using var pooled = nn.functional.adaptive_avg_pool2d(maps, [7, 7]);
        return pooled.flatten(1);
    }
}
