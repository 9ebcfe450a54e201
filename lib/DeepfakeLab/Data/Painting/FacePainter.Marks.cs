using SkiaSharp;

namespace DeepfakeLab;

/// <content>What some people have or wear on their skin: birthmarks, vitiligo, plasters, eye patches, paint.</content>
public static partial class FacePainter
{
    private static void PaintMark(Brush brush, HeadShape head, SKColor skin)
    {
        var traits = head.Traits;
        if (traits.Mark == Mark.None)
            return;
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 6));
        var size = (float)traits.MarkSize * head.A;
        var at = head.At((float)traits.MarkU, (float)traits.MarkV);
        var squeeze = head.Squeeze((float)traits.MarkU);
        switch (traits.Mark)
        {
            case Mark.Birthmark:
            case Mark.Vitiligo:
                var tone = traits.Mark == Mark.Vitiligo
                    ? Brush.Mix(skin, new SKColor(244, 214, 196), 0.35 + 0.6 * random.NextDouble())
                    : Brush.Rgb(skin.Red * (0.5 + 0.4 * random.NextDouble()), skin.Green * (0.35 + 0.35 * random.NextDouble()), skin.Blue * (0.35 + 0.4 * random.NextDouble()));
                Span<SKPoint> corners = stackalloc SKPoint[9];
                for (var i = 0; i < corners.Length; i++)
                {
                    var (sin, cos) = MathF.SinCos(i * 2 * MathF.PI / corners.Length);
                    var reach = size * (1.15f + (float)random.Symmetric(0.35));
                    corners[i] = new(at.X + reach * cos * squeeze, at.Y + reach * sin);
                }
                using (var outline = Brush.Smooth(corners))
                    brush.Fill(outline, Brush.Fade(tone, 0.45 + 0.5 * random.NextDouble()), 0.3f + 2.2f * (float)random.NextDouble());
                break;
            case Mark.Plaster:
                brush.Canvas.Save();
                brush.Canvas.Translate(at);
                brush.Canvas.RotateRadians((float)random.Symmetric(1.5));
                var colour = Brush.Mix(new SKColor(222, 184, 150), new SKColor(120, 80, 58), random.NextDouble());
                using (var strip = RoundedBox(size * 1.5f * squeeze, size * 0.55f, size * 0.5f))
                    brush.Fill(strip, colour, 0.3f);
                using (var pad = RoundedBox(size * 0.5f * squeeze, size * 0.42f, size * 0.08f))
                    brush.Fill(pad, Brush.Scale(colour, 0.9), 0.3f);
                brush.Canvas.Restore();
                break;
            case Mark.EyePatch:
                var side = traits.MarkU < 0 ? -1 : 1;
                var cloth = Brush.Hue(traits.AccessoryHue, 0.3, 0.1 + 0.6 * random.NextDouble());
                brush.Curve(head.At(-1.1f, HeadShape.EyeV - 0.1f - 0.2f * side), head.At(0, HeadShape.EyeV - 0.18f), head.At(1.1f, HeadShape.EyeV - 0.1f + 0.2f * side), 2.2f, cloth);
                brush.Oval(head.At(side * head.EyeU, HeadShape.EyeV), head.EyeWidth * 1.5f * squeeze, head.EyeWidth * 1.2f, cloth, 0.3f);
                break;
            default:
                var paint = Brush.Hue(random.NextDouble(), 0.5 + 0.5 * random.NextDouble(), 0.4 + 0.6 * random.NextDouble());
                for (var i = random.Next(3) + 1; i > 0; i--)
                    brush.Oval(new(at.X + size * (float)random.Symmetric(1), at.Y + size * (float)random.Symmetric(1)), size * (0.3f + 0.7f * (float)random.NextDouble()) * squeeze,
                        size * (0.3f + 0.7f * (float)random.NextDouble()), Brush.Fade(paint, 0.4 + 0.5 * random.NextDouble()), 0.4f);
                break;
        }
    }

    private static SKPath RoundedBox(float halfWidth, float halfHeight, float radius)
    {
        using var path = new SKPathBuilder();
        path.AddRoundRect(new SKRoundRect(new SKRect(-halfWidth, -halfHeight, halfWidth, halfHeight), radius));
        return path.Detach();
    }
}
