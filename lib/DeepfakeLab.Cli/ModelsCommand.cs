using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Cli;

/// <summary><c>models</c>: what there is, its weights, and one model on tensors.</summary>
internal static class ModelsCommand
{
    private static readonly JsonSerializerOptions indented = new() { WriteIndented = true };

    public static Command Create() => new("models", """
        The pretrained models: a list, their weight files, a run on tensors, a look into a checkpoint.

        Examples:
          deepfakelab models list
          deepfakelab models get resnet50
          deepfakelab models run --model mobilenet_v2 --weights imagenet --input x.safetensors --output y.safetensors
          deepfakelab models inspect model.pth
        """) { List(), Get(), Run(), Inspect() };

    private static Command List()
    {
        var json = CommonOptions.Json();
        var command = new Command("list", "Every variant with its size, its cost for one image, its official weights with their reported top-1 accuracy, and whether weights of it come with the library (embedded).") { json };
        command.SetAction(parsed => Console.WriteLine(parsed.GetValue(json) ? AsJson().ToJsonString(indented) : AsTable()));
        return command;
    }

    private static JsonArray AsJson() => [.. ModelInfo.All.Select(model => new JsonObject
    {
        ["name"] = model.Name,
        ["family"] = model.Family,
        ["parameters"] = model.Parameters,
        ["multiplyAdds"] = model.MultiplyAdds,
        ["inputSize"] = model.InputSize,
        ["embedded"] = Weights.ComeWith(model.Name),
        ["weights"] = new JsonArray([.. model.Weights.Select(w => new JsonObject
        {
            ["entry"] = w.Entry,
            ["file"] = w.File,
            ["address"] = w.Address,
            ["sha256Prefix"] = w.HashPrefix,
            ["top1"] = double.IsNaN(w.Top1) ? null : w.Top1,
            ["top5"] = double.IsNaN(w.Top5) ? null : w.Top5,
            ["resize"] = w.Resize,
            ["crop"] = w.Crop,
            ["interpolation"] = w.Preprocessing.Interpolation.ToString().ToLowerInvariant(),
            ["mean"] = new JsonArray([.. w.Preprocessing.Mean.Select(m => JsonValue.Create(m))]),
            ["std"] = new JsonArray([.. w.Preprocessing.Std.Select(s => JsonValue.Create(s))]),
        })]),
    })];

    /// <summary>A Markdown table, so that it can be pasted into the documentation.</summary>
    private static string AsTable() => string.Join(Environment.NewLine, ModelInfo.All.Select(model => string.Create(CultureInfo.InvariantCulture,
            $"| {model.Family,-12} | {model.Name,-18} | {model.Parameters / 1e6,6:0.00} | {model.MultiplyAdds / 1e9,6:0.00} | {model.InputSize,5} | {string.Join(", ", model.Weights.Select(Accuracy).Concat(Weights.ComeWith(model.Name) ? ["embedded"] : []))} |"))
        .Prepend($"| {new string('-', 12)} | {new string('-', 18)} | -----: | -----: | ----: | --- |")
        .Prepend($"| {"family",-12} | {"name",-18} | params (M) | multiply-adds (G) | input | weights (ImageNet top-1, %) |"));

    private static string Accuracy(PretrainedWeights weights) =>
        double.IsNaN(weights.Top1) ? weights.Entry : string.Create(CultureInfo.InvariantCulture, $"{weights.Entry} {weights.Top1:0.0}");

    private static Command Get()
    {
        var name = new Argument<string>("NAME") { Description = "A model's name, as in the list" };
        var entry = new Option<string?>("--entry") { Description = "The weights' entry, such as IMAGENET1K_V1; the default is torchvision's default" };
        var command = new Command("get", """
            Fetch a model's ImageNet weights into the cache folder that PyTorch shares, unless they are there, and print their path.
            DEEPFAKELAB_WEIGHTS_MIRROR takes another server, DEEPFAKELAB_OFFLINE=1 forbids the network, TORCH_HOME moves the cache.
            """) { name, entry };
        command.SetAction(parsed =>
        {
            using var progress = TerminalProgress.Show();
            var (path, sha256) = PretrainedWeights.Find(parsed.GetValue(name)!, parsed.GetValue(entry)).Fetch();
            Console.WriteLine($"{path} (sha256 {sha256})");
        });
        return command;
    }

