using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Weights for ResNet-18 from the NuGet package Microsoft.ML.DnnImageFeaturizer.ResNet18 (MIT): trained on ImageNet with CNTK, no <c>fc</c>.</summary>
/// <remarks>
/// The build puts the package's ResNet18.onnx beside the library. Its graph is torchvision's resnet18 (the same layers and epsilon, the
/// same paddings for sides that are multiples of 32) with a third block in layer4, and it ends in the average pooling. torchvision's has
/// two there, so that the third is left out: what remains is to the last bit what the network computes up to it. Each down-sampling
/// block's shortcut comes before its first convolution.
/// It takes BGR levels from 0 to 255 less a mean image. Here the first convolution is turned round to RGB and scaled to take
/// ImageNet's normalisation. In place of the mean image, which differs by place (3 to 6 levels standard deviation), stands
/// ImageNet's mean colour, half a level from that image's average.
/// </remarks>
internal static class PackagedWeights
{
    public const string File = "resnet18-imagenet-cntk.onnx";
    public const string Sha256 = "e2552f19db2dfdb01b3669537b6a0f1b44da38d18279535492ed5dfc2ef1ff8f";
    public const string Description = "ImageNet, trained with CNTK, from the package Microsoft.ML.DnnImageFeaturizer.ResNet18 without the third block of its layer4, which resnet18 lacks; fc is random";

    /// <summary>What the keys of the block begin with that torchvision's network does not have.</summary>
    public const string ExtraBlock = "layer4.2.";

    /// <summary>Beside the library's assembly, wherever a host loaded that from.</summary>
    public static string Path => System.IO.Path.Combine(
        typeof(PackagedWeights).Assembly.Location is { Length: > 0 } library ? System.IO.Path.GetDirectoryName(library)! : AppContext.BaseDirectory, File);

    public static bool Has(string model) => model == "resnet18" && System.IO.File.Exists(Path);

    /// <summary>The keys that each convolution and its batch norm have in torchvision, in the order of the graph's nodes.</summary>
    private static IEnumerable<(string Convolution, string Norm)> Layers()
    {
        yield return ("conv1", "bn1");
        for (var layer = 1; layer <= 4; layer++)
            for (var block = 0; block < (layer == 4 ? 3 : 2); block++)
            {
                var prefix = $"layer{layer}.{block}.";
                if (layer > 1 && block == 0)
                    yield return (prefix + "downsample.0", prefix + "downsample.1");
                yield return (prefix + "conv1", prefix + "bn1");
                yield return (prefix + "conv2", prefix + "bn2");
            }
    }

    /// <summary>Loads the features; <c>fc</c> is drawn as torchvision's constructor does, for as many classes as the model has.</summary>
    /// <exception cref="WeightsException">The file is absent or not the package's.</exception>
    public static void LoadInto(VisionModel model, string reason)
    {
        LabRuntime.Start();
        if (model.Name != "resnet18")
            throw new WeightsException("The package holds weights of resnet18 only", model.Name, "Choose Weights.ImageNet, Weights.File or Weights.None");
        if (!System.IO.File.Exists(Path))
            throw new WeightsException("The package's weights are not beside the library", Path, "Build the library again with its packages restored");
        if (WeightsFile.Hash(Path) is var hash && hash != Sha256)
            throw new WeightsException($"The file is not the package's: its SHA-256 begins with {hash[..8]}, not {Sha256[..8]}", Path, "Delete it and build again");
        model.Initialise();
        using var all = Checkpoint.Guard(Path, () => Read(System.IO.File.ReadAllBytes(Path), Path));
        using var state = new StateDict(Path);
        foreach (var (key, tensor) in all.Where(t => !t.Key.StartsWith(ExtraBlock, StringComparison.Ordinal)))
            state.Add(key, tensor.alias());
        using (var own = StateDict.Of(model))
            foreach (var (key, tensor) in own.Where(t => t.Key.StartsWith("fc.", StringComparison.Ordinal)))
                state.Add(key, tensor.clone());
        state.LoadInto(model);
        model.Preprocessing = Preprocessing.ImageNet;
        model.WeightsOrigin = new WeightsOrigin($"{Description} ({reason})", Pretrained.Features, Path, hash);
    }

    /// <summary>torchvision's keys, but for <c>fc</c> and with <see cref="ExtraBlock"/>, from the ONNX file's bytes.</summary>
    internal static StateDict Read(byte[] file, string source)
    {
        var onnx = new OnnxWeights(file);
        var convolutions = Inputs("Conv", 2);
        var norms = Inputs("BatchNormalization", 5);
        var layers = Layers().ToList();
        if (convolutions.Count != layers.Count || norms.Count != layers.Count)
            throw new InvalidDataException($"it has {convolutions.Count} convolutions and {norms.Count} batch norms, not {layers.Count} of each");
        var state = new StateDict(source);
        foreach (var ((convolution, norm), (weights, statistics)) in layers.Zip(convolutions.Zip(norms)))
        {
            var weight = onnx[weights[1]];
            state.Add(convolution + ".weight", convolution == "conv1" ? ForRgb(weight) : weight);
            foreach (var (i, name) in ((string[])["weight", "bias", "running_mean", "running_var"]).Index())
                state.Add($"{norm}.{name}", onnx[statistics[i + 1]]);
        }
        return state;

        List<IReadOnlyList<string>> Inputs(string kind, int count) => [.. onnx.Nodes.Where(n => n.Operator == kind)
            .Select(n => n.Inputs.Count == count ? n.Inputs : throw new InvalidDataException($"a {kind} has {n.Inputs.Count} inputs"))];
    }

    /// <summary>Weights [O, 3, H, W] for RGB normalised as ImageNet's is, from those for BGR levels.</summary>
    private static Tensor ForRgb(Tensor weight) =>
        weight.flip(1) * (tensor(Preprocessing.ImageNet.Std.ToArray()) * 255).view(1, 3, 1, 1);
}
