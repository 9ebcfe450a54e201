using SkiaSharp;

namespace DeepfakeLab;

/// <summary>Drawing on a Skia canvas in a few words: fills and strokes with an optional soft edge.</summary>
internal sealed class Brush(SKCanvas canvas) : IDisposable
{
    private readonly SKPaint paint = new() { IsAntialias = true };

    public SKCanvas Canvas { get; } = canvas;

    public void Dispose() => paint.Dispose();

    public void Fill(SKPath path, SKColor colour, float blur = 0) => Draw(colour, 0, blur, () => Canvas.DrawPath(path, paint));

    public void Fill(SKPath path, SKShader shader)
    {
        paint.Shader = shader;
        Draw(SKColors.White, 0, 0, () => Canvas.DrawPath(path, paint));
        paint.Shader = null;
    }

    public void Oval(SKPoint centre, float rx, float ry, SKColor colour, float blur = 0) =>
        Draw(colour, 0, blur, () => Canvas.DrawOval(centre.X, centre.Y, rx, ry, paint));

    public void Ring(SKPoint centre, float rx, float ry, float width, SKColor colour) =>
        Draw(colour, width, 0, () => Canvas.DrawOval(centre.X, centre.Y, rx, ry, paint));

    public void Line(SKPath path, float width, SKColor colour, float blur = 0) => Draw(colour, width, blur, () => Canvas.DrawPath(path, paint));

    /// <summary>A curve from one point to another by way of a control point.</summary>
    public void Curve(SKPoint from, SKPoint control, SKPoint to, float width, SKColor colour, float blur = 0)
    {
        using var path = Quad(from, control, to);
        Line(path, width, colour, blur);
    }

    public static SKPath Quad(SKPoint from, SKPoint control, SKPoint to)
    {
        using var builder = new SKPathBuilder();
        builder.MoveTo(from);
        builder.QuadTo(control, to);
        return builder.Detach();
    }

    /// <summary>A closed lens between two points, bulging up and down by way of two control points.</summary>
    public static SKPath Lens(SKPoint left, SKPoint top, SKPoint right, SKPoint bottom)
    {
        using var builder = new SKPathBuilder();
        builder.MoveTo(left);
        builder.QuadTo(top, right);
        builder.QuadTo(bottom, left);
        builder.Close();
        return builder.Detach();
    }

    /// <summary>A closed smooth curve through the middles of the edges of a polygon.</summary>
    public static SKPath Smooth(params ReadOnlySpan<SKPoint> corners)
    {
        using var builder = new SKPathBuilder();
        builder.MoveTo(Middle(corners[^1], corners[0]));
        for (var i = 0; i < corners.Length; i++)
            builder.QuadTo(corners[i], Middle(corners[i], corners[(i + 1) % corners.Length]));
        builder.Close();
        return builder.Detach();
    }

    public static SKPoint Middle(SKPoint a, SKPoint b) => new((a.X + b.X) / 2, (a.Y + b.Y) / 2);

    public static SKColor Rgb(double r, double g, double b, double alpha = 1) =>
        new(Byte(r), Byte(g), Byte(b), Byte(alpha * 255));

    public static SKColor Mix(SKColor a, SKColor b, double share) =>
        new(Byte(a.Red + (b.Red - a.Red) * share), Byte(a.Green + (b.Green - a.Green) * share), Byte(a.Blue + (b.Blue - a.Blue) * share), a.Alpha);

    public static SKColor Scale(SKColor colour, double factor) =>
        new(Byte(colour.Red * factor), Byte(colour.Green * factor), Byte(colour.Blue * factor), colour.Alpha);

    public static SKColor Fade(SKColor colour, double alpha) => colour.WithAlpha(Byte(alpha * 255));

    public static SKColor Hue(double hue, double saturation, double value) => SKColor.FromHsv((float)(hue * 360), (float)(saturation * 100), (float)(value * 100));

    private static byte Byte(double value) => (byte)Math.Clamp(value + 0.5, 0, 255);

    private void Draw(SKColor colour, float strokeWidth, float blur, Action draw)
    {
        paint.Color = colour;
        paint.Style = strokeWidth > 0 ? SKPaintStyle.Stroke : SKPaintStyle.Fill;
        paint.StrokeWidth = strokeWidth;
        paint.StrokeCap = SKStrokeCap.Round;
        using var filter = blur > 0 ? SKMaskFilter.CreateBlur(SKBlurStyle.Normal, blur) : null;
        paint.MaskFilter = filter;
        draw();
        paint.MaskFilter = null;
    }
}
