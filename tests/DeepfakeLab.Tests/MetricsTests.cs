using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>The figures against scikit-learn's, to 1e-12, and the inputs that no figure can be made of.</summary>
public class MetricsTests
{
    private sealed record Case(bool[] truth, double[] scores, double threshold);

    [Fact]
    public void Every_figure_equals_scikit_learns_on_random_and_degenerate_cases()
    {
        var cases = Cases().ToArray();
        using var folder = TestSupport.Folder();
        File.WriteAllText(folder["cases.json"], JsonSerializer.Serialize(cases));
        var expected = JsonNode.Parse(TestSupport.Python(["sklearn"], "metrics.py", folder["cases.json"]))!.AsArray();
        Assert.Equal(cases.Length, expected.Count);
        for (var i = 0; i < cases.Length; i++)
            Compare(cases[i], expected[i]!.AsObject(), $"case {i}");
    }

    [Fact]
    public void The_report_holds_the_same_figures_as_the_plain_functions()
    {
        foreach (var c in Cases())
        {
            var report = EvaluationReport.From(Predictions(c), c.threshold, resamples: 10);
            Assert.Equal(Metrics.Confusion(c.truth, c.scores, c.threshold), report.Confusion);
            Near(Metrics.Auc(c.truth, c.scores), report.Auc.Value, "auc");
            Near(Metrics.LogLoss(c.truth, c.scores), report.LogLoss.Value, "log loss");
            Near(Metrics.Brier(c.truth, c.scores), report.Brier.Value, "brier");
            Near(Metrics.CalibrationError(c.truth, c.scores), report.CalibrationError.Value, "ece");
            Near(report.Confusion.Mcc, report.Mcc.Value, "mcc");
            Assert.Equal(report.N, c.truth.Length);
        }
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    public void A_score_that_is_no_number_is_refused_with_its_place(double bad)
    {
        bool[] truth = [true, false, true];
        double[] scores = [0.5, bad, 0.1];
        foreach (var figure in (Action[])[
            () => Metrics.Auc(truth, scores), () => Metrics.Confusion(truth, scores), () => Metrics.LogLoss(truth, scores),
            () => Metrics.PrecisionRecall(truth, scores), () => EvaluationReport.From(Predictions(new Case(truth, scores, 0.5)))])
            Assert.Contains("index 1", Assert.Throws<EvaluationException>(figure).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Logits_empty_sets_and_unequal_numbers_are_refused()
    {
        Assert.Contains("-0.25", Assert.Throws<EvaluationException>(() => Metrics.LogLoss([true, true], [0.5, -0.25])).Message, StringComparison.Ordinal);
        Assert.Throws<EvaluationException>(() => Metrics.Brier([true], [1.5]));
        Assert.Throws<EvaluationException>(() => Metrics.Auc([], []));
        Assert.Throws<EvaluationException>(() => Metrics.Auc([true], [1, 2]));
        Assert.Throws<EvaluationException>(() => EvaluationReport.From([]));
        Assert.Equal(1, Metrics.Auc([true, false], [7, -3])); // an AUC needs no probabilities
        Assert.Equal(0.0325, Metrics.AucError(0.893, 51, 58), 4); // Hanley and McNeil 1982: .032, there rounded
        Assert.Equal(0, Metrics.AucError(1, 5, 5));
    }

    private static void Compare(Case c, JsonObject expected, string name)
    {
        var matrix = Metrics.Confusion(c.truth, c.scores, c.threshold);
        var (roc, pr) = (Metrics.Roc(c.truth, c.scores), Metrics.PrecisionRecall(c.truth, c.scores));
        var bins = Metrics.Reliability(c.truth, c.scores).Where(b => b.Count > 0).ToArray();
        var actual = new Dictionary<string, double>
        {
            ["tp"] = matrix.TruePositives,
            ["fn"] = matrix.FalseNegatives,
            ["fp"] = matrix.FalsePositives,
            ["tn"] = matrix.TrueNegatives,
            ["accuracy"] = matrix.Accuracy,
            ["balancedAccuracy"] = matrix.BalancedAccuracy,
            ["precision"] = matrix.Precision,
            ["recall"] = matrix.Recall,
            ["specificity"] = matrix.Specificity,
            ["f1"] = matrix.F1,
            ["mcc"] = matrix.Mcc,
            ["auc"] = Metrics.Auc(c.truth, c.scores),
            ["averagePrecision"] = Metrics.AveragePrecision(c.truth, c.scores),
            ["prArea"] = Metrics.Area(pr.Recall, pr.Precision),
            ["logLoss"] = Metrics.LogLoss(c.truth, c.scores),
            ["brier"] = Metrics.Brier(c.truth, c.scores),
            ["calibrationError"] = Metrics.CalibrationError(c.truth, c.scores),
        };
        foreach (var (key, value) in actual)
            Near(expected[key]?.GetValue<double>() ?? double.NaN, value, $"{name}, {key}");
        var lists = new Dictionary<string, double[]>
        {
            ["fpr"] = roc.FalsePositiveRate,
            ["tpr"] = roc.TruePositiveRate,
            ["prPrecision"] = pr.Precision,
            ["prRecall"] = pr.Recall,
            ["prThresholds"] = pr.Thresholds[1..],
            ["binTrue"] = [.. bins.Select(b => b.FakeShare)],
            ["binSaid"] = [.. bins.Select(b => b.MeanProbability)],
        };
        foreach (var (key, values) in lists.Where(l => expected[l.Key] is not null))
        {
            var numbers = expected[key]!.AsArray().Select(x => x?.GetValue<double>() ?? double.NaN).ToArray();
            Assert.Equal(numbers.Length, values.Length);
            for (var i = 0; i < numbers.Length; i++)
                Near(numbers[i], values[i], $"{name}, {key}[{i}]");
        }
    }

    private static void Near(double expected, double actual, string what) =>
        Assert.True(double.IsNaN(expected) ? double.IsNaN(actual) : Math.Abs(expected - actual) <= 1e-12, $"{what}: expected {expected:R}, got {actual:R}");

    /// <summary>Random cases with and without ties, and the degenerate ones.</summary>
    private static IEnumerable<Case> Cases()
    {
        var random = new Random(5);
        for (var i = 0; i < 60; i++)
        {
            var (n, share, digits) = (random.Next(2, 300), random.NextDouble(), i % 3 == 0 ? 1 : i % 3 == 1 ? 2 : 15);
            bool[] truth = [.. Enumerable.Range(0, n).Select(_ => random.NextDouble() < share)];
            yield return new Case(truth, [.. truth.Select(t => Math.Round(Math.Clamp(random.NextDouble() + (t ? 0.2 : 0), 0, 1), digits))],
                Math.Round(random.NextDouble(), 1));
        }
        yield return new Case([true], [0.7], 0.5);
        yield return new Case([false], [0.7], 0.5);
        yield return new Case([true, true, true], [0.1, 0.9, 0.9], 0.5);
        yield return new Case([false, false, false], [0.1, 0.9, 0.9], 0.5);
        yield return new Case([true, false, true, false], [0.3, 0.3, 0.3, 0.3], 0.3);
        yield return new Case([true, false], [0, 1], 0.5);
        yield return new Case([true, false, true], [1, 0, 1], 0.5);
    }

    private static Prediction[] Predictions(Case c) =>
        [.. c.truth.Select((t, i) => new Prediction(new FaceImage($"{i}.jpg", $"/{i}.jpg", 0, null, FaceParts.None, i), t, c.scores[i]))];
}
