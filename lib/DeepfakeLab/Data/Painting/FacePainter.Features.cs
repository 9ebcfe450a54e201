using SkiaSharp;

namespace DeepfakeLab;

/// <content>Eyes, brows, nose, mouth, beard and the marks of age.</content>
public static partial class FacePainter
{
    private static void PaintEye(Brush brush, HeadShape head, float side, SKColor skin)
    {
        var traits = head.Traits;
        var u = side * head.EyeU;
        var centre = head.At(u, HeadShape.EyeV);
        float w = head.EyeWidth * head.Squeeze(u), h = head.EyeWidth * 0.44f * (float)traits.EyeOpen;
        brush.Oval(new(centre.X, centre.Y - 0.3f * h), w * 1.35f, h * 2.3f, Brush.Fade(Brush.Rgb(skin.Red * 0.6, skin.Green * 0.46, skin.Blue * 0.45), 0.34), 4);
        if (traits.LipColour > 0.55) // eye shadow goes with painted lips
            brush.Oval(new(centre.X, centre.Y - 0.8f * h), w * 1.1f, h * 1.1f, Brush.Fade(Brush.Hue(traits.AccessoryHue, 0.35, 0.4), 0.35), 2.5f);
        var tilt = (float)traits.EyeTilt * side * w;
        SKPoint left = new(centre.X - w, centre.Y + (side > 0 ? tilt : -tilt) * 0.6f), right = new(centre.X + w, centre.Y + (side > 0 ? -tilt : tilt) * 0.6f);
        var (top, bottom) = (new SKPoint(centre.X - side * 0.1f * w, centre.Y - 2.05f * h), new SKPoint(centre.X + side * 0.15f * w, centre.Y + 1.6f * h));
        using (var lens = Brush.Lens(left, top, right, bottom))
        {
            brush.Canvas.Save();
            brush.Canvas.ClipPath(lens, antialias: true);
            brush.Fill(lens, Brush.Rgb(234, 229, 224));
            brush.Oval(side > 0 ? left : right, 0.3f * w, h, Brush.Rgb(206, 140, 130, 0.6), 2); // the inner corner
            var radius = 0.5f * head.EyeWidth;
            var iris = new SKPoint(centre.X + (float)traits.GazeX * 0.34f * w, centre.Y - 0.15f * h + (float)traits.GazeY * 0.3f * h);
            var colour = FacePalette.Iris(traits);
            brush.Oval(iris, radius * 0.96f, radius, Brush.Scale(colour, 0.42));
            brush.Oval(iris, radius * 0.8f, radius * 0.84f, colour);
            brush.Oval(new(iris.X, iris.Y + radius * 0.36f), radius * 0.55f, radius * 0.42f, Brush.Fade(Brush.Mix(colour, SKColors.White, 0.35), 0.7), 1);
            brush.Oval(iris, radius * 0.42f, radius * 0.42f, Brush.Rgb(12, 10, 10));
            brush.Oval(new(iris.X + radius * (0.1f + 0.3f * (float)traits.LightX), iris.Y - radius * 0.36f), radius * 0.2f, radius * 0.17f, Brush.Rgb(255, 255, 255, 0.5 + 0.45 * traits.LightStrength));
            brush.Curve(left, top, right, h * 0.9f, Brush.Rgb(40, 26, 26, 0.5), 1.6f); // the upper lid's shadow on the eyeball
            brush.Canvas.Restore();
        }
        var dark = Brush.Mix(Brush.Scale(FacePalette.Hair(traits), 0.45), new SKColor(28, 20, 18), 0.6);
        brush.Curve(left, top, right, 1.5f + 1.2f * (float)traits.LipColour, Brush.Fade(dark, 0.9), 0.35f);
        brush.Curve(left, bottom, right, 0.8f, Brush.Fade(Brush.Scale(skin, 0.5), 0.75), 0.4f);
        var outer = side > 0 ? right : left;
        brush.Curve(Brush.Middle(outer, top), new(outer.X, outer.Y - 0.5f * h), new(outer.X + side * (1.5f + 2.5f * (float)traits.LipColour), outer.Y - 2.4f), 1.1f, Brush.Fade(dark, 0.85));
        var lid = 0.95f * h;
        brush.Curve(new(left.X, left.Y - lid * 0.5f), new(top.X, top.Y - lid), new(right.X, right.Y - lid * 0.5f), 1.1f, Brush.Fade(Brush.Scale(skin, 0.48), 0.6), 0.5f);
    }

