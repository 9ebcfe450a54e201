using System.Globalization;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What the notebooks share and no other part of the library needs.</summary>
public static class Lesson
{
    /// <summary>
    /// What a model says of an image before it has been trained here: ImageNet's five likeliest classes, or what the embedded weights
    /// read off a painted face; one line that says so where the weights are random.
    /// </summary>
    /// <param name="image">[1, 3, H, W], normalised.</param>
    public static IReadOnlyList<(string Answer, string Value)> Sees(VisionModel model, Tensor image)
    {
        model.eval();
        if (model.WeightsOrigin.Pretrained == Pretrained.Nothing)
            return [("nothing", "the weights are random: no pretrained ones were found, so this network knows nothing yet")];
        if (model.WeightsOrigin.Pretrained == Pretrained.Features)
            return [("features only", "the layers are pretrained, the last one is random: this network sees, but has no words for it yet")];
        using var scope = NewDisposeScope();
        using var none = no_grad();
        var logits = model.call(image);
        return model.Classes == ImageNetClasses.Names.Count
            ? [.. ImageNetClasses.Top(logits).Select(t => (t.Name, t.Probability.ToString("0.0 %", CultureInfo.InvariantCulture)))]
            : PaintedPretraining.Read(logits);
    }

    /// <summary>Up to <paramref name="perRow"/> fakes of each difficulty, fakes of none, and real images, each from all over the list.</summary>
    public static IEnumerable<FaceImage> Rows(FaceDataset faces, int perRow = 6) =>
        faces.Images.ToLookup(f => (IsReal: f.Label != faces.FakeClass, Unknown: f.Difficulty is null, f.Difficulty)).OrderBy(kind => kind.Key)
            .SelectMany(kind => kind.Chunk(Math.Max(1, kind.Count() / perRow)).Select(c => c[0]).Take(perRow));

    /// <summary>How often each part was replaced, by difficulty; what the file names tell, or one row that says that they tell nothing.</summary>
    public static IReadOnlyList<ReplacedPart> ReplacedParts(FaceDataset faces)
    {
        int Count(FaceParts part, Difficulty difficulty) => faces.Images.Count(f => f.Difficulty == difficulty && f.Replaced.HasFlag(part));
        if (faces.Images.All(f => f.Difficulty is null))
            return [new ReplacedPart("not known: the images' names do not tell it", 0, 0, 0)];
        (string Name, FaceParts Part)[] parts = [.. FaceImage.Parts, ("any", FaceParts.None)];
        return [.. parts.Select(p => new ReplacedPart(p.Name, Count(p.Part, Difficulty.Easy), Count(p.Part, Difficulty.Mid), Count(p.Part, Difficulty.Hard)))];
    }

    /// <summary>A split that knows nothing of photos: what most people would write, to see what it does.</summary>
    public static DataSplit RandomSplit(FaceDataset faces, double test = 0.2, double validation = 0.16, long seed = 42) =>
        DataSplit.Create(DataSplit.Ungrouped(faces.Images), test, validation, seed);

    /// <summary>How many photos have images in the test part and images elsewhere.</summary>
    public static int PhotosTorn(FaceDataset faces, DataSplit split)
    {
        var test = split.Test.Select(f => f.Name).ToHashSet();
        return faces.Images.GroupBy(f => f.Group).Count(photo => photo.Select(f => test.Contains(f.Name)).Distinct().Count() > 1);
    }

    /// <summary>
    /// How probable a fake an image is held when it is scored in one batch with others: in training mode, where batch norm mixes them, and
    /// in evaluation mode. The model is as before afterwards.
    /// </summary>
    public static (double Training, double Evaluation) AmongOthers(TrainingRun run, FaceImage image, IEnumerable<FaceImage> others, int fakeClass)
    {
        using var before = new WeightCopy(run.Model); // training mode changes the stored statistics
        double Ask(bool trainingMode) => Predictor.Probabilities(run.Model, [image, .. others], run.Preprocessing, mirrorScores: false, trainingMode: trainingMode)[0][fakeClass];
        var training = Ask(true);
        before.CopyTo(run.Model);
        return (training, Ask(false));
    }

    /// <summary>The most confident right and wrong answers about fakes and real images, alternating between the kinds.</summary>
    public static IReadOnlyList<Prediction> RightAndWrong(EvaluationReport report, int ofEach = 3)
    {
        IEnumerable<Prediction> Of(bool fake, bool right) => report.Predictions
            .Where(p => p.IsFake == fake && p.FakeProbability >= report.Threshold == fake == right)
            .OrderByDescending(p => Math.Abs(p.FakeProbability - report.Threshold)).ThenBy(p => p.Image.Name, StringComparer.Ordinal).Take(ofEach);
        return [.. Of(true, true), .. Of(true, false), .. Of(false, true), .. Of(false, false)];
    }

    /// <summary>Feature vectors [N, F] of images, read from their files; the caller owns them.</summary>
    public static Tensor Features(VisionModel model, IReadOnlyList<FaceImage> images, Preprocessing preprocessing)
    {
        using var scope = NewDisposeScope();
        var pixels = new Tensor[images.Count];
        for (var i = 0; i < pixels.Length; i++)
            pixels[i] = Preprocessing.ToTensor(preprocessing.Apply(ImageReader.Read(images[i].Path)));
        return Embeddings.Of(model, stack(pixels), preprocessing).MoveToOuterDisposeScope();
    }
}

/// <summary>How many fakes of each difficulty had a part replaced.</summary>
public sealed record ReplacedPart(string Part, int Easy, int Mid, int Hard);
