using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>Counts of right and wrong answers; fake is positive. A ratio without a denominator is 0, as in scikit-learn.</summary>
public readonly record struct ConfusionMatrix(int TruePositives, int FalseNegatives, int FalsePositives, int TrueNegatives)
{
    /// <summary>Images counted.</summary>
    public int Total => TruePositives + FalseNegatives + FalsePositives + TrueNegatives;

    /// <summary>The share that is right.</summary>
    public double Accuracy => Ratio(TruePositives + TrueNegatives, Total);

    /// <summary>Of the images called fake, the share that is.</summary>
    public double Precision => Ratio(TruePositives, TruePositives + FalsePositives);

    /// <summary>Of the fakes, the share that was found: the true-positive rate.</summary>
    public double Recall => Ratio(TruePositives, TruePositives + FalseNegatives);

    /// <summary>Of the real images, the share called real: the true-negative rate.</summary>
    public double Specificity => Ratio(TrueNegatives, TrueNegatives + FalsePositives);

    /// <summary>The harmonic mean of precision and recall.</summary>
    public double F1 => Ratio(2.0 * TruePositives, 2.0 * TruePositives + FalsePositives + FalseNegatives);

    /// <summary>The mean of recall and specificity; where a class is absent, the other one's rate.</summary>
    public double BalancedAccuracy =>
        TruePositives + FalseNegatives == 0 ? Specificity
        : TrueNegatives + FalsePositives == 0 ? Recall
        : (Recall + Specificity) / 2;

    /// <summary>Matthews' correlation coefficient, from -1 to 1.</summary>
    public double Mcc
    {
        get
        {
            double tp = TruePositives, fn = FalseNegatives, fp = FalsePositives, tn = TrueNegatives;
            return Ratio(tp * tn - fp * fn, Math.Sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)));
        }
    }

    /// <summary>The four counts, and the same as a matrix: rows the truth, columns the answer, fake first.</summary>
    public JsonObject ToJson() => new()
    {
        ["labels"] = new JsonArray("fake", "real"),
        ["matrix"] = new JsonArray(new JsonArray(TruePositives, FalseNegatives), new JsonArray(FalsePositives, TrueNegatives)),
        ["tp"] = TruePositives,
        ["fn"] = FalseNegatives,
        ["fp"] = FalsePositives,
        ["tn"] = TrueNegatives,
    };

    private static double Ratio(double part, double whole) => whole == 0 ? 0 : part / whole;
}
