using System.Globalization;
using System.Reflection;

namespace DeepfakeLab;

/// <summary>What batch normalisation does in the layers that are being fine-tuned. Frozen layers always use their stored statistics.</summary>
public enum BatchNormMode
{
    /// <summary>Normalises with the batch's own mean and variance and updates the running ones.</summary>
    BatchStatistics,

    /// <summary>Keeps the pretrained running statistics; scale and shift still learn. For small batches.</summary>
    FrozenStatistics,
}

/// <summary>Everything that decides how a model is trained. Data, seed and image size come beside it.</summary>
/// <remarks>
/// Training has two phases. First a new head learns on the features of the frozen backbone, which are computed once. Then the layers
/// from <see cref="Cut"/> on are fine-tuned together with the head, on augmented images, at a one-cycle rate
/// (Smith and Topin, "Super-Convergence", 2018). After each epoch the validation images are scored; the epoch with the highest
/// validation AUC is the one that is kept.
/// </remarks>
public sealed record Recipe
{
    /// <summary>What reports call it.</summary>
    public string Name { get; init; } = "fine-tune";

    /// <summary>The first stage that is fine-tuned, by torchvision's name ("features.14", "layer4"); null trains every layer.</summary>
    public string? Cut { get; init; }

    /// <summary>Passes over the cached features in the first phase.</summary>
    public int HeadEpochs { get; init; } = 10;

    /// <summary>Passes over the images in the second phase; 0 leaves the backbone as it came.</summary>
    public int Epochs { get; init; } = 12;

    /// <summary>Images a step.</summary>
    public int BatchSize { get; init; } = 16;

    /// <summary>AdamW's rate in the first phase.</summary>
    public double HeadLearningRate { get; init; } = 3e-3;

    /// <summary>AdamW's highest rate in the second phase.</summary>
    public double LearningRate { get; init; } = 4e-4;

    /// <summary>AdamW's decoupled weight decay; not applied to biases nor to batch-norm parameters.</summary>
    public double WeightDecay { get; init; } = 0.02;

    /// <summary>The share of the second phase's steps in which the rate rises.</summary>
    public double WarmUp { get; init; } = 0.3;

    /// <summary>What batch norm does where layers are fine-tuned.</summary>
    public BatchNormMode BatchNorm { get; init; } = BatchNormMode.BatchStatistics;

    /// <summary>Label smoothing of the cross entropy (Szegedy et al., 2016), 0 to below 1.</summary>
    public double LabelSmoothing { get; init; } = 0.05;

    /// <summary>Alpha of mixup's Beta distribution (Zhang et al., 2018); 0 mixes nothing.</summary>
    public double MixUp { get; init; }

    /// <summary>Decay a step of the averaged weights that are evaluated and kept; 0 keeps the weights themselves.</summary>
    public double AverageDecay { get; init; } = 0.99;

    /// <summary>Largest L2 norm of all gradients together; 0 does not clip.</summary>
    public double ClipNorm { get; init; } = 1;

    /// <summary>Epochs without a higher validation AUC after which fine-tuning ends; 0 never ends early.</summary>
    public int Patience { get; init; } = 5;

    /// <summary>Whether a score is the mean over an image and its mirror image, in validation and test alike.</summary>
    public bool MirrorScores { get; init; } = true;

    /// <summary>How training images are varied.</summary>
    public Augmentation Augmentation { get; init; } = Augmentation.Faces;

    /// <summary>A new head on the frozen backbone, and nothing else.</summary>
    public static Recipe HeadOnly() => new() { Name = "head only", Epochs = 0 };

    /// <summary>A new head, then every layer from <paramref name="from"/> on.</summary>
    public static Recipe FineTune(string from) => new() { Name = "fine-tune from " + from, Cut = from };

    /// <summary>A new head, then every layer.</summary>
    public static Recipe Full() => new() { Name = "fine-tune all layers" };

    /// <summary>Throws for the first setting that makes no sense.</summary>
    /// <exception cref="TrainingException">A value lies outside what its name allows.</exception>
    public Recipe Check()
    {
        Require(HeadEpochs is >= 0 and <= 10_000, nameof(HeadEpochs), HeadEpochs, "Use 0 to 10000");
        Require(Epochs is >= 0 and <= 10_000, nameof(Epochs), Epochs, "Use 0 to 10000");
        Require(HeadEpochs + Epochs > 0, nameof(Epochs), Epochs, "Train for at least one epoch in one of the phases");
        Require(BatchSize is >= 2 and <= 4096, nameof(BatchSize), BatchSize, "Use 2 to 4096; batch norm has no variance over one image");
        Require(HeadLearningRate is > 0 and < 10, nameof(HeadLearningRate), HeadLearningRate, "Use a rate above 0, such as 3e-3");
        Require(LearningRate is > 0 and < 10, nameof(LearningRate), LearningRate, "Use a rate above 0, such as 4e-4");
        Require(WeightDecay is >= 0 and < 1, nameof(WeightDecay), WeightDecay, "Use 0 to below 1");
        Require(WarmUp is >= 0 and < 1, nameof(WarmUp), WarmUp, "Use 0 to below 1");
        Require(LabelSmoothing is >= 0 and < 1, nameof(LabelSmoothing), LabelSmoothing, "Use 0 to below 1");
        Require(MixUp is >= 0 and <= 1, nameof(MixUp), MixUp, "Use 0 to 1");
        Require(AverageDecay is >= 0 and < 1, nameof(AverageDecay), AverageDecay, "Use 0 to below 1");
        Require(ClipNorm >= 0, nameof(ClipNorm), ClipNorm, "Use 0 or more");
        Require(Patience >= 0, nameof(Patience), Patience, "Use 0 or more");
        return this;

        static void Require(bool holds, string name, IFormattable value, string remedy)
        {
            if (!holds)
                throw new TrainingException($"The recipe's {name} makes no sense", value.ToString(null, CultureInfo.InvariantCulture), remedy);
        }
    }

    /// <summary>Every setting with its value, in the order of this file.</summary>
    public IEnumerable<(string Name, string Value)> Settings() =>
        from property in typeof(Recipe).GetProperties(BindingFlags.Public | BindingFlags.Instance)
        where property.GetIndexParameters().Length == 0
        select (property.Name, property.GetValue(this) is { } value ? Convert.ToString(value, CultureInfo.InvariantCulture)! : "all layers");

    /// <summary>The settings, one a line.</summary>
    public override string ToString() => string.Join(Environment.NewLine, Settings().Select(s => $"{s.Name,-16} {s.Value}"));
}

/// <summary>Training cannot start or go on.</summary>
public sealed class TrainingException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);
