using System.CommandLine;
using System.Globalization;

namespace DeepfakeLab.Cli;

/// <summary><c>train</c>: data and pretrained weights in; model, record and report out.</summary>
internal static class TrainCommand
{
    public static Command Create()
    {
        var model = new Option<string>("--model") { Description = "torchvision's name of the model", DefaultValueFactory = _ => "mobilenet_v2" };
        var data = CommonOptions.Data();
        var weights = new Option<string>("--weights")
        {
            Description = "auto (ImageNet's where they can be had, else the embedded ones), imagenet, embedded, none, or a .pth or .safetensors file",
            DefaultValueFactory = _ => "auto",
        };
        var size = CommonOptions.Count("--size", "Pixels a side of the model's input", 224, 32, 1024);
        var epochs = CommonOptions.Count("--epochs", "Epochs of fine-tuning; 0 trains the head alone", new Recipe().Epochs, 0, 10_000);
        var from = new Option<string?>("--from") { Description = "First stage that is fine-tuned, such as features.14; all layers without it" };
        var batch = CommonOptions.Count("--batch", "Images a step", new Recipe().BatchSize, 2, 4096);
        var seed = new Option<long>("--seed") { Description = "One seed for split, order, augmentation and first weights", DefaultValueFactory = _ => 42 };
        var output = new Option<DirectoryInfo>("--out") { Description = "Folder for model.safetensors, run.json and report.html", DefaultValueFactory = _ => new DirectoryInfo(Path.Combine("artifacts", "run")) };
        var resume = new Option<bool>("--resume") { Description = "Go on where a stopped run of the same settings left off" };
        var strict = CommonOptions.Strict();
        var command = new Command("train", """
            Fine-tune a pretrained model on a folder of faces and test it.

            Examples:
              deepfakelab train --out artifacts/first
              deepfakelab train --data faces --weights imagenet --epochs 8 --seed 1 --out artifacts/faces-1
              deepfakelab train --data faces --weights mobilenet_v2.pth --out artifacts/faces --resume
            """)
        {
            model, data, weights, size, epochs, from, batch, seed, output, resume, strict,
        };
        command.SetAction((parsed, cancellation) => Task.FromResult(Run(new Settings(
            parsed.GetValue(model)!, parsed.GetValue(data)?.FullName, parsed.GetValue(weights)!, parsed.GetValue(size), parsed.GetValue(epochs),
            parsed.GetValue(from), parsed.GetValue(batch), parsed.GetValue(seed), parsed.GetValue(output)!.FullName, parsed.GetValue(resume),
            parsed.GetValue(strict)), cancellation)));
        return command;
    }

    private sealed record Settings(
        string Model, string? Data, string Weights, int Size, int Epochs, string? From, int Batch, long Seed, string Out, bool Resume, bool Strict);

    private static int Run(Settings settings, CancellationToken cancellation)
    {
        if (!settings.Resume && File.Exists(Path.Combine(settings.Out, RunFolder.RecordFile)))
            throw new TrainingException("The folder holds a finished run already", settings.Out, "Give another --out, or remove that folder");
        using var progress = TerminalProgress.Show();
        var dataset = CommonOptions.Open(settings.Data, settings.Strict);
        var split = dataset.Split(test: 0.2, validation: 0.08, settings.Seed);
        Console.WriteLine($"split     {split.Train.Count} training, {split.Validation.Count} validation, {split.Test.Count} test images; the same photo is never on two sides");

        LabRuntime.Seed(settings.Seed);
        using var model = Models.Create(settings.Model, Weights.Parse(settings.Weights)).WithHead(dataset.Classes.Count);
        Console.WriteLine($"model     {model.Name} on {LabRuntime.Device}, {LabRuntime.Threads} threads; weights: {model.WeightsOrigin.Description}");

        var recipe = settings.Epochs == 0 ? Recipe.HeadOnly() : settings.From is { } stage ? Recipe.FineTune(stage) : Recipe.Full();
        recipe = recipe with { Epochs = settings.Epochs, BatchSize = settings.Batch };
        var options = new FitOptions
        {
            Seed = settings.Seed,
            Preprocessing = Preprocessing.Square(settings.Size),
            CheckpointFile = Path.Combine(settings.Out, "checkpoint.safetensors"),
            Resume = settings.Resume,
        };
        var run = Trainer.Fit(model, split, recipe, options, Print, cancellation);

        var predictions = Predictor.Predict(model, split.Test, run.Preprocessing, dataset.FakeClass, recipe.MirrorScores, cancellation);
        var report = EvaluationReport.From(predictions, isSample: dataset.IsSample);
        RunReport.Write(Path.Combine(settings.Out, "report.html"), run, dataset, report);
        RunFolder.Save(settings.Out, run, dataset, report);
        File.Delete(options.CheckpointFile);
        CommonOptions.Print(report);
        Console.WriteLine($"written   {string.Join(", ", ((string[])[RunFolder.ModelFile, RunFolder.RecordFile, "report.html"]).Select(f => Path.GetRelativePath(Environment.CurrentDirectory, Path.Combine(settings.Out, f))))}");
        return 0;
    }

    private static void Print(EpochFigures e)
    {
        if (e.Phase == "fine-tune" || e.Epoch % 10 == 0)
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{e.Phase,-9} epoch {e.Epoch,2}  train loss {e.TrainLoss:0.000}  validation loss {e.ValidationLoss:0.000}  accuracy {e.ValidationAccuracy:0.000}  AUC {e.ValidationAuc:0.000}  {e.Seconds:0.0} s"));
    }
}
