namespace DeepfakeLab;

/// <summary>
/// Temperature scaling (Guo et al. 2017, arXiv:1706.04599): logits divided by one number, fitted on validation so that probabilities
/// mean what they say. The order of the images, and so the AUC, stays as it was.
/// </summary>
/// <param name="Temperature">Above 1 for a model that was too sure of itself.</param>
public sealed record TemperatureScaling(double Temperature)
{
    private const double Coldest = 0.01, Hottest = 100;

    /// <summary>The temperature of least log loss, sought between 0.01 and 100.</summary>
    /// <param name="truth">Of validation images, never of test images.</param>
    /// <exception cref="EvaluationException">As <see cref="Metrics.LogLoss(bool[], double[])"/>.</exception>
    public static TemperatureScaling Fit(bool[] truth, double[] probabilities)
    {
        Metrics.CheckProbabilities(truth, probabilities);
        double[] logits = Array.ConvertAll(probabilities, Logit);
        // The loss is convex in 1/T, so its slope crosses zero once at most: halve the interval around that place.
        double Slope(double inverse) => logits.Select((z, i) => z * (Sigmoid(z * inverse) - (truth[i] ? 1 : 0))).Sum();
        var (low, high) = (1 / Hottest, 1 / Coldest);
        for (var i = 0; i < 200 && high - low > 1e-15 * high; i++)
        {
            var middle = (low + high) / 2;
            (low, high) = Slope(middle) < 0 ? (middle, high) : (low, middle);
        }
        return new TemperatureScaling(2 / (low + high));
    }

    /// <summary>The probability that the model should have given instead of this one.</summary>
    public double Apply(double probability) => Sigmoid(Logit(probability) / Temperature);

    public Prediction Apply(Prediction prediction) => prediction with { FakeProbability = Apply(prediction.FakeProbability) };

    private static double Sigmoid(double z) => 1 / (1 + Math.Exp(-z));

    /// <summary>Bounded, so that a probability of exactly 0 or 1 does not become infinite.</summary>
    private static double Logit(double p) => Math.Log(Math.Clamp(p, 1e-15, 1 - 1e-15)) - Math.Log(Math.Clamp(1 - p, 1e-15, 1 - 1e-15));
}

/// <summary>Chooses from which probability on an image is called fake. To be done on validation: on test it would be cheating.</summary>
public static class Threshold
{
    /// <summary>The threshold with the highest <paramref name="figure"/>; of equally good ones that nearest to 0.5.</summary>
    /// <param name="figure">What to maximise, such as <c>m =&gt; m.F1</c>; balanced accuracy (Youden's index) when not given.</param>
    public static double Choose(bool[] truth, double[] probabilities, Func<ConfusionMatrix, double>? figure = null)
    {
        Metrics.CheckProbabilities(truth, probabilities);
        figure ??= m => m.BalancedAccuracy;
        double[] sorted = [.. probabilities.Distinct().Order()];
        // half-way between neighbours, the place that is safest for unseen images; and 0.5 itself
        double[] candidates = [0.5, sorted[0], .. sorted.Zip(sorted.Skip(1), (a, b) => (a + b) / 2), Math.BitIncrement(sorted[^1])];
        return candidates.OrderByDescending(t => figure(Metrics.Confusion(truth, probabilities, t))).ThenBy(t => Math.Abs(t - 0.5)).First();
    }
}
