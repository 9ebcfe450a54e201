using SkiaSharp;

namespace DeepfakeLab;

/// <summary>Paints faces: the embedded sample's, and those that the embedded weights were pretrained on. Thread-safe.</summary>
/// <remarks>
/// It is ours because the project may ship no photos of people. The same traits give the same picture in any thread and process
/// of one system; between processor families a level of difference here and there is possible, as Skia computes with what they have.
/// </remarks>
public static partial class FacePainter
{
    /// <summary>Paints a face and takes its picture, <paramref name="size"/> pixels wide and high.</summary>
    public static RgbImage Paint(FaceTraits traits, int size = 256) => traits.Camera.Take(PaintScene(traits, size), traits.Seed);

    /// <summary>The face before the camera: no blur, grain or vignette.</summary>
    internal static RgbImage PaintScene(FaceTraits traits, int size)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 16);
        var head = new HeadShape(traits);
        var info = new SKImageInfo(size, size, SKColorType.Rgba8888, SKAlphaType.Premul);
        using var scene = new SKBitmap(info);
        using var canvas = new SKCanvas(scene);
        using var brush = new Brush(canvas);
        PaintScenery(canvas, traits);
        canvas.Scale(size / HeadShape.Canvas);
        canvas.Save();
        var placement = head.Placement;
        canvas.Concat(in placement);
        PaintHairBehind(brush, head);
        canvas.Restore();
        PaintBody(brush, head);
        using (var skin = PaintSkin(head, info))
        {
            FaceLight.Shade(skin, head);
            canvas.Save();
            canvas.ResetMatrix();
            canvas.DrawBitmap(skin, 0, 0, SKSamplingOptions.Default);
            canvas.Restore();
        }
        canvas.Concat(in placement);
        PaintHair(brush, head);
        PaintAccessories(brush, head);
        canvas.Flush();
        return ToRgb(scene);
    }

    /// <summary>Everything that is lit as skin: ears, face and what is on it; transparent elsewhere.</summary>
    private static SKBitmap PaintSkin(HeadShape head, SKImageInfo info)
    {
        var bitmap = new SKBitmap(info);
        bitmap.Erase(SKColors.Transparent);
        using var canvas = new SKCanvas(bitmap);
        canvas.Scale(info.Width / HeadShape.Canvas);
        var placement = head.Placement;
        canvas.Concat(in placement);
        using var brush = new Brush(canvas);
        var skin = FacePalette.Skin(head.Traits);
        foreach (var side in (float[])[-1, 1])
        {
            var ear = new SKPoint(side * head.A * 0.99f - head.ChinX * 0.25f, 0.08f * head.B);
            brush.Oval(ear, 0.13f * head.A, 0.19f * head.B, Brush.Scale(skin, 0.93));
            brush.Oval(ear, 0.06f * head.A, 0.11f * head.B, Brush.Scale(skin, 0.7), 2);
        }
        using var outline = head.Outline();
        brush.Fill(outline, skin);
        canvas.Save();
        canvas.ClipPath(outline, antialias: true);
        PaintComplexion(brush, head, skin);
        PaintAgeMarks(brush, head, skin);
        PaintBeard(brush, head);
        PaintNose(brush, head, skin);
        PaintMouth(brush, head, skin);
        foreach (var side in (float[])[-1, 1])
        {
            PaintEye(brush, head, side, skin);
            PaintBrow(brush, head, side);
        }
        PaintMark(brush, head, skin);
        canvas.Restore();
        canvas.Flush();
        return bitmap;
    }

    private static void PaintComplexion(Brush brush, HeadShape head, SKColor skin)
    {
        var random = new SeededRandom(SeededRandom.Combine(head.Traits.Seed, 1));
        var blush = Brush.Rgb(skin.Red, skin.Green * 0.72, skin.Blue * 0.7, 0.32);
        foreach (var side in (float[])[-1, 1])
            brush.Oval(head.At(side * 0.5f, 0.26f), 0.26f * head.A * head.Squeeze(side * 0.5f), 0.16f * head.B, blush, 9);
        brush.Oval(head.At(0, 0.27f), 0.14f * head.A, 0.09f * head.B, blush, 5);
        for (var i = 0; i < 60 * head.Traits.Freckles; i++)
            brush.Oval(head.At((float)random.Symmetric(0.62), 0.16f + (float)random.Symmetric(0.17)), 0.7f + (float)random.NextDouble() * 0.5f, 0.8f,
                Brush.Rgb(skin.Red * 0.72, skin.Green * 0.58, skin.Blue * 0.5, 0.55));
        for (var i = random.Next(4); i > 0; i--) // moles
            brush.Oval(head.At((float)random.Symmetric(0.75), 0.2f + (float)random.Symmetric(0.6)), 0.9f, 0.9f, Brush.Scale(skin, 0.5));
    }

    private static void PaintBody(Brush brush, HeadShape head)
    {
        var traits = head.Traits;
        var skin = FacePalette.Skin(traits);
        var chin = head.Placement.MapPoint(new SKPoint(head.ChinX * 0.4f, head.B * 0.8f));
        float x = chin.X, top = chin.Y - 30, w = 0.56f * head.A * (float)traits.Zoom;
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 2));
        using var neck = Brush.Smooth(new(x - w, top), new(x + w, top), new(x + w, 215), new(x + w * 1.9f, 262), new(x - w * 1.9f, 262), new(x - w, 215));
        brush.Fill(neck, Brush.Scale(skin, 0.8 + 0.12 * traits.LightStrength * (1 - Math.Abs(traits.LightX)) - 0.1 * traits.LightY));
        brush.Oval(new SKPoint(x - 6 * (float)traits.LightX, chin.Y + 12), w * 0.95f, 14, Brush.Fade(Brush.Scale(skin, 0.35), 0.55), 8);

        var cloth = Brush.Hue(traits.ClothesHue, 0.15 + 0.6 * random.NextDouble(), 0.2 + 0.65 * random.NextDouble());
        var shoulder = 232 + (float)random.Symmetric(5);
        var dip = 10 + 22 * (float)random.NextDouble();
        using var path = new SKPathBuilder();
        path.MoveTo(x - w * 1.15f, shoulder - 9);
        path.QuadTo(x, shoulder + dip * 2, x + w * 1.15f, shoulder - 9);
        path.CubicTo(x + w * 2.4f, shoulder + 2, 256 + 10, shoulder + 8, 290, 280);
        path.LineTo(-34, 280);
        path.CubicTo(-10, shoulder + 8, x - w * 2.4f, shoulder + 2, x - w * 1.15f, shoulder - 9);
        using var clothes = path.Detach();
        var light = (float)traits.LightX;
        using var shader = SKShader.CreateLinearGradient(new SKPoint(128 - 120 * light, 256), new SKPoint(128 + 120 * light + 1, 225),
            [Brush.Scale(cloth, 0.6), cloth], SKShaderTileMode.Clamp);
        brush.Fill(clothes, shader);
        brush.Line(clothes, 1.5f, Brush.Fade(Brush.Scale(cloth, 0.45), 0.8));
    }

    private static RgbImage ToRgb(SKBitmap bitmap)
    {
        var image = new RgbImage(bitmap.Width, bitmap.Height);
        var from = bitmap.GetPixelSpan();
        for (int i = 0, to = 0; to < image.Pixels.Length; i += 4, to += 3)
            (image.Pixels[to], image.Pixels[to + 1], image.Pixels[to + 2]) = (from[i], from[i + 1], from[i + 2]);
        return image;
    }
}
