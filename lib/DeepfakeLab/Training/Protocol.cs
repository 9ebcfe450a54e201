using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>One training of several, tested on images that it had not seen.</summary>
/// <param name="Seed">Of split and training.</param>
/// <param name="Fold">From 1; 1 where there are no folds.</param>
/// <param name="Best">The epoch that validation chose; of an ensemble, each member's.</param>
/// <param name="Threshold">The threshold that validation chose.</param>
/// <param name="Test">The test figures at that threshold, without intervals.</param>
public sealed record ProtocolRun(long Seed, int Fold, IReadOnlyList<EpochFigures> Best, double Threshold, EvaluationReport Test)
{
    /// <summary>"fine-tune epoch 14", or as many as there are members.</summary>
    public string Kept => string.Join(", ", Best.Select(b => string.Create(CultureInfo.InvariantCulture, $"{b.Phase} epoch {b.Epoch}")));
}

/// <summary>What several trainings say together.</summary>
/// <param name="Runs">Each of them.</param>
/// <param name="Pooled">All their test predictions as one, each run's probabilities shifted so that its threshold lies at 0.5; bootstrap intervals by photo.</param>
public sealed record ProtocolResult(IReadOnlyList<ProtocolRun> Runs, EvaluationReport Pooled)
{
    /// <summary>The mean over the runs of one of <see cref="EvaluationReport.Figures"/>, with the 95 % t interval over them.</summary>
    /// <remarks>Folds share training images, so that the interval is a little too narrow (Bengio and Grandvalet, 2004).</remarks>
    public Estimate Mean(string figure) => StudentT.Mean(Runs.Select(r => r.Test.Figures.First(f => f.Name == figure).Estimate.Value));

    public Estimate Accuracy => Mean("accuracy");

    public Estimate Auc => Mean("auc");

    /// <summary>The means and what each run gave, for a file.</summary>
    public JsonObject ToJson() => new()
    {
        ["means"] = new JsonObject(Pooled.Figures.Select(f => f.Name).Select(name => (name, mean: Mean(name))).Select(m => KeyValuePair.Create(m.name, (JsonNode?)new JsonObject
        {
            ["mean"] = Estimate.Number(m.mean.Value),
            ["interval"] = new JsonArray(Estimate.Number(m.mean.Low), Estimate.Number(m.mean.High)),
        }))),
        ["pooled"] = Pooled.ToJson(),
        ["runs"] = new JsonArray([.. Runs.Select(r => new JsonObject
        {
            ["seed"] = r.Seed, ["fold"] = r.Fold, ["threshold"] = r.Threshold, ["test"] = r.Test.ToJson(),
            ["best"] = new JsonArray([.. r.Best.Select(b => new JsonObject { ["phase"] = b.Phase, ["epoch"] = b.Epoch, ["validationAuc"] = Estimate.Number(b.ValidationAuc) })]),
        })]),
    };

    /// <summary>Writes <see cref="ToJson"/>, whole or not at all.</summary>
    public void Write(string path) => AtomicFile.WriteText(path, ToJson().ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");

    /// <summary>"accuracy 0.746 (0.702–0.790), AUC …, 5 runs".</summary>
    public override string ToString() => $"accuracy {Accuracy}, AUC {Auc}, {Runs.Count} runs";
}

/// <summary>
/// Ways to a figure that can be trusted: several trainings, each from the pretrained weights, each tested on photos that it has not seen,
/// with epoch and threshold chosen on validation images alone.
/// </summary>
public static class Protocol
{
    /// <summary>Cross-validation: each image is tested once a seed, by a model that was trained on the other folds.</summary>
    /// <param name="data">The images; the same photo is never in two folds, and folds have classes and difficulties in the same shares.</param>
    /// <param name="model">Makes a model with its pretrained weights and head; called for each fold.</param>
    /// <param name="recipe">How to train.</param>
    /// <param name="folds">2 to 100.</param>
    /// <param name="seeds">Each draws the folds anew.</param>
    /// <param name="validation">Share of the images outside the fold that choose epoch and threshold.</param>
    /// <param name="preprocessing">As in <see cref="FitOptions"/>.</param>
    /// <param name="onRun">Called with each training's figures as it ends.</param>
    public static ProtocolResult CrossValidate(
        FaceDataset data, Func<VisionModel> model, Recipe recipe, int folds = 5, IReadOnlyList<long>? seeds = null, double validation = FoldValidationShare,
        Preprocessing? preprocessing = null, Action<ProtocolRun>? onRun = null, CancellationToken cancellation = default) =>
        Run(data, model, recipe, preprocessing, onRun, cancellation,
            from seed in seeds ?? [42] from fold in Folds(data.Images, folds, validation, seed).Index() select (seed, fold.Index + 1, fold.Item));

