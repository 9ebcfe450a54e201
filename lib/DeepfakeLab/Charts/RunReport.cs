using System.Globalization;

namespace DeepfakeLab;

/// <summary>What a report shows beside the run itself, where it was measured.</summary>
public sealed record RunExtras
{
    /// <summary>The range test that was made before the training.</summary>
    public LearningRateCurve? RateTest { get; init; }

    /// <summary>The same training on fewer images.</summary>
    public IReadOnlyList<LearningCurvePoint> LearningCurve { get; init; } = [];
}

/// <summary>The page that a training leaves: what was trained on what, how it went, how good it is, and where it looks.</summary>
public static partial class RunReport
{
    private const int Shown = 12;

    /// <summary>Writes the page, one file that opens without a network. The model scores validation and training images once more for it.</summary>
    public static void Write(string path, TrainingRun run, FaceDataset data, EvaluationReport test, RunExtras? extras = null)
    {
        extras ??= new RunExtras();
        var title = $"{run.Model.Name}, {run.Recipe.Name}{Sample(data)}";
        using var alike = new Alike(run, test);
        HtmlReport.Write(path, title,
        [
            Summary(run, data, test), Images(run, data), Training(run, extras), Test(test, Validation(run, data)), .. LearningCurveOf(extras),
            Mistakes(run, data, test, alike), Looks(run, data, test), alike.Plane(), Settings(run, data),
        ]);
    }

    /// <summary>Writes the page of several trainings, which are compared with each other.</summary>
    public static void Write(string path, ProtocolResult result, FaceDataset data, string model, Recipe recipe)
    {
        var runs = result.Runs.Select(r => (Name: $"seed {r.Seed}{(result.Runs.Any(o => o.Fold > 1) ? $", fold {r.Fold}" : "")}", r.Test, r.Threshold, r.Kept)).ToList();
        HtmlReport.Write(path, $"{model}, {recipe.Name}: {runs.Count} trainings{Sample(data)}",
        [
            SampleNote(new ReportSection("What this is")
                .Text($"{runs.Count} trainings of {model}, each from the pretrained weights and each tested on images that it had not seen: accuracy {result.Accuracy}, AUC {result.Auc} "
                    + "(means with 95 % t intervals over the trainings). Epoch and threshold of each were chosen on validation images."), data),
            new ReportSection("The trainings beside each other")
                .Add(Charts.Comparison("accuracy", [.. runs.Select(r => (r.Name, r.Test.Accuracy)), ("mean", result.Accuracy)]))
                .Add(Charts.Comparison("AUC", [.. runs.Select(r => (r.Name, r.Test.Auc)), ("mean", result.Auc)]))
                .Table(["training", "test images", "accuracy", "AUC", "threshold", "kept"], runs.Select(r => (string[])
                    [r.Name, Number(r.Test.N), Number(r.Test.Accuracy.Value), Number(r.Test.Auc.Value), Number(r.Threshold), r.Kept])),
            Test(result.Pooled, null, "All test answers as one, each training's probabilities shifted so that its threshold lies at 0.5."),
            new ReportSection("Most confident mistakes").AddMistakes(result.Pooled),
            new ReportSection("Settings").Facts([("data", data.ToString()), ("data fingerprint", data.Fingerprint), Device, .. recipe.Settings()]),
        ]);
    }

    /// <summary>The history's curves; the mark stands at the epoch that was kept.</summary>
    public static Figure Curves(TrainingRun run) => Charts.TrainingCurves(run.History, run.Best);

    private static (string, string) Device => ("device", $"{LabRuntime.Device}, {LabRuntime.Threads} threads");

    private static string Sample(FaceDataset data) => data.IsSample ? ", on the painted sample" : "";

    private static string Number(double value) => value.ToString("0.###", CultureInfo.InvariantCulture);

    private static ReportSection SampleNote(ReportSection section, FaceDataset data) => data.IsSample
        ? section.Text("The images are painted faces, a sample that comes with the project. These figures say nothing about photographs.") : section;

