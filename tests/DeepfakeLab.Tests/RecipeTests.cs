using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>What each setting of a recipe does, and that every preset runs.</summary>
public sealed class RecipeTests : IDisposable
{
    private const int Size = 32;
    private static readonly Recipe small = Recipe.Full() with { HeadEpochs = 0, Epochs = 2, BatchSize = 8, Patience = 0, AverageDecay = 0 };
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public RecipeTests() => TrainingTests.PaintImages(folder.Path, 20);

    public void Dispose() => folder.Dispose();

    public static TheoryData<string> Presets => [.. StudyRecipes.Names];

    [Theory, MemberData(nameof(Presets))]
    public void Every_experiment_of_the_study_runs(string name)
    {
        var preset = StudyRecipes.Find(name);
        var recipe = preset with
        {
            Size = preset.Recipe.Head?.FlattenAt is > 0 and var size ? size : Size,
            Folds = Math.Min(preset.Folds, 2),
            Recipe = preset.Recipe with { Epochs = 1, HeadEpochs = Math.Min(1, preset.Recipe.HeadEpochs), BatchSize = 8 },
        };
        var study = recipe.Run(FaceDataset.Open(folder.Path), Weights.None, seed: 1);
        Assert.All(study.Members, m => Assert.Equal(preset.Model, m.Model.Name));
        Assert.Equal(preset.Recipe.Members, study.Members.Count);
        Assert.Equal(study.Run.Split.Test.Count, study.Test.N);
        Assert.All(study.Run.History, e => Assert.True(double.IsFinite(e.TrainLoss) && double.IsFinite(e.ValidationLoss)));
        Assert.Equal(name.EndsWith("-published", StringComparison.Ordinal), study.Run.Recipe.ScoreInTrainingMode);
        Assert.Equal(preset.Folds > 1 ? 2 : 0, study.Folds.Count);
        foreach (var member in study.Members)
            member.Model.Dispose();
    }

    [Fact]
    public void Each_mistake_of_the_study_does_what_its_name_says()
    {
        var right = StudyRecipes.Find("mobilenet-published") with { Mistakes = StudyMistakes.None, Copies = 0, Folds = 1 };
        FaceImage[] pairs = [.. Enumerable.Range(0, 100).Select(i => new FaceImage($"{(i % 2 == 0 ? "fake" : "real")}/{i}.png", "", i % 2, null, FaceParts.None, i / 2))];
        DataSplit Split(StudyMistakes mistakes) => (right with { Mistakes = mistakes }).Split(pairs, 1, default);
        int Torn(DataSplit split) => pairs.GroupBy(i => int.Parse(i.Name[5..^4]) / 2).Count(g => g.Select(i => Side(split, i)).Distinct().Count() > 1);
        Assert.Equal(0, Torn(Split(StudyMistakes.None)));
        Assert.True(Torn(Split(StudyMistakes.SamePhotosOnBothSides)) > 5);

        var chosen = Split(StudyMistakes.TestChoosesEpoch);
        Assert.Equal(chosen.Test, chosen.Validation);
        Assert.Equal(100, chosen.Train.Count + chosen.Test.Count);

        Assert.Equal(0.299f, (right with { Mistakes = StudyMistakes.WrongStd }).Preprocessing.Std[0]);
        Assert.Equal(0.229f, right.Preprocessing.Std[0]);

        var real = FaceDataset.Open(folder.Path).Images;
        foreach (var (mistakes, leaks) in ((StudyMistakes, bool)[])[(StudyMistakes.None, false), (StudyMistakes.CopiesOnBothSides, true)])
        {
            var split = (right with { Mistakes = mistakes, Copies = 1, Size = Size }).Split(real, 1, default);
            var test = split.Test.Select(i => i.Name.Split('#')[0]).ToHashSet();
            Assert.Equal(leaks, split.Train.Any(i => test.Contains(i.Name.Split('#')[0])));
            Assert.Contains(split.Train, i => i.Name.EndsWith("#1", StringComparison.Ordinal) && File.Exists(i.Path));
        }

        static int Side(DataSplit split, FaceImage image) => split.Train.Any(i => i.Name == image.Name) ? 0 : split.Validation.Any(i => i.Name == image.Name) ? 1 : 2;
    }

