namespace DeepfakeLab;

/// <summary>One line of a training history.</summary>
/// <param name="Phase">"head" (new head on frozen features) or "fine-tune".</param>
/// <param name="Epoch">From 1 within its phase.</param>
/// <param name="TrainLoss">Mean cross entropy over the epoch's training batches, as trained (smoothed, mixed).</param>
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
    VisionModel Model, Recipe Recipe, DataSplit Split, Preprocessing Preprocessing, long Seed, IReadOnlyList<EpochFigures> History, EpochFigures Best);
