using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Cli;

/// <summary><c>evaluate</c>: finished runs on images they have not seen.</summary>
internal static class EvaluateCommand
{
    private static readonly JsonSerializerOptions indented = new() { WriteIndented = true };

    public static Command Create()
    {
        var runs = new Option<DirectoryInfo[]>("--run")
        {
            Description = "The --out folder of a finished training; several are compared",
            Required = true,
            AllowMultipleArgumentsPerToken = true,
        };
        var report = new Option<FileInfo?>("--report") { Description = "Write a page that sets several runs beside each other" };
        report.Validators.Add(result =>
        {
            if (result.GetValue(runs) is { Length: < 2 })
                result.AddError("--report compares several runs: give --run twice or more.");
        });
        var (data, json, strict) = (CommonOptions.Data(), CommonOptions.Json(), CommonOptions.Strict());
        var command = new Command("evaluate", """
            Test trained models on a folder of faces. Images that any of them was trained on or chosen by are known by their content and left out.
            Several runs are tested on the same images, and compared.

            Examples:
              deepfakelab evaluate --run artifacts/run --data faces
              deepfakelab evaluate --run artifacts/run --data faces --json
              deepfakelab evaluate --run artifacts/first artifacts/second --data faces --report artifacts/compared.html
            """) { runs, data, report, json, strict };
        command.SetAction((parsed, cancellation) =>
        {
            var asJson = parsed.GetValue(json);
            string[] folders = [.. parsed.GetValue(runs)!.Select(r => r.FullName).Distinct()];
            using var progress = TerminalProgress.Show();
            var (dataset, reports) = Test(folders, parsed.GetValue(data)?.FullName, parsed.GetValue(strict), asJson ? Console.Error : Console.Out, cancellation);
            if (folders.Length == 1 && asJson)
                Console.WriteLine(reports[0].Report.ToJson().ToJsonString(indented));
            else if (folders.Length == 1)
                CommonOptions.Print(reports[0].Report);
            else
                Compare(reports, asJson);
            if (parsed.GetValue(report) is { } page)
            {
                ComparisonReport.Write(page.FullName, reports, dataset);
                (asJson ? Console.Error : Console.Out).WriteLine($"written   {page.FullName}");
            }
            return Task.FromResult(0);
        });
        return command;
    }

    private static (FaceDataset, List<(string Name, EvaluationReport Report)>) Test(string[] folders, string? data, bool strict, TextWriter output, CancellationToken cancellation)
    {
        var runs = new List<SavedRun>();
        try
        {
            foreach (var folder in folders)
                runs.Add(RunFolder.Open(folder));
            var dataset = CommonOptions.Open(data, strict, output);
            FaceImage[] images = [.. runs.Aggregate((IEnumerable<FaceImage>)dataset.Images, (left, run) => left.Intersect(RunFolder.Unseen(run, dataset)))];
            if (images.Length < dataset.Images.Count)
                output.WriteLine($"left out  {dataset.Images.Count - images.Length} images that {(folders.Length == 1 ? "the run was" : "one of the runs was")} trained on or chosen by");
            if (images.Length == 0)
                throw new DataException(folders.Length == 1 ? "The run has seen every image of the folder" : "Every image of the folder was seen by one of the runs", dataset.Root, "Give images they were not trained on");
            return (dataset, [.. runs.Select((run, i) => (Name(folders, i), EvaluationReport.From(
                Predictor.Predict(run.Members, images, run.Preprocessing, run.FakeClass, run.MirrorScores, cancellation), isSample: dataset.IsSample)))]);
        }
        finally
        {
            runs.ForEach(run => run.Dispose());
        }
    }

    /// <summary>The folder's own name, or where two are alike, with as many of those above it as tell them apart.</summary>
    private static string Name(string[] folders, int i)
    {
        string[] parts = folders[i].Split(Path.DirectorySeparatorChar, StringSplitOptions.RemoveEmptyEntries);
        for (var count = 1; count < parts.Length; count++)
        {
            var name = string.Join('/', parts[^count..]);
            if (!folders.Where((_, j) => j != i).Any(other => ("/" + other.Replace(Path.DirectorySeparatorChar, '/')).EndsWith("/" + name, StringComparison.Ordinal)))
                return name;
        }
        return folders[i];
    }

    private static void Compare(List<(string Name, EvaluationReport Report)> reports, bool asJson)
    {
        var pairs = ComparisonReport.Pairs(reports).ToList();
        if (asJson)
        {
            Console.WriteLine(new JsonObject
            {
                ["runs"] = new JsonObject(reports.Select(r => KeyValuePair.Create(r.Name, (JsonNode?)r.Report.ToJson()))),
                ["pairs"] = new JsonArray([.. pairs.Select(p => (JsonNode)new JsonObject
                {
                    ["first"] = p.First, ["second"] = p.Second, ["aucDifference"] = p.Auc.Difference.Value, ["interval"] = new JsonArray(p.Auc.Difference.Low, p.Auc.Difference.High),
                    ["deLong"] = p.Auc.PValue, ["onlyFirst"] = p.Answers.OnlyFirst, ["onlySecond"] = p.Answers.OnlySecond, ["mcNemar"] = p.Answers.PValue,
                })]),
            }.ToJsonString(indented));
            return;
        }
        Console.WriteLine($"test      the same {reports[0].Report.N} images for all; fake is positive; 95 % bootstrap intervals");
        foreach (var (name, report) in reports)
            Console.WriteLine($"  {name}: accuracy {report.Accuracy}, AUC {report.Auc}");
        foreach (var p in pairs)
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"pair      {p.First} - {p.Second}: AUC {p.Auc.Difference}, DeLong p {p.Auc.PValue:0.###}; right only by the first {p.Answers.OnlyFirst}, only by the second {p.Answers.OnlySecond}, McNemar p {p.Answers.PValue:0.###}"));
    }
}