    public static TheoryData<string> Kinds => ["adam", "sgd", "gradual", "copies", "accumulate", "step"];

    [Theory, MemberData(nameof(Kinds))]
    public void A_stopped_run_resumes_to_the_bit_with_every_kind_of_recipe(string kind)
    {
        var recipe = (kind switch
        {
            "adam" => small with { Optimizer = OptimizerKind.Adam, L1 = 1e-5, L2 = 1e-4 },
            "sgd" => small with { Optimizer = OptimizerKind.Sgd, Schedule = RateSchedule.Cosine, BackboneRate = 0.1 },
            "gradual" => Recipe.Gradual(2) with { HeadEpochs = 1, BatchSize = 8 },
            "copies" => small with { Cut = "features.14", FeatureCopies = 2, Schedule = RateSchedule.Constant },
            "accumulate" => small with { BatchSize = 4, Accumulate = 3, BalanceClasses = true },
            _ => small with { Schedule = RateSchedule.Step, StepEpochs = 1, Head = HeadRecipe.StudyMobileNet },
        }) with
        { Epochs = 4 };
        using var whole = Fit(recipe).Model;
        foreach (var stopAfter in (int[])[1, 2])
        {
            var file = folder[$"state-{stopAfter}.safetensors"];
            Assert.ThrowsAny<OperationCanceledException>(() => Fit(recipe, file, onEpoch: (_, e) =>
            {
                if (e.Phase == "fine-tune" && e.Epoch == stopAfter + 1)
                    throw new OperationCanceledException();
            }));
            using var resumed = Fit(recipe, file, resume: true).Model;
            AssertSameWeights(whole, resumed);
        }
    }

    [Fact]
    public void Gradual_unfreezing_leaves_early_layers_alone_until_it_is_their_turn()
    {
        var first = new List<double>();
        var recipe = Recipe.Gradual(3) with { HeadEpochs = 0, Epochs = 3, BatchSize = 8, AverageDecay = 0 };
        using var model = Fit(recipe, onEpoch: (m, _) => first.Add(Sum(m, "features.0"))).Model;
        LabRuntime.Seed(1);
        using var before = Models.MobileNetV2().WithHead(2);
        Assert.Equal(Sum(before, "features.0"), first[0]);
        Assert.Equal(first[0], first[1]);
        Assert.NotEqual(first[1], first[2]);

        static double Sum(VisionModel model, string stage) => model.StageLayers(stage)[0].parameters().Sum(p => p.to(ScalarType.Float64).abs().sum().item<double>());
    }

    [Fact]
    public void Two_half_batches_that_make_one_step_learn_what_one_batch_does()
    {
        var one = small with
        {
            Optimizer = OptimizerKind.Sgd,
            Schedule = RateSchedule.Constant,
            LearningRate = 0.01,
            BatchNorm = BatchNormMode.FrozenStatistics,
            Augmentation = Augmentation.None,
            Epochs = 1,
            Head = HeadRecipe.Linear(),
            ClipNorm = 0,
        };
        using var whole = Fit(one).Model;
        using var halves = Fit(one with { BatchSize = 4, Accumulate = 2 }).Model;
        using var smaller = Fit(one with { BatchSize = 4 }).Model;
        Assert.True(Distance(whole, halves) < 1e-4 * Distance(whole, smaller) + 1e-4, $"{Distance(whole, halves)} against {Distance(whole, smaller)}");
        Assert.True(Distance(whole, smaller) > 1e-3);
    }

