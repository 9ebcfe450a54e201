using System.Diagnostics;
using System.Globalization;
using SkiaSharp;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>The training loop on a folder of small noisy pictures whose classes differ in colour.</summary>
public sealed class TrainingTests : IDisposable
{
    private const int Size = 32;
    private static readonly Recipe small = Recipe.Full() with { HeadEpochs = 2, Epochs = 3, BatchSize = 8, Patience = 0 };
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public TrainingTests() => PaintImages(folder.Path, 24);

    public void Dispose() => folder.Dispose();

    [Fact]
    public void The_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others()
    {
        using var first = Fit(small).Model;
        using var second = Fit(small).Model;
        using var other = Fit(small, seed: 2).Model;
        AssertSameWeights(first, second);
        Assert.Contains(first.state_dict().Zip(other.state_dict()), pair => !Same(pair.First.Value, pair.Second.Value));
    }

    [Fact]
    public void A_run_that_stops_after_any_epoch_resumes_to_the_same_weights_to_the_bit()
    {
        var recipe = small with { AverageDecay = 0.5 };
        using var whole = Fit(recipe).Model;
        for (var stopAfter = 1; stopAfter < recipe.Epochs; stopAfter++)
        {
            var file = folder[$"state-{stopAfter}.safetensors"];
            using var stop = new CancellationTokenSource();
            Assert.ThrowsAny<OperationCanceledException>(() => Fit(recipe, file: file, onEpoch: e =>
            {
                if (e.Phase == "fine-tune" && e.Epoch == stopAfter + 1)
                    throw new OperationCanceledException(); // in the next epoch, before its state is written
            }));
            var resumed = Fit(recipe, file: file, resume: true);
            using var model = resumed.Model;
            AssertSameWeights(whole, model);
            Assert.Equal(recipe.Epochs, resumed.History.Count(e => e.Phase == "fine-tune"));
        }
    }

    /// <summary>Steps of 1e-6 on weights near 0.1, where bfloat16's neighbours are 5e-4 apart: only float32 weights keep them.</summary>
    [Fact]
    public void Mixed_precision_keeps_steps_that_bfloat16_cannot_hold_and_goes_the_way_of_float32()
    {
        var recipe = small with { HeadEpochs = 0, AdaptStatistics = false, Epochs = 1, Schedule = RateSchedule.Constant, LearningRate = 1e-6, WeightDecay = 0, AverageDecay = 0 };
        LabRuntime.Seed(1);
        using var before = Models.MobileNetV2().WithHead(2);
        var (full, mixed) = (Fit(recipe), Fit(recipe with { TrainingPrecision = Precision.BFloat16 }));
        using var fullModel = full.Model;
        using var mixedModel = mixed.Model;
        Assert.NotEqual(full.Best.TrainLoss, mixed.Best.TrainLoss); // it did compute otherwise
        Assert.Equal(full.Best.TrainLoss, mixed.Best.TrainLoss, 0.02);
        Tensor Moved(VisionModel model) => cat([.. model.parameters().Zip(before.parameters(), (now, then) => (now - then).flatten())]);
        using var scope = NewDisposeScope();
        using var none = no_grad();
        var (a, b) = (Moved(fullModel), Moved(mixedModel));
        Assert.True(b.ne(0).to(ScalarType.Float32).mean().item<float>() > 0.9);
        Assert.InRange((a.sign() * b.sign()).mean().item<float>(), 0.1, 0.999); // of noise it would be below 0.001
        var (fullState, mixedState) = (StateDict.Of(fullModel), StateDict.Of(mixedModel));
        foreach (var key in (string[])["features.0.1.running_mean", "features.0.1.running_var", "features.18.1.running_var"]) // behind many layers of a random network the paths part
            Assert.InRange(((fullState[key] - mixedState[key]).norm() / fullState[key].norm()).item<float>(), 1e-6, key.StartsWith("features.0", StringComparison.Ordinal) ? 0.01 : 0.2);
        Assert.All(mixedModel.parameters(), p => Assert.Equal(ScalarType.Float32, p.dtype));
    }

    [Theory]
    [InlineData(null, 0), InlineData("features.17", 0), InlineData("features.17", 1)]
    public void Mixed_precision_resumes_to_the_bit_from_any_cut(string? cut, int copies)
    {
        var recipe = small with { TrainingPrecision = Precision.BFloat16, Cut = cut, FeatureCopies = copies, MadeFakes = 0, Accumulate = 2, Epochs = 2 };
        using var whole = Fit(recipe).Model;
        var file = folder["state.safetensors"];
        Assert.ThrowsAny<OperationCanceledException>(() => Fit(recipe, file: file, onEpoch: e =>
        {
            if (e is { Phase: "fine-tune", Epoch: 2 })
                throw new OperationCanceledException();
        }));
        using var resumed = Fit(recipe, file: file, resume: true).Model;
        AssertSameWeights(whole, resumed);
    }

