namespace DeepfakeLab;

/// <summary>Makes models by name, with weights. A method a variant; <see cref="Create"/> takes torchvision's name.</summary>
public static class Models
{
    private static readonly Dictionary<string, Func<int, VisionModel>> constructors = new(StringComparer.Ordinal)
    {
        ["mobilenet_v2"] = classes => new MobileNetV2(classes),
    };

    /// <summary>All variants, by torchvision's names.</summary>
    public static IReadOnlyList<string> Names => [.. constructors.Keys];

    /// <inheritdoc cref="DeepfakeLab.MobileNetV2"/>
    public static VisionModel MobileNetV2(Weights? weights = null, int classes = 1000) => Create("mobilenet_v2", weights, classes);

    /// <summary>A model on the CPU in training mode, its weights loaded.</summary>
    /// <param name="name">torchvision's name, such as <c>mobilenet_v2</c>.</param>
    /// <param name="weights">Null means <see cref="Weights.None"/>: random initialisation as torchvision does it.</param>
    /// <param name="classes">Logits an image gets. Weights must have as many; use <see cref="VisionModel.WithHead"/> to change it afterwards.</param>
    /// <exception cref="ModelException">There is no such model.</exception>
    /// <exception cref="CheckpointException">The weights do not fit it.</exception>
    public static VisionModel Create(string name, Weights? weights = null, int classes = 1000)
    {
        LabRuntime.Start();
        if (!constructors.TryGetValue(name, out var construct))
            throw new ModelException("There is no such model", name, "Use one of " + string.Join(", ", Names));
        var model = construct(classes);
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
}
