namespace DeepfakeLab;

/// <summary>One official torchvision weight file, trained on ImageNet-1K.</summary>
/// <param name="Model">The model's name.</param>
/// <param name="Entry">torchvision's name of the entry: <c>IMAGENET1K_V1</c>, …</param>
/// <param name="File">The file's name; its SHA-256 begins with the digits between the last dash and the dot.</param>
/// <param name="Top1">Reported accuracy in percent on ImageNet's validation set; not a number where the entry is no classifier.</param>
/// <param name="Top5">As <paramref name="Top1"/>, counting an image as right when its class is among the five likeliest.</param>
/// <param name="Resize">Pixels of the shorter side before the crop, in the evaluation that gave these figures.</param>
/// <param name="Crop">Pixels a side of the crop.</param>
public sealed record PretrainedWeights(string Model, string Entry, string File, double Top1, double Top5, int Resize, int Crop)
{
    internal Interpolation Interpolation { get; init; } = Interpolation.Bilinear;
    internal IReadOnlyList<float> Mean { get; init; } = Preprocessing.ImageNet.Mean;
    internal IReadOnlyList<float> Std { get; init; } = Preprocessing.ImageNet.Std;

    /// <summary>What images go through before the model, in the evaluation that gave these figures.</summary>
    public Preprocessing Preprocessing =>
        new(new Preprocessing.Size(Resize, 0), new Preprocessing.Size(Crop, Crop)) { Interpolation = Interpolation, Mean = Mean, Std = Std };

    /// <summary>The first digits of the file's SHA-256, lower-case hexadecimal.</summary>
    public string HashPrefix => File[(File.LastIndexOf('-') + 1)..File.LastIndexOf('.')];

    /// <summary>Where torchvision has it.</summary>
    public string Address => "https://download.pytorch.org/models/" + File;

    /// <summary>The entries of one model, the default one last.</summary>
    /// <exception cref="ModelException">There is no such model.</exception>
    public static IReadOnlyList<PretrainedWeights> Of(string model) => All.Where(w => w.Model == model).ToList() is { Count: > 0 } found
        ? found
        : throw new ModelException("There are no ImageNet weights of this model", model, "Use one of " + string.Join(", ", All.Select(w => w.Model).Distinct()));

    /// <summary>One entry of a model; null for torchvision's default.</summary>
    /// <exception cref="ModelException">There is no such model.</exception>
    /// <exception cref="WeightsException">The model has no such entry.</exception>
    public static PretrainedWeights Find(string model, string? entry = null) => entry is null ? Of(model)[^1]
        : Of(model).FirstOrDefault(w => w.Entry == entry)
            ?? throw new WeightsException($"{model} has no such entry", entry, "Use one of " + string.Join(", ", Of(model).Select(w => w.Entry)));

    /// <summary>The file's path in torch's own cache and its SHA-256, after a download if it was not there.</summary>
    /// <exception cref="WeightsException">It is neither cached nor to be had; the message says how to bring it by hand.</exception>
    public (string Path, string Sha256) Fetch() => WeightsFile.Get(this);