    private static void PaintBrow(Brush brush, HeadShape head, float side)
    {
        var traits = head.Traits;
        var v = HeadShape.EyeV - 0.165f - (float)traits.BrowHeight - 0.02f * (float)traits.EyeOpen;
        var tilt = (float)traits.BrowTilt * 0.13f;
        var thick = 2.6f * (float)traits.BrowThickness;
        SKPoint inner = head.At(side * 0.16f, v + 0.02f + tilt), arch = head.At(side * 0.48f, v - 0.075f - tilt * 0.4f), outer = head.At(side * 0.74f, v + 0.045f);
        var colour = Brush.Mix(Brush.Scale(FacePalette.Hair(traits), 0.7), new SKColor(46, 34, 28), 0.35);
        using (var soft = Brush.Lens(new(inner.X, inner.Y), new(arch.X, arch.Y - thick), outer, new(arch.X, arch.Y + thick * 1.1f)))
            brush.Fill(soft, Brush.Fade(colour, 0.62), 0.9f);
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 3, (int)side));
        for (var i = 0; i < 20; i++)
        {
            var t = (i + (float)random.NextDouble()) / 20;
            var at = Bezier(inner, arch, outer, t);
            var width = thick * (1.05f - 0.75f * t);
            SKPoint from = new(at.X, at.Y + width * 0.8f), to = new(at.X + side * (2.2f + 2 * t), at.Y - width * (0.9f - t));
            brush.Curve(from, new(from.X + side * 0.5f, Brush.Middle(from, to).Y), to, 0.8f, Brush.Fade(Brush.Scale(colour, 0.7 + 0.5 * random.NextDouble()), 0.75));
        }
    }

    private static void PaintNose(Brush brush, HeadShape head, SKColor skin)
    {
        var traits = head.Traits;
        var tip = head.At(0, head.NoseV);
        tip.X += head.ChinX * 0.35f;
        var w = 0.155f * head.A * (float)traits.NoseWidth;
        var shadow = Brush.Rgb(skin.Red * 0.42, skin.Green * 0.3, skin.Blue * 0.28);
        var far = traits.Yaw > 0 ? -1 : 1; // the bridge's edge shows on the side that is turned to us
        var bridge = head.At(far * 0.11f, HeadShape.EyeV + 0.02f);
        brush.Curve(bridge, new(bridge.X - far * w * 0.25f, (bridge.Y + tip.Y) / 2), new(tip.X + far * w * 0.9f, tip.Y - 2), 2.6f, Brush.Fade(shadow, 0.16 + 0.3 * Math.Abs(traits.Yaw)), 2);
        brush.Oval(new(tip.X, tip.Y + 0.055f * head.B), w * 1.15f, 0.028f * head.B, Brush.Fade(shadow, 0.42), 2.4f);
        foreach (var side in (float[])[-1, 1])
        {
            brush.Oval(new(tip.X + side * w * 0.52f, tip.Y + 0.03f * head.B), w * 0.27f, 1.7f, Brush.Fade(shadow, 0.85), 0.8f);
            brush.Curve(new(tip.X + side * w * 0.95f, tip.Y - 0.035f * head.B), new(tip.X + side * w * 1.35f, tip.Y + 0.03f * head.B), new(tip.X + side * w * 0.75f, tip.Y + 0.04f * head.B), 1.3f, Brush.Fade(shadow, 0.5), 0.8f);
        }
        brush.Oval(new(tip.X + 2 * (float)traits.LightX, tip.Y - 0.03f * head.B), w * 0.4f, 0.03f * head.B, Brush.Rgb(255, 248, 240, 0.22 * traits.LightStrength + 0.06), 2);
    }

    private static void PaintMouth(Brush brush, HeadShape head, SKColor skin)
    {
        var traits = head.Traits;
        var smile = (float)traits.Smile;
        var wide = (0.33f + 0.07f * MathF.Max(0, smile)) * (float)traits.MouthWidth;
        var open = (float)traits.MouthOpen * 0.1f * head.B;
        SKPoint middle = head.At(0, HeadShape.MouthV), left = head.At(-wide, HeadShape.MouthV - 0.05f * smile), right = head.At(wide, HeadShape.MouthV - 0.05f * smile);
        middle.X += head.ChinX * 0.2f;
        float upper = 0.05f * head.B * (float)traits.Lips * (1 - 0.25f * MathF.Max(0, smile)), lower = 0.066f * head.B * (float)traits.Lips;
        var sag = 0.06f * head.B * smile; // how far the line between the lips hangs when smiling
        var colour = FacePalette.Lips(traits);
        SKPoint upperLine = new(middle.X, middle.Y + sag - open * 0.3f), lowerLine = new(middle.X, middle.Y + sag + open * 1.7f);
        brush.Oval(new(middle.X, lowerLine.Y + lower * 1.5f), wide * head.A * 0.45f, 2.6f, Brush.Fade(Brush.Scale(skin, 0.45), 0.4), 2.4f);
        using (var path = new SKPathBuilder())
        {
            path.MoveTo(left);
            path.QuadTo(new(middle.X - 0.12f * head.A, middle.Y - upper * 1.55f), new(middle.X, middle.Y - upper * 0.9f - open * 0.15f));
            path.QuadTo(new(middle.X + 0.12f * head.A, middle.Y - upper * 1.55f), right);
            path.QuadTo(upperLine, left);
            path.Close();
            using var lip = path.Detach();
            brush.Fill(lip, Brush.Scale(colour, 0.86), 0.5f);
        }
        using (var lip = Brush.Lens(left, lowerLine, right, new(middle.X, lowerLine.Y + lower * 2.3f)))
            brush.Fill(lip, colour, 0.5f);
        brush.Oval(new(middle.X + 3 * (float)traits.LightX, Brush.Middle(middle, lowerLine).Y + lower * 0.95f + open * 0.35f), wide * head.A * 0.3f, lower * 0.26f, Brush.Rgb(255, 240, 235, 0.16 + 0.2 * traits.LipColour), 1.3f);
        if (open > 0.5f)
        {
            using var gap = Brush.Lens(left, upperLine, right, lowerLine);
            brush.Fill(gap, Brush.Rgb(58, 20, 22));
            brush.Canvas.Save();
            brush.Canvas.ClipPath(gap, antialias: true);
            var teeth = new SKPoint(middle.X, Brush.Middle(middle, upperLine).Y);
            brush.Oval(teeth, wide * head.A * 0.82f, MathF.Min(0.045f * head.B, open * 0.75f + 0.6f), Brush.Rgb(240, 234, 222), 0.6f);
            for (var i = -4; i <= 4; i++)
                brush.Curve(new(teeth.X + i * 3.4f, teeth.Y - 2), new(teeth.X + i * 3.4f, teeth.Y), new(teeth.X + i * 3.5f, teeth.Y + 5), 0.5f, Brush.Rgb(120, 100, 92, 0.3));
            brush.Oval(new(middle.X, lowerLine.Y), wide * head.A * 0.5f, open * 0.5f, Brush.Rgb(176, 82, 84, 0.7), 1.5f); // the tongue
            brush.Canvas.Restore();
            brush.Curve(left, upperLine, right, 0.9f, Brush.Fade(Brush.Scale(colour, 0.45), 0.6), 0.5f);
        }
        else
            brush.Curve(left, upperLine, right, 1.3f, Brush.Fade(Brush.Scale(colour, 0.36), 0.85), 0.5f);
        foreach (var corner in (SKPoint[])[left, right])
            brush.Oval(corner, 1.8f, 1.6f, Brush.Fade(Brush.Scale(skin, 0.4), 0.5), 1.2f);
    }

    private static void PaintBeard(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        if (traits.Beard == Beard.None)
            return;
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 4));
        var colour = Brush.Mix(Brush.Scale(FacePalette.Hair(traits), 0.85), new SKColor(46, 36, 32), 0.35);
        float b = head.B, shift = head.ChinX;
        using var jaw = Brush.Smooth(head.At(-1.05f, 0.02f), head.At(-0.88f, 0.3f), head.At(-0.5f, 0.4f), head.At(-0.3f, 0.36f), new(shift * 0.5f, 0.34f * b), head.At(0.3f, 0.36f),
            head.At(0.5f, 0.4f), head.At(0.88f, 0.3f), head.At(1.05f, 0.02f), new(head.A * 1.1f, 0.7f * b), new(shift + 0.6f * head.A, 1.1f * b), new(shift - 0.6f * head.A, 1.1f * b), new(-head.A * 1.1f, 0.7f * b));
        using var lip = Brush.Smooth(head.At(-0.4f, 0.55f), head.At(-0.3f, 0.4f), head.At(0, 0.37f), head.At(0.3f, 0.4f), head.At(0.4f, 0.55f), head.At(0.15f, 0.47f), head.At(-0.15f, 0.47f));
        var (area, strands, cover) = traits.Beard switch
        {
            Beard.Stubble => (jaw, 420, 0.24),
            Beard.Moustache => (lip, 150, 0.7),
            _ => (jaw, 620, 0.75),
        };
        brush.Fill(area, Brush.Fade(colour, cover), traits.Beard == Beard.Stubble ? 6 : 3);
        var bounds = area.Bounds;
        var length = traits.Beard == Beard.Stubble ? 1.2f : 4.5f;
        for (var i = 0; i < strands; i++)
        {
            SKPoint at = new(bounds.Left + bounds.Width * (float)random.NextDouble(), bounds.Top + bounds.Height * (float)random.NextDouble());
            if (!area.Contains(at.X, at.Y))
                continue;
            var lean = (at.X - shift * 0.5f) * 0.03f + (float)random.Symmetric(0.6);
            brush.Curve(at, new(at.X + lean, at.Y + length * 0.5f), new(at.X + lean * 2, at.Y + length), 0.8f, Brush.Fade(Brush.Scale(colour, 0.6 + 0.8 * random.NextDouble()), 0.5));
        }
    }

    private static void PaintAgeMarks(Brush brush, HeadShape head, SKColor skin)
    {
        var traits = head.Traits;
        var strength = traits.Age switch { Age.Young => 0.12, Age.Middle => 0.42, _ => 0.85 };
        strength *= 1 + 0.25 * Math.Max(0, traits.Smile);
        var line = Brush.Rgb(skin.Red * 0.5, skin.Green * 0.4, skin.Blue * 0.38);
        foreach (var side in (float[])[-1, 1])
        {
            brush.Curve(head.At(side * 0.24f, 0.3f), head.At(side * 0.44f, 0.38f), head.At(side * 0.43f, 0.56f), 1.6f, Brush.Fade(line, 0.55 * strength), 1);
            brush.Curve(head.At(side * 0.22f, 0.06f), head.At(side * 0.42f, 0.16f), head.At(side * 0.62f, 0.05f), 2, Brush.Fade(line, 0.45 * strength), 1.2f);
            if (traits.Age == Age.Young)
                continue;
            for (var i = -1; i <= 1; i++)
                brush.Curve(head.At(side * 0.71f, -0.06f + 0.03f * i), head.At(side * 0.77f, -0.06f + 0.045f * i), head.At(side * 0.85f, -0.05f + 0.07f * i), 0.9f, Brush.Fade(line, 0.5 * strength), 0.5f);
        }
        if (traits.Age == Age.Young)
            return;
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 5));
        for (var i = 0; i < 3; i++)
        {
            var v = -0.42f - 0.1f * i;
            brush.Curve(head.At(-0.5f + (float)random.Symmetric(0.1), v), head.At((float)random.Symmetric(0.2), v - 0.04f + (float)random.Symmetric(0.02)),
                head.At(0.5f + (float)random.Symmetric(0.1), v), 1.1f, Brush.Fade(line, 0.45 * strength), 0.7f);
        }
        if (traits.Age == Age.Old)
            for (var i = 0; i < 10; i++)
                brush.Oval(head.At((float)random.Symmetric(0.8), (float)random.Symmetric(0.7)), 1.5f + (float)random.NextDouble() * 2, 1.5f, Brush.Fade(line, 0.22), 0.8f);
    }

    private static SKPoint Bezier(SKPoint a, SKPoint b, SKPoint c, float t)
    {
        var s = 1 - t;
        return new(s * s * a.X + 2 * s * t * b.X + t * t * c.X, s * s * a.Y + 2 * s * t * b.Y + t * t * c.Y);
    }
}
