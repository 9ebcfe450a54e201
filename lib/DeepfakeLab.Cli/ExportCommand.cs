using System.CommandLine;

namespace DeepfakeLab.Cli;

/// <summary><c>export</c>: a finished run as a file that other programs read.</summary>
internal static class ExportCommand
{
    public static Command Create() => new("export", """
        Write a trained model for other programs, with a model card (FILE.md) beside it.

        Examples:
          deepfakelab export pth --run artifacts/run --out model.pth
          deepfakelab export onnx --run artifacts/run --out model.onnx --fold --preprocess --softmax
          deepfakelab export web --run artifacts/run --out artifacts/site
        """)
    { Weights("pth", "torchvision's state dict, for torch.load"), Weights("safetensors", "torchvision's state dict, for safetensors"), Onnx(), Web() };

    private static Option<FileInfo> Output(string ending)
    {
        var output = new Option<FileInfo>("--out") { Description = $"The file to write; its name ends in {ending}", Required = true };
        output.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: var name }] && !name.EndsWith(ending, StringComparison.OrdinalIgnoreCase))
                result.AddError($"--out must end in {ending}: {name}");
        });
        return output;
    }

    private static Command Weights(string format, string description)
    {
        var (run, output) = (CommonOptions.RunDirectory(), Output("." + format));
        var command = new Command(format, description) { run, output };
        command.SetAction(parsed => Print(parsed.GetValue(output)!, ModelExport.WriteWeights(parsed.GetValue(run)!.FullName, parsed.GetValue(output)!.FullName)));
        return command;
    }

    private static Command Onnx()
    {
        var (run, output) = (CommonOptions.RunDirectory(), Output(".onnx"));
        var fold = new Option<bool>("--fold") { Description = "Multiply batch norms into the convolutions: faster, the same numbers but for rounding" };
        var preprocess = new Option<bool>("--preprocess") { Description = "Take RGB bytes [N, H, W, 3] of any size, and resize and normalise them in the model" };
        var softmax = new Option<bool>("--softmax") { Description = "Give probabilities instead of logits" };
        var half = new Option<bool>("--half") { Description = "float16 weights and arithmetic: half the file" };
        var maps = new Option<bool>("--class-maps") { Description = "Give as a second output what each place of the picture speaks for" };
        var int8 = new Option<bool>("--int8") { Description = "8-bit weights and arithmetic: a quarter of the file. Tested before and after on images that the run has not seen" };
        var data = CommonOptions.Data();
        data.Description = "With --int8, the images that the run was trained and tested on: " + data.Description;
        var command = new Command("onnx", """
            The whole network, for ONNX Runtime, browsers and phones

            Examples:
              deepfakelab export onnx --run artifacts/run --out model.onnx --fold --preprocess --softmax
              deepfakelab export onnx --run artifacts/run --out small.onnx --int8 --data faces
            """) { run, output, fold, preprocess, softmax, half, int8, data, maps };
        command.Validators.Add(result =>
        {
            if (result.GetValue(int8) && result.GetValue(half))
                result.AddError("Use --half or --int8, not both.");
        });
        command.SetAction((parsed, cancellation) =>
        {
            var (from, file) = (parsed.GetValue(run)!.FullName, parsed.GetValue(output)!);
            var options = new OnnxOptions
            {
                FoldBatchNorm = parsed.GetValue(fold),
                Preprocess = parsed.GetValue(preprocess),
                Softmax = parsed.GetValue(softmax),
                Half = parsed.GetValue(half),
                ClassMaps = parsed.GetValue(maps),
            };
            if (parsed.GetValue(int8))
                Quantized(from, file, options, parsed.GetValue(data)?.FullName, cancellation);
            else
                Print(file, ModelExport.WriteOnnx(from, file.FullName, options));
            return Task.FromResult(0);
        });
        return command;
    }

    private static void Quantized(string run, FileInfo file, OnnxOptions options, string? data, CancellationToken cancellation)
    {
        using var progress = TerminalProgress.Show();
        var export = OnnxInt8.Write(run, file.FullName, CommonOptions.Open(data, strict: false), options, cancellation);
        Console.WriteLine($"ranges    of {export.Calibration} training images");
        Console.WriteLine($"float32   {export.Before}");
        Console.WriteLine($"int8      {export.After}");
        Print(file, export.Card);
    }

    private static Command Web()
    {
        var (run, output) = (CommonOptions.RunDirectory(), new Option<DirectoryInfo>("--out") { Description = "The folder to write; new or empty", Required = true });
        var runtime = new Option<string?>("--runtime")
        {
            Description = $"ONNX Runtime Web {WebRuntime.Version} obtained by hand: npm's archive, or the folder it was unpacked to; without it the cache, else npm",
        };
        var command = new Command("web", """
            A page that runs the model in the browser. It opens from the disk (index.html) and from any web server, needs no network, and sends nothing.

            Examples:
              deepfakelab export web --run artifacts/run --out artifacts/site
              deepfakelab export web --run artifacts/run --out artifacts/site --runtime onnxruntime-web.tgz
            """) { run, output, runtime };
        command.SetAction((parsed, cancellation) =>
        {
            var site = parsed.GetValue(output)!.FullName;
            using (TerminalProgress.Show())
                WebExport.Write(parsed.GetValue(run)!.FullName, site, parsed.GetValue(runtime), cancellation);
            Console.WriteLine($"written   {Path.Combine(site, "index.html")} (open it in a browser)");
            Console.WriteLine($"card      {Path.Combine(site, WebExport.Card)}");
            return Task.FromResult(0);
        });
        return command;
    }

    private static void Print(FileInfo file, string card)
    {
        Console.WriteLine($"written   {file.FullName}");
        Console.WriteLine($"card      {card}");
    }
}
