using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>Which background a figure is drawn for.</summary>
public enum ChartTheme
{
    /// <summary>Takes the page's ink; a file of its own follows the reader's light or dark setting.</summary>
    Auto,
    Light,
    Dark,
}

/// <summary>A drawn figure, from <see cref="Charts"/>: one description, given out as SVG, PNG, HTML and Plotly JSON.</summary>
/// <remarks>
/// Drawn by our own small writer because the library that was tried for it, ScottPlot 5.1.59, wants SkiaSharp 3 beside our 4.155,
/// draws no text at all without fontconfig (our native Skia has none), knows one background a file, and gives clip paths the same
/// ids in every file, so that two figures on a page damage each other.
/// </remarks>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed class Figure
{
    private readonly IReadOnlyList<Panel> panels;
    private readonly int columns;

    internal Figure(string title, string altText, int columns, params IReadOnlyList<Panel> panels)
    {
        (Title, AltText, this.panels) = (title, altText, panels);
        this.columns = Math.Min(columns, panels.Count);
    }

    public string Title { get; }

    /// <summary>What the figure shows, for a reader who cannot see it: numbers, not looks.</summary>
    public string AltText { get; }

    internal IReadOnlyList<Panel> Panels => panels;

    /// <summary>Pixels across, unscaled.</summary>
    public double Width => Rows.Max(row => row.Sum(p => p.Width));

    /// <summary>Pixels down, unscaled.</summary>
    public double Height => Rows.Sum(row => row.Max(p => p.Height));

    /// <summary>The figure as an SVG element with a title and a description.</summary>
    public string ToSvg(ChartTheme theme = ChartTheme.Auto)
    {
        var canvas = new SvgCanvas(Width, Height, Title, AltText, theme);
        Draw(canvas);
        return canvas.ToString();
    }

    /// <summary>The figure for a page or a notebook: inline SVG in the page's own ink.</summary>
    public string ToHtml() => $"<figure class=\"dl-figure\" style=\"margin:0.5em 0;max-width:100%\">{ToSvg()}</figure>";

    /// <summary>The figure as a PNG file.</summary>
    /// <param name="scale">Pixels a unit of <see cref="Width"/>; null for 2, as screens of high density want it, and for 1 where the figure is a grid of
    /// pictures: they are no sharper at 2, and a notebook full of them would be four times as large.</param>
    /// <exception cref="ChartException">This system has no font to write the labels with.</exception>
    public byte[] ToPng(ChartTheme theme = ChartTheme.Light, double? scale = null)
    {
        using var canvas = new SkiaCanvas(Width, Height, theme, scale ?? (panels.Any(p => p.Layers is [Tiles]) ? 1 : 2));
        Draw(canvas);
        return canvas.ToPng();
    }

    /// <summary>The figure as Plotly's <c>{ data, layout, config }</c>, the content of <c>application/vnd.plotly.v1+json</c>.</summary>
    public JsonObject ToPlotlyJson() => PlotlyWriter.Write(this);

    /// <summary>The figure drawn by plotly.js, to zoom and hover. The page must hold <see cref="PlotlyPage.Script"/> once, before it.</summary>
    public string ToPlotlyHtml() => PlotlyPage.Div(this);

    private IEnumerable<Panel[]> Rows => panels.Chunk(columns);

    /// <summary>Where each panel's upper left corner is.</summary>
    internal IEnumerable<(Panel Panel, double X, double Y)> Places()
    {
        var y = 0.0;
        foreach (var row in Rows)
        {
            var x = 0.0;
            foreach (var panel in row)
            {
                yield return (panel, x, y);
                x += panel.Width;
            }
            y += row.Max(p => p.Height);
        }
    }

    private void Draw(Canvas canvas)
    {
        foreach (var (panel, x, y) in Places())
            PanelDrawing.Draw(canvas, panel, x, y);
    }
}

/// <summary>A figure that cannot be drawn or written as asked.</summary>
public sealed class ChartException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);

/// <summary>One pair of axes, or a grid of images when it has none.</summary>
internal sealed record Panel(string Title, Axis? X, Axis? Y, params IReadOnlyList<Layer> Layers)
{
    public double Width { get; init; } = 380;

    public double Height { get; init; } = 300;
}

/// <summary>What lies on a panel. Colours are indices into <see cref="Palette.Series"/>; <see cref="Palette.Muted"/> is faint ink.</summary>
internal abstract record Layer(string Name);

/// <summary>A line through points; with <paramref name="Low"/> and <paramref name="High"/>, a band around it.</summary>
internal sealed record Curve(string Name, double[] X, double[] Y, int Color, bool Dashed = false, bool Points = false,
    double[]? Low = null, double[]? High = null) : Layer(Name);

/// <summary>Upright bars with whiskers where an estimate has an interval.</summary>
internal sealed record Bars(string Name, double[] X, Estimate[] Values, double BarWidth, int Color, bool Labels = false) : Layer(Name);

/// <summary>A matrix of cells; <paramref name="Shade"/> from 0 to 1, row 0 at the top.</summary>
internal sealed record Heat(string Name, double[,] Shade, string[,] Text) : Layer(Name);

/// <summary>Points with a label each and, shown on hovering, a JPEG thumbnail.</summary>
internal sealed record Dots(string Name, double[] X, double[] Y, int Color, string[] Labels, byte[][]? Thumbnails = null) : Layer(Name);

/// <summary>Captioned JPEG images, row by row; <paramref name="Size"/> is their side in pixels.</summary>
internal sealed record Tiles(string Name, IReadOnlyList<(byte[] Jpeg, string Caption)> Images, int Columns, double Size) : Layer(Name)
{
    /// <summary>Lines of the longest caption, of which two have room in any case.</summary>
    public int Lines { get; } = Images.Select(i => i.Caption.Split('\n').Length).Append(2).Max();

    /// <summary>From the top of a row to that of the next.</summary>
    public double Pitch => Size + 10 + 12 * Lines;

    /// <summary>About how many characters of a caption stand below an image.</summary>
    public static int Characters(double size) => (int)(size / 5.4);
}

/// <summary>Okabe and Ito's colours, told apart with any colour vision, in an order that reads on light and dark grounds alike.</summary>
internal static class Palette
{
    public const int Muted = -1;

    public static string[] Series { get; } = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"];

    /// <summary>The colour of fakes and of real images wherever both are shown.</summary>
    public const int Fake = 1, Real = 0;

    public static string Hex(int color) => color < 0 ? Canvas.Ink : Series[color % Series.Length];
}
