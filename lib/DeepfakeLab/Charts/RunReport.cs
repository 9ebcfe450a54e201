using System.Globalization;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The page that a training leaves: what was trained on what, how it went, and how good it is.</summary>
public static class RunReport
{
    private const int Shown = 12;

    /// <summary>Writes the page, one file that opens without a network.</summary>
    public static void Write(string path, TrainingRun run, FaceDataset data, EvaluationReport test)
    {
        var title = $"{run.Model.Name}, {run.Recipe.Name}{(data.IsSample ? ", on the painted sample" : "")}";
        HtmlReport.Write(path, title, [Summary(run, data, test), Training(run), Test(test), Mistakes(test), Heat(run, data, test), Settings(run, data)]);
    }

    /// <summary>The history's curves; the mark stands at the epoch that was kept.</summary>
    public static Figure Curves(TrainingRun run) => Charts.TrainingCurves(run.History, run.Best);

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

    private static ReportSection Test(EvaluationReport test)
    {
        var section = new ReportSection("Test").Add(test).Add(Charts.Confusion(test.Confusion)).Add(Charts.RocAndPrecisionRecall(test)).Add(Charts.Reliability(test));
        foreach (var (title, slices) in ((string, IReadOnlyList<Slice>)[])[("By difficulty", test.ByDifficulty), ("By replaced part", test.ByPart)])
        {
            if (slices.Count > 0)
                section.Add(Charts.BySlice(title, slices));
        }
        return section;
    }

    private static ReportSection Mistakes(EvaluationReport test)
    {
        var section = new ReportSection("Most confident mistakes");
        var wrong = test.MostConfidentMistakes(Shown);
        return wrong.Count == 0 ? section.Text("There are none.") : section.Add(Charts.Predictions("Where the model was surest and wrong", wrong, test.Threshold));
    }

    /// <summary>Grad-CAM of the fakes that the model found most surely.</summary>
    private static ReportSection Heat(TrainingRun run, FaceDataset data, EvaluationReport test)
    {
        var section = new ReportSection("What it looks at");
        Prediction[] found = [.. test.Predictions.Where(p => p.IsFake && p.FakeProbability >= test.Threshold)
            .OrderByDescending(p => p.FakeProbability).ThenBy(p => p.Image.Name, StringComparer.Ordinal).Take(Shown)];
        if (found.Length == 0)
            return section.Text("The model found no fake.");
        RgbImage[] images = [.. found.Select(p => run.Preprocessing.Apply(ImageReader.Read(p.Image.Path)))];
        using var scope = NewDisposeScope();
        var batch = run.Preprocessing.Normalize(stack([.. images.Select(Preprocessing.ToTensor)]));
        return section
            .Text("Grad-CAM: places that speak for a fake, bright where they count most. These fakes were found most surely.")
            .Add(Charts.Explanations("Grad-CAM for fake", images, Explain.GradCam(run.Model, batch, data.FakeClass),
                [.. found.Select(p => $"{p.Image.Name.Split('/')[^1]}\n{(p.Image.Replaced == FaceParts.None ? "" : p.Image.Replaced)}")]));
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
