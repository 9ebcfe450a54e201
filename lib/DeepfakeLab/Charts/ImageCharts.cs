namespace DeepfakeLab;

public static partial class Charts
{
    /// <summary>Images in rows, each with a caption of up to two lines; a second line that is too long goes on in a third.</summary>
    /// <param name="size">Side of an image as shown; it is stored at that size as a JPEG inside the figure, cut square from its middle.</param>
    public static Figure ImageGrid(string title, IReadOnlyList<(RgbImage Image, string Caption)> images, int columns = 6, int size = 112)
    {
        if (images.Count == 0)
            return InWords(title, "there are none");
        columns = Math.Clamp(columns, 1, images.Count);
        var rows = (images.Count + columns - 1) / columns;
        var tiles = new Tiles("", [.. images.Select(i => (Thumbnail(i.Image, size), Wrap(i.Caption, Tiles.Characters(size))))], columns, size);
        return new Figure(title,
            $"{images.Count} images: " + string.Join("; ", images.Select(i => i.Caption.ReplaceLineEndings(", "))),
            columns: 1,
            new Panel(title, null, null, tiles)
            {
                Width = 16 + columns * (size + 10),
                Height = 36 + rows * tiles.Pitch,
            });
    }

    private static string Wrap(string caption, int characters)
    {
        var last = caption[(caption.LastIndexOf('\n') + 1)..];
        var comma = last.Length > characters ? last.LastIndexOf(", ", characters, StringComparison.Ordinal) : -1;
        return comma < 0 ? caption : $"{caption[..^last.Length]}{last[..(comma + 1)]}\n{last[(comma + 2)..]}";
    }

    /// <summary>In the place of a figure that would be empty: its title, and why.</summary>
    private static Figure InWords(string title, string reason) => new(title, reason, columns: 1,
        new Panel($"{title}: {reason}", null, null, new Tiles("", [], 1, 0)) { Width = Math.Max(380, 8 * (title.Length + reason.Length + 4)), Height = 36 });

    /// <summary>Predictions with their images, read from their files: "training_fake/easy_1_0001.jpg", "fake, called real (0.12)".</summary>
    /// <exception cref="ImageException">An image cannot be read.</exception>
    public static Figure Predictions(string title, IReadOnlyList<Prediction> predictions, double threshold = 0.5, int columns = 6, int size = 112) =>
        ImageGrid(title, [.. predictions.Select(p => (ImageReader.Read(p.Image.Path),
            $"{p.Image.Name.Split('/')[^1]}\n{Answer(p, threshold)}"))], columns, size);

    /// <summary>"fake, 0.12 fake ✗": the truth, what the model said, and whether that is right.</summary>
    private static string Answer(Prediction p, double threshold) =>
        $"{(p.IsFake ? "fake" : "real")}, {Text($"{p.FakeProbability:0.00}")} fake {(p.FakeProbability >= threshold == p.IsFake ? "✓" : "✗")}";

    /// <summary>Images, each beside itself with its heat map.</summary>
    /// <param name="heats">N maps [h, w] from 0 to 1, as <see cref="Explain"/> gives them.</param>
    public static Figure Explanations(string title, IReadOnlyList<RgbImage> images, IReadOnlyList<float[,]> heats, IReadOnlyList<string> captions, int size = 112) =>
        ImageGrid(title, [.. images.Zip(heats, captions).SelectMany(i => ((RgbImage, string)[])[(i.First, i.Third), (HeatOverlay(i.First, i.Second), "")])], columns: 6, size);

    /// <summary>Points in the plane, such as embeddings, with the image shown on hovering.</summary>
    /// <param name="points">[N, 2].</param>
    /// <param name="labels">N texts to show with the image.</param>
    /// <param name="thumbnails">N images, or none.</param>
    public static Figure Embedding(string title, double[,] points, bool[] isFake, string[] labels, IReadOnlyList<RgbImage>? thumbnails = null)
    {
        int[] all = [.. Enumerable.Range(0, isFake.Length)];
        byte[][]? jpegs = thumbnails is null ? null : [.. thumbnails.Select(t => Thumbnail(t, 72))];
        Dots Of(string name, bool fake, int color)
        {
            int[] kept = [.. all.Where(i => isFake[i] == fake)];
            return new Dots(name, [.. kept.Select(i => points[i, 0])], [.. kept.Select(i => points[i, 1])], color,
                [.. kept.Select(i => labels[i])], jpegs is null ? null : [.. kept.Select(i => jpegs[i])]);
        }
        return new Figure(title, $"{all.Count(i => isFake[i])} fakes and {all.Count(i => !isFake[i])} real images as points; images alike to the model lie together",
            columns: 1,
            new Panel(title, Spread("first", [.. all.Select(i => points[i, 0])]), Spread("second", [.. all.Select(i => points[i, 1])]),
                Of("real", false, Palette.Real), Of("fake", true, Palette.Fake))
            { Width = 560, Height = 460 });
    }