    [Fact]
    public void The_backbone_learns_at_its_share_of_the_rate()
    {
        var recipe = small with { Optimizer = OptimizerKind.Sgd, Momentum = 0, WeightDecay = 0, Schedule = RateSchedule.Constant, Epochs = 1, ClipNorm = 0, BatchSize = 32 };
        var full = Moved(recipe);
        var tenth = Moved(recipe with { BackboneRate = 0.1 });
        Assert.InRange(tenth.Backbone / full.Backbone, 0.09, 0.11);
        Assert.InRange(tenth.Head / full.Head, 0.99, 1.01);
        var discriminative = Moved(recipe with { StageRate = 0.5 });
        Assert.InRange(discriminative.First / full.First, Math.Pow(0.5, 18) * 0.9, Math.Pow(0.5, 18) * 1.1);

        (double Backbone, double First, double Head) Moved(Recipe r)
        {
            LabRuntime.Seed(1);
            using var before = Models.MobileNetV2().WithHead(2);
            using var model = Fit(r).Model;
            var moved = before.named_parameters().Zip(model.named_parameters(), (a, b) =>
                (a.name, By: (a.parameter.to(ScalarType.Float64) - b.parameter.to(ScalarType.Float64)).square().sum().item<double>())).ToList();
            double Of(string prefix) => Math.Sqrt(moved.Where(m => m.name.StartsWith(prefix, StringComparison.Ordinal)).Sum(m => m.By));
            return (Of("features.18."), Of("features.0.0"), Of("classifier"));
        }
    }