    /// <summary>The same training with several seeds, each of which draws the split too.</summary>
    /// <param name="test">Share of all images.</param>
    /// <param name="validation">Share of all images.</param>
    public static ProtocolResult Repeat(
        FaceDataset data, Func<VisionModel> model, Recipe recipe, IReadOnlyList<long> seeds, double test = TestShare, double validation = ValidationShare,
        Preprocessing? preprocessing = null, Action<ProtocolRun>? onRun = null, CancellationToken cancellation = default) =>
        Run(data, model, recipe, preprocessing, onRun, cancellation, from seed in seeds select (seed, 1, data.Split(test, validation, seed)));

    /// <summary>The threshold with the highest balanced accuracy; see <see cref="Threshold.Choose"/>.</summary>
    public static double ChooseThreshold(IReadOnlyList<Prediction> predictions) =>
        Threshold.Choose([.. predictions.Select(p => p.IsFake)], [.. predictions.Select(p => p.FakeProbability)]);

    /// <summary>Shares of the images: tested and validated on without folds, validated on with them.</summary>
    internal const double TestShare = 0.2, ValidationShare = 0.08, FoldValidationShare = 0.1;

    /// <summary>Splits whose test parts are the folds: disjoint, together all images.</summary>
    /// <param name="validation">Share of a fold's other images; 0 for none.</param>
    internal static IReadOnlyList<DataSplit> Folds(IReadOnlyList<FaceImage> images, int folds, double validation, long seed)
    {
        if (folds is < 2 or > 100 || images.Count < 2 * folds)
            throw new TrainingException("So many folds cannot be made", FormattableString.Invariant($"{folds} folds of {images.Count} images"), "Use 2 to 100 folds, and two images a fold at least");
        var filled = new Dictionary<(int, Difficulty?), int[]>();
        var parts = Enumerable.Range(0, folds).Select(_ => new List<FaceImage>()).ToArray();
        // the largest groups first, each to the fold that has fewest of their kind; the order of equals is drawn by name
        foreach (var group in images.GroupBy(i => i.Group).Select(g => g.OrderBy(i => i.Name, StringComparer.Ordinal).ToList())
            .OrderByDescending(g => g.Count).ThenBy(g => Draw(g[0].Name), StringComparer.Ordinal))
        {
            var least = Enumerable.Range(0, folds).MinBy(f => (group.Sum(i => Of(i)[f]), parts[f].Count, f));
            foreach (var image in group)
                Of(image)[least]++;
            parts[least].AddRange(group);
        }
        return [.. parts.Select(test =>
        {
            var held = test.Select(i => i.Name).ToHashSet();
            FaceImage[] others = [.. images.Where(i => !held.Contains(i.Name))];
            var rest = validation > 0 ? DataSplit.Create(others, 0, validation, seed) : new DataSplit(others, [], [], seed);
            return rest with { Test = [.. test.OrderBy(i => i.Name, StringComparer.Ordinal)] };
        })];

        int[] Of(FaceImage image) => filled.TryGetValue((image.Label, image.Difficulty), out var counts) ? counts : filled[(image.Label, image.Difficulty)] = new int[folds];
        string Draw(string name) => Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{seed} {name}"))));
    }

