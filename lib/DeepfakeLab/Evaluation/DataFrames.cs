using Microsoft.Data.Analysis;

namespace DeepfakeLab;

/// <summary>The tables of an evaluation as data frames, for filtering, joining and plotting in a notebook.</summary>
public static class DataFrames
{
    /// <summary>One row a figure: figure, value, low, high.</summary>
    public static DataFrame ToDataFrame(this EvaluationReport report) => new(
        new StringDataFrameColumn("figure", report.Figures.Select(f => f.Name)),
        new DoubleDataFrameColumn("value", report.Figures.Select(f => f.Estimate.Value)),
        new DoubleDataFrameColumn("low", report.Figures.Select(f => f.Estimate.Low)),
        new DoubleDataFrameColumn("high", report.Figures.Select(f => f.Estimate.High)));

    /// <summary>One row a difficulty or part: name, n, and recall and AUC with their intervals.</summary>
    public static DataFrame ToDataFrame(this IReadOnlyList<Slice> slices) => new(
        new StringDataFrameColumn("name", slices.Select(s => s.Name)),
        new Int32DataFrameColumn("n", slices.Select(s => s.N)),
        new DoubleDataFrameColumn("recall", slices.Select(s => s.Recall.Value)),
        new DoubleDataFrameColumn("recallLow", slices.Select(s => s.Recall.Low)),
        new DoubleDataFrameColumn("recallHigh", slices.Select(s => s.Recall.High)),
        new DoubleDataFrameColumn("auc", slices.Select(s => s.Auc.Value)),
        new DoubleDataFrameColumn("aucLow", slices.Select(s => s.Auc.Low)),
        new DoubleDataFrameColumn("aucHigh", slices.Select(s => s.Auc.High)));

    /// <summary>One row an image: name, isFake, fakeProbability, difficulty, replaced, group.</summary>
    public static DataFrame ToDataFrame(this IReadOnlyList<Prediction> predictions) => new(
        new StringDataFrameColumn("name", predictions.Select(p => p.Image.Name)),
        new BooleanDataFrameColumn("isFake", predictions.Select(p => p.IsFake)),
        new DoubleDataFrameColumn("fakeProbability", predictions.Select(p => p.FakeProbability)),
        new StringDataFrameColumn("difficulty", predictions.Select(p => p.Image.Difficulty?.ToString().ToLowerInvariant() ?? "")),
        new StringDataFrameColumn("replaced", predictions.Select(p => p.Image.Replaced == FaceParts.None ? "" : p.Image.Replaced.ToString())),
        new Int32DataFrameColumn("group", predictions.Select(p => p.Image.Group)));

    /// <summary>One row a bin: from, to, count, meanProbability, fakeShare.</summary>
    public static DataFrame ToDataFrame(this IReadOnlyList<ReliabilityBin> bins) => new(
        new DoubleDataFrameColumn("from", bins.Select(b => b.From)),
        new DoubleDataFrameColumn("to", bins.Select(b => b.To)),
        new Int32DataFrameColumn("count", bins.Select(b => b.Count)),
        new DoubleDataFrameColumn("meanProbability", bins.Select(b => b.MeanProbability)),
        new DoubleDataFrameColumn("fakeShare", bins.Select(b => b.FakeShare)));

    /// <summary>One row a training size: images, and accuracy and AUC with their intervals.</summary>
    public static DataFrame ToDataFrame(this IReadOnlyList<LearningCurvePoint> curve) => new(
        new Int32DataFrameColumn("trainingImages", curve.Select(p => p.TrainingImages)),
        new DoubleDataFrameColumn("accuracy", curve.Select(p => p.Report.Accuracy.Value)),
        new DoubleDataFrameColumn("accuracyLow", curve.Select(p => p.Report.Accuracy.Low)),
        new DoubleDataFrameColumn("accuracyHigh", curve.Select(p => p.Report.Accuracy.High)),
        new DoubleDataFrameColumn("auc", curve.Select(p => p.Report.Auc.Value)),
        new DoubleDataFrameColumn("aucLow", curve.Select(p => p.Report.Auc.Low)),
        new DoubleDataFrameColumn("aucHigh", curve.Select(p => p.Report.Auc.High)));
}
