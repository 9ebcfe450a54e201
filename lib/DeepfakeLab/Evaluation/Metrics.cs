using System.Globalization;

namespace DeepfakeLab;

/// <summary>One bin of a reliability diagram: images whose probability lies in (<paramref name="From"/>, <paramref name="To"/>].</summary>
/// <param name="MeanProbability">What the model said, on average; NaN in an empty bin.</param>
/// <param name="FakeShare">What was so: the share of fakes; NaN in an empty bin.</param>
public readonly record struct ReliabilityBin(double From, double To, int Count, double MeanProbability, double FakeShare);

/// <summary>Figures from truth and score, arrays in and numbers out; the values are scikit-learn's (<c>sklearn.metrics</c>).</summary>
/// <remarks>
/// <c>truth[i]</c> says whether image i is a fake, <c>scores[i]</c> how much the model takes it for one. They must be equal in number,
/// at least one, and the scores finite; probabilities must lie in 0 … 1. Otherwise an <see cref="EvaluationException"/> says what is wrong.
/// </remarks>
public static class Metrics
{
    /// <summary>Counts of right and wrong answers when a score at or above <paramref name="threshold"/> means fake.</summary>
    public static ConfusionMatrix Confusion(bool[] truth, double[] scores, double threshold = 0.5)
    {
        Check(truth, scores);
        int tp = 0, fn = 0, fp = 0, tn = 0;
        for (var i = 0; i < truth.Length; i++)
            _ = (truth[i], scores[i] >= threshold) switch { (true, true) => tp++, (true, false) => fn++, (false, true) => fp++, _ => tn++ };
        return new ConfusionMatrix(tp, fn, fp, tn);
    }

    /// <summary>The share of right answers.</summary>
    public static double Accuracy(bool[] truth, double[] scores, double threshold = 0.5) => Confusion(truth, scores, threshold).Accuracy;

    /// <summary>Area under the ROC curve: the chance that a fake scores above a real image. NaN where a class is absent.</summary>
    public static double Auc(bool[] truth, double[] scores) => Rank(truth, scores).Auc();

    /// <summary>The standard error of an area under the ROC curve (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).</summary>
    /// <param name="auc">From 0 to 1.</param>
    /// <param name="fakes">How many there were.</param>
    /// <param name="reals">How many there were.</param>
    public static double AucError(double auc, int fakes, int reals)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(fakes, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(reals, 1);
        var (q1, q2, square) = (auc / (2 - auc), 2 * auc * auc / (1 + auc), auc * auc); // the paper's: that two fakes score above a real image, that a fake scores above two
        return Math.Sqrt((auc * (1 - auc) + (fakes - 1) * (q1 - square) + (reals - 1) * (q2 - square)) / ((double)fakes * reals));
    }

    /// <summary>Average precision, the step-wise area under the precision-recall curve.</summary>
    public static double AveragePrecision(bool[] truth, double[] scores) => Rank(truth, scores).AveragePrecision();

    /// <summary>True against false-positive rate at every threshold (<c>roc_curve</c> with <c>drop_intermediate=False</c>).</summary>
    public static RocCurve Roc(bool[] truth, double[] scores) => Rank(truth, scores).Roc();

    /// <summary>Precision against recall at every threshold.</summary>
    public static PrecisionRecallCurve PrecisionRecall(bool[] truth, double[] scores) => Rank(truth, scores).PrecisionRecall();

    /// <summary>The area under a curve by the trapezoid rule, as <c>sklearn.metrics.auc</c>; x must not fall.</summary>
    public static double Area(double[] x, double[] y)
    {
        double area = 0;
        for (var i = 1; i < x.Length; i++)
            area += (x[i] - x[i - 1]) * (y[i] + y[i - 1]) / 2;
        return area;
    }

    /// <summary>Mean negative logarithm of the probability given to the truth, in nats, bounded as scikit-learn bounds it.</summary>
    public static double LogLoss(bool[] truth, double[] probabilities)
    {
        CheckProbabilities(truth, probabilities);
        return truth.Zip(probabilities, LogLoss).Average();
    }