    private static ReportSection Summary(TrainingRun run, FaceDataset data, EvaluationReport test) => SampleNote(new ReportSection("What this is")
        .Text($"A {run.Model.Name} told {string.Join(" from ", data.Classes)} on {test.N} test images that it had not seen, none of which shows a photo that it learned from: "
            + $"accuracy {test.Accuracy}, AUC {test.Auc} (95 % bootstrap intervals)."), data);

    private static ReportSection Images(TrainingRun run, FaceDataset data)
    {
        var section = new ReportSection("The images");
        foreach (var (label, name) in data.Classes.Index())
        {
            FaceImage[] ofClass = [.. run.Split.Train.Where(i => i.Label == label)];
            if (ofClass.Length > 0)
                section.Add(Charts.ImageGrid($"Some of the training images: {name}", [.. Spread(ofClass, 6).Select(i => (ImageReader.Read(i.Path), Caption(i)))]));
        }
        return section;
    }

    private static ReportSection Training(TrainingRun run, RunExtras extras)
    {
        var section = new ReportSection("Training")
            .Text($"A new head on frozen features first, then fine-tuning. Kept: {run.Best.Phase}, epoch {run.Best.Epoch}, {(run.Recipe.KeepLatest ? "the latest whose AUC on the validation images lay within a standard error of the highest" : "which had the highest AUC on the validation images")}.")
            .Add(Curves(run));
        return extras.RateTest is not { } rates ? section : section
            .Text("Before it a short training at a growing rate, to see which rates learn; the weights were then put back.")
            .Add(Charts.LearningRateFinder([.. rates.Points.Select(p => p.Rate)], [.. rates.Points.Select(p => p.Smoothed)], rates.Suggestion));
    }

    /// <summary>The validation images' answers, to fit a temperature on; null where a class is absent.</summary>
    private static IReadOnlyList<Prediction>? Validation(TrainingRun run, FaceDataset data)
    {
        var answers = Predictor.Predict(run.Model, run.Split.Validation, run.Preprocessing, data.FakeClass, run.Recipe.MirrorScores, trainingMode: run.Recipe.ScoreInTrainingMode);
        return answers.Select(p => p.IsFake).Distinct().Count() == 2 ? answers : null;
    }

    private static ReportSection Test(EvaluationReport test, IReadOnlyList<Prediction>? validation, string? before = null)
    {
        var section = new ReportSection("Test");
        section = (before is null ? section : section.Text(before)).Add(test).Add(Charts.Confusion(test.Confusion)).Add(Charts.RocAndPrecisionRecall(test)).Add(Charts.Reliability(test));
        if (validation is not null)
        {
            var scaling = TemperatureScaling.Fit([.. validation.Select(p => p.IsFake)], [.. validation.Select(p => p.FakeProbability)]);
            section.Add(Charts.Reliability(EvaluationReport.From([.. test.Predictions.Select(scaling.Apply)], test.Threshold, isSample: test.IsSample),
                    $"At temperature {scaling.Temperature.ToString("0.00", CultureInfo.InvariantCulture)}"))
                .Text("The second shows the same test images with one temperature for all, fitted on the validation images: above 1 the model had been too sure of itself.");
        }
        foreach (var (title, slices) in ((string, IReadOnlyList<Slice>)[])[("By difficulty", test.ByDifficulty), ("By replaced part", test.ByPart)])
        {
            if (slices.Count > 0)
                section.Add(Charts.BySlice(title, slices));
        }
        return section;
    }

    private static IEnumerable<ReportSection> LearningCurveOf(RunExtras extras) => extras.LearningCurve.Count == 0 ? [] :
        [new ReportSection("Would more images help?").Text("The same training on parts of the training images, tested on the same test images; bands are 95 % bootstrap intervals.")
            .Add(Charts.LearningCurve(extras.LearningCurve))];

    private static ReportSection Settings(TrainingRun run, FaceDataset data) => new ReportSection("Settings")
        .Facts([
            ("data", data.ToString()),
            ("data fingerprint", data.Fingerprint),
            ("split", $"{run.Split.Train.Count} training, {run.Split.Validation.Count} validation, {run.Split.Test.Count} test images"),
            ("weights", run.Model.WeightsOrigin.Description),
            ("seed", run.Seed.ToString(CultureInfo.InvariantCulture)),
            Device,
            .. run.Recipe.Settings(),
        ]);
}
