using System.Globalization;
using System.Net;
using System.Text;

namespace DeepfakeLab;

/// <summary>An <see cref="EvaluationReport"/> as HTML tables that need no style sheet and suit light and dark pages.</summary>
internal static class EvaluationHtml
{
    private static readonly Dictionary<string, string> words = new()
    {
        ["auc"] = "ROC AUC",
        ["f1"] = "F1",
        ["mcc"] = "Matthews correlation",
        ["brier"] = "Brier score",
        ["logLoss"] = "log loss",
        ["averagePrecision"] = "average precision",
        ["balancedAccuracy"] = "balanced accuracy",
        ["calibrationError"] = "calibration error",
    };

    public static string Write(EvaluationReport report)
    {
        var html = new StringBuilder("<div class=\"dl-report\">");
        html.Append(CultureInfo.InvariantCulture, $"<p>{report.N} images, fake is positive, called fake from probability {report.Threshold:0.###} on; ")
            .Append("in brackets the 95 % bootstrap interval (by class and same-photo group).")
            .Append(report.IsSample ? " <strong>These are figures of the painted sample, not of real photographs.</strong>" : "").Append("</p>");
        Table(html, "Figures", ["figure", "value", "95 % interval"], report.Figures.Select(f => (string[])
            [words.GetValueOrDefault(f.Name, f.Name), Value(f.Estimate.Value), Interval(f.Estimate)]));
        var c = report.Confusion;
        Table(html, "Confusion", ["truth", "called fake", "called real"],
            [["fake", $"{c.TruePositives}", $"{c.FalseNegatives}"], ["real", $"{c.FalsePositives}", $"{c.TrueNegatives}"]]);
        Slices(html, "By difficulty", report.ByDifficulty);
        Slices(html, "By replaced part", report.ByPart);
        return html.Append("</div>").ToString();
    }

    private static void Slices(StringBuilder html, string caption, IReadOnlyList<Slice> slices)
    {
        if (slices.Count > 0)
        {
            Table(html, caption, ["fakes", "n", "found (recall)", "AUC against all real"],
                slices.Select(s => (string[])[s.Name, $"{s.N}", s.Recall.ToString(), s.Auc.ToString()]));
        }
    }

    /// <summary>A table; what its cells hold is escaped here.</summary>
    public static void Table(StringBuilder html, string caption, IEnumerable<string> head, IEnumerable<IEnumerable<string>> rows)
    {
        html.Append(CultureInfo.InvariantCulture, $"<table><caption>{WebUtility.HtmlEncode(caption)}</caption><thead><tr>{Cells("th", head)}</tr></thead><tbody>");
        foreach (var row in rows)
            html.Append(CultureInfo.InvariantCulture, $"<tr>{Cells("td", row)}</tr>");
        html.Append("</tbody></table>");
    }

    private static string Cells(string tag, IEnumerable<string> cells) => string.Concat(cells.Select(c => $"<{tag}>{WebUtility.HtmlEncode(c)}</{tag}>"));

    private static string Value(double value) => double.IsNaN(value) ? "not defined" : value.ToString("0.000", CultureInfo.InvariantCulture);

    private static string Interval(Estimate e) =>
        double.IsNaN(e.Low) ? "" : string.Create(CultureInfo.InvariantCulture, $"{e.Low:0.000} – {e.High:0.000}");
}
