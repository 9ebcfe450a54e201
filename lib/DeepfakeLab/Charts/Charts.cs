using System.Globalization;

namespace DeepfakeLab;

/// <summary>The figures of a training and its test. Fake is the positive class throughout.</summary>
public static partial class Charts
{
    /// <summary>Loss, and accuracy with AUC, by epoch.</summary>
    /// <param name="trainLoss">One value an epoch, as all of the arrays; the first epoch is number 1. What is not known yet is NaN.</param>
    /// <param name="best">Number of the epoch whose weights were kept; 0 where there is none.</param>
    /// <param name="fineTuningFrom">Number of the first epoch of fine-tuning, where a phase with a frozen body came before it; 0 without one.</param>
    public static Figure TrainingCurves(double[] trainLoss, double[] validationLoss, double[] validationAccuracy, double[] validationAuc, int best = 0, int fineTuningFrom = 0)
    {
        double[] epochs = [.. Enumerable.Range(1, trainLoss.Length).Select(e => (double)e)];
        var x = new Axis("epoch", epochs.Length < 2 ? 0 : 1, Math.Max(4, epochs.Length)); // at least four, so that ticks are whole numbers
        var loss = Axis.Around("loss", [.. trainLoss, .. validationLoss], fromZero: true);
        var share = Axis.Around("share", [.. validationAccuracy, .. validationAuc, 0.5, 1]);
        IEnumerable<Layer> Marks(Axis y) =>
        [
            .. fineTuningFrom > 1 ? [Upright("", fineTuningFrom - 0.5, y, dashed: false)] : Array.Empty<Layer>(),
            .. best > 0 ? [Upright("kept", best, y, dashed: true)] : Array.Empty<Layer>(),
        ];
        var points = epochs.Length <= 12;
        var last = Array.FindLastIndex(validationLoss, double.IsFinite); // an epoch that is under way has a training loss only
        return new Figure("Training curves",
            last < 0 ? "no epoch has ended yet" : Text($"{last + 1} epochs; at the end training loss {trainLoss[last]:0.000}, validation loss {validationLoss[last]:0.000}, validation accuracy {validationAccuracy[last]:0.000}, validation AUC {validationAuc[last]:0.000}{(best > 0 ? $"; the weights of epoch {best} were kept" : "")}"),
            columns: 2,
            new Panel("Loss", x, loss, [.. Marks(loss), new Curve("training", epochs, trainLoss, 0, Points: points), new Curve("validation", epochs, validationLoss, 1, Points: points)]),
            new Panel("On validation", x, share, [.. Marks(share), new Curve("accuracy", epochs, validationAccuracy, 2, Points: points), new Curve("AUC", epochs, validationAuc, 3, Points: points)]));
    }

    /// <summary>The history of a training, both phases under one count of epochs.</summary>
    /// <param name="best">The epoch whose weights were kept; null while the training goes on.</param>
    public static Figure TrainingCurves(IReadOnlyList<EpochFigures> history, EpochFigures? best = null) => TrainingCurves(
        [.. history.Select(e => e.TrainLoss)], [.. history.Select(e => e.ValidationLoss)], [.. history.Select(e => e.ValidationAccuracy)], [.. history.Select(e => e.ValidationAuc)],
        best: history.ToList().FindIndex(e => e == best) + 1,
        fineTuningFrom: history.ToList().FindIndex(e => e.Phase == "fine-tune") + 1);

    /// <summary>The loss of a short run with rising learning rate, and the rate that it suggests.</summary>
    public static Figure LearningRateFinder(double[] learningRates, double[] losses, double? suggested = null)
    {
        var y = Axis.Around("loss", losses);
        return new Figure("Learning-rate finder",
            Text($"loss from {losses[0]:0.000} at rate {learningRates[0]:0.0e0} to {losses[^1]:0.000} at {learningRates[^1]:0.0e0}; suggested rate {(suggested is { } s ? s.ToString("0.0e0", CultureInfo.InvariantCulture) : "none")}"),
            columns: 1,
            new Panel("Learning-rate finder", new Axis("learning rate", learningRates.Min(), learningRates.Max(), Log: true), y,
                [.. suggested is { } rate ? [Upright("suggested", rate, y, dashed: true)] : Array.Empty<Layer>(), new Curve("loss", learningRates, losses, 0)]));
    }

