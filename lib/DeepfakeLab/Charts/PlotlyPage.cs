using System.Net;
using System.Runtime.Loader;
using System.Text;

namespace DeepfakeLab;

/// <summary>Figures drawn by plotly.js without a network: the script comes out of the Plotly.NET package, once a page.</summary>
/// <remarks>
/// Plotly.NET 6.0 wants FSharp.Core 10.1 and cannot load in a host that holds 10.0, such as .NET Interactive. Of it we need plotly.js
/// only, as <see cref="PlotlyWriter"/> writes the figures; so its assembly lies inside ours and is opened in a load context of its own,
/// where none of its code runs and no FSharp.Core is asked for.
/// </remarks>
public static class PlotlyPage
{
    private static readonly Lazy<string> script = new(ReadScript);

    /// <summary>plotly.js as a script element, 3.5 MB.</summary>
    public static string Script => $"<script>{script.Value}</script>";

    /// <summary>Writes a page of figures that opens offline and answers to the mouse.</summary>
    public static void Write(string path, string title, IEnumerable<Figure> figures)
    {
        var html = new StringBuilder("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
            .Append("<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:1rem auto}</style><title>")
            .Append(WebUtility.HtmlEncode(title)).Append("</title>").Append(Script).Append("</head><body><h1>").Append(WebUtility.HtmlEncode(title)).Append("</h1>");
        foreach (var figure in figures)
            html.Append(figure.ToPlotlyHtml()).Append('\n');
        AtomicFile.WriteText(path, html.Append("</body></html>\n").ToString());
    }

    internal static string Div(Figure figure)
    {
        var id = "dl-" + Guid.NewGuid().ToString("N");
        var json = figure.ToPlotlyJson().ToJsonString(); // its writer escapes '<', so no text can end the script
        return $"<div id=\"{id}\" role=\"img\" aria-label=\"{WebUtility.HtmlEncode(figure.Title + ": " + figure.AltText)}\"></div>"
            + $"<script>(f => Plotly.newPlot('{id}', f.data, f.layout, f.config))({json})</script>";
    }

    private static string ReadScript()
    {
        var context = new AssemblyLoadContext("Plotly.NET", isCollectible: true);
        try
        {
            using var packed = typeof(PlotlyPage).Assembly.GetManifestResourceStream("Plotly.NET.dll")!;
            var assembly = context.LoadFromStream(packed);
            var name = assembly.GetManifestResourceNames().Single(n => n.StartsWith("Plotly.NET.plotly-", StringComparison.Ordinal) && n.EndsWith(".min.js", StringComparison.Ordinal));
            using var reader = new StreamReader(assembly.GetManifestResourceStream(name)!);
            return reader.ReadToEnd();
        }
        finally
        {
            context.Unload();
        }
    }
}
