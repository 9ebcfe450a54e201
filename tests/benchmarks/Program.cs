using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Benchmarks;

/// <summary>
/// <c>compare</c>: this library beside Debian's torch, in turns within one run, on the same random weights, with the same threads. Medians
/// of images a second and their spread; ratios above 1 say that this library is faster.
/// </summary>
internal static class Program
{
    private const int Batch = 32, TrainBatch = 16, Size = 224, JpegSide = 600;
    private static readonly string[] families = ["mobilenet_v2", "resnet18", "efficientnet_b0", "mnasnet0_75", "resnext50_32x4d", "vgg16"];

    /// <summary>A row of the table: what is measured on both sides.</summary>
    private sealed record Row(string Name, JsonObject Job, Func<(Action Run, int Images, IDisposable Owner)> Ours);

    private static int Main(string[] args)
    {
        var json = new Option<FileInfo?>("--json") { Description = "Write the figures there" };
        var models = new Option<string[]>("--models") { Description = "Of " + string.Join(", ", families), DefaultValueFactory = _ => families, AllowMultipleArgumentsPerToken = true };
        var only = new Option<string?>("--only") { Description = "features, training or decode" };
        var rounds = new Option<int>("--rounds") { Description = "Times that the sides take turns", DefaultValueFactory = _ => 7 };
        var compare = new Command("compare", "Compare with Debian's torch on this machine. Leave it alone meanwhile.") { json, models, only, rounds };
        compare.SetAction(parsed => Compare(parsed.GetValue(json)?.FullName, parsed.GetValue(models)!, parsed.GetValue(only), parsed.GetValue(rounds)));
        return new RootCommand("Speed comparisons.") { compare, KernelStart.Create() }.Parse(args).Invoke();
    }