    [Fact]
    public void A_checkpoint_of_other_settings_is_refused()
    {
        var file = folder["state.safetensors"];
        Fit(small, file: file).Model.Dispose();
        var error = Assert.Throws<TrainingException>(() => Fit(small with { LearningRate = 1e-3 }, file: file, resume: true));
        Assert.Equal(file, error.Subject);
    }

    [Fact]
    public void It_learns_what_can_be_learned_and_the_kept_epoch_has_the_highest_validation_AUC()
    {
        var run = Fit(small with { Epochs = 40, LearningRate = 2e-3, AverageDecay = 0.9, MadeFakes = 0 });
        using var model = run.Model;
        Assert.True(run.Best.ValidationAuc > 0.9, $"AUC {run.Best.ValidationAuc}");
        Assert.Equal(run.History.Max(e => e.ValidationAuc), run.Best.ValidationAuc);
        var figures = Predictor.Figures(Predictor.Probabilities(model, run.Split.Validation, run.Preprocessing, run.Recipe.MirrorScores), [.. run.Split.Validation.Select(i => (long)i.Label)]);
        Assert.Equal(run.Best.ValidationLoss, figures.Loss, 5);
    }

    [Fact]
    public void Layers_before_the_cut_stay_as_they_came()
    {
        LabRuntime.Seed(1);
        using var before = Models.MobileNetV2().WithHead(2);
        using var kept = new WeightCopy(before);
        using var model = Fit(small with { Cut = "features.17", HeadEpochs = 0 }).Model;
        foreach (var (key, value) in model.state_dict())
            Assert.Equal(!key.StartsWith("features.17.", StringComparison.Ordinal) && !key.StartsWith("features.18.", StringComparison.Ordinal)
                && !key.StartsWith("classifier", StringComparison.Ordinal), Same(value, kept.Values[key]));
    }

    /// <summary>Its own statistics change by 0.0003 a step: they would still be those of another network after the training.</summary>
    [Fact]
    public void MNASNets_statistics_follow_a_short_training()
    {
        LabRuntime.Seed(1);
        using var model = Models.MnasNet0_5().WithHead(2);
        var run = Trainer.Fit(model, FaceDataset.Open(folder.Path).Split(seed: 1), small with { HeadEpochs = 0, Epochs = 1 }, new FitOptions { Preprocessing = Preprocessing.Square(Size) });
        using var state = StateDict.Of(run.Model);
        Assert.True(state["layers.1.running_mean"].abs().max().item<float>() > 0.02);
    }

    [Fact]
    public void Patience_ends_fine_tuning_and_the_best_epoch_comes_back()
    {
        var run = Fit(small with { Epochs = 12, LearningRate = 0.5, ClipNorm = 0, Patience = 2 });
        using var model = run.Model;
        Assert.True(run.History.Count(e => e.Phase == "fine-tune") < 12);
        Assert.Equal(run.History.Max(e => e.ValidationAuc), run.Best.ValidationAuc);
    }

    [Theory]
    [InlineData(Precision.Float32, 50), InlineData(Precision.BFloat16, 15)]
    public void Memory_stays_flat_over_many_epochs(Precision precision, int epochs)
    {
        var resident = new List<long>();
        using var model = Fit(small with { Epochs = epochs, BatchSize = 16, AverageDecay = 0.9, TrainingPrecision = precision }, file: folder["state.safetensors"], onEpoch: e =>
        {
            if (e.Phase == "fine-tune")
                resident.Add(TensorCount());
        }).Model;
        Assert.Equal(resident[9], resident[^1]);
    }

