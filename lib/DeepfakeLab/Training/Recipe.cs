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

/// <summary>What layers compute in.</summary>
public enum Precision
{
    Float32,

    /// <summary>
    /// Faster on GPUs, processors with AMX and AMD's with AVX512-BF16, slow elsewhere: there frozen layers take float32, and the progress text says so. Each number has 8 bits of
    /// mantissa: features of random networks were off by up to 7 %.
    /// </summary>
    BFloat16,
}

/// <summary>How gradients become steps.</summary>
public enum OptimizerKind
{
    /// <summary>Adam with decoupled weight decay (Loshchilov and Hutter, 2019).</summary>
    AdamW,

    /// <summary>Adam (Kingma and Ba, 2015); <see cref="Recipe.WeightDecay"/> is added to the gradients, as PyTorch does it.</summary>
    Adam,

    /// <summary>Stochastic gradient descent with <see cref="Recipe.Momentum"/>; <see cref="Recipe.WeightDecay"/> is added to the gradients.</summary>
    Sgd,
}

/// <summary>How the learning rate of the second phase changes from step to step.</summary>
public enum RateSchedule
{
    /// <summary>Up, then down almost to nothing, along cosines; see <see cref="Recipe.WarmUp"/>.</summary>
    OneCycle,

    /// <summary>From the rate down to zero along half a cosine.</summary>
    Cosine,

    /// <summary>Always the same.</summary>
    Constant,

    /// <summary>Multiplied by <see cref="Recipe.StepFactor"/> after each <see cref="Recipe.StepEpochs"/> epochs.</summary>
    Step,
}

/// <summary>Everything that decides how a model is trained. Data, seed and image size come beside it.</summary>
/// <remarks>
/// Training has two phases. First a new head learns on the features of the frozen backbone, which are computed once. Then the layers
/// from <see cref="Cut"/> on are fine-tuned together with the head, on augmented images, at a one-cycle rate
/// (Smith and Topin, "Super-Convergence", 2018). After each epoch the validation images are scored; the epoch with the highest
/// validation AUC is the one that is kept, or with <see cref="KeepLatest"/> the latest that is as good. A recipe is data: <c>recipe with { Epochs = 5 }</c> is another, and it prints itself.
/// </remarks>
public sealed record Recipe
{
    /// <summary>Of an ensemble.</summary>
    internal const int MostMembers = 100;

    /// <summary>What reports call it.</summary>
    public string Name { get; init; } = "fine-tune";

    /// <summary>The first stage that is fine-tuned, by torchvision's name ("features.14", "layer4"); null trains every layer.</summary>
    public string? Cut { get; init; }

    /// <summary>Layers that replace the model's head before training; null trains the head that the model has.</summary>
    public HeadRecipe? Head { get; init; }

    /// <summary>Above 1, layers are unfrozen gradually from the head down to <see cref="Cut"/> in this many stages, each a cycle of its own (Howard and Ruder, 2018).</summary>
    public int UnfreezeStages { get; init; } = 1;

    /// <summary>What the rate is multiplied by at each further stage of gradual unfreezing.</summary>
    public double UnfreezeRate { get; init; } = 0.5;

    /// <summary>Whether batch norm's statistics are first adapted to the training images ("Adaptive Batch Normalization", Li et al., 2018).</summary>
    public bool AdaptStatistics { get; init; } = true;

    /// <summary>
    /// Above 0, each image is varied this many times once and for all, what the frozen layers make of them is computed once and kept on
    /// disk (<see cref="FeatureCache"/>), and the second phase learns on that. 0 varies images anew in each epoch. Needs <see cref="Cut"/>.
    /// </summary>
    public int FeatureCopies { get; init; }

    /// <summary>Whether each image is looked at once only, for the features that are kept of it, so that nobody need hold it.</summary>
    internal bool LooksOnce => FeatureCopies == 1 && HeadEpochs == 0 && !MirrorScores && !AdaptsStatistics;

