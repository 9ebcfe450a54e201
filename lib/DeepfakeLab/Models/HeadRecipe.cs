using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What a model's new head looks like: layers from the features [N, F] to the logits [N, classes].</summary>
/// <param name="Hidden">Widths of the hidden linear layers, outermost first; empty for a linear head.</param>
/// <param name="Activation">"relu" or "tanh", after each hidden layer.</param>
/// <param name="Dropout">Probability of dropout before the last layer and after each hidden one; 0 for none.</param>
/// <param name="BatchNorm">Whether features (in a linear head) or hidden layers are batch-normalised.</param>
/// <param name="FlattenAt">0: features are average-pooled as in the original model. Otherwise the feature maps of an image of this many
/// pixels a side are flattened instead, as the original study's MNASNet did, and only images of that size fit.</param>
public sealed record HeadRecipe(IReadOnlyList<int> Hidden, string Activation = "relu", double Dropout = 0, bool BatchNorm = false, int FlattenAt = 0)
{
    /// <summary>One linear layer behind dropout.</summary>
    public static HeadRecipe Linear(double dropout = 0) => new([], Dropout: dropout);

    /// <summary>The original study's head on EfficientNet-B0: 1280-512-256-2.</summary>
    public static HeadRecipe StudyEfficientNet { get; } = new([512, 256], Dropout: 0.2);

    /// <summary>The original study's head on MNASNet 0.75 at 128 pixels: 20480 flattened values, batch norm, dropout, 2.</summary>
    public static HeadRecipe StudyMnasNet { get; } = new([], Dropout: 0.5, BatchNorm: true, FlattenAt: 128);

    /// <summary>The original study's head on MobileNetV2: 1280-512-256-2.</summary>
    public static HeadRecipe StudyMobileNet { get; } = new([512, 256], Dropout: 0.2);

    /// <summary>The original study's head on ResNet-18: 512-128-64-2 with tanh and batch norm.</summary>
    public static HeadRecipe StudyResNet { get; } = new([128, 64], "tanh", Dropout: 0.5, BatchNorm: true);

    /// <summary>The original study's first head on ResNeXt-50: 2048-1024-512-2. Its second was <see cref="Linear"/>.</summary>
    public static HeadRecipe StudyResNext { get; } = new([1024, 512]);

    /// <summary>The original study's head on VGG16: 25088-512-128-2.</summary>
    public static HeadRecipe StudyVgg { get; } = new([512, 128]);

    /// <summary>"512-256, relu, dropout 0.2".</summary>
    public override string ToString() => string.Join(", ", ((string[])[
        Hidden.Count == 0 ? "linear" : string.Join('-', Hidden),
        Hidden.Count == 0 ? "" : Activation,
        Dropout == 0 ? "" : FormattableString.Invariant($"dropout {Dropout}"),
        BatchNorm ? "batch norm" : "",
        FlattenAt == 0 ? "" : $"flattened at {FlattenAt} px"]).Where(s => s.Length > 0));

    /// <summary>The layers, newly initialised. A plain linear head without dropout is the bare layer, as torchvision's ResNet has it.</summary>
    internal nn.Module<Tensor, Tensor> Build(long features, int classes)
    {
        if (Hidden.Count == 0 && Dropout == 0 && !BatchNorm)
            return nn.Linear(features, classes);
        var layers = nn.Sequential();
        if (Hidden.Count == 0 && BatchNorm)
            layers.append(nn.BatchNorm1d(features));
        foreach (var width in Hidden)
        {
            layers.append(nn.Linear(features, width));
            if (BatchNorm)
                layers.append(nn.BatchNorm1d(width));
            layers.append(Activation switch
            {
                "relu" => nn.ReLU(inplace: true),
                "tanh" => nn.Tanh(inplace: true),
                _ => throw new ModelException("A head's activation is not known", Activation, "Use relu or tanh"),
            });
            if (Dropout > 0)
                layers.append(nn.Dropout(Dropout));
            features = width;
        }
        if (Hidden.Count == 0 && Dropout > 0)
            layers.append(nn.Dropout(Dropout));
        return layers.append(nn.Linear(features, classes));
    }
}
