using SkiaSharp;

namespace DeepfakeLab;

/// <content>What is behind the face, out of focus: painted small, then enlarged.</content>
public static partial class FacePainter
{
    private const int ScenerySide = 40;

    private static void PaintScenery(SKCanvas canvas, FaceTraits traits)
    {
        using var small = new SKBitmap(new SKImageInfo(ScenerySide, ScenerySide, SKColorType.Rgba8888, SKAlphaType.Premul));
        using (var smallCanvas = new SKCanvas(small))
        using (var brush = new Brush(smallCanvas))
            PaintSmall(brush, traits);
        using var image = SKImage.FromBitmap(small);
        canvas.GetDeviceClipBounds(out var all);
        canvas.DrawImage(image, new SKRect(1, 1, ScenerySide - 1, ScenerySide - 1), new SKRect(0, 0, all.Width, all.Height), new SKSamplingOptions(SKCubicResampler.Mitchell));
    }

    private static void PaintSmall(Brush brush, FaceTraits traits)
    {
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 10));
        const float side = ScenerySide;
        var value = 0.25 + 0.65 * random.NextDouble();
        var main = Brush.Hue(traits.SceneryHue, 0.08 + 0.35 * random.NextDouble(), value);
        var canvas = brush.Canvas;
        switch (traits.Scenery)
        {
            case Scenery.Studio:
                canvas.Clear(main);
                brush.Oval(new(side * (0.5f + 0.3f * (float)traits.LightX), side * 0.4f), side * 0.45f, side * 0.45f, Brush.Fade(Brush.Scale(main, 1.3), 0.6), 8);
                break;
            case Scenery.Gradient:
                canvas.Clear(main);
                using (var all = new SKPathBuilder())
                {
                    all.AddRect(new SKRect(0, 0, side, side), SKPathDirection.Clockwise);
                    using var path = all.Detach();
                    using var shader = SKShader.CreateLinearGradient(new(0, 0), new(side * (float)random.NextDouble(), side),
                        [main, Brush.Hue((traits.SceneryHue + 0.2 + 0.3 * random.NextDouble()) % 1, 0.4, 0.2 + 0.6 * random.NextDouble())], SKShaderTileMode.Clamp);
                    brush.Fill(path, shader);
                }
                break;
            case Scenery.Lights:
                canvas.Clear(Brush.Scale(main, 0.45));
                for (var i = 0; i < 22; i++)
                {
                    var r = 1.2f + 2.6f * (float)random.NextDouble();
                    brush.Oval(Anywhere(ref random), r, r, Brush.Fade(Brush.Hue((traits.SceneryHue + random.Symmetric(0.12) + 1) % 1, 0.5, 1), 0.35 + 0.4 * random.NextDouble()));
                }
                break;
            case Scenery.Leaves:
                canvas.Clear(Brush.Hue(0.2 + 0.14 * traits.SceneryHue, 0.45, value * 0.6));
                for (var i = 0; i < 130; i++)
                    brush.Oval(Anywhere(ref random), 0.8f + 2 * (float)random.NextDouble(), 0.8f + 1.6f * (float)random.NextDouble(),
                        Brush.Fade(Brush.Hue(0.17 + 0.16 * random.NextDouble(), 0.55, 0.15 + 0.75 * random.NextDouble()), 0.6));
                break;
            case Scenery.Wall:
                canvas.Clear(main);
                for (var y = 0; y < 9; y++)
                    for (var x = -1; x < 6; x++)
                        using (var path = new SKPathBuilder())
                        {
                            path.AddRect(SKRect.Create(x * 8f + (y % 2) * 4 + 0.4f, y * 4.6f + 0.4f, 7.3f, 3.9f), SKPathDirection.Clockwise);
                            using var brick = path.Detach();
                            brush.Fill(brick, Brush.Fade(Brush.Scale(main, 0.75 + 0.3 * random.NextDouble()), 0.8));
                        }
                break;
            default:
                canvas.Clear(Brush.Hue(0.52 + 0.12 * traits.SceneryHue, 0.15 + 0.45 * random.NextDouble(), 0.75 + 0.2 * random.NextDouble()));
                for (var i = 0; i < 7; i++)
                    brush.Oval(Anywhere(ref random), 5, 2, Brush.Rgb(255, 255, 255, 0.5), 2);
                var horizon = side * (0.55f + 0.35f * (float)random.NextDouble());
                using (var hills = Brush.Smooth(new(-12, horizon), new(side * 0.3f, horizon - 5 * (float)random.NextDouble()), new(side * 0.7f, horizon + 3), new(side + 12, horizon - 3), new(side + 12, side + 12), new(-12, side + 12)))
                    brush.Fill(hills, Brush.Hue(0.08 + 0.35 * random.NextDouble(), 0.3, 0.3 + 0.3 * random.NextDouble()), 0.7f);
                break;
        }
    }

    private static SKPoint Anywhere(ref SeededRandom random) => new(ScenerySide * (float)random.NextDouble(), ScenerySide * (float)random.NextDouble());
}
