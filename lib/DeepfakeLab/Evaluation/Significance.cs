using TorchSharp;

namespace DeepfakeLab;

/// <summary>McNemar's test of two models on the same images.</summary>
/// <param name="OnlyFirst">Images that only the first model got right.</param>
/// <param name="OnlySecond">Images that only the second got right.</param>
/// <param name="PValue">The chance of a difference at least as large if both were equally good; exact (binomial), two-sided.</param>
public sealed record McNemarResult(int OnlyFirst, int OnlySecond, double PValue);

/// <summary>DeLong's test of the AUCs of two models on the same images.</summary>
/// <param name="Difference">First minus second, with its 95 % interval.</param>
/// <param name="PValue">Two-sided, from the normal distribution; 1 where the AUCs are equal and never differ.</param>
public sealed record DeLongResult(double First, double Second, Estimate Difference, double PValue);

/// <summary>Whether two models differ by more than chance. Both tests take images as independent; same-photo pairs are only nearly so.</summary>
public static class Significance
{
    /// <summary>Compares right and wrong answers (McNemar 1947, in its exact form).</summary>
    /// <param name="threshold">The first model's.</param>
    /// <param name="secondThreshold">The second model's, where validation chose another one for it.</param>
    public static McNemarResult McNemar(bool[] truth, double[] first, double[] second, double threshold = 0.5, double? secondThreshold = null)
    {
        var other = secondThreshold ?? threshold;
        _ = (Metrics.Confusion(truth, first, threshold), Metrics.Confusion(truth, second, other)); // checks them
        int onlyFirst = 0, onlySecond = 0;
        for (var i = 0; i < truth.Length; i++)
        {
            bool a = first[i] >= threshold == truth[i], b = second[i] >= other == truth[i];
            onlyFirst += a && !b ? 1 : 0;
            onlySecond += b && !a ? 1 : 0;
        }
        int n = onlyFirst + onlySecond, fewer = Math.Min(onlyFirst, onlySecond);
        double tail = 0, logTerm = -n * Math.Log(2); // of "n choose 0" / 2^n
        for (var k = 0; k <= fewer; k++)
        {
            tail += Math.Exp(logTerm);
            logTerm += Math.Log(n - k) - Math.Log(k + 1);
        }
        return new McNemarResult(onlyFirst, onlySecond, Math.Min(1, 2 * tail));
    }

    /// <summary>Compares areas under ROC curves of the same images (DeLong, DeLong and Clarke-Pearson 1988).</summary>
    /// <exception cref="EvaluationException">A class has fewer than two images.</exception>
    public static DeLongResult DeLong(bool[] truth, double[] first, double[] second)
    {
        var (a, b) = (Metrics.Auc(truth, first), Metrics.Auc(truth, second));
        if (truth.Count(t => t) < 2 || truth.Count(t => !t) < 2)
            throw new EvaluationException("DeLong's test needs two images of each class", $"{truth.Count(t => t)} fakes of {truth.Length}", "Use a larger test set");
        // the variance of a difference of AUCs is that of the differences of their placement values, over fakes plus over reals
        var placements = Placements(truth, first).Zip(Placements(truth, second), (x, y) => (x.Fake, Value: x.Value - y.Value)).ToLookup(x => x.Fake, x => x.Value);
        double[] ofFakes = [.. placements[true]], ofReals = [.. placements[false]];
        var error = Math.Sqrt(Variance(ofFakes) / ofFakes.Length + Variance(ofReals) / ofReals.Length);
        var difference = a - b;
        var p = error > 0 ? TwoSided(difference / error) : difference == 0 ? 1 : 0;
        return new DeLongResult(a, b, new Estimate(difference, difference - 1.959963984540054 * error, difference + 1.959963984540054 * error), p);
    }

    /// <summary>For each image the share of the other class's images that its score is on the right side of; a tie counts half.</summary>
    private static IEnumerable<(bool Fake, double Value)> Placements(bool[] truth, double[] scores)
    {
        double[] fakes = [.. scores.Where((_, i) => truth[i]).Order()], reals = [.. scores.Where((_, i) => !truth[i]).Order()];
        return truth.Select((fake, i) =>
        {
            var others = fake ? reals : fakes;
            var below = (Rank(others, scores[i], before: true) + Rank(others, scores[i], before: false)) / 2.0 / others.Length;
            return (fake, fake ? below : 1 - below);
        });
    }

    /// <summary>How many of the sorted numbers are below a value, or with it.</summary>
    private static int Rank(double[] sorted, double value, bool before)
    {
        int low = 0, high = sorted.Length;
        while (low < high)
        {
            var middle = (low + high) / 2;
            if (before ? sorted[middle] < value : sorted[middle] <= value)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }

    private static double Variance(double[] values)
    {
        var mean = values.Average();
        return values.Sum(v => (v - mean) * (v - mean)) / (values.Length - 1);
    }

    /// <summary>The chance that a standard normal number lies further from 0 than <paramref name="z"/>.</summary>
    private static double TwoSided(double z)
    {
        LabRuntime.Start();
        using var at = torch.tensor(Math.Abs(z) / Math.Sqrt(2), torch.float64);
        using var tail = torch.special.erfc(at); // .NET has none
        return tail.item<double>();
    }
}