    private static int Compare(string? file, string[] models, string? only, int rounds)
    {
        LabRuntime.Start();
        var folder = Directory.CreateTempSubdirectory("deepfakelab-benchmark-");
        try
        {
            var results = new JsonArray();
            using var plain = new TorchProcess("eager", tuned: false, LabRuntime.Threads);
            using var last = new TorchProcess("channels_last", tuned: true, LabRuntime.Threads);
            using var optimized = new TorchProcess("optimized", tuned: true, LabRuntime.Threads);
            Console.WriteLine($"threads {LabRuntime.Threads}, load {Load()}, libtorch {torch.__version__}, torch {plain.Versions().ToJsonString()}");
            Console.WriteLine($"{"images a second: median (least-most)",-44} {"here",-20} {"torch, plain",-20} {"torch, best",-20} plain  best");
            foreach (var row in Rows(folder.FullName, models).Where(r => only is null || r.Job["what"]!.GetValue<string>() == only))
            {
                // torch's best is whichever of its ways is fastest here; only frozen layers can be optimized for inference
                var what = row.Job["what"]!.GetValue<string>();
                TorchProcess[] theirs = what switch { "features" => [plain, last, optimized], "decode" => [plain], _ => [plain, last] };
                foreach (var side in theirs)
                    side.Prepare(row.Job);
                var (run, images, owner) = row.Ours();
                using (owner)
                {
                    for (var i = 0; i < 3; i++)
                        run();
                    var times = Math.Clamp((int)Math.Round(1.5 / Seconds(run, 1)), 1, 200); // a second and a half a turn
                    var rates = new List<double>[1 + theirs.Length];
                    for (var side = 0; side < rates.Length; side++)
                        rates[side] = [];
                    for (var round = 0; round < rounds; round++)
                    {
                        rates[0].Add(images * times / Seconds(run, times));
                        for (var side = 0; side < theirs.Length; side++)
                            rates[side + 1].Add(theirs[side].Measure(Math.Max(1, (int)(times * (rates[side + 1].Count > 0 ? rates[side + 1][^1] / rates[0][0] : 0.5)))));
                    }
                    results.Add(Result(row, what, rates));
                }
            }
            if (file is not null)
                File.WriteAllText(file, new JsonObject
                {
                    ["threads"] = LabRuntime.Threads,
                    ["rounds"] = rounds,
                    ["load"] = Load(),
                    ["libtorch"] = torch.__version__,
                    ["python"] = plain.Versions(),
                    ["rows"] = results,
                }.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
            return 0;
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static JsonObject Result(Row row, string what, List<double>[] rates)
    {
        var medians = rates.Select(r => r.Order().ElementAt(r.Count / 2)).ToArray();
        var best = Enumerable.Range(1, rates.Length - 1).MaxBy(i => medians[i]);
        string[] ways = ["eager", "channels last, malloc tuned", "optimize_for_inference, channels last, malloc tuned"];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{row.Name,-44} {Text(0),-20} {Text(1),-20} {Text(best),-20} {medians[0] / medians[1],4:0.00}x {medians[0] / medians[best],4:0.00}x  best: {ways[best - 1]}"));
        return new JsonObject
        {
            ["name"] = row.Name,
            ["what"] = what,
            ["model"] = row.Job["model"]?.DeepClone(),
            ["unit"] = "images/s",
            ["here"] = Side(0),
            ["plain"] = Side(1),
            ["best"] = Side(best),
            ["bestWay"] = ways[best - 1],
            ["timesPlain"] = medians[0] / medians[1],
            ["timesBest"] = medians[0] / medians[best],
        };

        string Text(int side) => string.Create(CultureInfo.InvariantCulture, $"{medians[side]:0.0} ({rates[side].Min():0.0}-{rates[side].Max():0.0})");

        JsonObject Side(int side) => new() { ["median"] = medians[side], ["least"] = rates[side].Min(), ["most"] = rates[side].Max(), ["all"] = new JsonArray([.. rates[side].Select(r => (JsonNode)r)]) };
    }

    private static IEnumerable<Row> Rows(string folder, string[] models)
    {
        foreach (var name in models)
        {
            var file = Path.Combine(folder, name + ".pth");
            LabRuntime.Seed(1);
            using (var model = Models.Create(name))
            using (var state = StateDict.Of(model))
                Checkpoint.Write(file, state);
            yield return new Row($"{name}: frozen features, float32", Job("features", name, file, Batch), () => Features(name, file, ScalarType.Float32));
            yield return new Row($"{name}: frozen features, bfloat16 (torch: float32)", Job("features", name, file, Batch), () => Features(name, file, ScalarType.BFloat16));
            yield return new Row($"{name}: training step, AdamW, all layers", Job("training", name, file, TrainBatch), () => Training(name, file));
            File.Delete(file);
        }
        string[] jpegs = [.. Enumerable.Range(0, 24).Select(i => Path.Combine(folder, $"{i}.jpg"))];
        foreach (var (i, path) in jpegs.Index())
            File.WriteAllBytes(path, FacePainter.Paint(FaceTraits.Random(i), JpegSide).ToJpeg());
        var job = Job("decode", null, null, jpegs.Length);
        job["files"] = new JsonArray([.. jpegs.Select(f => (JsonNode)f)]);
        yield return new Row($"decode {JpegSide}x{JpegSide} JPEG, resize to {Size}, one thread", job, () => Decoding(jpegs));
    }

    private static JsonObject Job(string what, string? model, string? file, int batch) =>
        new() { ["what"] = what, ["model"] = model, ["file"] = file, ["batch"] = batch, ["size"] = Size };

    private static (Action, int, IDisposable) Features(string name, string file, ScalarType precision)
    {
        var model = Models.Create(name, Weights.File(file));
        var prefix = new FrozenPrefix(model, model.Stages[^1], precision);
        var images = rand([Batch, 3, Size, Size]).mul_(4).sub_(2);
        return (() =>
        {
            using var scope = NewDisposeScope();
            prefix.Run(images);
        }, Batch, new Owner(prefix, model, images));
    }

    private static (Action, int, IDisposable) Training(string name, string file)
    {
        var model = Models.Create(name, Weights.File(file));
        model.train();
        var images = TensorLayout.ChannelsLast(rand([TrainBatch, 3, Size, Size]).mul_(4).sub_(2));
        var labels = arange(TrainBatch).remainder(2);
        var optimizer = new TrainingOptimizer(new Recipe(), model, 1e-4);
        return (() =>
        {
            using var scope = NewDisposeScope();
            optimizer.Forget();
            nn.functional.cross_entropy(model.call(images), labels).backward();
            optimizer.Step();
        }, TrainBatch, new Owner(optimizer, model, images, labels));
    }

    private static (Action, int, IDisposable) Decoding(string[] files)
    {
        var preprocessing = Preprocessing.Square(Size);
        byte[][] contents = [.. files.Select(File.ReadAllBytes)];
        return (() =>
        {
            foreach (var bytes in contents)
                Preprocessing.ToTensor(preprocessing.Apply(ImageReader.Decode(bytes, "a JPEG"))).Dispose();
        }, files.Length, new Owner());
    }

    private static double Seconds(Action run, int times)
    {
        var clock = Stopwatch.StartNew();
        for (var i = 0; i < times; i++)
            run();
        return clock.Elapsed.TotalSeconds;
    }

    /// <summary>How busy the machine was over the last minute: figures taken above 0.5 or so are no figures.</summary>
    internal static string Load() => File.Exists("/proc/loadavg") ? File.ReadAllText("/proc/loadavg").Split(' ')[0] : "unknown";

    private sealed class Owner(params IDisposable[] things) : IDisposable
    {
        public void Dispose() => Array.ForEach(things, t => t.Dispose());
    }
}
