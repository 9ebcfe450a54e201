namespace DeepfakeLab;

/// <summary>A receiver operating characteristic: one point a distinct score, from (0, 0) to (1, 1).</summary>
/// <param name="Thresholds">Scores at or above which an image is called fake; the first is infinite: nothing is.</param>
public sealed record RocCurve(double[] FalsePositiveRate, double[] TruePositiveRate, double[] Thresholds);

/// <summary>Precision against recall: one point a distinct score, by falling threshold, from recall 0 to 1.</summary>
/// <param name="Thresholds">As in <see cref="RocCurve"/>; the first point is (recall 0, precision 1) by convention.</param>
public sealed record PrecisionRecallCurve(double[] Precision, double[] Recall, double[] Thresholds);

/// <summary>
/// Scores sorted once, so that curves and areas cost one pass, also for resamples: those only change how often each image counts.
/// </summary>
internal sealed class RankedScores
{
    private readonly bool[] truth;
    private readonly double[] scores;
    private readonly int[] order; // by falling score

    public RankedScores(bool[] truth, double[] scores)
    {
        (this.truth, this.scores) = (truth, scores);
        order = [.. Enumerable.Range(0, scores.Length)];
        Array.Sort(scores.Select(s => -s).ToArray(), order);
    }

    /// <summary>The share of (fake, real) pairs in which the fake has the higher score; a tie counts half. NaN with a class absent.</summary>
    /// <param name="counts">How often each image counts; empty for once.</param>
    public double Auc(ReadOnlySpan<int> counts = default)
    {
        double pairs = 0, fakes = 0, reals = 0;
        for (var i = 0; i < order.Length;)
        {
            var (end, fake, real) = Tie(i, counts);
            pairs += real * (fakes + fake / 2);
            (fakes, reals, i) = (fakes + fake, reals + real, end);
        }
        return fakes * reals == 0 ? double.NaN : pairs / (fakes * reals);
    }

    /// <summary>Mean precision over the recall that each threshold adds; 0 without fakes, as in scikit-learn.</summary>
    public double AveragePrecision(ReadOnlySpan<int> counts = default)
    {
        double sum = 0, fakes = 0, called = 0;
        for (var i = 0; i < order.Length;)
        {
            var (end, fake, real) = Tie(i, counts);
            (fakes, called, i) = (fakes + fake, called + fake + real, end);
            if (fake > 0)
                sum += fake * fakes / called;
        }
        return fakes == 0 ? 0 : sum / fakes;
    }

    public RocCurve Roc()
    {
        double fakes = truth.Count(t => t), reals = truth.Length - fakes;
        var points = Points();
        // 0 / 0 is NaN on purpose: with a class absent its rate has no meaning
        return new RocCurve([.. points.Select(p => p.FalsePositives / reals)], [.. points.Select(p => p.TruePositives / fakes)],
            [.. points.Select(p => p.Threshold)]);
    }

    public PrecisionRecallCurve PrecisionRecall()
    {
        double fakes = truth.Count(t => t);
        var points = Points();
        return new PrecisionRecallCurve(
            [.. points.Select(p => p.TruePositives + p.FalsePositives == 0 ? 1 : p.TruePositives / (p.TruePositives + p.FalsePositives))],
            [.. points.Select((p, i) => fakes == 0 ? (i == 0 ? 0 : 1) : p.TruePositives / fakes)],
            [.. points.Select(p => p.Threshold)]);
    }

    private List<(double Threshold, double TruePositives, double FalsePositives)> Points()
    {
        var points = new List<(double, double, double)> { (double.PositiveInfinity, 0, 0) };
        double tp = 0, fp = 0;
        for (var i = 0; i < order.Length;)
        {
            var (end, fake, real) = Tie(i, default);
            (tp, fp) = (tp + fake, fp + real);
            points.Add((scores[order[i]], tp, fp));
            i = end;
        }
        return points;
    }

    /// <summary>The images that share the score at rank <paramref name="start"/>: where they end, and how many are fake and real.</summary>
    private (int End, double Fake, double Real) Tie(int start, ReadOnlySpan<int> counts)
    {
        int end = start, fake = 0, real = 0;
        for (; end < order.Length && scores[order[end]] == scores[order[start]]; end++)
        {
            var count = counts.IsEmpty ? 1 : counts[order[end]];
            if (truth[order[end]])
                fake += count;
            else
                real += count;
        }
        return (end, fake, real);
    }
}
