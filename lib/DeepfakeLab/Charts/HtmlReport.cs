using System.Globalization;
using System.Net;
using System.Text;

namespace DeepfakeLab;

/// <summary>A heading and what stands below it. Texts are shown as they are; nothing in them is read as HTML.</summary>
public sealed class ReportSection(string title)
{
    private readonly StringBuilder html = new();

    public string Title { get; } = title;

    internal string Html => html.ToString();

    public ReportSection Text(string paragraph)
    {
        html.Append(CultureInfo.InvariantCulture, $"<p>{Escape(paragraph)}</p>");
        return this;
    }

    /// <summary>A table of two columns, such as settings.</summary>
    public ReportSection Facts(IEnumerable<(string Name, string Value)> facts)
    {
        html.Append("<table class=\"facts\"><tbody>");
        foreach (var (name, value) in facts)
            html.Append(CultureInfo.InvariantCulture, $"<tr><th>{Escape(name)}</th><td>{Escape(value)}</td></tr>");
        html.Append("</tbody></table>");
        return this;
    }

    public ReportSection Table(IEnumerable<string> head, IEnumerable<IEnumerable<string>> rows)
    {
        html.Append(CultureInfo.InvariantCulture, $"<table><thead><tr>{Cells("th", head)}</tr></thead><tbody>");
        foreach (var row in rows)
            html.Append(CultureInfo.InvariantCulture, $"<tr>{Cells("td", row)}</tr>");
        html.Append("</tbody></table>");
        return this;
    }

    public ReportSection Add(Figure figure)
    {
        html.Append(figure.ToHtml());
        return this;
    }

    /// <summary>The figures of an evaluation as tables.</summary>
    public ReportSection Add(EvaluationReport report)
    {
        html.Append(report.ToHtml());
        return this;
    }

    private static string Cells(string tag, IEnumerable<string> cells) => string.Concat(cells.Select(c => $"<{tag}>{Escape(c)}</{tag}>"));

    private static string Escape(string text) => WebUtility.HtmlEncode(text);
}

/// <summary>One HTML file with everything in it: no script, no address outside, light and dark.</summary>
public static class HtmlReport
{
    /// <summary>A report is refused beyond this many bytes; it should open fast and pass through mail.</summary>
    public const long LargestReport = 6_000_000;

    /// <summary>Writes the sections under each other to <paramref name="path"/>, whole or not at all.</summary>
    /// <exception cref="ChartException">The images make it larger than <see cref="LargestReport"/>.</exception>
    public static void Write(string path, string title, IEnumerable<ReportSection> sections)
    {
        var bytes = Encoding.UTF8.GetBytes(ToHtml(title, sections));
        if (bytes.Length > LargestReport)
            throw new ChartException($"The report has {bytes.Length / 1e6:0.0} MB, more than {LargestReport / 1e6:0} MB", path, "Show fewer or smaller images in it");
        AtomicFile.WriteBytes(path, bytes);
    }

    internal static string ToHtml(string title, IEnumerable<ReportSection> sections)
    {
        var html = new StringBuilder("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
            .Append("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")
            // makes sure of "self-contained": the browser itself refuses scripts and anything from outside
            .Append("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">")
            .Append(CultureInfo.InvariantCulture, $"<title>{WebUtility.HtmlEncode(title)}</title><style>{Style}</style></head><body><main>")
            .Append(CultureInfo.InvariantCulture, $"<h1>{WebUtility.HtmlEncode(title)}</h1>");
        foreach (var section in sections)
            html.Append(CultureInfo.InvariantCulture, $"<section><h2>{WebUtility.HtmlEncode(section.Title)}</h2>{section.Html}</section>\n");
        return html.Append("</main></body></html>\n").ToString();
    }

    private const string Style = """
        :root{color-scheme:light dark;--ink:#1b1b1f;--paper:#fff;--line:#d8d8de}
        @media (prefers-color-scheme:dark){:root{--ink:#e8e8ec;--paper:#16161a;--line:#3a3a42}}
        body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,'Segoe UI','DejaVu Sans',sans-serif}
        main{max-width:62rem;margin:0 auto;padding:1rem 1.25rem 4rem}
        h1{font-size:1.6rem}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
        table{border-collapse:collapse;margin:.75rem 1.5rem .75rem 0;display:inline-table;vertical-align:top;max-width:100%}
        caption{text-align:left;font-weight:600;padding:.2rem 0}
        th,td{border-bottom:1px solid var(--line);padding:.2rem .8rem .2rem 0;text-align:left;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
        th{font-weight:600}.facts th{font-weight:400;opacity:.75;white-space:nowrap}
        @media print{section{break-inside:avoid-page}}
        """;
}
