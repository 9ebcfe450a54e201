namespace DeepfakeLab;

/// <summary>The figures of a model that was trained on so many images.</summary>
public sealed record LearningCurvePoint(int TrainingImages, EvaluationReport Report);

/// <summary>How good a model gets with how many training images: whether more data would help.</summary>
public static class LearningCurve
{
    /// <summary>Trains and tests once for each share of the training images; validation and test stay the same.</summary>
    /// <param name="shares">Of the training images, each above 0 and at most 1.</param>
    /// <param name="trainAndTest">Trains on the split it is given and returns the figures on its test images.</param>
    /// <param name="seed">Of the choice of images; smaller sets are parts of larger ones.</param>
    public static IReadOnlyList<LearningCurvePoint> Run(DataSplit split, IReadOnlyList<double> shares, Func<DataSplit, EvaluationReport> trainAndTest, long seed = 0)
    {
        if (shares.FirstOrDefault(s => s is not (> 0 and <= 1), 1) is var bad and not 1)
            throw new EvaluationException("A share of the training images must be above 0 and at most 1", bad.ToString(System.Globalization.CultureInfo.InvariantCulture), "Use such as 0.1, 0.3, 1");
        var ordered = Order(split.Train, seed);
        return [.. shares.Order().Select(share =>
        {
            LabProgress.Interrupt.ThrowIfCancellationRequested();
            var count = Math.Max(2, (int)Math.Round(share * ordered.Count));
            return new LearningCurvePoint(count, trainAndTest(split with { Train = [.. ordered.Take(count)] }));
        })];
    }

    /// <summary>An order whose every beginning holds classes and difficulties in their shares.</summary>
    internal static IReadOnlyList<FaceImage> Order(IReadOnlyList<FaceImage> images, long seed)
    {
        var random = new SeededRandom((ulong)seed);
        var placed = new List<(double Place, FaceImage Image)>();
        foreach (var stratum in images.GroupBy(i => (i.Label, i.Difficulty)).OrderBy(g => g.Key.Label).ThenBy(g => g.Key.Difficulty))
        {
            FaceImage[] shuffled = [.. stratum.OrderBy(i => i.Name, StringComparer.Ordinal)];
            random.Shuffle(shuffled.AsSpan());
            placed.AddRange(shuffled.Select((image, i) => ((i + 0.5) / shuffled.Length, image)));
        }
        return [.. placed.OrderBy(p => p.Place).ThenBy(p => p.Image.Name, StringComparer.Ordinal).Select(p => p.Image)];
    }
}