    /// <summary>Counts, and the share of each truth that got each answer.</summary>
    public static Figure Confusion(ConfusionMatrix m)
    {
        int[,] counts = { { m.TruePositives, m.FalseNegatives }, { m.FalsePositives, m.TrueNegatives } };
        var (shares, text) = (new double[2, 2], new string[2, 2]);
        for (var row = 0; row < 2; row++)
        {
            for (var column = 0; column < 2; column++)
            {
                shares[row, column] = counts[row, column] / (double)Math.Max(1, counts[row, 0] + counts[row, 1]);
                text[row, column] = Text($"{counts[row, column]}\n{100 * shares[row, column]:0.0} %");
            }
        }
        return new Figure("Confusion matrix",
            Text($"of {counts[0, 0] + counts[0, 1]} fakes {counts[0, 0]} called fake and {counts[0, 1]} called real; of {counts[1, 0] + counts[1, 1]} real images {counts[1, 0]} called fake and {counts[1, 1]} called real"),
            columns: 1,
            // rows are counted from the top, so the axis names them from below
            new Panel("Confusion matrix", Axis.Of("answer", ["fake", "real"]), Axis.Of("truth", ["real", "fake"]), new Heat("share of the truth", shares, text)));
    }

    /// <summary>ROC and precision-recall curves side by side.</summary>
    public static Figure RocAndPrecisionRecall(EvaluationReport report)
    {
        var pr = report.PrecisionRecall();
        var share = report.Truth.Count(t => t) / (double)report.N;
        return new Figure("ROC and precision-recall curves",
            Text($"area under the ROC curve {report.Auc}; average precision {report.AveragePrecision}, where guessing has {share:0.000}"),
            columns: 2,
            RocPanel(Text($"ROC, AUC {report.Auc}"), [("model", report)]),
            new Panel(Text($"Precision-recall, AP {report.AveragePrecision}"), Unit("recall"), Unit("precision"),
                new Curve("model", pr.Recall, pr.Precision, 0), new Curve("guessing", [0, 1], [share, share], Palette.Muted, Dashed: true)));
    }

    /// <summary>The ROC curves of several models on the same images.</summary>
    public static Figure Roc(IReadOnlyList<(string Name, EvaluationReport Report)> models) => new("ROC curves",
        "area under the curve: " + string.Join("; ", models.Select(m => $"{m.Name} {m.Report.Auc}")),
        columns: 1, RocPanel("ROC curves", models));

    private static Panel RocPanel(string title, IReadOnlyList<(string Name, EvaluationReport Report)> models) => new(title, Unit("false-positive rate"), Unit("true-positive rate"),
        [.. models.Select((m, i) => Line(m.Name, m.Report.Roc(), i)), new Curve("guessing", [0, 1], [0, 1], Palette.Muted, Dashed: true)]);

    private static Curve Line(string name, RocCurve roc, int color) => new(name, roc.FalsePositiveRate, roc.TruePositiveRate, color);

    /// <summary>What the model said against what was so, and how often it said it.</summary>
    public static Figure Reliability(EvaluationReport report, string title = "Reliability")
    {
        var bins = report.Reliability();
        var filled = bins.Where(b => b.Count > 0).ToArray();
        return new Figure(title,
            Text($"expected calibration error {report.CalibrationError}; ")
                + string.Join(", ", filled.Select(b => Text($"said {b.MeanProbability:0.00} where {b.FakeShare:0.00} were fake ({b.Count} images)"))),
            columns: 1,
            new Panel(Text($"{title}, ECE {report.CalibrationError}"), Unit("predicted probability of fake"), Unit("share that is fake"),
                new Bars("share of images", [.. bins.Select(b => (b.From + b.To) / 2)],
                    [.. bins.Select(b => Exact(b.Count / (double)report.N))], 0.094, Palette.Muted),
                new Curve("perfect", [0, 1], [0, 1], Palette.Muted, Dashed: true),
                new Curve("model", [.. filled.Select(b => b.MeanProbability)], [.. filled.Select(b => b.FakeShare)], 0, Points: true)));
    }

