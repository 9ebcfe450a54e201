using System.Globalization;
using System.Text.Json.Nodes;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab.Benchmarks;

/// <summary>One line of the table.</summary>
/// <param name="Here">Our side.</param>
/// <param name="Theirs">The plain way first, then those of which the fastest is called best.</param>
/// <param name="AskedOfPlain">The ratio that was aimed at; null for none.</param>
/// <param name="Note">What else is to be said, of what the sides answered.</param>
internal sealed record Row(
    string Name, string Here, string[] Theirs, double? AskedOfPlain = null, double? AskedOfBest = null, string Unit = "images/s",
    Func<string, string, IReadOnlyDictionary<string, JsonObject>, string>? Note = null);

/// <summary>Rows whose sides do the same job and are measured in turns.</summary>
/// <param name="Job">Makes what they need, and says what they shall do.</param>
/// <param name="Once">One turn only: it takes minutes.</param>
internal sealed record Group(string Name, string[] Sides, Row[] Rows, Func<JsonObject> Job, bool Once = false)
{
    private const int Size = 224, JpegSide = 600, PredictBatch = 32;
    private static readonly string[] families = ["mobilenet_v2", "resnet18", "efficientnet_b0", "mnasnet0_75", "resnext50_32x4d", "vgg16"];

    /// <summary>All of them. <paramref name="folder"/> takes weights and pictures.</summary>
    public static IEnumerable<Group> All(string folder)
    {
        foreach (var name in families)
        {
            var batch = name == "vgg16" ? 8 : 32;
            var (plain32, best32, plain16, best16) = name switch { "mobilenet_v2" => (6.0, 1.3, 10.0, 2.2), "resnet18" => (1.6, 1.05, 3, 1.9), _ => ((double?)null, 1.05, (double?)null, 1.7) };
            string[] torch = ["eager", "channels_last", "optimized"];
            yield return new Group($"features {name}", ["here-float32", "here-bfloat16", "onnxruntime", .. torch],
            [
                new Row($"{name}: frozen features, float32, batch {batch}", "here-float32", torch, plain32, best32),
                new Row($"{name}: frozen features, bfloat16 (torch: float32)", "here-bfloat16", torch, plain16, best16),
                new Row($"{name}: frozen features, float32, against ONNX Runtime", "here-float32", ["onnxruntime"], null, 0.95),
            ], () => Describe("features", name, Model(folder, name), batch));
        }
        foreach (var name in families)
        {
            var batch = name == "vgg16" ? 4 : 16;
            var (plain, best) = name switch { "mobilenet_v2" => (1.7, 1.1), "resnet18" => (1.15, 1.0), _ => ((double?)null, 1.0) };
            yield return new Group($"training {name}", ["here-float32", "eager", "channels_last"],
                [new Row($"{name}: training step, AdamW, all layers, batch {batch}", "here-float32", ["eager", "channels_last"], plain, best)],
                () => Describe("training", name, Model(folder, name), batch));
        }
        yield return new Group("decode", ["here-float32", "eager"],
            [new Row($"decode a {JpegSide}x{JpegSide} JPEG, resize to {Size}, one thread", "here-float32", ["eager"], 1.1, Note: SameBytes)],
            () => With(Describe("decode", null, null, 24), ("files", Pictures(folder, 24))));
        yield return new Group("predict", ["here-float32", "eager", "optimized"],
            [new Row($"predict on {JpegSide}x{JpegSide} JPEG files, MobileNetV2, mirrored scores", "here-float32", ["eager", "optimized"], Note: SameAnswers)],
            () => Predict(folder));
        yield return new Group("experiment", ["here-float32", "here-bfloat16", "eager", "optimized", "original"],
        [
            new Row(ExperimentName, "here-float32", ["eager", "optimized"], 3, Unit: "image passes/s", Note: SameLosses),
            new Row(ExperimentName + ", in bfloat16", "here-bfloat16", ["eager", "optimized"], 3, Unit: "image passes/s", Note: SameLosses),
            new Row(ExperimentName + ", against the original's way", "here-float32", ["original"], 10, Unit: "image passes/s", Note: (_, _, answers) => (string)answers["original"]["measured"]!),
        ], () => Experiment(folder), Once: true);
    }

    private const int ExperimentTrain = 1632, ExperimentHeld = 240, ExperimentEpochs = 10, ExperimentBatch = 32;

    private static string ExperimentName => $"the original's EfficientNet experiment ({ExperimentTrain} training images, cut features.7, {ExperimentEpochs} epochs)";

    private static JsonObject Describe(string what, string? model, string? file, int batch) =>
        new() { ["what"] = what, ["model"] = model, ["file"] = file, ["batch"] = batch, ["size"] = Size };

    private static JsonObject With(JsonObject job, params (string Key, JsonNode Value)[] more)
    {
        foreach (var (key, value) in more)
            job[key] = value;
        return job;
    }

