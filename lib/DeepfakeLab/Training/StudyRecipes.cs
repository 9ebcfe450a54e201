namespace DeepfakeLab;

/// <summary>What the original study got wrong; each can be switched on by itself to measure what it does to the figures.</summary>
[Flags]
public enum StudyMistakes
{
    None = 0,

    /// <summary>Images are scored in training mode (never <c>eval()</c>).</summary>
    ScoresInTrainingMode = 1,

    /// <summary>.299 instead of .229 as the red channel's standard deviation.</summary>
    WrongStd = 2,

    /// <summary>One model is trained on through all folds, so that each fold is validated on images learned in earlier ones.</summary>
    FoldsShareOneModel = 4,

    /// <summary>Varied copies are made before the split, so that copies of one photo are on both sides.</summary>
    CopiesOnBothSides = 8,

    /// <summary>The test images choose the epoch (where there are no folds to do it).</summary>
    TestChoosesEpoch = 16,

    /// <summary>A fake and the real photo it was made from may be on different sides.</summary>
    SamePhotosOnBothSides = 32,

    /// <summary>All of them.</summary>
    All = 63,
}

/// <summary>One experiment of the original study: model, input, cut, head, training, and which mistakes are repeated.</summary>
public sealed record StudyRecipe
{
    /// <summary>The name of its notebook.</summary>
    public required string Name { get; init; }

    /// <summary>torchvision's name of the model.</summary>
    public required string Model { get; init; }

    /// <summary>Pixels a side of the model's input.</summary>
    public int Size { get; init; } = 224;

    /// <summary>How it is trained, head and cut included.</summary>
    public required Recipe Recipe { get; init; }

    /// <summary>The figures that the study reported.</summary>
    public required string Reported { get; init; }

    /// <summary>What is done wrong, on purpose.</summary>
    public StudyMistakes Mistakes { get; init; }

    /// <summary>Above 1, training goes through this many folds of the training images (see <see cref="StudyMistakes.FoldsShareOneModel"/>).</summary>
    public int Folds { get; init; } = 1;

    /// <summary>Varied copies of each image that are added to the training.</summary>
    public int Copies { get; init; }

    /// <summary>How images become tensors.</summary>
    public Preprocessing Preprocessing => Has(StudyMistakes.WrongStd)
        ? Preprocessing.Square(Size) with { Std = [0.299f, 0.224f, 0.225f] } : Preprocessing.Square(Size);

    private bool Has(StudyMistakes mistake) => (Mistakes & mistake) != 0;

    /// <summary>Splits, trains, and tests, with the mistakes that are switched on. Everything is drawn from the seed.</summary>
    /// <param name="weights">What the model begins with.</param>
    /// <param name="onEpoch">Called with each epoch's figures as it ends.</param>
    /// <exception cref="TrainingException">As for <see cref="Trainer.Fit"/>.</exception>
    public StudyRun Run(FaceDataset data, Weights weights, long seed = 42, Action<EpochFigures>? onEpoch = null, CancellationToken cancellation = default)
    {
        var split = Split(data.Images, seed, cancellation);
        if (Recipe.Members > 1)
            return Together(data, weights, split, seed, onEpoch, cancellation);
        LabRuntime.Seed(seed);
        var model = Models.Create(Model, weights).WithHead(data.Classes.Count, Recipe.Head);
        var recipe = Recipe with { ScoreInTrainingMode = Recipe.ScoreInTrainingMode || Has(StudyMistakes.ScoresInTrainingMode) };
        var options = new FitOptions { Seed = seed, Preprocessing = Preprocessing };
        var folds = new List<EpochFigures>();
        TrainingRun run;
        if (Folds > 1)
        {
            DataSplit[] parts = [.. Protocol.Folds([.. split.Train, .. split.Validation], Folds, 0, seed).Select(f => new DataSplit(f.Train, f.Test, split.Test, seed))];
            run = Trainer.Fit(model, parts[0], recipe, options, onEpoch, cancellation);
            folds.Add(run.Best);
            foreach (var (i, part) in parts.Index().Skip(1))
            {
                if (!Has(StudyMistakes.FoldsShareOneModel))
                {
                    model.Dispose();
                    LabRuntime.Seed(seed + i);
                    model = Models.Create(Model, weights).WithHead(data.Classes.Count, Recipe.Head);
                }
                run = Trainer.Fit(model, part, Has(StudyMistakes.FoldsShareOneModel) ? recipe with { Head = null } : recipe, options with { Seed = seed + i }, onEpoch, cancellation);
                folds.Add(run.Best);
            }
        }
        else
            run = Trainer.Fit(model, split, recipe, options, onEpoch, cancellation);
        var predictions = Predictor.Predict(model, split.Test, Preprocessing, data.FakeClass, recipe.MirrorScores, cancellation, recipe.ScoreInTrainingMode);
        return new StudyRun(this, [run with { Recipe = recipe }], EvaluationReport.From(predictions, isSample: data.IsSample), folds);
    }

