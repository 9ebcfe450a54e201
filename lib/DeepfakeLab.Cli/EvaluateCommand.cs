using System.CommandLine;
using System.Text.Json;

namespace DeepfakeLab.Cli;

/// <summary><c>evaluate</c>: a finished run on images it has not seen.</summary>
internal static class EvaluateCommand
{
    public static Command Create()
    {
        var (run, data, json, strict) = (CommonOptions.RunDirectory(), CommonOptions.Data(), CommonOptions.Json(), CommonOptions.Strict());
        var command = new Command("evaluate", """
            Test a trained model on a folder of faces. Images that it was trained on or chosen by are known by their content and left out.

            Examples:
              deepfakelab evaluate --run artifacts/run --data faces
              deepfakelab evaluate --run artifacts/run --data faces --json
            """) { run, data, json, strict };
        command.SetAction((parsed, cancellation) =>
        {
            var asJson = parsed.GetValue(json);
            using var progress = TerminalProgress.Show();
            var saved = RunFolder.Open(parsed.GetValue(run)!.FullName);
            using var model = saved.Model;
            var dataset = CommonOptions.Open(parsed.GetValue(data)?.FullName, parsed.GetValue(strict), asJson ? Console.Error : Console.Out);
            if (!dataset.Classes.SequenceEqual(saved.Classes))
                throw new DataException("The folder's classes are not those of the run", string.Join(", ", dataset.Classes),
                    "Give a folder whose classes are " + string.Join(", ", saved.Classes));
            var images = RunFolder.Unseen(saved, dataset);
            if (images.Count < dataset.Images.Count)
                (asJson ? Console.Error : Console.Out).WriteLine($"left out  {dataset.Images.Count - images.Count} images that the run was trained on or chosen by");
            if (images.Count == 0)
                throw new DataException("The run has seen every image of the folder", dataset.Root, "Give images it was not trained on");
            var report = EvaluationReport.From(
                Predictor.Predict(model, images, saved.Preprocessing, saved.FakeClass, saved.MirrorScores, cancellation), isSample: dataset.IsSample);
            if (asJson)
                Console.WriteLine(report.ToJson().ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
            else
                CommonOptions.Print(report);
            return Task.FromResult(0);
        });
        return command;
    }
}