    internal bool AdaptsStatistics => Epochs > 0 && AdaptStatistics && BatchNorm == BatchNormMode.BatchStatistics;

    /// <summary>What frozen layers compute features in: those, and those that a new head learns on in the first phase.</summary>
    public Precision FeaturePrecision { get; init; }

    /// <summary>
    /// What layers that learn compute in, in the second phase. With <see cref="Precision.BFloat16"/>, for GPUs and processors that have it, weights, batch norms and the
    /// optimizer stay in float32 ("mixed precision"), and images are scored in float32.
    /// </summary>
    public Precision TrainingPrecision { get; init; }

    /// <summary>Passes over the cached features in the first phase.</summary>
    public int HeadEpochs { get; init; } = 10;

    /// <summary>Passes over the images in the second phase; 0 leaves the backbone as it came.</summary>
    public int Epochs { get; init; } = 14;

    /// <summary>Images a step.</summary>
    public int BatchSize { get; init; } = 16;

    /// <summary>Batches whose gradients make one step together, for batches larger than memory.</summary>
    public int Accumulate { get; init; } = 1;

    /// <summary>How gradients become steps.</summary>
    public OptimizerKind Optimizer { get; init; } = OptimizerKind.AdamW;

    /// <summary>SGD's momentum.</summary>
    public double Momentum { get; init; } = 0.9;

    /// <summary>The rate in the first phase, which falls along half a cosine.</summary>
    public double HeadLearningRate { get; init; } = 3e-3;

    /// <summary>The highest rate in the second phase, which the head has; the layers before it have shares of it.</summary>
    public double LearningRate { get; init; } = 4e-4;

    /// <summary>The backbone's rate as a share of the head's.</summary>
    public double BackboneRate { get; init; } = 1;

    /// <summary>What the rate is multiplied by from one stage of the backbone to the one before it (discriminative rates; Howard and Ruder, 2018).</summary>
    public double StageRate { get; init; } = 1;

    /// <summary>Weight decay by the optimizer; not applied to biases nor to batch-norm parameters.</summary>
    public double WeightDecay { get; init; } = 0.02;

    /// <summary>Added to the loss: this times the sum of the absolute values of all parameters that learn, as the original study did.</summary>
    public double L1 { get; init; }

    /// <summary>Added to the loss: this times the sum of the squares of all parameters that learn.</summary>
    public double L2 { get; init; }

    /// <summary>How the rate changes in the second phase.</summary>
    public RateSchedule Schedule { get; init; } = RateSchedule.OneCycle;

    /// <summary>Epochs between two steps of <see cref="RateSchedule.Step"/>.</summary>
    public int StepEpochs { get; init; } = 3;

    /// <summary>What <see cref="RateSchedule.Step"/> multiplies the rate by.</summary>
    public double StepFactor { get; init; } = 0.1;

    /// <summary>The share of a one cycle's steps in which the rate rises.</summary>
    public double WarmUp { get; init; } = 0.3;

    /// <summary>What batch norm does where layers are fine-tuned.</summary>
    public BatchNormMode BatchNorm { get; init; } = BatchNormMode.BatchStatistics;

    /// <summary>Label smoothing of the cross entropy (Szegedy et al., 2016), 0 to below 1.</summary>
    public double LabelSmoothing { get; init; } = 0.05;

    /// <summary>A factor on each class's part of the loss, in the order of the classes; null for 1 each.</summary>
    public IReadOnlyList<double>? ClassWeights { get; init; }

    /// <summary>Whether classes are weighted by the inverse of their frequency among the training images, as scikit-learn's "balanced".</summary>
    public bool BalanceClasses { get; init; }

    /// <summary>Alpha of mixup's Beta distribution (Zhang et al., 2018); 0 mixes nothing.</summary>
    public double MixUp { get; init; }

    /// <summary>
    /// Weight of an auxiliary loss (<see cref="PartHead"/>): a second head learns which parts of the face were replaced, where file names tell
    /// it as CIPLAB's do, and is dropped after training. 0, or a folder without such names, has none; features kept on disk
    /// (<see cref="FeatureCopies"/>) have none either.
    /// </summary>
    public double PartsLoss { get; init; }

