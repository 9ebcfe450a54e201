using System.Net;
using System.Runtime.Loader;
using System.Text;

namespace DeepfakeLab;

/// <summary>Figures drawn by plotly.js without a network: the script comes out of the Plotly.NET package, once a page.</summary>
/// <remarks>
/// Of Plotly.NET we need plotly.js only, as <see cref="PlotlyWriter"/> writes the figures and says why; so its assembly lies inside ours
/// and is opened in a load context of its own, where none of its code runs and no FSharp.Core is asked for.
/// </remarks>
public static class PlotlyPage
{
    internal const string ImageStart = "data:image/jpeg;base64,";

    /// <summary>Plotly shows no images on hovering: a point's customdata is the image that this puts beside the pointer.</summary>
    private const string Thumbnails = $$"""
        p => {
          const image = document.body.appendChild(new Image(72, 72));
          image.className = 'dl-thumbnail'; image.alt = ''; image.style.cssText = 'position:fixed;display:none;pointer-events:none;z-index:1000';
          p.on('plotly_hover', e => {
            const [point] = e.points;
            if (!String(point.customdata).startsWith('{{ImageStart}}')) return;
            image.src = point.customdata; image.alt = point.text;
            Object.assign(image.style, { display: 'block', left: e.event.clientX + 14 + 'px', top: e.event.clientY - 86 + 'px' });
          });
          p.on('plotly_unhover', () => image.style.display = 'none');
        }
        """;

    private static readonly Lazy<string> script = new(ReadScript);

    /// <summary>plotly.js as a script element, 3.5 MB.</summary>
    public static string Script => $"<script>{script.Value}</script>";

    /// <summary>Writes a page of figures that opens offline and answers to the mouse.</summary>
    public static void Write(string path, string title, IEnumerable<Figure> figures)
    {
        var html = new StringBuilder("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
            .Append("<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:1rem auto}.js-plotly-plot .main-svg text{fill:CanvasText!important}</style><title>")
            .Append(WebUtility.HtmlEncode(title)).Append("</title>").Append(Script).Append("</head><body><h1>").Append(WebUtility.HtmlEncode(title)).Append("</h1>");
        foreach (var figure in figures)
            html.Append(figure.ToPlotlyHtml()).Append('\n');
        AtomicFile.WriteText(path, html.Append("</body></html>\n").ToString());
    }

    internal static string Div(Figure figure)
    {
        var id = "dl-" + Guid.NewGuid().ToString("N");
        var json = figure.ToPlotlyJson().ToJsonString(); // its writer escapes '<', so no text can end the script
        var hover = figure.Panels.Any(p => p.Layers.Any(l => l is Dots { Thumbnails: not null })) ? $".then({Thumbnails})" : "";
        return $"<div id=\"{id}\" role=\"img\" aria-label=\"{WebUtility.HtmlEncode(figure.Title + ": " + figure.AltText)}\"></div>"
            + $"<script>(f => Plotly.newPlot('{id}', f.data, f.layout, f.config){hover})({json})</script>";
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