    private StudyRun Together(FaceDataset data, Weights weights, DataSplit split, long seed, Action<EpochFigures>? onEpoch, CancellationToken cancellation)
    {
        if (Mistakes != StudyMistakes.None)
            throw new TrainingException("The study had no ensembles", $"{Name}, {Recipe.Members} members, {Mistakes}", "Set Members to 1, or leave its mistakes out");
        var run = Ensemble.Fit(() => Models.Create(Model, weights).WithHead(data.Classes.Count, Recipe.Head), split, Recipe,
            new FitOptions { Seed = seed, Preprocessing = Preprocessing }, (_, e) => onEpoch?.Invoke(e), cancellation);
        var predictions = Predictor.Predict(run.Models, split.Test, Preprocessing, data.FakeClass, Recipe.MirrorScores, cancellation);
        return new StudyRun(this, run.Members, EvaluationReport.From(predictions, isSample: data.IsSample), []);
    }

    internal DataSplit Split(IReadOnlyList<FaceImage> images, long seed, CancellationToken cancellation)
    {
        if (Has(StudyMistakes.SamePhotosOnBothSides))
            images = DataSplit.Ungrouped(images);
        if (Copies > 0 && Has(StudyMistakes.CopiesOnBothSides))
        {
            var first = images.Max(i => i.Group) + 1;
            images = [.. images, .. Vary(images).Select((copy, i) => copy with { Group = first + i })];
        }
        var split = DataSplit.Create(images, 0.2, 0.08, seed);
        if (Has(StudyMistakes.TestChoosesEpoch) && Folds == 1)
            split = split with { Train = [.. split.Train, .. split.Validation], Validation = split.Test };
        if (Copies > 0 && !Has(StudyMistakes.CopiesOnBothSides))
            split = split with { Train = [.. split.Train, .. Vary(split.Train)] };
        return split;

        IReadOnlyList<FaceImage> Vary(IReadOnlyList<FaceImage> some) => AugmentedCopies.Write(some, Copies, Size, Augmentation.Study, seed, cancellation);
    }
}

/// <summary>An experiment that was run.</summary>
/// <param name="Recipe">What was run.</param>
/// <param name="Members">The training; with folds, the last fold's; of an ensemble all.</param>
/// <param name="Test">On the test images.</param>
/// <param name="Folds">The best epoch of each fold; empty without folds.</param>
public sealed record StudyRun(StudyRecipe Recipe, IReadOnlyList<TrainingRun> Members, EvaluationReport Test, IReadOnlyList<EpochFigures> Folds)
{
    /// <summary>The training; of an ensemble the first.</summary>
    public TrainingRun Run => Members[0];
}

/// <summary>The original study's experiments, by the names of its notebooks.</summary>
/// <remarks>
/// The study's report gives some settings as ranges (Adam or AdamW at 1e-3 or 1e-4, L1 1e-4, L2 1e-4 to 0.1, batches of 32 to 250, 5 to 20
/// epochs); the presets take values from them.
/// </remarks>
public static class StudyRecipes
{
    /// <summary>As published: all layers before the cut frozen, their features computed once, the rest trained at a constant rate.</summary>
    private static readonly Recipe published = new()
    {
        HeadEpochs = 0,
        Epochs = 10,
        BatchSize = 32,
        Optimizer = OptimizerKind.Adam,
        LearningRate = 1e-4,
        WeightDecay = 0,
        L1 = 1e-4,
        L2 = 1e-4,
        Schedule = RateSchedule.Constant,
        AdaptStatistics = false,
        LabelSmoothing = 0,
        MadeFakes = 0,
        AverageDecay = 0,
        ClipNorm = 0,
        Patience = 0,
        MirrorScores = false,
        FeatureCopies = 3,
        Augmentation = Augmentation.Study,
    };