    /// <summary>
    /// Random weights as a file that both sides read. Batch norms take their statistics from noise, or from some pictures, that run through
    /// once: with those of a new model activations vanish or explode, and neither denormal numbers nor one answer for all pictures are what
    /// is to be measured.
    /// </summary>
    private static string Model(string folder, string name, int classes = 1000, HeadRecipe? head = null, JsonArray? pictures = null)
    {
        var file = Path.Combine(folder, $"{name}-{classes}.pth");
        if (File.Exists(file))
            return file;
        using var scope = NewDisposeScope();
        using var none = no_grad();
        LabRuntime.Seed(1);
        using var model = Models.Create(name);
        if (classes != model.Classes)
            model.WithHead(classes, head);
        model.eval();
        var remove = model.modules().OfType<BatchNorm2d>().Select(norm => norm.register_forward_pre_hook((_, x) =>
        {
            norm.running_mean!.copy_(x.mean([0, 2, 3]));
            norm.running_var!.copy_(x.var([0, 2, 3]) + 0.01);
            return x;
        })).ToList();
        model.call(pictures is null ? randn(4, 3, Size, Size) : cat([.. pictures.Take(16).Select(p => Preprocessing.Square(Size).ToBatch(ImageReader.Read((string)p!)))])).Dispose();
        remove.ForEach(hook => hook.remove());
        using var state = StateDict.Of(model);
        Checkpoint.Write(file, state);
        return file;
    }

    private static JsonArray Pictures(string folder, int count, int distinct = 24)
    {
        string[] files = [.. Enumerable.Range(0, count).Select(i => Path.Combine(folder, $"{count}-{distinct}-{i}.jpg"))];
        foreach (var (i, path) in files.Index().AsParallel().Where(f => f.Index < distinct))
            File.WriteAllBytes(path, FacePainter.Paint(FaceTraits.Random(i), JpegSide).ToJpeg());
        for (var i = distinct; i < count; i++)
            File.Copy(files[i % distinct], files[i], overwrite: true);
        return [.. files.Select(f => (JsonNode)f)];
    }

    private static JsonObject Predict(string folder)
    {
        var files = Pictures(folder, 96);
        return With(Describe("predict", "mobilenet_v2", Model(folder, "mobilenet_v2", 2, null, files), PredictBatch), ("files", files));
    }

    private static JsonObject Experiment(string folder)
    {
        var files = Pictures(folder, ExperimentTrain + ExperimentHeld, distinct: 104);
        // the order of the images, which both sides follow
        var orders = Enumerable.Range(1, ExperimentEpochs).Select(epoch =>
        {
            var order = Enumerable.Range(0, ExperimentTrain).ToArray();
            new SeededRandom(SeededRandom.Combine(Side.ExperimentSeed, 3, 1, epoch)).Shuffle<int>(order);
            return (JsonNode)new JsonArray([.. order.Select(i => (JsonNode)i)]);
        });
        var recipe = Side.ExperimentRecipe(ExperimentEpochs, ExperimentBatch);
        return With(Describe("experiment", "efficientnet_b0", Model(folder, "efficientnet_b0", 2, HeadRecipe.StudyEfficientNet with { Dropout = 0 }, files), ExperimentBatch),
            ("files", files), ("train", ExperimentTrain), ("orders", new JsonArray([.. orders])), ("cut", 7), ("rate", recipe.LearningRate), ("decay", recipe.WeightDecay),
            ("l1", recipe.L1), ("l2", recipe.L2));
    }

    private static string SameBytes(string here, string theirs, IReadOnlyDictionary<string, JsonObject> answers) =>
        (string?)answers[here]["hash"] == (string?)answers[theirs]["hash"] ? "the same bytes as PIL" : "**other bytes than PIL**";

    private static string SameAnswers(string here, string theirs, IReadOnlyDictionary<string, JsonObject> answers)
    {
        var (own, other) = (Numbers(answers[here]["answers"]), Numbers(answers[theirs]["answers"]));
        return string.Create(CultureInfo.InvariantCulture, $"answers from {own.Min():0.000} to {own.Max():0.000}, apart by {own.Zip(other, (a, b) => Math.Abs(a - b)).Max():0.0e-0} at most");
    }

    private static string SameLosses(string here, string theirs, IReadOnlyDictionary<string, JsonObject> answers)
    {
        string Ends(string side, string what) => Numbers(answers[side][what]) is var n ? string.Create(CultureInfo.InvariantCulture, $"{n[0]:0.0000} to {n[^1]:0.0000}") : "";
        return string.Create(CultureInfo.InvariantCulture,
            $"{answers[here]["seconds"]!.GetValue<double>():0} s, torch {answers[theirs]["seconds"]!.GetValue<double>():0} s; training loss {Ends(here, "losses")}, torch {Ends(theirs, "losses")}; validation {Ends(here, "held")}, torch {Ends(theirs, "held")}; one turn");
    }

    private static double[] Numbers(JsonNode? array) => [.. array!.AsArray().Select(n => n!.GetValue<double>())];
}
