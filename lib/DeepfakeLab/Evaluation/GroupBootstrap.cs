namespace DeepfakeLab;

/// <summary>
/// Draws test sets like the one at hand: with replacement, by class, and whole groups of the same photo at a time. Images of one photo
/// are not independent, so drawing them one by one would make intervals too narrow (Davison and Hinkley 1997, section 3.8).
/// </summary>
internal sealed class GroupBootstrap
{
    private readonly int[][][] strata; // stratum, group, images
    private SeededRandom random;

    /// <param name="groups">Images with the same number stand and fall together; a negative number is a group of its own.</param>
    public GroupBootstrap(IReadOnlyList<bool> isFake, IReadOnlyList<int> groups, long seed)
    {
        random = new SeededRandom((ulong)seed);
        // Groups of fakes, groups of reals and mixed ones are drawn apart, so that the classes keep their shares.
        strata = [.. Enumerable.Range(0, isFake.Count)
            .GroupBy(i => groups[i] < 0 ? (1, i) : (0, groups[i]))
            .Select(g => g.ToArray())
            .GroupBy(images => (images.Any(i => isFake[i]), images.Any(i => !isFake[i])))
            .Select(stratum => stratum.ToArray())];
    }

    /// <summary>Fills <paramref name="counts"/> with how often each image is in the next resample.</summary>
    public void Next(Span<int> counts)
    {
        counts.Clear();
        foreach (var groups in strata)
        {
            for (var drawn = 0; drawn < groups.Length; drawn++)
            {
                foreach (var image in groups[random.Next(groups.Length)])
                    counts[image]++;
            }
        }
    }

    /// <summary>The interval that holds the middle 95 % of <paramref name="values"/> (linear percentiles); NaN where none is defined.</summary>
    public static Estimate Interval(double value, IEnumerable<double> values)
    {
        var sorted = values.Where(v => !double.IsNaN(v)).Order().ToArray();
        return double.IsNaN(value) || sorted.Length == 0
            ? new Estimate(value, double.NaN, double.NaN)
            : new Estimate(value, Percentile(sorted, 0.025), Percentile(sorted, 0.975));
    }

    private static double Percentile(double[] sorted, double share)
    {
        var place = share * (sorted.Length - 1);
        var below = (int)place;
        return below + 1 == sorted.Length ? sorted[below] : sorted[below] + (place - below) * (sorted[below + 1] - sorted[below]);
    }
}
