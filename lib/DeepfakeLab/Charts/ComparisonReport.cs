using System.Globalization;

namespace DeepfakeLab;

/// <summary>Finished runs beside each other, on the same images: figures, curves, and whether they differ by more than chance.</summary>
public static class ComparisonReport
{
    /// <summary>Writes the page, one file that opens without a network.</summary>
    /// <param name="runs">Two or more, each by a name of its own, tested on the same images in the same order.</param>
    /// <exception cref="EvaluationException">There is but one run, or they were not tested on the same images.</exception>
    public static void Write(string path, IReadOnlyList<(string Name, EvaluationReport Report)> runs, FaceDataset data) => HtmlReport.Write(path, $"{runs.Count} runs compared",
    [
        new ReportSection("What this is").Text($"{runs.Count} finished runs on the same {runs[0].Report.N} images, none of which any of them was trained on or chosen by. "
            + "95 % bootstrap intervals; fake is the positive class." + (data.IsSample ? " The images are painted faces, a sample that comes with the project. These figures say nothing about photographs." : "")),
        new ReportSection("Beside each other")
            .Add(Charts.Comparison("accuracy", [.. runs.Select(r => (r.Name, r.Report.Accuracy))]))
            .Add(Charts.Comparison("AUC", [.. runs.Select(r => (r.Name, r.Report.Auc))]))
            .Add(Charts.Roc(runs))
            .Table(["run", .. runs[0].Report.Figures.Select(f => f.Name)], runs.Select(r => (IEnumerable<string>)[r.Name, .. r.Report.Figures.Select(f => f.Estimate.ToString())])),
        Differences(runs),
        .. runs.Select(r => new ReportSection(r.Name).Add(Charts.Confusion(r.Report.Confusion)).Add(Charts.Reliability(r.Report))),
        new ReportSection("Settings").Facts([("data", data.ToString()), ("data fingerprint", data.Fingerprint)]),
    ]);

    /// <summary>Each pair of runs with DeLong's and McNemar's tests.</summary>
    /// <exception cref="EvaluationException">The runs were not tested on the same images.</exception>
    public static IEnumerable<(string First, string Second, DeLongResult Auc, McNemarResult Answers)> Pairs(IReadOnlyList<(string Name, EvaluationReport Report)> runs)
    {
        if (runs.Count < 2)
            throw new EvaluationException("There is nothing to compare", $"{runs.Count} run", "Give two or more");
        foreach (var (i, (first, a)) in runs.Index())
            foreach (var (second, b) in runs.Skip(i + 1))
            {
                if (!a.Predictions.Select(p => (p.Image.Name, p.IsFake)).SequenceEqual(b.Predictions.Select(p => (p.Image.Name, p.IsFake))))
                    throw new EvaluationException("The runs were not tested on the same images", $"{first}, {second}", "Evaluate them together");
                yield return (first, second, Significance.DeLong(a.Truth, a.Probabilities, b.Probabilities), Significance.McNemar(a.Truth, a.Probabilities, b.Probabilities, a.Threshold, b.Threshold));
            }
    }

    private static ReportSection Differences(IReadOnlyList<(string Name, EvaluationReport Report)> runs) => new ReportSection("Do they differ by more than chance?")
        .Table(["runs", "difference of AUC", "p (DeLong)", "right only by the first", "only by the second", "p (McNemar)"], Pairs(runs).Select(p => (string[])
            [$"{p.First} - {p.Second}", p.Auc.Difference.ToString(), Number(p.Auc.PValue), Number(p.Answers.OnlyFirst), Number(p.Answers.OnlySecond), Number(p.Answers.PValue)]))
        .Text("p is how often a difference as large would arise between two equally good models. With many pairs some p are small by luck.");

    private static string Number(double value) => value.ToString("0.###", CultureInfo.InvariantCulture);
}
