using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using static TorchSharp.torch;

namespace DeepfakeLab.Benchmarks;

/// <summary>
/// <c>compare</c>: this library beside Debian's torch and ONNX Runtime, in turns within one run, on the same random weights, with the same
/// threads. Each side of each row is a process of its own. Medians and their spread; ratios above 1 say that this library is faster.
/// </summary>
internal static class Program
{
    private static int Main(string[] args)
    {
        var json = new Option<FileInfo?>("--json") { Description = "Write the figures there. Rows that a file has already and that are not measured now are kept" };
        var rows = new Option<string[]>("--rows")
        {
            Description = "Only rows whose name contains one of these, such as mobilenet_v2, features, training, decode, predict, experiment",
            AllowMultipleArgumentsPerToken = true,
        };
        var rounds = new Option<int>("--rounds") { Description = "Times that the sides take turns", DefaultValueFactory = _ => 5 };
        var compare = new Command("compare", "Compare with Debian's torch on this machine. Leave it alone meanwhile.") { json, rows, rounds };
        compare.SetAction(parsed => Compare(parsed.GetValue(json)?.FullName, parsed.GetValue(rows) ?? [], parsed.GetValue(rounds)));
        var variant = new Argument<string>("VARIANT");
        var side = new Command("side", "One side of a row: told on standard input what to measure.") { variant };
        side.Hidden = true;
        side.SetAction(parsed => Side.Serve(parsed.GetValue(variant)!));
        var file = new Argument<FileInfo>("FILE");
        var table = new Command("table", "Print a file of figures as a Markdown table.") { file };
        table.SetAction(parsed => Table.Print(JsonNode.Parse(File.ReadAllText(parsed.GetValue(file)!.FullName))!.AsObject()));
        return new RootCommand("Speed comparisons.") { compare, side, table, KernelStart.Create() }.Parse(args).Invoke();
    }

    private static int Compare(string? file, string[] only, int rounds)
    {
        LabRuntime.Start();
        var folder = Directory.CreateTempSubdirectory("deepfakelab-benchmark-").FullName;
        try
        {
            var figures = file is not null && File.Exists(file) ? JsonNode.Parse(File.ReadAllText(file))!.AsObject() : [];
            figures["threads"] = LabRuntime.Threads;
            figures["libtorch"] = __version__;
            figures["onnxruntime"] = Microsoft.ML.OnnxRuntime.OrtEnv.Instance().GetVersionString();
            figures["rows"] ??= new JsonArray();
            foreach (var group in Group.All(folder).Where(g => only.Length == 0 || only.Any(o => g.Name.Contains(o, StringComparison.OrdinalIgnoreCase))))
            {
                Console.Error.WriteLine($"{group.Name}, load {Load()}");
                foreach (var row in Measure(group, rounds, folder, figures))
                {
                    var all = figures["rows"]!.AsArray();
                    if (all.FirstOrDefault(r => (string?)r!["name"] == (string?)row["name"]) is { } old)
                        all[all.IndexOf(old)] = row;
                    else
                        all.Add(row);
                    Table.Print(row);
                }
                if (file is not null)
                    File.WriteAllText(file, figures.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
            }
            return 0;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static List<JsonObject> Measure(Group group, int rounds, string folder, JsonObject figures)
    {
        var load = Load();
        var job = group.Job();
        var sides = group.Sides.ToDictionary(name => name, name => new SideProcess(name, LabRuntime.Threads, folder));
        try
        {
            var answers = new Dictionary<string, JsonObject>();
            foreach (var (name, side) in sides)
            {
                answers[name] = side.Prepare(job);
                if (name == "eager")
                    figures["python"] = side.Versions();
            }
            var (rates, resident) = (sides.Keys.ToDictionary(s => s, _ => new List<double>()), sides.Keys.ToDictionary(s => s, _ => new List<long>()));
            for (var round = 0; round < (group.Once ? 1 : rounds); round++)
                foreach (var (name, side) in round % 2 == 0 ? sides : sides.Reverse()) // whatever heats or cools the machine meets both
                {
                    var answer = side.Measure();
                    foreach (var (key, value) in answer)
                        answers[name][key] = value?.DeepClone();
                    rates[name].Add(answer["rate"]!.GetValue<double>());
                    resident[name].Add(side.Resident);
                }
            return [.. group.Rows.Select(row => Result(row))];

            JsonObject Result(Row row)
            {
                var best = row.Theirs.MaxBy(s => Median(rates[s]))!;
                return new JsonObject
                {
                    ["name"] = row.Name,
                    ["unit"] = row.Unit,
                    ["when"] = DateTime.UtcNow.ToString("u", CultureInfo.InvariantCulture),
                    ["load"] = load,
                    ["here"] = Figures(row.Here),
                    ["plain"] = Figures(row.Theirs[0]),
                    ["best"] = Figures(best),
                    ["asked"] = new JsonObject { ["plain"] = row.AskedOfPlain, ["best"] = row.AskedOfBest },
                    ["note"] = row.Note?.Invoke(row.Here, row.Theirs[0], answers),
                };
            }

            JsonObject Figures(string name) => new()
            {
                ["way"] = SideProcess.Describe(name),
                ["median"] = Median(rates[name]),
                ["all"] = new JsonArray([.. rates[name].Select(r => (JsonNode)r)]),
                ["peakMegabytes"] = sides[name].Peak >> 20,
                ["residentMegabytes"] = new JsonArray([.. resident[name].Select(r => (JsonNode)(r >> 20))]),
            };
        }
        finally
        {
            foreach (var side in sides.Values)
                side.Dispose();
        }
    }

    private static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);

    /// <summary>How busy the machine was over the last minute: figures taken above 0.5 or so are no figures.</summary>
    internal static string Load() => File.Exists("/proc/loadavg") ? File.ReadAllText("/proc/loadavg").Split(' ')[0] : "unknown";
}
