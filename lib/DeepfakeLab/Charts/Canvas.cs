using System.Globalization;
using System.Net;
using System.Text;

namespace DeepfakeLab;

internal enum Align
{
    Left,
    Centre,
    Right,
}

/// <summary>The few shapes that figures are made of. Colours are "#RRGGBB" or <see cref="Ink"/>.</summary>
internal abstract class Canvas
{
    /// <summary>The colour of text: dark on light grounds, light on dark ones.</summary>
    public const string Ink = "ink";

    public abstract void Line(IReadOnlyList<(double X, double Y)> points, string color, double width, bool dashed = false, double opacity = 1);

    public abstract void Area(IReadOnlyList<(double X, double Y)> points, string color, double opacity);

    public abstract void Rectangle(double x, double y, double width, double height, string color, double opacity = 1);

    public abstract void Circle(double x, double y, double radius, string color, string? label = null, byte[]? thumbnail = null);

    public abstract void Text(double x, double y, string text, double size, Align align = Align.Left, string color = Ink, double opacity = 1, bool upright = false);

    public abstract void Image(double x, double y, double width, double height, byte[] jpeg, string label);
}

/// <summary>Writes an SVG element; text stays text, so that it can be searched, read aloud and scaled.</summary>
internal sealed class SvgCanvas : Canvas
{
    private readonly StringBuilder svg = new();
    private bool hasThumbnails;

    public SvgCanvas(double width, double height, string title, string altText, ChartTheme theme)
    {
        // In a page the ink is the page's own; as a file the figure follows the reader's setting.
        var style = theme switch
        {
            ChartTheme.Light => "color:#1b1b1f;background:#ffffff",
            ChartTheme.Dark => "color:#e8e8ec;background:#16161a",
            _ => "",
        };
        svg.Append(CultureInfo.InvariantCulture,
            $"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:0.#} {height:0.#}\" width=\"{width:0.#}\" height=\"{height:0.#}\" ")
            .Append(CultureInfo.InvariantCulture, $"style=\"max-width:100%;height:auto;{style}\" role=\"img\" aria-label=\"{Escape(title + ": " + altText)}\" ")
            .Append("font-family=\"system-ui,'Segoe UI','DejaVu Sans',sans-serif\">")
            .Append(CultureInfo.InvariantCulture, $"<title>{Escape(title)}</title><desc>{Escape(altText)}</desc>");
    }

    public override void Line(IReadOnlyList<(double X, double Y)> points, string color, double width, bool dashed = false, double opacity = 1) =>
        svg.Append(CultureInfo.InvariantCulture, $"<polyline points=\"{Points(points)}\" fill=\"none\" stroke=\"{Color(color)}\" stroke-width=\"{width:0.##}\"")
            .Append(dashed ? " stroke-dasharray=\"5 4\"" : "").Append(Opacity("stroke", opacity)).Append("/>");

    public override void Area(IReadOnlyList<(double X, double Y)> points, string color, double opacity) =>
        svg.Append(CultureInfo.InvariantCulture, $"<polygon points=\"{Points(points)}\" fill=\"{Color(color)}\"{Opacity("fill", opacity)}/>");

    public override void Rectangle(double x, double y, double width, double height, string color, double opacity = 1) =>
        svg.Append(CultureInfo.InvariantCulture, $"<rect x=\"{x:0.##}\" y=\"{y:0.##}\" width=\"{width:0.##}\" height=\"{height:0.##}\" fill=\"{Color(color)}\"{Opacity("fill", opacity)}/>");

    public override void Circle(double x, double y, double radius, string color, string? label = null, byte[]? thumbnail = null)
    {
        svg.Append(thumbnail is null ? "<g>" : "<g class=\"dl-dot\">");
        if (label is not null)
            svg.Append(CultureInfo.InvariantCulture, $"<title>{Escape(label)}</title>");
        svg.Append(CultureInfo.InvariantCulture, $"<circle cx=\"{x:0.##}\" cy=\"{y:0.##}\" r=\"{radius:0.##}\" fill=\"{Color(color)}\" fill-opacity=\"0.85\"/>");
        if (thumbnail is not null)
        {
            hasThumbnails = true;
            Image(Math.Max(0, x - 76), Math.Max(0, y - 76), 72, 72, thumbnail, label ?? "");
        }
        svg.Append("</g>");
    }

    public override void Text(double x, double y, string text, double size, Align align = Align.Left, string color = Ink, double opacity = 1, bool upright = false)
    {
        var anchor = align switch { Align.Centre => " text-anchor=\"middle\"", Align.Right => " text-anchor=\"end\"", _ => "" };
        var turn = upright ? string.Create(CultureInfo.InvariantCulture, $" transform=\"rotate(-90 {x:0.##} {y:0.##})\"") : "";
        svg.Append(CultureInfo.InvariantCulture,
            $"<text x=\"{x:0.##}\" y=\"{y:0.##}\" font-size=\"{size:0.#}\" fill=\"{Color(color)}\"{anchor}{turn}{Opacity("fill", opacity)}>{Escape(text)}</text>");
    }

    public override void Image(double x, double y, double width, double height, byte[] jpeg, string label) =>
        svg.Append(CultureInfo.InvariantCulture, $"<image x=\"{x:0.##}\" y=\"{y:0.##}\" width=\"{width:0.##}\" height=\"{height:0.##}\" ")
            .Append(CultureInfo.InvariantCulture, $"href=\"data:image/jpeg;base64,{Convert.ToBase64String(jpeg)}\"><title>{Escape(label)}</title></image>");

    public override string ToString() =>
        svg + (hasThumbnails ? "<style>.dl-dot image{display:none;pointer-events:none}.dl-dot:hover image{display:inline}</style>" : "") + "</svg>";

    private static string Points(IReadOnlyList<(double X, double Y)> points) =>
        string.Join(' ', points.Select(p => string.Create(CultureInfo.InvariantCulture, $"{p.X:0.##},{p.Y:0.##}")));

    private static string Opacity(string what, double opacity) =>
        opacity == 1 ? "" : string.Create(CultureInfo.InvariantCulture, $" {what}-opacity=\"{opacity:0.##}\"");

    private static string Color(string color) => color == Ink ? "currentColor" : color;

    private static string Escape(string text) => WebUtility.HtmlEncode(text);
}