    private const StudyMistakes WithoutFolds = StudyMistakes.All & ~StudyMistakes.FoldsShareOneModel & ~StudyMistakes.CopiesOnBothSides;
    private const StudyMistakes WithFolds = StudyMistakes.All & ~StudyMistakes.TestChoosesEpoch;

    /// <summary>Every experiment as the study did it, its mistakes included.</summary>
    public static IReadOnlyList<StudyRecipe> AsPublished { get; } =
    [
        new()
        {
            Name = "efficientnet", Model = "efficientnet_b0", Reported = "validation 70 %, test 74 %, recall 70 %, F1 72 %", Mistakes = WithoutFolds,
            Recipe = published with { Cut = "features.7", Head = HeadRecipe.StudyEfficientNet, Optimizer = OptimizerKind.AdamW, WeightDecay = 0.01 },
        },
        new()
        {
            Name = "mna-net", Model = "mnasnet0_75", Size = 128, Reported = "test 61.9 %", Mistakes = WithoutFolds,
            Recipe = published with { Cut = "classifier", Head = HeadRecipe.StudyMnasNet, BatchSize = 250, LearningRate = 1e-3, Epochs = 20 },
        },
        new()
        {
            Name = "mobilenet", Model = "mobilenet_v2", Reported = "test 62.3 %, best epoch 67.2 %, 81 % in the folds that leak", Mistakes = WithFolds, Folds = 5, Copies = 2,
            Recipe = published with { Cut = "features.16", Head = HeadRecipe.StudyMobileNet, FeatureCopies = 1, Augmentation = Augmentation.None, Epochs = 5 },
        },
        new()
        {
            Name = "resnet", Model = "resnet18", Reported = "validation 50 %, best 55.5 %", Mistakes = WithoutFolds,
            Recipe = published with { Cut = "fc", Head = HeadRecipe.StudyResNet, LearningRate = 1e-3, L2 = 0.1, Epochs = 20 },
        },
        new()
        {
            Name = "resnext-frozen", Model = "resnext50_32x4d", Reported = "test 53 %", Mistakes = WithoutFolds,
            Recipe = published with { Cut = "fc", Head = HeadRecipe.StudyResNext, LearningRate = 1e-3 },
        },
        new()
        {
            Name = "resnext", Model = "resnext50_32x4d", Reported = "fine-tuned 66 %; 65 to 68 % at 400 pixels", Mistakes = WithoutFolds,
            Recipe = published with { Cut = "layer4", Head = HeadRecipe.Linear() },
        },
        new()
        {
            Name = "vgg16", Model = "vgg16", Reported = "test 61.3 % and 58.9 %; 71 to 73 % in the folds that leak", Mistakes = WithFolds, Folds = 5, Copies = 2,
            Recipe = published with { Cut = "features.24", Head = HeadRecipe.StudyVgg, FeatureCopies = 1, Augmentation = Augmentation.None, Epochs = 5 },
        },
    ];

    /// <summary>
    /// The same models and input sizes without the mistakes, and with this library's own training: a linear head first, then every layer,
    /// as features that were learned on objects do not show the seams of a face. MobileNet, the quickest to train, is an ensemble of three.
    /// </summary>
    public static IReadOnlyList<StudyRecipe> Corrected { get; } =
    [
        .. AsPublished.Where(r => r.Name != "resnext-frozen").Select(r => r with
        {
            Recipe = Recipe.Full() with { Name = r.Name + ", corrected", KeepLatest = true, Patience = 0, Members = r.Name == "mobilenet" ? 3 : 1 }, Mistakes = StudyMistakes.None, Folds = 1, Copies = 0,
        }),
    ];

    /// <summary>By name: "mobilenet" is the corrected form, "mobilenet-published" the study's own.</summary>
    /// <exception cref="TrainingException">There is no such experiment.</exception>
    public static StudyRecipe Find(string name) => Names.ToList().IndexOf(name) is >= 0 and var i
        ? i < Corrected.Count ? Corrected[i] : AsPublished[i - Corrected.Count]
        : throw new TrainingException("There is no such experiment", name, "Use one of " + string.Join(", ", Names));

    /// <summary>What <see cref="Find"/> knows.</summary>
    public static IReadOnlyList<string> Names => [.. Corrected.Select(r => r.Name), .. AsPublished.Select(r => r.Name + "-published")];
}
