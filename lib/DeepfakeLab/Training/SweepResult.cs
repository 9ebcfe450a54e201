using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>How far a task is.</summary>
public enum SweepState
{
    /// <summary>Nothing is there.</summary>
    ToDo,

    /// <summary>An epoch at least is done.</summary>
    Begun,

    /// <summary>It ended with an error.</summary>
    Failed,

    /// <summary>There is a result, but of other settings than the file's.</summary>
    Outdated,

    Done,
}

/// <summary>What a task leaves: its figures, and the predictions that they were made from.</summary>
/// <param name="Settings">Hash of everything but the images.</param>
/// <param name="Data">Fingerprint of the images.</param>
/// <param name="Weights">The SHA-256 of the weights it began with, else what they were.</param>
internal sealed record SweepResult(string Id, string Settings, string Data, bool IsSample, string Weights, ProtocolRun Run)
{
    private const string FileName = "result.json";
    private const long LargestFile = 64L << 20;
    private static readonly JsonSerializerOptions json = new(JsonSerializerDefaults.Web)
    {
        NumberHandling = System.Text.Json.Serialization.JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };

    /// <summary>One test image.</summary>
    private sealed record Row(string Image, bool Fake, double P, int Group);

    /// <summary>Whole or not at all, and last of all files.</summary>
    public void Write(string folder, TimeSpan time) => AtomicFile.WriteText(Path.Combine(folder, FileName), new JsonObject
    {
        ["format"] = 1,
        ["id"] = Id,
        ["settings"] = Settings,
        ["data"] = Data,
        ["sample"] = IsSample,
        ["weights"] = Weights,
        ["device"] = LabRuntime.Device.ToString(),
        ["threads"] = LabRuntime.Threads,
        ["seconds"] = Math.Round(time.TotalSeconds, 1),
        ["seed"] = Run.Seed,
        ["fold"] = Run.Fold,
        ["best"] = JsonSerializer.SerializeToNode(Run.Best, json),
        ["threshold"] = Run.Threshold,
        ["test"] = Run.Test.ToJson(),
        ["predictions"] = JsonSerializer.SerializeToNode(Run.Test.Predictions.Select(p => new Row(p.Image.Name, p.IsFake, p.FakeProbability, p.Image.Group)), json),
    }.ToJsonString() + "\n");

    /// <summary>Whether there is a result, of whatever.</summary>
    public static bool Exists(SweepFile file, SweepTask task) => File.Exists(Path.Combine(file.Folder(task), FileName));

    /// <summary>Whether there is a good result of the file's settings and these images.</summary>
    public static bool IsDone(SweepFile file, SweepTask task, string data)
    {
        try
        {
            return Look(file, task).Result?.Data == data;
        }
        catch (SweepException)
        {
            return false;
        }
    }

    /// <summary>A task's result if it is there and of the file's settings, and how far the task is.</summary>
    /// <exception cref="SweepException">The result is damaged.</exception>
    public static (SweepResult? Result, SweepState State) Look(SweepFile file, SweepTask task)
    {
        var folder = file.Folder(task);
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
            return (null, !Directory.Exists(folder) ? SweepState.ToDo
                : File.Exists(Path.Combine(folder, Sweep.ErrorFile)) ? SweepState.Failed
                : Directory.EnumerateFiles(folder, "checkpoint-*.safetensors").Any() ? SweepState.Begun : SweepState.ToDo);
        if (new FileInfo(path).Length > LargestFile)
            throw Damaged(path, null);
        try
        {
            var read = JsonNode.Parse(File.ReadAllText(path))!;
            if ((string)read["settings"]! != file.SettingsHash(task))
                return (null, SweepState.Outdated);
            var rows = read["predictions"].Deserialize<Row[]>(json)!.Select(r => new Prediction(Image(r), r.Fake, r.P)).ToArray();
            var (threshold, sample) = ((double)read["threshold"]!, (bool)read["sample"]!);
            var run = new ProtocolRun(task.Seed, task.Fold, read["best"].Deserialize<EpochFigures[]>(json)!, threshold, EvaluationReport.From(rows, threshold, resamples: 0, isSample: sample));
            return (new SweepResult(task.Id, (string)read["settings"]!, (string)read["data"]!, sample, (string)read["weights"]!, run), SweepState.Done);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or NullReferenceException or ArgumentException or FormatException or EvaluationException)
        {
            throw Damaged(path, e);
        }

        static FaceImage Image(Row row)
        {
            var (difficulty, replaced) = CiplabName.Decode(row.Image[(row.Image.LastIndexOf('/') + 1)..]);
            return new FaceImage(row.Image, "", row.Fake ? 0 : 1, difficulty, replaced, row.Group);
        }

        static SweepException Damaged(string path, Exception? cause) => new("The task's result is damaged", path, "Remove it and run the task again", cause);
    }
}