    [Theory, InlineData(OptimizerKind.Adam, 0, 0), InlineData(OptimizerKind.AdamW, 0, 0), InlineData(OptimizerKind.Adam, 0.02, 0.03), InlineData(OptimizerKind.AdamW, 0.02, 0.03)]
    public void Adams_steps_are_PyTorchs(OptimizerKind kind, double l1, double l2)
    {
        using var scope = NewDisposeScope();
        LabRuntime.Seed(1);
        using var model = nn.Sequential(nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7), nn.Conv2d(7, 7, 3, groups: 7), nn.Conv2d(7, 9, 1), nn.Linear(300, 301));
        using var expected = nn.Sequential(nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7), nn.Conv2d(7, 7, 3, groups: 7), nn.Conv2d(7, 9, 1), nn.Linear(300, 301));
        using (var start = new WeightCopy(model))
            start.CopyTo(expected);
        TensorLayout.Weights(model, channelsLast: true);
        var pairs = model.parameters().Zip(expected.parameters()).ToList();
        using var optimizer = new TrainingOptimizer(new Recipe { Optimizer = kind, WeightDecay = 0.1, L1 = l1, L2 = l2 }, model, 1e-3);
        var (weights, others) = (pairs.Select(p => p.Second).Where(p => p.dim() > 1), pairs.Select(p => p.Second).Where(p => p.dim() <= 1));
        using optim.Optimizer theirs = kind == OptimizerKind.Adam
            ? optim.Adam([new TorchSharp.Modules.Adam.ParamGroup(weights, weight_decay: 0.1), new TorchSharp.Modules.Adam.ParamGroup(others)], 1e-3)
            : optim.AdamW([new TorchSharp.Modules.AdamW.ParamGroup(weights, weight_decay: 0.1), new TorchSharp.Modules.AdamW.ParamGroup(others, weight_decay: 0)], 1e-3);
        for (var step = 1; step <= 20; step++)
        {
            foreach (var (own, other) in pairs)
            {
                other.grad = randn_like(other) * Math.Pow(10, step % 5 - 3);
                own.grad = zeros_like(own).copy_(other.grad); // lies as its parameter does
                other.grad = (other.grad + l1 * other.sign() + 2 * l2 * other).detach();
            }
            optimizer.Step(penalises: true);
            theirs.step();
            foreach (var (own, other) in pairs)
                Assert.True((own - other).abs().max().item<float>() < 1e-6f * step, $"step {step}, {string.Join('x', own.shape)}");
        }
    }

    [Theory, InlineData(1), InlineData(2)]
    public void Penalties_in_the_loss_have_the_gradients_of_the_sums(int accumulate)
    {
        var size = Data().Train.Count / accumulate;
        var step = small with { Optimizer = OptimizerKind.Sgd, Momentum = 0, WeightDecay = 0, Schedule = RateSchedule.Constant, LearningRate = 0.01, ClipNorm = 0, Epochs = 1, BatchSize = size, Accumulate = accumulate };
        LabRuntime.Seed(1);
        using var before = Models.MobileNetV2().WithHead(2); // as Fit's
        using var plain = Fit(step).Model;
        using var l1 = Fit(step with { L1 = 0.5 }).Model;
        using var l2 = Fit(step with { L2 = 0.5 }).Model;
        foreach (var (i, (name, own)) in before.named_parameters().Index())
        {
            using var scope = NewDisposeScope();
            Tensor Moved(VisionModel model) => (plain.parameters().ElementAt(i) - model.parameters().ElementAt(i)) / 0.01;
            Assert.True((Moved(l1) - 0.5 * own.sign()).abs().max().item<float>() < 1e-3, name);
            Assert.True((Moved(l2) - own).abs().max().item<float>() < 1e-3, name);
        }
    }

    [Fact]
    public void Balanced_classes_are_weighted_by_the_inverse_of_their_frequency()
    {
        foreach (var file in Directory.GetFiles(folder["real"]).Order().Skip(10))
            File.Delete(file);
        var labels = Data().Train.Select(i => i.Label).ToList();
        double Weight(int c) => labels.Count / (2.0 * labels.Count(l => l == c));
        using var balanced = Fit(small with { BalanceClasses = true }).Model;
        using var weighted = Fit(small with { ClassWeights = [Weight(0), Weight(1)] }).Model;
        using var plain = Fit(small).Model;
        AssertSameWeights(balanced, weighted);
        Assert.True(Distance(plain, balanced) > 1e-3);
        Assert.Throws<TrainingException>(() => Fit(small with { ClassWeights = [1, 1, 1] }));
    }

    [Fact]
    public void Images_that_do_not_fit_into_memory_are_decoded_ahead_and_give_the_same_weights_to_the_bit()
    {
        var data = FaceDataset.Open(folder.Path).Images;
        using var kept = Fit(small).Model;
        using (var decoded = Fit(small, memory: 0).Model)
            AssertSameWeights(kept, decoded);
        File.WriteAllText(Directory.GetFiles(folder["real"])[3], "no image any more");
        using var store = new ImageStore(data, Preprocessing.Square(Size), default, memoryLimit: 0);
        store.Prepare([.. Enumerable.Range(0, data.Count)], default);
        Assert.Throws<ImageException>(() => store.Batch([.. Enumerable.Range(0, data.Count)], default));
    }

    [Fact]
    public void Images_are_held_only_where_they_are_looked_at_again()
    {
        var once = StudyRecipes.Find("mobilenet-published").Recipe;
        Assert.True(once.LooksOnce);
        Assert.All((Recipe[])[once with { HeadEpochs = 1 }, once with { FeatureCopies = 0 }, once with { FeatureCopies = 2 }, once with { MirrorScores = true }, once with { AdaptStatistics = true }], r => Assert.False(r.LooksOnce));
        Assert.True((once with { AdaptStatistics = true, BatchNorm = BatchNormMode.FrozenStatistics }).LooksOnce); // there is nothing to adapt
    }

    [Fact]
    public void A_training_that_is_stopped_leaves_the_best_model()
    {
        using var stop = new CancellationTokenSource();
        VisionModel? model = null;
        var stopped = Assert.Throws<TrainingStoppedException>(() => Fit(small with { Epochs = 9, HeadEpochs = 3 }, onEpoch: (m, e) =>
        {
            model = m;
            if (e is { Phase: "fine-tune", Epoch: 2 })
                stop.CancelAfter(30); // in the midst of the next epoch
        }, cancellation: stop.Token));
        using (model)
        {
            Assert.Same(model, stopped.Run.Model);
            Assert.False(model!.training);
            Assert.Equal(stopped.Run.History.Max(e => e.ValidationAuc), stopped.Run.Best.ValidationAuc);
            var validation = stopped.Run.Split.Validation;
            var figures = Predictor.Figures(Predictor.Probabilities(model, validation, stopped.Run.Preprocessing, small.MirrorScores), [.. validation.Select(i => (long)i.Label)]);
            Assert.Equal(stopped.Run.Best.ValidationLoss, figures.Loss, 5);
        }
    }

    [Fact]
    public void The_range_test_gives_a_rate_and_the_weights_back()
    {
        LabRuntime.Seed(1);
        using var model = Models.MobileNetV2().WithHead(2);
        using var before = new WeightCopy(model);
        var curve = Trainer.FindLearningRate(model, Data(), small, new FitOptions { Seed = 1, Preprocessing = Preprocessing.Square(Size) }, steps: 30, from: 1e-5, to: 10);
        Assert.InRange(curve.Suggestion, 1e-5, 10);
        Assert.True(curve.Points.Zip(curve.Points.Skip(1)).All(p => p.First.Rate < p.Second.Rate));
        foreach (var (key, value) in StateDict.Of(model))
            Assert.True(value.eq(before.Values[key]).all().ToBoolean(), key);
    }

    [Fact]
    public void The_suggested_rate_lies_where_the_loss_falls_most_steeply()
    {
        var rates = Enumerable.Range(0, 200).Select(i => 1e-6 * Math.Pow(1e6, i / 199.0));
        // level, then a fall around 1e-3, then up again
        var curve = LearningRateCurve.From([.. rates.Select(r => (r, 1 - 0.6 / (1 + Math.Exp(-4 * Math.Log(r / 1e-3))) + 10 * r * r))]);
        Assert.InRange(curve.Suggestion, 7e-4, 1e-2); // smoothing lags
    }

    [Fact]
    public void A_saved_run_keeps_the_head_it_was_trained_with()
    {
        var run = Fit(small with { Head = HeadRecipe.StudyMobileNet, Epochs = 1 });
        using var model = run.Model;
        var data = FaceDataset.Open(folder.Path);
        RunFolder.Save(folder["run"], run, data, null);
        using var again = RunFolder.Open(folder["run"]).Model;
        AssertSameWeights(model, again);
    }

    private DataSplit Data() => FaceDataset.Open(folder.Path).Split(seed: 1);

    private TrainingRun Fit(
        Recipe recipe, string? file = null, bool resume = false, Action<VisionModel, EpochFigures>? onEpoch = null, CancellationToken cancellation = default,
        long memory = ImageStore.DefaultMemory)
    {
        LabRuntime.Seed(1);
        var model = Models.MobileNetV2().WithHead(2);
        var options = new FitOptions { Seed = 1, Preprocessing = Preprocessing.Square(Size), CheckpointFile = file, Resume = resume, ImageMemory = memory };
        return Trainer.Fit(model, Data(), recipe, options, e => onEpoch?.Invoke(model, e), cancellation);
    }

    private static double Distance(VisionModel a, VisionModel b) => Math.Sqrt(a.parameters().Zip(b.parameters(), (x, y) => (double)(x - y).square().sum().item<float>()).Sum());

    private static void AssertSameWeights(VisionModel expected, VisionModel actual)
    {
        using var state = StateDict.Of(actual);
        foreach (var (key, value) in StateDict.Of(expected))
            Assert.True(value.eq(state[key]).all().ToBoolean(), key);
    }
}