    /// <summary>Every entry, from torchvision 0.14; the default one of a model, torchvision's <c>DEFAULT</c>, is its last.</summary>
    /// <remarks>
    /// EfficientNet-B0 to -B7 were uploaded anew in 2023, with other hashes (pytorch/vision issue 8060); theirs are from torchvision 0.17.
    /// IMAGENET1K_FEATURES has no classifier: it is VGG16 as the SSD detector uses it, with numbers from Caffe.
    /// </remarks>
    public static IReadOnlyList<PretrainedWeights> All { get; } =
    [
        new("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104.pth", 71.878, 90.286, 256, 224),
        new("mobilenet_v2", "IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth", 72.154, 90.822, 232, 224),
        new("mobilenet_v3_small", "IMAGENET1K_V1", "mobilenet_v3_small-047dcff4.pth", 67.668, 87.402, 256, 224),
        new("mobilenet_v3_large", "IMAGENET1K_V1", "mobilenet_v3_large-8738ca79.pth", 74.042, 91.340, 256, 224),
        new("mobilenet_v3_large", "IMAGENET1K_V2", "mobilenet_v3_large-5c1a4163.pth", 75.274, 92.566, 232, 224),
        new("mnasnet0_5", "IMAGENET1K_V1", "mnasnet0.5_top1_67.823-3ffadce67e.pth", 67.734, 87.490, 256, 224),
        new("mnasnet0_75", "IMAGENET1K_V1", "mnasnet0_75-7090bc5f.pth", 71.180, 90.496, 232, 224),
        new("mnasnet1_0", "IMAGENET1K_V1", "mnasnet1.0_top1_73.512-f206786ef8.pth", 73.456, 91.510, 256, 224),
        new("mnasnet1_3", "IMAGENET1K_V1", "mnasnet1_3-a4c69d6f.pth", 76.506, 93.522, 232, 224),
        new("efficientnet_b0", "IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth", 77.692, 93.532, 256, 224) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b1", "IMAGENET1K_V1", "efficientnet_b1_rwightman-bac287d4.pth", 78.642, 94.186, 256, 240) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b1", "IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth", 79.838, 94.934, 255, 240),
        new("efficientnet_b2", "IMAGENET1K_V1", "efficientnet_b2_rwightman-c35c1473.pth", 80.608, 95.310, 288, 288) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b3", "IMAGENET1K_V1", "efficientnet_b3_rwightman-b3899882.pth", 82.008, 96.054, 320, 300) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b4", "IMAGENET1K_V1", "efficientnet_b4_rwightman-23ab8bcd.pth", 83.384, 96.594, 384, 380) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b5", "IMAGENET1K_V1", "efficientnet_b5_lukemelas-1a07897c.pth", 83.444, 96.628, 456, 456) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b6", "IMAGENET1K_V1", "efficientnet_b6_lukemelas-24a108a5.pth", 84.008, 96.916, 528, 528) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_b7", "IMAGENET1K_V1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 84.122, 96.908, 600, 600) { Interpolation = Interpolation.Bicubic },
        new("efficientnet_v2_s", "IMAGENET1K_V1", "efficientnet_v2_s-dd5fe13b.pth", 84.228, 96.878, 384, 384),
        new("efficientnet_v2_m", "IMAGENET1K_V1", "efficientnet_v2_m-dc08266a.pth", 85.112, 97.156, 480, 480),
        new("efficientnet_v2_l", "IMAGENET1K_V1", "efficientnet_v2_l-59c71312.pth", 85.808, 97.788, 480, 480) { Interpolation = Interpolation.Bicubic, Mean = [0.5f, 0.5f, 0.5f], Std = [0.5f, 0.5f, 0.5f] },
        new("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 69.758, 89.078, 256, 224),
        new("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 73.314, 91.420, 256, 224),
        new("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 76.130, 92.862, 256, 224),
        new("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 80.858, 95.434, 232, 224),
        new("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 77.374, 93.546, 256, 224),
        new("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 81.886, 95.780, 232, 224),
        new("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 78.312, 94.046, 256, 224),
        new("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 82.284, 96.002, 232, 224),
        new("wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth", 78.468, 94.086, 256, 224),
        new("wide_resnet50_2", "IMAGENET1K_V2", "wide_resnet50_2-9ba9bcbe.pth", 81.602, 95.758, 232, 224),
        new("wide_resnet101_2", "IMAGENET1K_V1", "wide_resnet101_2-32ee1156.pth", 78.848, 94.284, 256, 224),
        new("wide_resnet101_2", "IMAGENET1K_V2", "wide_resnet101_2-d733dc28.pth", 82.510, 96.020, 232, 224),
        new("resnext50_32x4d", "IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth", 77.618, 93.698, 256, 224),
        new("resnext50_32x4d", "IMAGENET1K_V2", "resnext50_32x4d-1a0047aa.pth", 81.198, 95.340, 232, 224),
        new("resnext101_32x8d", "IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5.pth", 79.312, 94.526, 256, 224),
        new("resnext101_32x8d", "IMAGENET1K_V2", "resnext101_32x8d-110c445d.pth", 82.834, 96.228, 232, 224),
        new("resnext101_64x4d", "IMAGENET1K_V1", "resnext101_64x4d-173b62eb.pth", 83.246, 96.454, 232, 224),
        new("vgg11", "IMAGENET1K_V1", "vgg11-8a719046.pth", 69.020, 88.628, 256, 224),
        new("vgg11_bn", "IMAGENET1K_V1", "vgg11_bn-6002323d.pth", 70.370, 89.810, 256, 224),
        new("vgg13", "IMAGENET1K_V1", "vgg13-19584684.pth", 69.928, 89.246, 256, 224),
        new("vgg13_bn", "IMAGENET1K_V1", "vgg13_bn-abd245e5.pth", 71.586, 90.374, 256, 224),
        new("vgg16", "IMAGENET1K_FEATURES", "vgg16_features-amdegroot-88682ab5.pth", double.NaN, double.NaN, 256, 224) { Mean = [0.48235f, 0.45882f, 0.40784f], Std = [1 / 255f, 1 / 255f, 1 / 255f] },
        new("vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth", 71.592, 90.382, 256, 224),
        new("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth", 73.360, 91.516, 256, 224),
        new("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth", 72.376, 90.876, 256, 224),
        new("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth", 74.218, 91.842, 256, 224),
    ];
}