    /// <summary>Mean squared distance of the probability from the truth (0 or 1).</summary>
    public static double Brier(bool[] truth, double[] probabilities)
    {
        CheckProbabilities(truth, probabilities);
        return truth.Zip(probabilities, Brier).Average();
    }

    /// <summary>
    /// Expected calibration error: the mean distance between what the model said and what was so over equally wide bins, weighted by
    /// their counts (Naeini et al. 2015, for the probability of the positive class).
    /// </summary>
    public static double CalibrationError(bool[] truth, double[] probabilities, int bins = 10) =>
        Reliability(truth, probabilities, bins).Where(b => b.Count > 0).Sum(b => b.Count * Math.Abs(b.MeanProbability - b.FakeShare)) / truth.Length;

    /// <summary>What the model said against what was so, in equally wide bins (<c>calibration_curve</c>).</summary>
    public static ReliabilityBin[] Reliability(bool[] truth, double[] probabilities, int bins = 10)
    {
        CheckProbabilities(truth, probabilities);
        ArgumentOutOfRangeException.ThrowIfLessThan(bins, 1);
        var (count, said, fake) = (new int[bins], new double[bins], new double[bins]);
        for (var i = 0; i < truth.Length; i++)
        {
            var bin = Bin(probabilities[i], bins);
            count[bin]++;
            said[bin] += probabilities[i];
            fake[bin] += truth[i] ? 1 : 0;
        }
        return [.. count.Select((n, b) => new ReliabilityBin(b / (double)bins, (b + 1) / (double)bins, n, said[b] / n, fake[b] / n))];
    }

    internal static double LogLoss(bool truth, double probability)
    {
        const double eps = 2.220446049250313e-16; // the distance from 1 to the next double; scikit-learn clips to it
        var p = Math.Clamp(probability, eps, 1 - eps);
        return -Math.Log(truth ? p : 1 - p);
    }

    internal static double Brier(bool truth, double probability) => Math.Pow(probability - (truth ? 1 : 0), 2);

    /// <summary>The bin of (b/bins, (b+1)/bins] that holds <paramref name="probability"/>; 0 falls into the first.</summary>
    internal static int Bin(double probability, int bins)
    {
        var bin = Math.Clamp((int)Math.Ceiling(probability * bins) - 1, 0, bins - 1);
        // the edges are numpy's linspace; the product above may round to the other side of one
        if (bin > 0 && probability <= bin * (1.0 / bins))
            return bin - 1;
        return bin < bins - 1 && probability > (bin + 1) * (1.0 / bins) ? bin + 1 : bin;
    }

    internal static RankedScores Rank(bool[] truth, double[] scores)
    {
        Check(truth, scores);
        return new RankedScores(truth, scores);
    }

    internal static void CheckProbabilities(bool[] truth, double[] probabilities)
    {
        Check(truth, probabilities);
        if (probabilities.FirstOrDefault(p => p is < 0 or > 1, 0) is var bad && bad != 0)
            throw new EvaluationException("A probability lies outside 0 … 1", bad.ToString(CultureInfo.InvariantCulture),
                "Pass probabilities (softmax or sigmoid of the logits), not logits");
    }

    private static void Check(bool[] truth, double[] scores)
    {
        if (truth.Length != scores.Length)
            throw new EvaluationException("Truth and scores differ in number", $"{truth.Length} and {scores.Length}", "Pass one score for each image");
        if (truth.Length == 0)
            throw new EvaluationException("There is nothing to evaluate", null, "Pass at least one image");
        if (Array.FindIndex(scores, s => !double.IsFinite(s)) is var bad and >= 0)
            throw new EvaluationException("A score is not a finite number", $"{scores[bad].ToString(CultureInfo.InvariantCulture)} at index {bad}",
                "The model has diverged; train it with a smaller learning rate");
    }
}