    private static Command Run()
    {
        var model = new Option<string>("--model") { Description = "A model's name, as in the list", Required = true };
        var weights = new Option<string>("--weights") { Description = "auto, imagenet, embedded, none, an entry such as IMAGENET1K_V1, or a .pth or .safetensors file", Required = true };
        var input = new Option<FileInfo>("--input") { Description = "A .safetensors file with a tensor x [N, 3, H, W]", Required = true };
        var output = new Option<FileInfo>("--output") { Description = "The .safetensors file to write logits [N, classes] and features [N, F] to", Required = true };
        var classes = CommonOptions.Count("--classes", "Classes of the weights file", 1000, 1, 1_000_000);
        var command = new Command("run", "Run a model in evaluation mode, in float32, on images that are tensors already.") { model, weights, input, output, classes };
        command.SetAction(parsed => Run(parsed.GetValue(model)!, parsed.GetValue(weights)!, parsed.GetValue(input)!.FullName,
            parsed.GetValue(output)!.FullName, parsed.GetValue(classes)));
        return command;
    }

    private static void Run(string name, string weights, string input, string output, int classes)
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        using var model = Models.Create(name, Weights.Parse(weights), classes);
        model.eval();
        using var file = Checkpoint.Read(input);
        if (!file.TryGetValue("x", out var x) || x.dim() != 4 || x.shape[1] != 3 || x.numel() == 0)
            throw new CheckpointException("The file has no tensor x of images [N, 3, H, W]", input, "Write one under that name");
        model.to(LabRuntime.Device);
        var (logits, features) = (new List<Tensor>(), new List<Tensor>());
        foreach (var batch in x.split(16))
        {
            LabProgress.Interrupt.ThrowIfCancellationRequested();
            using var images = batch.to(float32).to(LabRuntime.Device);
            var h = model.Features(images);
            features.Add(h.cpu());
            using var result = model.ForwardFrom(h, model.Stages[^1]);
            logits.Add(result.cpu());
        }
        SafeTensors.Write(output, [("logits", cat(logits)), ("features", cat(features))],
            new Dictionary<string, string> { ["model"] = name, ["weights"] = model.WeightsOrigin.Description, ["sha256"] = model.WeightsOrigin.Sha256 ?? "" });
        Console.WriteLine($"{output}: {x.shape[0]} images through {name}; weights: {model.WeightsOrigin.Description}");
    }

    private static Command Inspect()
    {
        var (file, json) = (new Argument<FileInfo>("FILE") { Description = "A .pth, .pt or .safetensors file" }, CommonOptions.Json());
        var command = new Command("inspect", "Print the keys, types and shapes of a checkpoint. Nothing in the file is run.") { file, json };
        command.SetAction(parsed =>
        {
            using var state = Checkpoint.Read(parsed.GetValue(file)!.FullName);
            if (parsed.GetValue(json))
                Console.WriteLine(new JsonArray([.. state.Select(t => new JsonObject
                {
                    ["key"] = t.Key,
                    ["type"] = TypeName(t.Value),
                    ["shape"] = new JsonArray([.. t.Value.shape.Select(n => JsonValue.Create(n))]),
                })]).ToJsonString(indented));
            else
            {
                foreach (var (key, tensor) in state)
                    Console.WriteLine($"{TypeName(tensor),-9} [{string.Join(", ", tensor.shape)}]  {key}");
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{state.Count} tensors, {state.Values.Sum(t => t.numel()):N0} numbers"));
                foreach (var (key, value) in state.Metadata)
                    Console.WriteLine($"{key}: {value}");
            }
        });
        return command;
    }

    private static string TypeName(Tensor tensor) => tensor.dtype.ToString().ToLowerInvariant();
}
