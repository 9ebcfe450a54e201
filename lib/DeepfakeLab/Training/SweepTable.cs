using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>What the seeds and folds of one recipe and model say together.</summary>
/// <param name="Result">Null where none of them is done.</param>
/// <param name="Tasks">How many there are, done or not.</param>
public sealed record SweepRow(string Recipe, string Model, ProtocolResult? Result, int Tasks);

/// <summary>How far a task is.</summary>
/// <param name="Reason">The same in words, with the error where there was one.</param>
public sealed record SweepStatus(SweepTask Task, SweepState State, string Reason);

/// <summary>The results of a sweep, and what is missing of them.</summary>
public sealed class SweepTable
{
    private static readonly string[] shown = ["accuracy", "auc", "f1", "balancedAccuracy"];

    private SweepTable() { }

    public required IReadOnlyList<SweepRow> Rows { get; init; }

    public required IReadOnlyList<SweepStatus> Missing { get; init; }

    /// <summary>What makes results hard to compare; empty where nothing does.</summary>
    public required IReadOnlyList<string> Warnings { get; init; }

    /// <summary>Whether every task has its result, all of the same images and weights.</summary>
    public bool IsComplete => Missing.Count == 0 && Warnings.Count == 0;

    private bool IsSample => Rows.Any(r => r.Result?.Pooled.IsSample == true);

    /// <summary>Reads what is there. The images are not needed.</summary>
    public static SweepTable Gather(SweepFile file)
    {
        var looked = file.Tasks.Select(t => (Task: t, Found: Look(file, t))).ToList();
        var warnings = new List<string>();
        var done = looked.Where(l => l.Found.Result is not null).ToList();
        if (done.Select(l => l.Found.Result!.Data).Distinct().Count() > 1)
            warnings.Add("results are of different images: " + Parts(done.GroupBy(l => l.Found.Result!.Data, l => l.Task)));
        foreach (var model in done.GroupBy(l => l.Task.Model).Where(g => g.Select(l => l.Found.Result!.Weights).Distinct().Count() > 1))
            warnings.Add($"results of {model.Key} began with different weights: {Parts(model.GroupBy(l => l.Found.Result!.Weights, l => l.Task))}");
        return new SweepTable
        {
            Rows = [.. looked.GroupBy(l => (l.Task.Recipe.Name, l.Task.Model)).Select(g =>
            {
                var results = g.Select(l => l.Found.Result).OfType<SweepResult>().ToList();
                return new SweepRow(g.Key.Name, g.Key.Model, results.Count == 0 ? null : Protocol.Pool([.. results.Select(r => r.Run)], results[0].IsSample), g.Count());
            })],
            Missing = [.. looked.Where(l => l.Found.Result is null).Select(l => new SweepStatus(l.Task, l.Found.State, l.Found.Reason))],
            Warnings = warnings,
        };

        static string Parts(IEnumerable<IGrouping<string, SweepTask>> groups) =>
            string.Join("; ", groups.Select(g => $"{g.Key[..Math.Min(12, g.Key.Length)]} of tasks {string.Join(", ", g.Select(t => t.Index))}"));
    }

    /// <summary>How far each task is.</summary>
    public static IReadOnlyList<SweepStatus> Status(SweepFile file) =>
        [.. file.Tasks.Select(t => (Task: t, Found: Look(file, t))).Select(t => new SweepStatus(t.Task, t.Found.State, t.Found.Reason))];

    private static (SweepResult? Result, SweepState State, string Reason) Look(SweepFile file, SweepTask task)
    {
        try
        {
            var (result, state) = SweepResult.Look(file, task);
            return (result, state, state switch
            {
                SweepState.Failed => "failed. " + FirstLine(Path.Combine(file.Folder(task), Sweep.ErrorFile)),
                SweepState.Begun => "begun",
                SweepState.Outdated => "its result is of other settings",
                SweepState.Done => "done",
                _ => "to do",
            });
        }
        catch (SweepException e)
        {
            return (null, SweepState.Failed, e.Message);
        }
    }

    private static string FirstLine(string path)
    {
        using var reader = new StreamReader(path);
        var start = new char[500];
        return new string(start, 0, reader.ReadBlock(start)).Split('\n')[0].TrimEnd();
    }

    /// <summary>For people.</summary>
    public string ToText()
    {
        var text = new StringBuilder();
        var width = Rows.Max(r => r.Recipe.Length + r.Model.Length) + 3;
        text.AppendLine($"{"recipe, model".PadRight(width)} runs   {string.Join(' ', shown.Select(s => s.PadRight(20)))}".TrimEnd());
        foreach (var row in Rows)
            text.AppendLine(string.Create(CultureInfo.InvariantCulture, $"{(row.Recipe + ", " + row.Model).PadRight(width)} {$"{row.Result?.Runs.Count ?? 0}/{row.Tasks}",-6} {string.Join(' ', shown.Select(s => (row.Result?.Mean(s).ToString() ?? "-").PadRight(20)))}").TrimEnd());
        text.AppendLine("Means over the runs with 95 % t intervals; each threshold chosen on validation images.");
        if (IsSample)
            text.AppendLine("These are painted faces, a sample: the figures say nothing about photographs.");
        foreach (var warning in Warnings)
            text.AppendLine("warning   " + warning);
        foreach (var gap in Missing)
            text.AppendLine(CultureInfo.InvariantCulture, $"missing   [{gap.Task.Index}] {gap.Task.Id}: {gap.Reason}");
        return text.ToString();
    }

    /// <summary>One line a recipe and model: mean, low and high of each figure; empty where there is no figure.</summary>
    public string ToCsv()
    {
        var names = Rows.Select(r => r.Result).FirstOrDefault(r => r is not null)?.Pooled.Figures.Select(f => f.Name).ToArray() ?? shown;
        var text = new StringBuilder($"recipe,model,runs,tasks,{string.Join(',', names.Select(n => $"{n},{n}_low,{n}_high"))}\n");
        foreach (var row in Rows)
        {
            var cells = names.SelectMany(n => row.Result?.Mean(n) is { } m ? (double[])[m.Value, m.Low, m.High] : [double.NaN, double.NaN, double.NaN]);
            text.Append(CultureInfo.InvariantCulture, $"{row.Recipe},{row.Model},{row.Result?.Runs.Count ?? 0},{row.Tasks},");
            text.AppendJoin(',', cells.Select(c => double.IsFinite(c) ? c.ToString("R", CultureInfo.InvariantCulture) : "")).Append('\n');
        }
        return text.ToString();
    }

    /// <summary>All of it: each row's means, pooled figures and runs, as <see cref="ProtocolResult.ToJson"/> gives them, and what is missing.</summary>
    public JsonObject ToJson() => new()
    {
        ["complete"] = IsComplete,
        ["rows"] = new JsonArray([.. Rows.Select(r => new JsonObject
        {
            ["recipe"] = r.Recipe, ["model"] = r.Model, ["runs"] = r.Result?.Runs.Count ?? 0, ["tasks"] = r.Tasks, ["result"] = r.Result?.ToJson(),
        })]),
        ["missing"] = new JsonArray([.. Missing.Select(m => new JsonObject
        {
            ["index"] = m.Task.Index, ["id"] = m.Task.Id, ["state"] = m.State.ToString().ToLowerInvariant(), ["reason"] = m.Reason,
        })]),
        ["warnings"] = new JsonArray([.. Warnings.Select(w => (JsonNode)w)]),
    };
}
