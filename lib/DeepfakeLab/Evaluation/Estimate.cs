using System.Globalization;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>A figure with its 95 % bootstrap interval. NaN where the figure has no meaning, such as an AUC with one class absent.</summary>
public readonly record struct Estimate(double Value, double Low, double High)
{
    /// <summary>"0.746 (0.702–0.790)".</summary>
    public override string ToString() =>
        double.IsNaN(Value) ? "not defined"
        : double.IsNaN(Low) ? Value.ToString("0.000", CultureInfo.InvariantCulture)
        : string.Create(CultureInfo.InvariantCulture, $"{Value:0.000} ({Low:0.000}–{High:0.000})");

    /// <summary>JSON has no NaN, so that becomes null.</summary>
    internal static JsonValue? Number(double value) => double.IsFinite(value) ? JsonValue.Create(value) : null;
}

/// <summary>A model's answer for one image of known truth.</summary>
/// <param name="IsFake">The truth; fake is the positive class everywhere.</param>
/// <param name="FakeProbability">The model's probability, from 0 to 1, that the image is a fake.</param>
public sealed record Prediction(FaceImage Image, bool IsFake, double FakeProbability);