    /// <summary>
    /// Probability that a real image becomes a fake for one epoch, by a part of another face or of its own moved copy blended in
    /// (<see cref="DeepfakeLab.MadeFakes"/>). Classes are weighted so that their balance stays; a part of the fakes' weight then lies on made ones, which nobody is asked
    /// about, so the logits of the models that are kept are moved by what that costs the others (Saerens et al. 2002, doi:10.1162/089976602753284446). Where names tell of replaced parts, as above.
    /// </summary>
    public double MadeFakes { get; init; } = 0.25;

    /// <summary>Decay a step of the averaged weights that are evaluated and kept; 0 keeps the weights themselves.</summary>
    public double AverageDecay { get; init; } = 0.99;

    /// <summary>Largest L2 norm of all gradients together; 0 does not clip.</summary>
    public double ClipNorm { get; init; } = 1;

    /// <summary>Epochs without a higher validation AUC after which fine-tuning ends; 0 never ends early.</summary>
    public int Patience { get; init; } = 8;

    /// <summary>
    /// Whether the latest of the epochs is kept whose validation AUC lies within a standard error of the highest (<see cref="Metrics.AucError"/>), rather than the one
    /// that has it: a hundred images cannot tell an AUC of .80 from one of .84, and one that was lucky early is not worth the low rates that a cycle ends with.
    /// Set <see cref="Patience"/> to 0 then, so that it ends.
    /// </summary>
    public bool KeepLatest { get; init; }

    /// <summary>Above 1, so many models are trained, each validated on other images, and their probabilities averaged (<see cref="Ensemble"/>).</summary>
    public int Members { get; init; } = 1;

    /// <summary>Whether a score is the mean over an image and its mirror image, in validation and test alike.</summary>
    public bool MirrorScores { get; init; } = true;

    /// <summary>
    /// A mistake of the original study, to be measured: images are scored in training mode, so that batch norm mixes a batch's images (and
    /// learns from those it is tested on), and dropout stays on.
    /// </summary>
    public bool ScoreInTrainingMode { get; init; }

    /// <summary>How training images are varied.</summary>
    public Augmentation Augmentation { get; init; } = Augmentation.Faces;

    /// <summary>A new head on the frozen backbone, and nothing else.</summary>
    public static Recipe HeadOnly() => new() { Name = "head only", Epochs = 0 };

    /// <summary>A new head, then every layer from <paramref name="from"/> on.</summary>
    public static Recipe FineTune(string from) => new() { Name = "fine-tune from " + from, Cut = from };

    /// <summary>A new head, then every layer.</summary>
    public static Recipe Full() => new() { Name = "fine-tune all layers" };

    /// <summary>A new head, then more and more layers in <paramref name="stages"/> stages at falling rates, early layers slower than late ones.</summary>
    public static Recipe Gradual(int stages = 3) => new()
    {
        Name = $"gradual unfreezing in {stages} stages",
        UnfreezeStages = stages,
        StageRate = 0.9,
        AdaptStatistics = false,
        BatchNorm = BatchNormMode.FrozenStatistics,
    };