    /// <summary>Recall and AUC by difficulty or replaced part, with their intervals.</summary>
    public static Figure BySlice(string title, IReadOnlyList<Slice> slices)
    {
        if (slices.Count == 0)
            return InWords(title, "the images' names do not tell it");
        string[] names = [.. slices.Select(s => $"{s.Name} ({s.N})")];
        double[] at = [.. Enumerable.Range(0, slices.Count).Select(i => (double)i)];
        return new Figure(title,
            string.Join("; ", slices.Select(s => Text($"{s.Name}: {s.N} fakes, recall {s.Recall}, AUC {s.Auc}"))),
            columns: 1,
            new Panel(title, Axis.Of("", names), Unit("recall, AUC") with { Max = 1.1 },
                new Bars("found (recall)", [.. at.Select(x => x - 0.19)], [.. slices.Select(s => s.Recall)], 0.36, 0, Labels: true),
                new Bars("AUC against all real", [.. at.Select(x => x + 0.19)], [.. slices.Select(s => s.Auc)], 0.36, 5, Labels: true))
            {
                Width = Math.Max(380, 76 + 92 * slices.Count),
            });
    }

    /// <summary>Accuracy and AUC by the number of training images, with their intervals as bands.</summary>
    public static Figure LearningCurve(IReadOnlyList<LearningCurvePoint> points)
    {
        double[] sizes = [.. points.Select(p => (double)p.TrainingImages)];
        Curve Of(string name, int color, Func<EvaluationReport, Estimate> figure) => new(name, sizes, [.. points.Select(p => figure(p.Report).Value)], color, Points: true,
            Low: [.. points.Select(p => figure(p.Report).Low)], High: [.. points.Select(p => figure(p.Report).High)]);
        return new Figure("Learning curve",
            string.Join("; ", points.Select(p => Text($"{p.TrainingImages} training images: accuracy {p.Report.Accuracy}, AUC {p.Report.Auc}"))),
            columns: 1,
            new Panel("Learning curve", Axis.Around("training images", sizes, fromZero: true),
                Axis.Around("share", [0.5, 1, .. points.SelectMany(p => (double[])[p.Report.Accuracy.Low, p.Report.Auc.Low])]),
                Of("accuracy", 2, r => r.Accuracy), Of("AUC", 3, r => r.Auc)));
    }

    /// <summary>One figure of several runs beside each other, such as the accuracy of six families.</summary>
    public static Figure Comparison(string figure, IReadOnlyList<(string Run, Estimate Estimate)> runs) => new(
        $"{figure} of {runs.Count} runs",
        string.Join("; ", runs.Select(r => $"{r.Run} {r.Estimate}")),
        columns: 1,
        new Panel($"{figure} by run", Axis.Of("", [.. runs.Select(r => r.Run)]), Axis.Around(figure, [.. runs.SelectMany(r => (double[])[r.Estimate.Value, r.Estimate.High, 1])], fromZero: true) with { Max = 1.1 },
            new Bars("", [.. runs.Select((_, i) => (double)i)], [.. runs.Select(r => r.Estimate)], 0.6, 0, Labels: true))
        { Width = Math.Max(380, 76 + (runs.Count > 8 ? 84 : 110) * runs.Count) });

    private static Axis Unit(string title) => new(title, 0, 1);

    private static Estimate Exact(double value) => new(value, double.NaN, double.NaN);

    private static Curve Upright(string name, double x, Axis y, bool dashed) => new(name, [x, x], [y.Min, y.Max], Palette.Muted, dashed);

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