    [Theory]
    [InlineData(nameof(Recipe.BatchSize)), InlineData(nameof(Recipe.LearningRate)), InlineData(nameof(Recipe.LabelSmoothing))]
    public void A_recipe_that_makes_no_sense_is_refused_by_the_name_of_its_setting(string setting)
    {
        var recipe = setting switch
        {
            nameof(Recipe.BatchSize) => small with { BatchSize = 1 },
            nameof(Recipe.LearningRate) => small with { LearningRate = -1 },
            _ => small with { LabelSmoothing = 1 },
        };
        Assert.Contains(setting, Assert.Throws<TrainingException>(() => Fit(recipe)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_loss_that_is_no_number_names_the_batch()
    {
        var error = Assert.Throws<TrainingException>(() => Fit(small with { HeadEpochs = 0 }, prepare: model =>
        {
            using var none = no_grad();
            model.parameters().First().fill_(float.NaN);
        }));
        Assert.Contains("epoch", error.Subject, StringComparison.Ordinal);
        Assert.Contains(".png", error.Subject, StringComparison.Ordinal);
    }

    [Fact]
    public void The_one_cycle_rate_is_that_of_PyTorch()
    {
        var expected = TestSupport.Python(["torch"], "one_cycle.py").Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(line => double.Parse(line, CultureInfo.InvariantCulture)).ToArray();
        for (var step = 0; step < expected.Length; step++)
            Assert.Equal(expected[step], Schedule.OneCycle(4e-4, step, expected.Length, 0.3), 1e-12);
    }

    [Fact]
    public void A_saved_run_scores_as_the_trained_model_does_and_knows_what_it_has_seen()
    {
        var data = FaceDataset.Open(folder.Path);
        var run = Fit(small);
        using var model = run.Model;
        var expected = Predictor.Predict(model, run.Split.Test, run.Preprocessing, data.FakeClass, run.Recipe.MirrorScores);
        RunFolder.Save(folder["run"], run, data, EvaluationReport.From(expected));
        var saved = RunFolder.Open(folder["run"]);
        using var again = saved.Model;
        Assert.Equal(expected, Predictor.Predict(again, run.Split.Test, saved.Preprocessing, saved.FakeClass, saved.MirrorScores));
        Assert.Equal(run.Split.Test, RunFolder.Unseen(saved, data));
        Assert.Empty(Directory.GetFiles(folder["run"], "*.tmp"));
    }

    [Fact]
    public void A_killed_command_resumes_to_the_same_weights_to_the_bit()
    {
        string[] Arguments(string run, params string[] more) =>
        [
            typeof(Cli.Program).Assembly.Location, "train", "--data", folder.Path, "--weights", "none", "--size", "32", "--epochs", "6", "--seed", "5",
            "--out", folder[run], .. more,
        ];
        var whole = TestSupport.Run("dotnet", Arguments("whole"));
        Assert.True(whole.Code == 0, whole.Error);

        var kill = new ProcessStartInfo("dotnet", Arguments("killed")) { RedirectStandardOutput = true, RedirectStandardError = true };
        using (var process = Process.Start(kill)!)
        {
            while (process.StandardOutput.ReadLine() is { } line && !line.StartsWith("fine-tune epoch  3", StringComparison.Ordinal))
            {
            }
            process.Kill(); // SIGKILL where there are signals
            process.WaitForExit();
            Assert.NotEqual(0, process.ExitCode);
        }
        Assert.False(File.Exists(Path.Combine(folder["killed"], RunFolder.RecordFile)));
        var resumed = TestSupport.Run("dotnet", Arguments("killed", "--resume"));
        Assert.True(resumed.Code == 0, resumed.Error);
        Assert.Equal(File.ReadAllBytes(Path.Combine(folder["whole"], RunFolder.ModelFile)), File.ReadAllBytes(Path.Combine(folder["killed"], RunFolder.ModelFile)));
    }

    [Fact]
    public void A_command_stopped_by_Ctrl_C_leaves_its_best_model_tested_and_resumes()
    {
        if (OperatingSystem.IsWindows())
            TestSupport.Skip("Windows has no signal that one process could send to another");
        string[] arguments =
        [
            typeof(Cli.Program).Assembly.Location, "train", "--data", folder.Path, "--weights", "none", "--size", "32", "--epochs", "400", "--seed", "5", "--out", folder["run"],
        ];
        // A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
        var start = OperatingSystem.IsLinux() ? new ProcessStartInfo("env", ["--default-signal=INT", "dotnet", .. arguments]) : new ProcessStartInfo("dotnet", arguments);
        (start.RedirectStandardOutput, start.RedirectStandardError) = (true, true);
        using (var process = Process.Start(start)!)
        {
            while (process.StandardOutput.ReadLine() is { } line && !line.StartsWith("fine-tune epoch  2", StringComparison.Ordinal))
            {
            }
            Assert.Equal(0, TestSupport.Run("kill", ["-INT", process.Id.ToString(CultureInfo.InvariantCulture)]).Code);
            process.StandardOutput.ReadToEnd();
            var error = process.StandardError.ReadToEnd();
            process.WaitForExit();
            Assert.Equal(1, process.ExitCode);
            Assert.Contains("--resume", error, StringComparison.Ordinal);
        }
        var record = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(Path.Combine(folder["run"], RunFolder.RecordFile)))!;
        Assert.True((bool)record["stopped"]!);
        Assert.Equal(FaceDataset.Open(folder.Path).Split(0.2, 0.08, 5).Test.Count, (int)record["test"]!["n"]!);
        RunFolder.Open(folder["run"]).Model.Dispose();
        Assert.True(File.Exists(Path.Combine(folder["run"], "checkpoint.safetensors"))); // what --resume goes on from
    }

    /// <summary>Every other fake is named as CIPLAB names them.</summary>
    private void NameParts()
    {
        foreach (var (i, file) in Directory.GetFiles(folder["fake"]).Order(StringComparer.Ordinal).Index())
            File.Move(file, Path.Combine(folder["fake"], $"mid_{i + 1}_{(i % 2 == 0 ? "1000" : "0011")}.png"));
    }

    [Fact]
    public void Part_targets_and_made_fakes_resume_to_the_bit_and_leave_memory_flat()
    {
        NameParts();
        var recipe = small with { PartsLoss = 0.5, MadeFakes = 0.4, MixUp = 0.2, AverageDecay = 0.5 };
        var tensors = new List<long>();
        using var whole = Fit(recipe, onEpoch: _ => tensors.Add(TensorCount())).Model;
        Assert.Equal(tensors[^2], tensors[^1]);
        using var plain = Fit(recipe with { PartsLoss = 0, MadeFakes = 0 }).Model;
        Assert.Contains(whole.state_dict().Zip(plain.state_dict()), pair => !Same(pair.First.Value, pair.Second.Value));
        Assert.Equal(plain.state_dict().Keys, whole.state_dict().Keys); // nothing of the second head is left
        var file = folder["state.safetensors"];
        Assert.ThrowsAny<OperationCanceledException>(() => Fit(recipe, file: file, onEpoch: e =>
        {
            if (e is { Phase: "fine-tune", Epoch: 3 })
                throw new OperationCanceledException();
        }));
        using var resumed = Fit(recipe, file: file, resume: true).Model;
        AssertSameWeights(whole, resumed);
    }

    [Fact]
    public void The_kept_model_has_the_odds_of_images_among_which_nobody_made_fakes()
    {
        NameParts();
        var still = small with { LearningRate = 1e-30, WeightDecay = 0, AdaptStatistics = false, BatchNorm = BatchNormMode.FrozenStatistics, KeepLatest = true, HeadEpochs = 0, Epochs = 2 };
        var (with, without) = (Fit(still with { MadeFakes = 0.4 }), Fit(still with { MadeFakes = 0 })); // fine-tuning learns nothing, so that they differ by the correction only
        Assert.Equal((2, 2), (with.Best.Epoch, without.Best.Epoch));
        var (moved, unmoved) = (with.Model.state_dict(), without.Model.state_dict());
        const string bias = "classifier.1.bias";
        foreach (var key in moved.Keys.Where(k => k != bias))
            Assert.True(moved[key].allclose(unmoved[key], rtol: 0, atol: 1e-25), key);
        double fakes = with.Split.Train.Count(i => i.Replaced != FaceParts.None || i.Label == 0), reals = with.Split.Train.Count - fakes;
        Assert.Equal(Math.Log((fakes + 0.4 * reals) / fakes), (moved[bias] - unmoved[bias])[0].item<float>(), 1e-5);
        Assert.Equal(unmoved[bias][1].item<float>(), moved[bias][1].item<float>(), 1e-6);
        var scored = Predictor.Figures(Predictor.Probabilities(with.Model, with.Split.Validation, with.Preprocessing, mirrorScores: true), [.. with.Split.Validation.Select(i => (long)i.Label)]);
        Assert.Equal(with.Best.ValidationLoss, scored.Loss, 5);
        with.Model.Dispose();
        without.Model.Dispose();
    }

    [Fact]
    public void The_latest_epoch_is_kept_of_those_that_validation_cannot_tell_apart()
    {
        long[] labels = [.. Enumerable.Range(0, 128).Select(i => i % 2L)]; // the standard error of .8 is .039
        Assert.Equal((1, 2), Kept([0.80], [0.70, 0.80]));
        Assert.Equal((2, 2), Kept([0.70], [0.75, 0.80]));
        Assert.Equal((2, 4), Kept([0.60], [0.74, 0.80, 0.75, 0.77])); // .75 is more than that below
        Assert.Equal((2, 2), Kept([0.60], [0.74, 0.80, 0.75, 0.70]));
        Assert.Equal((1, 1), Kept([0.80], [0.70, 0.75]));

        (int Highest, int Latest) Kept(double[] head, double[] tuned)
        {
            List<EpochFigures> history = [.. head.Select((a, i) => Epoch("head", i + 1, a)), .. tuned.Select((a, i) => Epoch("fine-tune", i + 1, a))];
            return (TrainingLoop.Kept(history, latest: false, labels).Epoch, TrainingLoop.Kept(history, latest: true, labels).Epoch);
        }

        static EpochFigures Epoch(string phase, int number, double auc) => new(phase, number, 0.6, 0.6, 0.7, auc, 1e-4, 1);
    }

    [Fact]
    public void Where_no_name_tells_of_parts_there_are_neither_part_targets_nor_made_fakes()
    {
        using var with = Fit(small with { PartsLoss = 0.5, MadeFakes = 0.4 }).Model;
        using var without = Fit(small with { PartsLoss = 0, MadeFakes = 0 }).Model;
        AssertSameWeights(without, with);
    }

    [Fact]
    public void A_mirror_image_has_left_and_right_replaced_parts_exchanged()
    {
        Assert.Equal([1, 0, 0, 1], PartHead.Targets(FaceParts.LeftEye | FaceParts.Mouth, mirrored: false));
        Assert.Equal([0, 1, 0, 1], PartHead.Targets(FaceParts.LeftEye | FaceParts.Mouth, mirrored: true));
        Assert.Equal([0, 0, 0, 0], PartHead.Targets(FaceParts.None, mirrored: true));
        foreach (var seed in (ulong[])[1, 2, 3, 4]) // the draw that targets ask is the one that images get
        {
            using var scope = NewDisposeScope();
            var image = zeros([1, 3, 8, 8], ScalarType.Byte);
            image[.., .., .., ..4] = 200;
            var flips = Augmentation.None with { Flip = 0.5 };
            Assert.Equal(flips.Mirrors(seed), flips.Apply(image, [seed])[0, 0, 0, 0].item<float>() == 0);
        }
    }

    [Fact]
    public void A_made_fake_differs_from_its_photo_inside_the_face_alone_and_other_images_stay()
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        var batch = randint(0, 256, [3, 3, 64, 64], ScalarType.Byte);
        var before = batch.clone();
        var made = MadeFakes.Apply(batch, [1], [0, 1], [9]);
        Assert.True(Same(before, batch));
        Assert.True(Same(made[0], batch[0]) && Same(made[2], batch[2]));
        var changed = made[1].ne(batch[1]).any(0).to(ScalarType.Float32);
        Assert.InRange(changed.mean().item<float>(), 0.01, 0.9);
        Assert.Equal(0, changed[..2, ..2].sum().item<float>()); // a corner is no face
        Assert.True(Same(made, MadeFakes.Apply(batch, [1], [0, 1], [9])));
    }

    private TrainingRun Fit(Recipe recipe, long seed = 1, string? file = null, bool resume = false, Action<EpochFigures>? onEpoch = null, Action<VisionModel>? prepare = null)
    {
        LabRuntime.Seed(seed);
        var model = Models.MobileNetV2().WithHead(2);
        prepare?.Invoke(model);
        var options = new FitOptions { Seed = seed, Preprocessing = Preprocessing.Square(Size), CheckpointFile = file, Resume = resume };
        return Trainer.Fit(model, FaceDataset.Open(folder.Path).Split(seed: 1), recipe, options, onEpoch);
    }

    private static void AssertSameWeights(VisionModel expected, VisionModel actual)
    {
        foreach (var (key, value) in expected.state_dict())
            Assert.True(Same(value, actual.state_dict()[key]), key);
    }

    private static bool Same(Tensor a, Tensor b) => a.eq(b).all().ToBoolean();

    /// <summary>How many tensors live outside any dispose scope or are otherwise held: a leak shows as a growing number.</summary>
    private static long TensorCount()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return Tensor.TotalCount;
    }

    internal static void PaintImages(string root, int each)
    {
        var random = new SeededRandom(7);
        foreach (var (name, colour) in ((string, SKColor)[])[("fake", new SKColor(150, 90, 90)), ("real", new SKColor(90, 90, 150))])
        {
            Directory.CreateDirectory(Path.Combine(root, name));
            for (var i = 0; i < each; i++)
            {
                using var bitmap = new SKBitmap(Size, Size);
                for (var y = 0; y < Size; y++)
                    for (var x = 0; x < Size; x++)
                        bitmap.SetPixel(x, y, new SKColor((byte)(colour.Red + random.Next(80)), (byte)(colour.Green + random.Next(80)), (byte)(colour.Blue + random.Next(80))));
                using var data = bitmap.Encode(SKEncodedImageFormat.Png, 100);
                File.WriteAllBytes(Path.Combine(root, name, $"{name}_{i}.png"), data.ToArray());
            }
        }
    }
}