    /// <summary>An axis with some room beyond the outermost points, so that they can be pointed at.</summary>
    private static Axis Spread(string title, double[] values)
    {
        var room = values.Length == 0 ? 0 : 0.04 * (values.Max() - values.Min());
        return Axis.Around(title, values.SelectMany(v => (double[])[v - room, v + room]));
    }

    /// <summary>An image with a heat map laid over it: the hotter, the more it hides the image. Colours of growing lightness.</summary>
    /// <param name="heat">[h, w] of any size, 0 cold to 1 hot; enlarged bilinearly.</param>
    public static RgbImage HeatOverlay(RgbImage image, float[,] heat, double opacity = 0.65)
    {
        var result = new RgbImage(image.Width, image.Height);
        for (var y = 0; y < image.Height; y++)
        {
            for (var x = 0; x < image.Width; x++)
            {
                var value = Sample(heat, (x + 0.5) / image.Width, (y + 0.5) / image.Height);
                var (color, cover, at) = (HeatColor(value), opacity * Math.Sqrt(value), 3 * (y * image.Width + x));
                result.Pixels[at] = Blend(image.Pixels[at], color.Red, cover);
                result.Pixels[at + 1] = Blend(image.Pixels[at + 1], color.Green, cover);
                result.Pixels[at + 2] = Blend(image.Pixels[at + 2], color.Blue, cover);
            }
        }
        return result;
    }

    /// <summary>A JPEG of the image's middle, <paramref name="size"/> pixels square.</summary>
    internal static byte[] Thumbnail(RgbImage image, int size) =>
        new Preprocessing(new Preprocessing.Size(size, 0), new Preprocessing.Size(size, size)).Apply(image).ToJpeg(82);

    /// <summary>The value of a coarse map at a place from 0 to 1, between the centres of its cells bilinearly.</summary>
    internal static float Sample(float[,] map, double u, double v)
    {
        var (rows, columns) = (map.GetLength(0), map.GetLength(1));
        var (x, y) = (Math.Clamp(u * columns - 0.5, 0, columns - 1), Math.Clamp(v * rows - 0.5, 0, rows - 1));
        var (x0, y0) = ((int)x, (int)y);
        var (x1, y1) = (Math.Min(x0 + 1, columns - 1), Math.Min(y0 + 1, rows - 1));
        var (fx, fy) = (x - x0, y - y0);
        return (float)((1 - fy) * ((1 - fx) * map[y0, x0] + fx * map[y0, x1]) + fy * ((1 - fx) * map[y1, x0] + fx * map[y1, x1]));
    }

    private static byte Blend(byte below, double above, double cover) => (byte)Math.Round(below * (1 - cover) + above * cover);

    /// <summary>Matplotlib's inferno at its sixths: lightness rises all the way, so it reads without colour vision and in print.</summary>
    private static readonly (double Red, double Green, double Blue)[] inferno =
        [(0, 0, 4), (51, 10, 95), (120, 28, 109), (187, 55, 84), (237, 105, 37), (251, 180, 26), (252, 255, 164)];

    private static (double Red, double Green, double Blue) HeatColor(double value)
    {
        var place = Math.Clamp(value, 0, 1) * (inferno.Length - 1);
        var below = Math.Min((int)place, inferno.Length - 2);
        var (a, b, f) = (inferno[below], inferno[below + 1], place - below);
        return (a.Red + f * (b.Red - a.Red), a.Green + f * (b.Green - a.Green), a.Blue + f * (b.Blue - a.Blue));
    }
}
