using SkiaSharp;

namespace DeepfakeLab;

/// <summary>Draws a figure into pixels with SkiaSharp.</summary>
internal sealed class SkiaCanvas : Canvas, IDisposable
{
    private static readonly Lazy<SKTypeface> typeface = new(FindFont);
    private readonly SKSurface surface;
    private readonly SKColor ink;

    public SkiaCanvas(double width, double height, ChartTheme theme, double scale)
    {
        surface = SKSurface.Create(new SKImageInfo((int)Math.Ceiling(width * scale), (int)Math.Ceiling(height * scale)))
            ?? throw new ChartException("The figure is too large to draw", $"{width} x {height} at {scale}", "Use a smaller scale");
        ink = SKColor.Parse(theme == ChartTheme.Dark ? "#e8e8ec" : "#1b1b1f");
        surface.Canvas.Clear(SKColor.Parse(theme == ChartTheme.Dark ? "#16161a" : "#ffffff"));
        surface.Canvas.Scale((float)scale);
    }

    public byte[] ToPng()
    {
        using var image = surface.Snapshot();
        using var data = image.Encode(SKEncodedImageFormat.Png, 100);
        return data.ToArray();
    }

    public void Dispose() => surface.Dispose();

    public override void Line(IReadOnlyList<(double X, double Y)> points, string color, double width, bool dashed = false, double opacity = 1)
    {
        using var paint = Paint(color, opacity);
        (paint.Style, paint.StrokeWidth) = (SKPaintStyle.Stroke, (float)width);
        using var dashes = dashed ? SKPathEffect.CreateDash([5, 4], 0) : null;
        paint.PathEffect = dashes;
        using var path = Path(points);
        surface.Canvas.DrawPath(path, paint);
    }

    public override void Area(IReadOnlyList<(double X, double Y)> points, string color, double opacity)
    {
        using var paint = Paint(color, opacity);
        using var path = Path(points);
        surface.Canvas.DrawPath(path, paint);
    }

    public override void Rectangle(double x, double y, double width, double height, string color, double opacity = 1)
    {
        using var paint = Paint(color, opacity);
        surface.Canvas.DrawRect((float)x, (float)y, (float)width, (float)height, paint);
    }

    public override void Circle(double x, double y, double radius, string color, string? label = null, byte[]? thumbnail = null)
    {
        using var paint = Paint(color, 0.85);
        surface.Canvas.DrawCircle((float)x, (float)y, (float)radius, paint);
    }

    public override void Text(double x, double y, string text, double size, Align align = Align.Left, string color = Ink, double opacity = 1, bool upright = false)
    {
        using var paint = Paint(color, opacity);
        using var font = new SKFont(typeface.Value, (float)size);
        surface.Canvas.Save();
        surface.Canvas.Translate((float)x, (float)y);
        if (upright)
            surface.Canvas.RotateDegrees(-90);
        var side = align switch { Align.Centre => SKTextAlign.Center, Align.Right => SKTextAlign.Right, _ => SKTextAlign.Left };
        surface.Canvas.DrawText(text, 0, 0, side, font, paint);
        surface.Canvas.Restore();
    }

    public override void Image(double x, double y, double width, double height, byte[] jpeg, string label)
    {
        using var image = SKImage.FromEncodedData(jpeg);
        surface.Canvas.DrawImage(image, SKRect.Create((float)x, (float)y, (float)width, (float)height), new SKSamplingOptions(SKFilterMode.Linear));
    }

    private SKPaint Paint(string color, double opacity) => new()
    {
        IsAntialias = true,
        Color = (color == Ink ? ink : SKColor.Parse(color)).WithAlpha((byte)Math.Round(255 * opacity)),
    };

    private static SKPath Path(IReadOnlyList<(double X, double Y)> points)
    {
        using var builder = new SKPathBuilder();
        builder.AddPoly([.. points.Select(p => new SKPoint((float)p.X, (float)p.Y))], close: false);
        return builder.Detach();
    }

    /// <summary>The system's sans-serif font. On Linux our Skia has no fontconfig to ask, so the usual folders are looked through.</summary>
    private static SKTypeface FindFont()
    {
        if (SKTypeface.Default is { } usual && usual.GlyphCount > 0)
            return usual;
        string[] folders = ["/usr/share/fonts", "/usr/local/share/fonts", System.IO.Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".fonts")];
        string[] liked = ["DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Arimo-Regular.ttf", "FreeSans.otf"];
        var fonts = folders.Where(Directory.Exists)
            .SelectMany(f => Directory.EnumerateFiles(f, "*.?tf", SearchOption.AllDirectories))
            .OrderBy(f => Array.IndexOf(liked, System.IO.Path.GetFileName(f)) is var at and >= 0 ? at : liked.Length)
            .ThenBy(f => f, StringComparer.Ordinal);
        return fonts.Select(f => SKTypeface.FromFile(f)).FirstOrDefault(f => f is not null)
            ?? throw new ChartException("There is no font to write a figure's labels with", string.Join(", ", folders),
                "Install one (apt install fonts-dejavu-core), or use the SVG, which brings its text along");
    }
}
