using SkiaSharp;

namespace DeepfakeLab;

/// <content>Hair, hats and glasses.</content>
public static partial class FacePainter
{
    /// <summary>Hair that hangs or stands behind the head.</summary>
    private static void PaintHairBehind(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        var (a, b, dark) = (head.A, head.B, Brush.Scale(FacePalette.Hair(traits), 0.62));
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 7));
        switch (traits.HairStyle)
        {
            case HairStyle.LongStraight or HairStyle.LongWavy or HairStyle.Fringe:
                var bottom = traits.HairStyle == HairStyle.Fringe ? 0.95f : 1.55f;
                var wide = traits.HairStyle == HairStyle.LongWavy ? 1.38f : 1.22f;
                using (var back = Brush.Smooth(new(-0.75f * a, -1.3f * b), new(0.75f * a, -1.3f * b), new(wide * a, -0.7f * b), new(wide * a, 0.2f * b), new((wide + 0.05f) * a, bottom * b),
                    new(0.55f * a, (bottom + 0.12f) * b), new(-0.55f * a, (bottom + 0.12f) * b), new(-(wide + 0.05f) * a, bottom * b), new(-wide * a, 0.2f * b), new(-wide * a, -0.7f * b)))
                {
                    brush.Fill(back, dark);
                    Strands(brush, back, ref random, dark, 120, 46, traits.HairStyle == HairStyle.LongWavy ? 6 : 0.8f);
                }
                break;
            case HairStyle.Curly:
                Curls(brush, head, ref random, dark, 46, 1.14f, 0.62f);
                break;
            case HairStyle.Bun:
                brush.Oval(new(-0.15f * head.ChinX, -1.28f * b), 0.42f * a, 0.3f * b, dark);
                brush.Oval(new(-0.15f * head.ChinX - 3, -1.31f * b), 0.34f * a, 0.22f * b, Brush.Scale(dark, 1.35), 3);
                break;
        }
    }

    /// <summary>Hair in front: the cap on the skull, partings, fringes and curtains.</summary>
    private static void PaintHair(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        var (a, b, colour) = (head.A, head.B, FacePalette.Hair(traits));
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 8));
        var shift = head.ChinX * 0.7f;
        if (traits.HairStyle == HairStyle.Bald)
        {
            brush.Oval(new(10 * (float)traits.LightX, -0.78f * b), 0.3f * a, 0.12f * b, Brush.Rgb(255, 250, 244, 0.2 * traits.LightStrength), 7);
            return;
        }
        var part = (random.Next(2) == 0 ? -1 : 1) * (0.3f + 0.2f * (float)random.NextDouble()) * a;
        var line = -0.62f + 0.1f * (float)random.Symmetric(1) - (traits.Age == Age.Old ? 0.07f : 0);
        using var cap = traits.HairStyle switch
        {
            HairStyle.Short => Cap(1.06f, -0.2f, (x, _) => line - 0.1f * (1 - x * x) + 0.03f * MathF.Sin(9 * x)),
            HairStyle.SidePart => Cap(1.08f, -0.12f, (x, px) => line - 0.16f + 0.3f * MathF.Abs(x - part / a) * (x * part > 0 ? 1.1f : 0.75f)),
            HairStyle.Curly => Cap(1.1f, -0.3f, (x, _) => line + 0.04f * MathF.Sin(11 * x + 1)),
            HairStyle.Bun => Cap(1.03f, -0.1f, (x, _) => line - 0.12f + 0.3f * x * x * x * x),
            HairStyle.Fringe => Cap(1.14f, 0.5f, (x, _) => -0.33f - 0.05f * x * x + 0.025f * MathF.Sin(14 * x)),
            _ => Cap(1.14f, 0.9f, (x, _) => line - 0.18f + 0.5f * MathF.Pow(MathF.Abs(x - part * 0.5f / a), 1.5f)),
        };
        float light = (float)traits.LightX, strength = (float)traits.LightStrength;
        using (var shader = SKShader.CreateLinearGradient(new SKPoint(-a * light, -0.4f * b), new SKPoint(a * light + 0.1f, -1.1f * b),
            [Brush.Scale(colour, 1 - 0.45 * strength), Brush.Scale(colour, 1.02 + 0.15 * strength)], SKShaderTileMode.Clamp))
            brush.Fill(cap, shader);
        using (var outline = head.Outline()) // the hair's shadow on the forehead
        {
            brush.Canvas.Save();
            brush.Canvas.ClipPath(outline, antialias: true);
            brush.Canvas.ClipPath(cap, SKClipOperation.Difference, antialias: true);
            brush.Line(cap, 5, Brush.Rgb(40, 22, 16, 0.4), 3);
            brush.Canvas.Restore();
        }
        var wave = traits.HairStyle is HairStyle.LongWavy ? 6 : traits.HairStyle is HairStyle.Short ? 1.6f : 1.2f;
        if (traits.HairStyle == HairStyle.Curly)
            Curls(brush, head, ref random, colour, 70, 1.0f, 0.5f, cap);
        else
            Strands(brush, cap, ref random, colour, 190, traits.HairStyle is HairStyle.Short ? 18 : 40, wave, part);
        brush.Canvas.Save(); // a band of light across the hair
        brush.Canvas.ClipPath(cap, antialias: true);
        brush.Oval(new(26 * light, -0.98f * b), 0.62f * a, 0.1f * b, Brush.Rgb(255, 246, 232, 0.1 + 0.16 * strength), 6);
        brush.Canvas.Restore();

        // The skull's cap above a hairline given as v over x, with sides that reach down to `low`.
        SKPath Cap(float grow, float low, Func<float, float, float> hairline)
        {
            using var path = new SKPathBuilder();
            path.MoveTo(-a * grow, low * b);
            path.CubicTo(-a * grow * 1.05f, -0.8f * b, -0.7f * a, -1.24f * b, 0, -1.24f * b);
            path.CubicTo(0.7f * a, -1.24f * b, a * grow * 1.05f, -0.8f * b, a * grow, low * b);
            if (low > 0) // curtains end in a tip
                path.QuadTo(a * (grow - 0.08f), (low + 0.15f) * b, a * 0.92f, low * b);
            else
                path.LineTo(a * 0.96f, low * b);
            for (var i = 0; i <= 24; i++)
            {
                var x = 1 - i / 12f;
                path.LineTo(x * a * (0.93f - 0.03f * (1 - x * x)) + shift * (1 - x * x), hairline(x, shift) * b);
            }
            path.LineTo(-a * (low > 0 ? 0.92f : 0.96f), low * b);
            path.Close();
            return path.Detach();
        }
    }

    private static void Strands(Brush brush, SKPath area, ref SeededRandom random, SKColor colour, int count, float length, float wave, float part = 0)
    {
        brush.Canvas.Save();
        brush.Canvas.ClipPath(area, antialias: true);
        var bounds = area.Bounds;
        for (var i = 0; i < count; i++)
        {
            SKPoint from = new(bounds.Left + bounds.Width * (float)random.NextDouble(), bounds.Top + bounds.Height * (float)random.NextDouble());
            var lean = Math.Clamp((from.X - part) * 0.45f, -length * 0.6f, length * 0.6f);
            SKPoint to = new(from.X + lean, from.Y + length * (0.6f + 0.5f * (float)random.NextDouble()));
            SKPoint control = new((from.X + to.X) / 2 + (float)random.Symmetric(1 + wave) + lean * 0.25f, (from.Y + to.Y) / 2 - Math.Abs(lean) * 0.3f);
            var tone = 0.6 + 0.85 * random.NextDouble();
            brush.Curve(from, control, to, 0.7f + 0.9f * (float)random.NextDouble(), Brush.Fade(Brush.Scale(colour, tone), 0.34));
        }
        brush.Canvas.Restore();
    }

    private static void Curls(Brush brush, HeadShape head, ref SeededRandom random, SKColor colour, int count, float reach, float depth, SKPath? inside = null)
    {
        var (a, b) = (head.A, head.B);
        for (var i = 0; i < count; i++)
        {
            var angle = Math.PI * (1.08 + (inside is null ? 0.84 : 0.8) * (i + random.NextDouble()) / count) - (inside is null ? 0 : 0.02);
            var r = reach * (inside is null ? 1 : depth + (1.08f - depth) * (float)random.NextDouble());
            SKPoint at = new((float)Math.Cos(angle) * a * (r + 0.08f), -0.2f * b + (float)Math.Sin(angle) * b * r);
            if (inside is not null && !inside.Contains(at.X, at.Y))
                continue;
            var size = a * (0.1f + 0.1f * (float)random.NextDouble()) * (inside is null ? 1.5f : 0.75f);
            brush.Oval(at, size, size * 0.9f, Brush.Fade(Brush.Scale(colour, 0.72 + 0.4 * random.NextDouble()), inside is null ? 1 : 0.85));
            brush.Curve(new(at.X - size * 0.6f, at.Y), new(at.X, at.Y - size * 1.1f), new(at.X + size * 0.6f, at.Y), 1, Brush.Fade(Brush.Scale(colour, 1.5), 0.4));
        }
    }

    private static void PaintAccessories(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        if (traits.Glasses != Glasses.None)
            PaintGlasses(brush, head);
        if (traits.Headwear != Headwear.None)
            PaintHeadwear(brush, head);
    }

    private static void PaintGlasses(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        var frame = traits.AccessoryHue < 0.6 ? Brush.Rgb(34, 30, 30) : Brush.Hue(traits.AccessoryHue, 0.55, 0.4);
        var width = 1.4f + 1.6f * (float)traits.AccessoryHue;
        var round = traits.ClothesHue < 0.5 ? 0.95f : 0.55f;
        SKRoundRect[] lenses = [Lens(-1), Lens(1)];
        foreach (var lens in lenses)
        {
            using var path = new SKPathBuilder();
            path.AddRoundRect(lens, SKPathDirection.Clockwise);
            using var shape = path.Detach();
            if (traits.Glasses == Glasses.Dark)
                brush.Fill(shape, Brush.Rgb(26, 24, 30, 0.93));
            else
                brush.Fill(shape, Brush.Rgb(220, 232, 240, 0.1));
            var r = lens.Rect;
            brush.Canvas.Save();
            brush.Canvas.ClipPath(shape, antialias: true);
            brush.Curve(new(r.Left + r.Width * 0.15f, r.Bottom), new(r.MidX, r.MidY), new(r.Left + r.Width * 0.75f, r.Top), r.Width * 0.16f, Brush.Rgb(255, 255, 255, 0.16), 2);
            brush.Canvas.Restore();
            brush.Line(shape, width, frame);
        }
        SKRect left = lenses[0].Rect, right = lenses[1].Rect;
        brush.Curve(new(left.Right, left.MidY - 2), new((left.Right + right.Left) / 2, left.MidY - 6), new(right.Left, right.MidY - 2), width, frame);
        brush.Curve(new(left.Left, left.MidY - 3), new(left.Left - 4, left.MidY - 4), new(-head.A * 0.98f, -0.04f * head.B), width, frame);
        brush.Curve(new(right.Right, right.MidY - 3), new(right.Right + 4, right.MidY - 4), new(head.A * 0.98f, -0.04f * head.B), width, frame);
        foreach (var lens in lenses)
            lens.Dispose();

        SKRoundRect Lens(float side)
        {
            var at = head.At(side * head.EyeU, HeadShape.EyeV + 0.015f);
            float w = 0.33f * head.A * head.Squeeze(side * head.EyeU), h = 0.175f * head.B * (round > 0.9f ? 1.15f : 1);
            return new SKRoundRect(new SKRect(at.X - w, at.Y - h, at.X + w, at.Y + h), w * round, h * round);
        }
    }

    private static void PaintHeadwear(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        var (a, b, shift) = (head.A, head.B, head.ChinX);
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 9));
        var cloth = Brush.Hue(traits.AccessoryHue, 0.25 + 0.5 * random.NextDouble(), 0.25 + 0.5 * random.NextDouble());
        var edge = traits.Headwear == Headwear.Cap ? -0.6f : -0.5f;
        using var path = new SKPathBuilder();
        path.MoveTo(-1.14f * a, (edge + 0.12f) * b);
        path.CubicTo(-1.22f * a, -1.15f * b, -0.75f * a, -1.4f * b, 0, -1.4f * b);
        path.CubicTo(0.75f * a, -1.4f * b, 1.22f * a, -1.15f * b, 1.14f * a, (edge + 0.12f) * b);
        path.QuadTo(shift, (edge - 0.1f) * b, -1.14f * a, (edge + 0.12f) * b);
        path.Close();
        using var hat = path.Detach();
        float light = (float)traits.LightX;
        using (var shader = SKShader.CreateLinearGradient(new SKPoint(-a * light, -0.4f * b), new SKPoint(a * light + 0.1f, -1.2f * b), [Brush.Scale(cloth, 0.55), Brush.Scale(cloth, 1.1)], SKShaderTileMode.Clamp))
            brush.Fill(hat, shader);
        if (traits.Headwear == Headwear.Beanie)
        {
            brush.Canvas.Save();
            brush.Canvas.ClipPath(hat, antialias: true);
            for (var x = -1.2f; x <= 1.2f; x += 0.085f) // ribs
                brush.Curve(new(x * a, -0.3f * b), new(x * a * 1.05f, -0.9f * b), new(x * 0.35f * a, -1.42f * b), 1.1f, Brush.Fade(Brush.Scale(cloth, 0.45), 0.5), 0.4f);
            brush.Canvas.Restore();
            brush.Curve(new(-1.15f * a, (edge + 0.03f) * b), new(shift, (edge - 0.2f) * b), new(1.15f * a, (edge + 0.03f) * b), 0.17f * b, Brush.Scale(cloth, 0.85));
            return;
        }
        for (var x = -0.5f; x <= 0.5f; x += 0.5f) // seams
            brush.Curve(new(x * 1.3f * a, (edge - 0.05f) * b), new(x * 1.2f * a, -1.1f * b), new(0, -1.4f * b), 0.9f, Brush.Fade(Brush.Scale(cloth, 0.4), 0.6));
        using var brim = Brush.Lens(new(-0.98f * a + shift, (edge + 0.06f) * b), new(shift, (edge - 0.24f) * b), new(0.98f * a + shift, (edge + 0.06f) * b), new(shift * 1.6f, (edge + 0.3f) * b));
        brush.Fill(brim, Brush.Rgb(20, 12, 10, 0.45), 5);
        brush.Fill(brim, Brush.Scale(cloth, 0.72));
        brush.Line(brim, 1, Brush.Fade(Brush.Scale(cloth, 0.4), 0.7));
    }
}