    private static ProtocolResult Run(
        FaceDataset data, Func<VisionModel> model, Recipe recipe, Preprocessing? preprocessing, Action<ProtocolRun>? onRun, CancellationToken cancellation,
        IEnumerable<(long Seed, int Fold, DataSplit Split)> splits)
    {
        var runs = new List<ProtocolRun>();
        foreach (var (seed, fold, split) in splits)
        {
            runs.Add(Train(data, split, fold, model, recipe, new FitOptions { Seed = seed, Preprocessing = preprocessing }, null, cancellation));
            onRun?.Invoke(runs[^1]);
        }
        return Pool(runs, data.IsSample);
    }

    /// <summary>One of the trainings, by itself.</summary>
    /// <param name="options">Its seed is the one that the split was drawn with.</param>
    internal static ProtocolRun Train(
        FaceDataset data, DataSplit split, int fold, Func<VisionModel> model, Recipe recipe, FitOptions options, Action<EpochFigures>? onEpoch, CancellationToken cancellation)
    {
        if (recipe.Members > 1)
            return TrainEnsemble(data, split, fold, model, recipe, options, onEpoch, cancellation);
        LabRuntime.Seed((long)(SeededRandom.Combine(options.Seed, fold) >> 1)); // the new head's first weights
        using var fresh = model();
        var run = Trainer.Fit(fresh, split, recipe, options, onEpoch, cancellation);
        var threshold = ChooseThreshold(Predict(split.Validation));
        return new ProtocolRun(options.Seed, fold, [run.Best], threshold, EvaluationReport.From(Predict(split.Test), threshold, resamples: 0, isSample: data.IsSample));

        IReadOnlyList<Prediction> Predict(IReadOnlyList<FaceImage> images) =>
            Predictor.Predict(fresh, images, run.Preprocessing, data.FakeClass, recipe.MirrorScores, cancellation, recipe.ScoreInTrainingMode);
    }

    private static ProtocolRun TrainEnsemble(
        FaceDataset data, DataSplit split, int fold, Func<VisionModel> model, Recipe recipe, FitOptions options, Action<EpochFigures>? onEpoch, CancellationToken cancellation)
    {
        try
        {
            using var run = Ensemble.Fit(model, split, recipe, options, (_, e) => onEpoch?.Invoke(e), cancellation);
            var threshold = ChooseThreshold(run.OutOfFold(data.FakeClass, cancellation));
            var test = Predictor.Predict(run.Models, split.Test, run.Preprocessing, data.FakeClass, recipe.MirrorScores, cancellation);
            return new ProtocolRun(options.Seed, fold, [.. run.Members.Select(m => m.Best)], threshold, EvaluationReport.From(test, threshold, resamples: 0, isSample: data.IsSample));
        }
        catch (EnsembleStoppedException stopped)
        {
            stopped.Run.Dispose();
            throw;
        }
    }

    /// <summary>The runs with all their predictions as one.</summary>
    internal static ProtocolResult Pool(IReadOnlyList<ProtocolRun> runs, bool isSample) => new(runs, EvaluationReport.From(
        [.. runs.SelectMany(r => r.Test.Predictions.Select(p => p with { FakeProbability = Shift(p.FakeProbability, r.Threshold) }))], isSample: isSample));

    /// <summary>
    /// The probability whose odds are those of <paramref name="p"/> over those of <paramref name="threshold"/>: 0.5 or more exactly where
    /// <paramref name="p"/> reaches the threshold, also where that calls everything fake (0) or nothing (above 1).
    /// </summary>
    internal static double Shift(double p, double threshold)
    {
        var (fake, real) = (p * (1 - threshold), (1 - p) * threshold);
        var shifted = threshold <= 0 ? (1 + p) / 2 : threshold > 1 ? p / 2 : fake + real > 0 ? fake / (fake + real) : p;
        return p >= threshold ? Math.Max(0.5, shifted) : Math.Min(Math.BitDecrement(0.5), shifted);
    }
}
