namespace DeepfakeLab;

/// <summary>One line of a training history.</summary>
/// <param name="Phase">"head" (new head on frozen features) or "fine-tune".</param>
/// <param name="Epoch">From 1 within its phase.</param>
/// <param name="TrainLoss">Mean cross entropy over the epoch's training batches, as trained (smoothed, mixed, weighted), without penalties.</param>
/// <param name="ValidationLoss">Mean cross entropy on the validation images, in nats.</param>
/// <param name="ValidationAccuracy">Share of validation images that the threshold 0.5 gets right.</param>
/// <param name="ValidationAuc">Area under the validation ROC curve.</param>
/// <param name="LearningRate">The rate of the epoch's last step.</param>
/// <param name="Seconds">Time the epoch took, validation included.</param>
public sealed record EpochFigures(
    string Phase, int Epoch, double TrainLoss, double ValidationLoss, double ValidationAccuracy, double ValidationAuc,
    double LearningRate, double Seconds);

/// <summary>A finished training: the model as it was after its best epoch, and how it came there.</summary>
public sealed record TrainingRun(
    VisionModel Model, Recipe Recipe, DataSplit Split, Preprocessing Preprocessing, long Seed, IReadOnlyList<EpochFigures> History, EpochFigures Best)
{
    /// <summary>Whether it was cancelled before its end; the model is then the best one until then.</summary>
    public bool Stopped { get; init; }
}

/// <summary>A training was cancelled. Its model holds the best weights so far and is in eval mode.</summary>
public sealed class TrainingStoppedException(TrainingRun run, OperationCanceledException cause)
    : OperationCanceledException($"The training was stopped after {run.History.Count} epochs; the model is the one of {run.Best.Phase} epoch {run.Best.Epoch}.", cause, cause.CancellationToken)
{
    /// <summary>What was done until then.</summary>
    public TrainingRun Run { get; } = run;
}

/// <summary>The loss at each rate of a learning-rate range test.</summary>
/// <param name="Points">Rate, loss of its batch, and the loss smoothed over the batches so far (decay .98 with bias correction, as fastai).</param>
/// <param name="Suggestion">The rate at which the smoothed loss falls most steeply against the logarithm of the rate.</param>
public sealed record LearningRateCurve(IReadOnlyList<(double Rate, double Loss, double Smoothed)> Points, double Suggestion)
{
    internal static LearningRateCurve From(IReadOnlyList<(double Rate, double Loss)> raw)
    {
        var (average, points) = (0.0, new List<(double, double, double)>());
        foreach (var (i, (rate, loss)) in raw.Index())
        {
            average = 0.98 * average + 0.02 * loss;
            points.Add((rate, loss, average / (1 - Math.Pow(0.98, i + 1))));
        }
        // The first tenth is noise under a smoothing that has hardly begun; the slope is taken over a few points to either side.
        var (first, reach, best, steepest) = (points.Count / 10, Math.Max(1, points.Count / 20), raw[0].Rate, double.PositiveInfinity);
        for (var i = first + reach; i < points.Count - reach; i++)
        {
            var slope = (points[i + reach].Item3 - points[i - reach].Item3) / Math.Log(points[i + reach].Item1 / points[i - reach].Item1);
            if (slope < steepest)
                (best, steepest) = (points[i].Item1, slope);
        }
        return new LearningRateCurve(points, best);
    }
}
