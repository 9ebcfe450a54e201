using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The thousand classes of ImageNet-1K, in the order of a pretrained model's logits.</summary>
public static class ImageNetClasses
{
    private static readonly Lazy<IReadOnlyList<string>> names = new(() =>
    {
        using var resource = typeof(ImageNetClasses).Assembly.GetManifestResourceStream("DeepfakeLab.imagenet-classes.txt")!;
        using var reader = new StreamReader(resource);
        return [.. reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Where(l => l[0] != '#')];
    });

    /// <summary>Names by class number: 0 is "tench".</summary>
    public static IReadOnlyList<string> Names => names.Value;

    /// <summary>The likeliest classes of one image, likeliest first.</summary>
    /// <param name="logits">[1000] or [1, 1000], as a pretrained model gives them.</param>
    /// <exception cref="ModelException">The logits are not those of one image over ImageNet's classes.</exception>
    public static IReadOnlyList<(string Name, double Probability)> Top(Tensor logits, int count = 5)
    {
        if (logits.numel() != Names.Count)
            throw new ModelException("These are not one image's logits over ImageNet's 1000 classes", $"[{string.Join(", ", logits.shape)}]",
                "Use a model with its original head and pass one image");
        using var scope = NewDisposeScope();
        var (probabilities, indices) = logits.detach().flatten().to(float64).softmax(0).topk(count);
        return [.. indices.cpu().data<long>().Zip(probabilities.cpu().data<double>(), (i, p) => (Names[(int)i], p))];
    }
}
