using static TorchSharp.torch;

namespace DeepfakeLab;

public static partial class Charts
{
    /// <summary>Rows of easy, mid and hard fakes, of fakes whose names do not say how hard they are, and of real images.</summary>
    public static Figure Faces(FaceDataset faces, int perRow = 6, int size = 112) =>
        ImageGrid(faces.Images.Any(f => f.Difficulty is not null) ? "Fakes from easy to hard, and real ones" : "Fakes and real ones (the images' names tell no difficulty)",
            [.. Lesson.Rows(faces, perRow).Select(f => (ImageReader.Read(f.Path), Caption(faces, f)))], perRow, size);

    /// <summary>Images that show one photo, in the rows that they make: a fake and the real image that it was cut from.</summary>
    public static Figure SamePhotos(FaceDataset faces, int groups = 3, int size = 112) => ImageGrid("The same photo, twice",
        [.. faces.Images.GroupBy(f => f.Group).Where(g => g.Select(f => f.Label).Distinct().Count() > 1).Take(groups).SelectMany(g => g.OrderBy(f => f.Label == faces.FakeClass).Take(2))
            .Select(f => (ImageReader.Read(f.Path), Caption(faces, f)))], 2 * groups, size);

    /// <summary>The channels of a layer's output that differ most over the image, each from its lowest value (dark) to its highest (bright).</summary>
    /// <param name="activations">[1, C, h, w] or [C, h, w].</param>
    public static Figure FeatureMaps(string title, Tensor activations, int count = 12, int size = 96, int columns = 6)
    {
        using var scope = NewDisposeScope();
        var maps = (activations.dim() == 4 ? activations[0] : activations).detach().to(float32).cpu();
        var spread = maps.flatten(1).std(1);
        var chosen = spread.topk((int)Math.Min(count, maps.shape[0])).indexes.data<long>().ToArray();
        return ImageGrid(title, [.. chosen.Select(channel => (HeatImage(maps[channel]), $"channel {channel}"))], columns, size);
    }

    /// <summary>Images beside themselves with Grad-CAM for "fake", and what the model said.</summary>
    public static Figure WhereItLooks(string title, VisionModel model, IReadOnlyList<Prediction> predictions, Preprocessing preprocessing, int fakeClass, double threshold = 0.5)
    {
        if (predictions.Count == 0)
            return ImageGrid(title, []);
        RgbImage[] images = [.. predictions.Select(p => preprocessing.Apply(ImageReader.Read(p.Image.Path)))];
        using var scope = NewDisposeScope();
        var batch = preprocessing.Normalize(stack([.. images.Select(Preprocessing.ToTensor)])).to(LabRuntime.Device);
        return Explanations(title, images, Explain.GradCam(model, batch, fakeClass),
            [.. predictions.Select(p => $"{Answer(p, threshold)}\n{p.Image.ReplacedInWords}")]);
    }

    /// <summary>The smoothed loss of a range test, and the rate that it suggests.</summary>
    public static Figure LearningRateFinder(LearningRateCurve curve) =>
        LearningRateFinder([.. curve.Points.Select(p => p.Rate)], [.. curve.Points.Select(p => p.Smoothed)], curve.Suggestion);

    /// <summary>"fake, hard", and below it "left eye, mouth", or the class.</summary>
    private static string Caption(FaceDataset faces, FaceImage face) =>
        face.Difficulty is { } difficulty ? $"{faces.Classes[face.Label]}, {difficulty}".ToLowerInvariant() + "\n" + face.ReplacedInWords : faces.Classes[face.Label];

    private static RgbImage HeatImage(Tensor map)
    {
        var (h, w) = ((int)map.shape[0], (int)map.shape[1]);
        var values = map.contiguous().data<float>().ToArray();
        var (low, high, image) = (values.Min(), values.Max(), new RgbImage(w, h));
        for (var i = 0; i < values.Length; i++)
        {
            var (red, green, blue) = HeatColor(high > low ? (values[i] - low) / (high - low) : 0);
            (image.Pixels[3 * i], image.Pixels[3 * i + 1], image.Pixels[3 * i + 2]) = ((byte)red, (byte)green, (byte)blue);
        }
        return image;
    }
}
