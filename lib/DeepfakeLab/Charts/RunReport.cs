using System.Globalization;

namespace DeepfakeLab;

/// <summary>The page that a training leaves: what was trained on what, how it went, and how good it is.</summary>
public static class RunReport
{
    /// <summary>Writes the page, one file that opens without a network.</summary>
    public static void Write(string path, TrainingRun run, FaceDataset data, EvaluationReport test)
    {
        var title = $"{run.Model.Name}, {run.Recipe.Name}{(data.IsSample ? ", on the painted sample" : "")}";
        HtmlReport.Write(path, title, [Summary(run, data, test), Training(run), Test(test), Mistakes(test), Settings(run, data)]);
    }

    /// <summary>The history's curves; the mark stands at the epoch that was kept.</summary>
    public static Figure Curves(TrainingRun run)
    {
        var epochs = run.History;
        return Charts.TrainingCurves([.. epochs.Select(e => e.TrainLoss)], [.. epochs.Select(e => e.ValidationLoss)], [.. epochs.Select(e => e.ValidationAccuracy)],
            [.. epochs.Select(e => e.ValidationAuc)], epochs.ToList().IndexOf(run.Best) + 1, epochs.Count(e => e.Phase == "head") + 1);
    }

    private static ReportSection Summary(TrainingRun run, FaceDataset data, EvaluationReport test)
    {
        var section = new ReportSection("What this is")
            .Text($"A {run.Model.Name} told {string.Join(" from ", data.Classes)} on {test.N} test images that it had not seen, none of which shows a photo that it learned from: "
                + $"accuracy {test.Accuracy}, AUC {test.Auc} (95 % bootstrap intervals).");
        return data.IsSample
            ? section.Text("The images are painted faces, a sample that comes with the project. These figures say nothing about photographs.")
            : section;
    }

    private static ReportSection Training(TrainingRun run) => new ReportSection("Training")
        .Text($"A new head on frozen features first, then fine-tuning. Kept: {run.Best.Phase}, epoch {run.Best.Epoch}, which had the highest AUC on the validation images.")
        .Add(Curves(run));

    private static ReportSection Test(EvaluationReport test) => new ReportSection("Test")
        .Add(test)
        .Add(Charts.Confusion(test.Confusion))
        .Add(Charts.RocAndPrecisionRecall(test))
        .Add(Charts.Reliability(test))
        .Add(Charts.BySlice("By difficulty", test.ByDifficulty))
        .Add(Charts.BySlice("By replaced part", test.ByPart));

    private static ReportSection Mistakes(EvaluationReport test)
    {
        var section = new ReportSection("Most confident mistakes");
        var wrong = test.Predictions.Where(p => p.IsFake != p.FakeProbability >= test.Threshold)
            .OrderByDescending(p => Math.Abs(p.FakeProbability - test.Threshold)).Take(12).ToList();
        return wrong.Count == 0 ? section.Text("There are none.") : section.Add(Charts.Predictions("Where the model was surest and wrong", wrong, test.Threshold));
    }

    private static ReportSection Settings(TrainingRun run, FaceDataset data) => new ReportSection("Settings")
        .Facts([
            ("data", data.ToString()),
            ("data fingerprint", data.Fingerprint),
            ("split", $"{run.Split.Train.Count} training, {run.Split.Validation.Count} validation, {run.Split.Test.Count} test images"),
            ("weights", run.Model.WeightsOrigin.Description),
            ("seed", run.Seed.ToString(CultureInfo.InvariantCulture)),
            ("device", $"{LabRuntime.Device}, {LabRuntime.Threads} threads"),
            .. run.Recipe.Settings(),
        ]);
}