    /// <summary>Throws for the first setting that makes no sense.</summary>
    /// <exception cref="TrainingException">A value lies outside what its name allows.</exception>
    public Recipe Check()
    {
        Require(HeadEpochs is >= 0 and <= 10_000, nameof(HeadEpochs), HeadEpochs, "Use 0 to 10000");
        Require(Epochs is >= 0 and <= 10_000, nameof(Epochs), Epochs, "Use 0 to 10000");
        Require(HeadEpochs + Epochs > 0, nameof(Epochs), Epochs, "Train for at least one epoch in one of the phases");
        Require(BatchSize is >= 2 and <= 4096, nameof(BatchSize), BatchSize, "Use 2 to 4096; batch norm has no variance over one image");
        Require(Accumulate is >= 1 and <= 1024, nameof(Accumulate), Accumulate, "Use 1 to 1024");
        Require(UnfreezeStages is >= 1 and <= 100 && UnfreezeStages <= Math.Max(1, Epochs), nameof(UnfreezeStages), UnfreezeStages, "Use 1 to the number of epochs");
        Require(UnfreezeRate is > 0 and <= 1, nameof(UnfreezeRate), UnfreezeRate, "Use above 0 to 1");
        Require(FeatureCopies is >= 0 and <= 100 && (FeatureCopies == 0 || Cut is not null && UnfreezeStages == 1), nameof(FeatureCopies), FeatureCopies,
            "Use 0 to 100, above 0 only with a cut and without gradual unfreezing: features are of layers that stay frozen");
        Require(Momentum is >= 0 and < 1, nameof(Momentum), Momentum, "Use 0 to below 1");
        Require(BackboneRate is > 0 and <= 1, nameof(BackboneRate), BackboneRate, "Use above 0 to 1");
        Require(StageRate is > 0 and <= 1, nameof(StageRate), StageRate, "Use above 0 to 1");
        Require(L1 is >= 0 and < 1, nameof(L1), L1, "Use 0 to below 1");
        Require(L2 is >= 0 and < 1, nameof(L2), L2, "Use 0 to below 1");
        Require(StepEpochs >= 1, nameof(StepEpochs), StepEpochs, "Use 1 or more");
        Require(StepFactor is > 0 and <= 1, nameof(StepFactor), StepFactor, "Use above 0 to 1");
        foreach (var weight in ClassWeights ?? [])
            Require(weight is > 0 and < 1e6, nameof(ClassWeights), weight, "Use a number above 0 for each class");
        Require(HeadLearningRate is > 0 and < 10, nameof(HeadLearningRate), HeadLearningRate, "Use a rate above 0, such as 3e-3");
        Require(LearningRate is > 0 and < 10, nameof(LearningRate), LearningRate, "Use a rate above 0, such as 4e-4");
        Require(WeightDecay is >= 0 and < 1, nameof(WeightDecay), WeightDecay, "Use 0 to below 1");
        Require(WarmUp is >= 0 and < 1, nameof(WarmUp), WarmUp, "Use 0 to below 1");
        Require(LabelSmoothing is >= 0 and < 1, nameof(LabelSmoothing), LabelSmoothing, "Use 0 to below 1");
        Require(MixUp is >= 0 and <= 1, nameof(MixUp), MixUp, "Use 0 to 1");
        Require(PartsLoss is >= 0 and <= 100, nameof(PartsLoss), PartsLoss, "Use 0 to 100");
        Require(MadeFakes is >= 0 and < 1, nameof(MadeFakes), MadeFakes, "Use 0 to below 1");
        Require(AverageDecay is >= 0 and < 1, nameof(AverageDecay), AverageDecay, "Use 0 to below 1");
        Require(ClipNorm >= 0, nameof(ClipNorm), ClipNorm, "Use 0 or more");
        Require(Members is >= 1 and <= MostMembers && (Members == 1 || !ScoreInTrainingMode), nameof(Members), Members, "Use 1 to 100, and 1 where images are scored in training mode");
        Require(Patience >= 0, nameof(Patience), Patience, "Use 0 or more");
        Augmentation.Check();
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
        select (property.Name, property.GetValue(this) switch
        {
            null => property.Name switch { nameof(Cut) => "all layers", nameof(Head) => "the model's own", _ => "none" },
            IEnumerable<double> numbers => string.Join(", ", numbers.Select(n => n.ToString(CultureInfo.InvariantCulture))),
            var value => Convert.ToString(value, CultureInfo.InvariantCulture)!,
        });

    /// <summary>The settings, one a line.</summary>
    public override string ToString() => string.Join(Environment.NewLine, Settings().Select(s => $"{s.Name,-19} {s.Value}"));
}

/// <summary>Training cannot start or go on.</summary>
public sealed class TrainingException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);
