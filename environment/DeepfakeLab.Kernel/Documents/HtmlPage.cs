using System.Net;
using System.Text;
using System.Text.RegularExpressions;
using Markdig;
using Markdig.Extensions.Mathematics;
using Markdig.Renderers;
using Markdig.Renderers.Html;
using Markdig.Syntax.Inlines;

namespace DeepfakeLab.Notebooks;

/// <summary>A notebook and its outputs as one HTML file that needs no network: formulas, pictures and styles are inside.</summary>
public static partial class HtmlPage
{
    private const long LargestPicture = 16 << 20;

    /// <param name="folder">The notebook's folder, where pictures that its text names are found.</param>
    /// <param name="title">What the page is called when the notebook has no heading.</param>
    public static string Render(Notebook notebook, string folder, string title)
    {
        var pipeline = Pipeline();
        var page = new StringBuilder();
        foreach (var cell in notebook.Cells)
        {
            if (cell.Kind == CellKind.Markdown)
                page.Append("<section class=\"text\">").Append(Markdown(cell.Source, pipeline, folder)).Append("</section>\n");
            else if (cell.Kind == CellKind.Code)
                AppendCode(page, cell, pipeline, folder);
        }
        return Template().Replace("{{title}}", WebUtility.HtmlEncode(notebook.Title ?? title), StringComparison.Ordinal)
            .Replace("{{body}}", page.ToString(), StringComparison.Ordinal);
    }

    private static void AppendCode(StringBuilder page, NotebookCell cell, MarkdownPipeline pipeline, string folder)
    {
        if (cell.Source.Trim().Length > 0)
            page.Append("<section class=\"code\"><span class=\"count\">").Append(cell.ExecutionCount).Append("</span><pre><code>")
                .Append(CodeColours.ToHtml(cell.Source)).Append("</code></pre></section>\n");
        foreach (var output in cell.Outputs)
        {
            var html = output switch
            {
                StreamOutput stream => $"<pre class=\"{(stream.Name == "stderr" ? "stderr" : "stdout")}\">{WebUtility.HtmlEncode(Overwritten(stream.Text))}</pre>",
                DisplayOutput display => Bundle(display.Data, pipeline, folder),
                ResultOutput result => Bundle(result.Data, pipeline, folder),
                ErrorOutput error => $"<pre class=\"error\">{WebUtility.HtmlEncode(AnsiCode().Replace(string.Join('\n', error.Traceback), ""))}</pre>",
                _ => "",
            };
            page.Append("<section class=\"output\">").Append(html).Append("</section>\n");
        }
    }

    private static string Bundle(MimeBundle data, MarkdownPipeline pipeline, string folder)
    {
        if (data.TryGetValue(MimeBundle.Html, out var html))
            return html;
        if (data.TryGetValue(MimeBundle.Svg, out var svg))
            return svg;
        foreach (var image in (string[])[MimeBundle.Png, MimeBundle.Jpeg])
            if (data.TryGetValue(image, out var base64))
                return $"<img alt=\"\" src=\"data:{image};base64,{WebUtility.HtmlEncode(base64.ReplaceLineEndings(""))}\">";
        if (data.TryGetValue(MimeBundle.Markdown, out var markdown))
            return Markdown(markdown, pipeline, folder);
        if (data.TryGetValue("text/latex", out var latex))
            return MathMl.Convert(latex.Trim().Trim('$'), display: true);
        return $"<pre>{WebUtility.HtmlEncode(data.GetValueOrDefault(MimeBundle.Plain, ""))}</pre>";
    }

    /// <summary>What is left of lines that a progress bar wrote over.</summary>
    private static string Overwritten(string text) =>
        text.Contains('\r') ? string.Join('\n', text.Replace("\r\n", "\n", StringComparison.Ordinal).Split('\n').Select(l => l.TrimEnd('\r').Split('\r')[^1])) : text;

    private static string Markdown(string source, MarkdownPipeline pipeline, string folder)
    {
        using var writer = new StringWriter();
        var renderer = new HtmlRenderer(writer);
        pipeline.Setup(renderer);
        renderer.ObjectRenderers.ReplaceOrAdd<HtmlMathInlineRenderer>(new FormulaInline());
        renderer.ObjectRenderers.ReplaceOrAdd<HtmlMathBlockRenderer>(new FormulaBlock());
        var document = Markdig.Markdown.Parse(source, pipeline);
        foreach (var link in Descendants(document))
            if (link is { IsImage: true, Url: { } url } && Embedded(url, folder) is { } data)
                link.Url = data;
        renderer.Render(document);
        return writer.ToString();
    }

    private static IEnumerable<LinkInline> Descendants(Markdig.Syntax.MarkdownDocument document) =>
        Markdig.Syntax.MarkdownObjectExtensions.Descendants<LinkInline>(document);

    private static MarkdownPipeline Pipeline() => new MarkdownPipelineBuilder()
        .UsePipeTables().UseGridTables().UseMathematics().UseFootnotes().UseAutoIdentifiers().UseTaskLists().UseEmphasisExtras().UseAutoLinks().Build();

    /// <summary>A picture beside the notebook as a data address; null for one that is elsewhere, absent or of another kind.</summary>
    private static string? Embedded(string url, string folder)
    {
        var type = Path.GetExtension(url).ToLowerInvariant() switch
        {
            ".png" => MimeBundle.Png,
            ".jpg" or ".jpeg" => MimeBundle.Jpeg,
            ".svg" => MimeBundle.Svg,
            ".gif" => "image/gif",
            _ => null,
        };
        if (type is null || url.Contains(':') || Path.IsPathRooted(url))
            return null;
        var file = new FileInfo(Path.GetFullPath(Uri.UnescapeDataString(url), folder));
        return file.Exists && file.Length <= LargestPicture ? $"data:{type};base64,{System.Convert.ToBase64String(File.ReadAllBytes(file.FullName))}" : null;
    }

    private static string Template()
    {
        using var stream = typeof(HtmlPage).Assembly.GetManifestResourceStream("page.html")!;
        return new StreamReader(stream).ReadToEnd();
    }

    [GeneratedRegex("\u001b\\[[0-9;]*m")]
    private static partial Regex AnsiCode();

    private sealed class FormulaInline : HtmlObjectRenderer<MathInline>
    {
        protected override void Write(HtmlRenderer renderer, MathInline formula) =>
            renderer.Write(MathMl.Convert(formula.Content.ToString(), display: formula.DelimiterCount > 1));
    }

    private sealed class FormulaBlock : HtmlObjectRenderer<MathBlock>
    {
        protected override void Write(HtmlRenderer renderer, MathBlock formula) =>
            renderer.Write($"<div class=\"formula\">{MathMl.Convert(formula.Lines.ToString(), display: true)}</div>");
    }
}
