using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>How well one kind of fake is told: those of one difficulty, or those with one part replaced.</summary>
/// <param name="Name">"easy", "mid", "hard"; "left eye", "right eye", "nose", "mouth".</param>
/// <param name="N">Fakes of this kind. One with several parts replaced counts for each.</param>
/// <param name="Recall">The share of them that was found; as all are fakes, their accuracy too.</param>
/// <param name="Auc">The area under the ROC curve of these fakes against all real images.</param>
public sealed record Slice(string Name, int N, Estimate Recall, Estimate Auc);

/// <summary>The figures of one model on one set of images, each with a 95 % bootstrap interval. Fake is the positive class.</summary>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed class EvaluationReport
{
    private const int CalibrationBins = 10;

    private EvaluationReport(IReadOnlyList<Prediction> predictions, double threshold, bool isSample)
    {
        (Predictions, Threshold, IsSample) = (predictions, threshold, isSample);
        Truth = [.. predictions.Select(p => p.IsFake)];
        Probabilities = [.. predictions.Select(p => p.FakeProbability)];
        Confusion = Metrics.Confusion(Truth, Probabilities, threshold);
    }

    /// <summary>Computes the figures and their intervals.</summary>
    /// <param name="threshold">Probabilities at or above it are called fake. Choose it on validation, never on test.</param>
    /// <param name="resamples">Bootstrap resamples, drawn by class and by same-photo group; 0 for no intervals.</param>
    /// <param name="seed">Of the resampling: the same seed gives the same intervals.</param>
    /// <param name="isSample">Whether the images are the painted sample, so that the report says it.</param>
    /// <exception cref="EvaluationException">There are no predictions, or a probability is NaN or outside 0 … 1.</exception>
    public static EvaluationReport From(
        IReadOnlyList<Prediction> predictions, double threshold = 0.5, int resamples = 2000, long seed = 0, bool isSample = false)
    {
        var report = new EvaluationReport(predictions, threshold, isSample);
        Metrics.CheckProbabilities(report.Truth, report.Probabilities);
        var counts = new int[resamples][];
        var bootstrap = new GroupBootstrap(report.Truth, [.. predictions.Select(p => p.Image.Group)], seed);
        for (var i = 0; i < resamples; i++)
            bootstrap.Next(counts[i] = new int[predictions.Count]);
        report.Estimate(counts);
        return report;
    }

    public IReadOnlyList<Prediction> Predictions { get; }

    public double Threshold { get; }

    public bool IsSample { get; }

    public int N => Predictions.Count;

    public ConfusionMatrix Confusion { get; }

    public Estimate Accuracy { get; private set; }

    public Estimate BalancedAccuracy { get; private set; }

    public Estimate Precision { get; private set; }

    public Estimate Recall { get; private set; }

    public Estimate Specificity { get; private set; }

    public Estimate F1 { get; private set; }

    public Estimate Mcc { get; private set; }

    public Estimate Auc { get; private set; }

    public Estimate AveragePrecision { get; private set; }

    public Estimate LogLoss { get; private set; }

    public Estimate Brier { get; private set; }

    /// <summary>See <see cref="Metrics.CalibrationError"/>; ten bins.</summary>
    public Estimate CalibrationError { get; private set; }

    /// <summary>The fakes by difficulty; empty where the names do not tell it.</summary>
    public IReadOnlyList<Slice> ByDifficulty { get; private set; } = [];

    /// <summary>The fakes by replaced part; empty where the names do not tell it.</summary>
    public IReadOnlyList<Slice> ByPart { get; private set; } = [];

    /// <summary>Truth and probability as arrays, for <see cref="Metrics"/> and the charts.</summary>
    public bool[] Truth { get; }

    public double[] Probabilities { get; }

    public RocCurve Roc() => Metrics.Roc(Truth, Probabilities);

    public PrecisionRecallCurve PrecisionRecall() => Metrics.PrecisionRecall(Truth, Probabilities);

    public ReliabilityBin[] Reliability() => Metrics.Reliability(Truth, Probabilities, CalibrationBins);

    /// <summary>The images that the model was most sure of and wrong about, the surest first.</summary>
    public IReadOnlyList<Prediction> MostConfidentMistakes(int count = 12) =>
        [.. Predictions.Where(p => p.FakeProbability >= Threshold != p.IsFake)
            .OrderByDescending(p => p.IsFake ? 1 - p.FakeProbability : p.FakeProbability)
            .ThenBy(p => p.Image.Name, StringComparer.Ordinal)
            .Take(count)];

    /// <summary>Every figure by name, as the tables show them.</summary>
    public IReadOnlyList<(string Name, Estimate Estimate)> Figures =>
    [
        ("accuracy", Accuracy), ("precision", Precision), ("recall", Recall), ("f1", F1), ("auc", Auc), ("specificity", Specificity),
        ("balancedAccuracy", BalancedAccuracy), ("mcc", Mcc), ("averagePrecision", AveragePrecision), ("logLoss", LogLoss), ("brier", Brier),
        ("calibrationError", CalibrationError),
    ];

    /// <summary>
    /// Each of <see cref="Figures"/> as a number, its bounds under <c>intervals</c> as <c>[low, high]</c>, and confusion, byDifficulty, byPart, n,
    /// threshold, sample.
    /// </summary>
    public JsonObject ToJson()
    {
        var json = ToJson(Figures);
        json["confusion"] = Confusion.ToJson();
        json["byDifficulty"] = ToJson(ByDifficulty);
        json["byPart"] = ToJson(ByPart);
        json["n"] = N;
        json["threshold"] = Threshold;
        json["sample"] = IsSample;
        return json;
    }

    /// <summary>The two figures that are looked at first.</summary>
    public override string ToString() => $"accuracy {Accuracy}, AUC {Auc}, {N} images{(IsSample ? " of the painted sample" : "")}";

    /// <summary>The figures as tables.</summary>
    public string ToHtml() => EvaluationHtml.Write(this);

    private static JsonObject ToJson(IReadOnlyList<(string Name, Estimate Estimate)> figures)
    {
        var json = new JsonObject(figures.Select(f => KeyValuePair.Create(f.Name, (JsonNode?)DeepfakeLab.Estimate.Number(f.Estimate.Value))));
        json["intervals"] = new JsonObject(figures.Select(f => KeyValuePair.Create(
            f.Name, (JsonNode?)new JsonArray(DeepfakeLab.Estimate.Number(f.Estimate.Low), DeepfakeLab.Estimate.Number(f.Estimate.High)))));
        return json;
    }

    private static JsonObject ToJson(IReadOnlyList<Slice> slices) => new(slices.Select(s =>
    {
        var json = ToJson([("accuracy", s.Recall), ("recall", s.Recall), ("auc", s.Auc)]);
        json["n"] = s.N;
        return KeyValuePair.Create(s.Name, (JsonNode?)json);
    }));

    private void Estimate(int[][] resamples)
    {
        var ranked = Metrics.Rank(Truth, Probabilities);
        var matrices = Array.ConvertAll(resamples, Recount);
        Estimate FromMatrix(Func<ConfusionMatrix, double> figure) => GroupBootstrap.Interval(figure(Confusion), matrices.Select(figure));
        (Accuracy, BalancedAccuracy) = (FromMatrix(m => m.Accuracy), FromMatrix(m => m.BalancedAccuracy));
        (Precision, Recall, Specificity) = (FromMatrix(m => m.Precision), FromMatrix(m => m.Recall), FromMatrix(m => m.Specificity));
        (F1, Mcc) = (FromMatrix(m => m.F1), FromMatrix(m => m.Mcc));
        Auc = GroupBootstrap.Interval(ranked.Auc(), resamples.Select(c => ranked.Auc(c)));
        AveragePrecision = GroupBootstrap.Interval(ranked.AveragePrecision(), resamples.Select(c => ranked.AveragePrecision(c)));
        LogLoss = Mean(Truth.Zip(Probabilities, Metrics.LogLoss), resamples);
        Brier = Mean(Truth.Zip(Probabilities, Metrics.Brier), resamples);
        CalibrationError = GroupBootstrap.Interval(Metrics.CalibrationError(Truth, Probabilities, CalibrationBins), resamples.Select(Recalibrate));
        ByDifficulty = [.. Enum.GetValues<Difficulty>()
            .Select(d => Slice(d.ToString().ToLowerInvariant(), i => i.Difficulty == d, resamples)).Where(s => s.N > 0)];
        ByPart = [.. FaceImage.Parts.Select(p => Slice(p.Name, i => i.Replaced.HasFlag(p.Part), resamples)).Where(s => s.N > 0)];
    }

    private Slice Slice(string name, Func<FaceImage, bool> belongs, int[][] resamples)
    {
        int[] fakes = [.. Enumerable.Range(0, N).Where(i => Truth[i] && belongs(Predictions[i].Image))];
        int[] kept = [.. fakes, .. Enumerable.Range(0, N).Where(i => !Truth[i])];
        if (fakes.Length == 0)
            return new Slice(name, 0, default, default);
        var ranked = new RankedScores([.. kept.Select(i => Truth[i])], [.. kept.Select(i => Probabilities[i])]);
        double Found(int[] c) => fakes.Sum(i => Probabilities[i] >= Threshold ? c[i] : 0) / (double)fakes.Sum(i => c[i]);
        int[] once = [.. Enumerable.Repeat(1, N)];
        return new Slice(name, fakes.Length,
            GroupBootstrap.Interval(Found(once), resamples.Select(Found)),
            GroupBootstrap.Interval(ranked.Auc(), resamples.Select(c => ranked.Auc(Array.ConvertAll(kept, i => c[i])))));
    }

    private ConfusionMatrix Recount(int[] counts)
    {
        int tp = 0, fn = 0, fp = 0, tn = 0;
        for (var i = 0; i < counts.Length; i++)
        {
            _ = (Truth[i], Probabilities[i] >= Threshold) switch
            {
                (true, true) => tp += counts[i],
                (true, false) => fn += counts[i],
                (false, true) => fp += counts[i],
                _ => tn += counts[i],
            };
        }
        return new ConfusionMatrix(tp, fn, fp, tn);
    }

    private static Estimate Mean(IEnumerable<double> values, int[][] resamples)
    {
        var each = values.ToArray();
        return GroupBootstrap.Interval(each.Average(), resamples.Select(c => each.Zip(c, (v, n) => v * n).Sum() / c.Sum()));
    }

    private double Recalibrate(int[] counts)
    {
        var gap = new double[CalibrationBins]; // sum of probability minus truth: its size is the bin's count times its error
        for (var i = 0; i < counts.Length; i++)
            gap[Metrics.Bin(Probabilities[i], CalibrationBins)] += counts[i] * (Probabilities[i] - (Truth[i] ? 1 : 0));
        return gap.Sum(Math.Abs) / counts.Sum();
    }
}
