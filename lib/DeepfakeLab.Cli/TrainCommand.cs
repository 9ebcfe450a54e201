using System.CommandLine;
using System.Globalization;

namespace DeepfakeLab.Cli;

/// <summary><c>train</c>: data and pretrained weights in; model, record and report out.</summary>
internal static class TrainCommand
{
    public static Command Create()
    {
        var recipe = new Option<string?>("--recipe")
        {
            Description = "full (what is done without it), head-only, gradual, or an experiment of the original study, which brings its model and size: "
                + string.Join(", ", StudyRecipes.Names),
        };
        var model = Model();
        var data = CommonOptions.Data();
        var weights = Weights();
        var size = Size();
        var epochs = CommonOptions.Count("--epochs", "Epochs of fine-tuning; 0 trains the head alone", new Recipe().Epochs, 0, 10_000);
        var from = From();
        var batch = CommonOptions.Count("--batch", "Images a step", new Recipe().BatchSize, 2, 4096);
        var mixed = new Option<bool>("--mixed-precision") { Description = "Layers that learn compute in bfloat16, for GPUs; weights, steps and scores stay in float32" };
        var members = CommonOptions.Count("--members", "Train an ensemble: so many models that learn from and are chosen by different images, whose probabilities are averaged", 1, 1, 100);
        var seed = new Option<long>("--seed") { Description = "One seed for split, order, augmentation and first weights", DefaultValueFactory = _ => 42 };
        var folds = CommonOptions.Count("--folds", "Cross-validate: so many trainings, each tested on a fold that the others learn from; 0 for one fixed split", 0, 0, 100);
        var seeds = new Option<long[]>("--seeds") { Description = "Train once with each of these seeds, and print means with intervals", AllowMultipleArgumentsPerToken = true };
        var output = new Option<DirectoryInfo>("--out") { Description = "Folder for model.safetensors, run.json and report.html (with --members for one such folder a model too; with --folds or --seeds for protocol.json and report.html)", DefaultValueFactory = _ => new DirectoryInfo(Path.Combine("artifacts", "run")) };
        var findRate = new Option<bool>("--lr-find") { Description = "First run the range test of lr-find, and show its curve in the report; the rate stays the recipe's" };
        var curve = new Option<double[]>("--learning-curve") { Description = "Train on these shares of the training images too, such as 0.25 0.5, and show in the report whether more would help", AllowMultipleArgumentsPerToken = true };
        var resume = new Option<bool>("--resume") { Description = "Go on where a stopped run of the same settings left off" };
        var strict = CommonOptions.Strict();
        var command = new Command("train", """
            Fine-tune a pretrained model on a folder of faces and test it.

            Examples:
              deepfakelab train --out artifacts/first
              deepfakelab train --data faces --weights imagenet --epochs 8 --seed 1 --out artifacts/faces-1
              deepfakelab train --data faces --weights mobilenet_v2.pth --out artifacts/faces --resume
              deepfakelab train --data faces --folds 5 --seeds 1 2 3 --out artifacts/folds
              deepfakelab train --data faces --members 3 --out artifacts/ensemble
              deepfakelab train --data faces --lr-find --learning-curve 0.25 0.5 --out artifacts/more
              deepfakelab train --data faces --recipe resnet-published --out artifacts/resnet-as-published
            """)
        {
            recipe, model, data, weights, size, epochs, from, batch, mixed, members, seed, folds, seeds, findRate, curve, output, resume, strict,
        };
        command.SetAction((parsed, cancellation) =>
        {
            var study = parsed.GetValue(recipe) is { } name && name is not ("full" or "head-only" or "gradual") ? StudyRecipes.Find(name) : null;
            var chosen = study?.Recipe ?? Choose(parsed.GetValue(recipe), parsed.GetValue(from));
            if (Given(parsed, epochs) is { } count)
                chosen = study is null && count == 0 ? Recipe.HeadOnly() : chosen with { Epochs = count };
            if (Given(parsed, batch) is { } images)
                chosen = chosen with { BatchSize = images };
            if (parsed.GetValue(mixed))
                chosen = chosen with { TrainingPrecision = Precision.BFloat16 };
            if (Given(parsed, members) is { } models)
                chosen = chosen with { Members = models };
            var settings = new Settings(
                parsed.GetResult(model) is { Implicit: false } || study is null ? parsed.GetValue(model)! : study.Model, parsed.GetValue(data)?.FullName,
                DeepfakeLab.Weights.Parse(parsed.GetValue(weights)!), Given(parsed, size) ?? study?.Size ?? parsed.GetValue(size), chosen, study,
                parsed.GetValue(seed), parsed.GetValue(folds), parsed.GetValue(seeds) ?? [], parsed.GetValue(output)!.FullName, parsed.GetValue(resume), parsed.GetValue(strict),
                parsed.GetValue(findRate), parsed.GetValue(curve) ?? []);
            // On another thread, as System.CommandLine begins to listen for Ctrl-C only when the action has given its task back.
            return Task.Run(() => settings.Folds > 0 || settings.Seeds.Length > 0 ? Repeat(settings, cancellation) : Once(settings, cancellation), CancellationToken.None);
        });
        return command;
    }

    internal static Option<string> Model() => new("--model") { Description = "torchvision's name of the model", DefaultValueFactory = _ => "mobilenet_v2" };

    internal static Option<string> Weights() => new("--weights")
    {
        Description = "auto (ImageNet's where they can be had, else those that come with the library, else random ones), imagenet, embedded, none, or a .pth or .safetensors file",
        DefaultValueFactory = _ => "auto",
    };

    internal static Option<int> Size() => CommonOptions.Count("--size", "Pixels a side of the model's input", 224, 32, 1024);

    internal static Option<string?> From() => new("--from") { Description = "First stage that is fine-tuned, such as features.14; all layers without it" };

    /// <summary>An option's value where the user gave it; null where it is the default's.</summary>
    private static int? Given(ParseResult parsed, Option<int> option) => parsed.GetResult(option) is { Implicit: false } ? parsed.GetValue(option) : null;

    internal static Recipe Choose(string? name, string? from) => name switch
    {
        "head-only" => Recipe.HeadOnly(),
        "gradual" => Recipe.Gradual() with { Cut = from },
        _ => from is null ? Recipe.Full() : Recipe.FineTune(from),
    };

    private sealed record Settings(
        string Model, string? Data, Weights Weights, int Size, Recipe Recipe, StudyRecipe? Study, long Seed, int Folds, long[] Seeds, string Out, bool Resume, bool Strict,
        bool FindRate, double[] Shares)
    {
        public string Checkpoint => Path.Combine(Out, "checkpoint.safetensors");

        public FitOptions Options => new() { Seed = Seed, Preprocessing = Preprocessing.Square(Size), CheckpointFile = Checkpoint, Resume = Resume };

        public VisionModel NewModel(FaceDataset data) => Models.Create(Model, Weights).WithHead(data.Classes.Count, Recipe.Head);

        public DataSplit Split(FaceDataset data) => data.Split(test: 0.2, validation: 0.08, Seed);
    }

    private static int Once(Settings settings, CancellationToken cancellation)
    {
        if (!settings.Resume && File.Exists(Path.Combine(settings.Out, RunFolder.RecordFile)))
            throw new TrainingException("The folder holds a finished run already", settings.Out, "Give another --out, or remove that folder");
        using var progress = TerminalProgress.Show();
        var dataset = CommonOptions.Open(settings.Data, settings.Strict);
        if (settings.Recipe.Members > 1)
            return Together(settings, dataset, cancellation);
        var (run, report, extras) = settings.Study is { Mistakes: not StudyMistakes.None } study ? AsPublished(study, settings, dataset, cancellation) : Train(settings, dataset, cancellation);
        using var model = run.Model;
        if (run.Stopped)
            RunFolder.Save(settings.Out, run, dataset, report); // with its figures, should time run out for the page
        RunReport.Write(Path.Combine(settings.Out, "report.html"), run, dataset, report, extras);
        RunFolder.Save(settings.Out, run, dataset, report);
        if (!run.Stopped)
            File.Delete(settings.Checkpoint);
        CommonOptions.Print(report);
        PrintWritten(settings, [RunFolder.ModelFile, RunFolder.RecordFile, "report.html"]);
        if (!run.Stopped)
            return 0;
        Console.Error.WriteLine($"Stopped after {run.History.Count(e => e.Phase == "fine-tune")} epochs of fine-tuning. The model is the best so far ({run.Best.Phase} epoch {run.Best.Epoch}); the same command with --resume goes on.");
        return 1;
    }

    private static (TrainingRun, EvaluationReport, RunExtras) Train(Settings settings, FaceDataset dataset, CancellationToken cancellation)
    {
        var split = settings.Split(dataset);
        Console.WriteLine($"split     {split.Train.Count} training, {split.Validation.Count} validation, {split.Test.Count} test images; the same photo is never on two sides");

        var (rates, fewer) = Beside(settings, split, dataset, cancellation);
        LabRuntime.Seed(settings.Seed);
        var model = settings.NewModel(dataset);
        Console.WriteLine($"model     {model.Name} on {LabRuntime.Device}, {LabRuntime.Threads} threads; weights: {model.WeightsOrigin.Description}");
        TrainingRun run;
        try
        {
            run = Trainer.Fit(model, split, settings.Recipe, settings.Options, e => Print(e), cancellation);
        }
        catch (TrainingStoppedException stopped)
        {
            run = stopped.Run;
            RunFolder.Save(settings.Out, run, dataset, test: null);
            Console.WriteLine("stopped   testing the best model so far");
        }
        var report = Test(settings, run, dataset);
        return (run, report, new RunExtras { RateTest = rates, LearningCurve = fewer.Count == 0 ? [] : [.. fewer, new LearningCurvePoint(split.Train.Count, report)] });
    }

    /// <summary>An ensemble. Its page compares it with its members, each of which has a folder and page of its own.</summary>
    private static int Together(Settings settings, FaceDataset dataset, CancellationToken cancellation)
    {
        if (settings.Study is { Mistakes: not StudyMistakes.None } || settings.FindRate || settings.Shares.Length > 0)
            throw new TrainingException("An ensemble knows no --lr-find, --learning-curve or mistakes of the study", $"{settings.Recipe.Members} members", "Give --members 1, or leave those out");
        var split = settings.Split(dataset);
        Console.WriteLine($"split     {split.Train.Count + split.Validation.Count} images to learn from and be chosen by, divided anew for each of {settings.Recipe.Members} models, {split.Test.Count} test images; the same photo is never on two sides");
        EnsembleRun run;
        try
        {
            run = Ensemble.Fit(() => settings.NewModel(dataset), split, settings.Recipe, settings.Options, (member, e) => Print(e, $"member {member}  "), cancellation);
        }
        catch (EnsembleStoppedException stopped)
        {
            run = stopped.Run;
            RunFolder.Save(settings.Out, run, dataset, test: null);
            Console.WriteLine("stopped   testing what is there");
        }
        using var models = run;
        var reports = run.Members.Select(m => Test(settings, m, dataset)).ToList();
        var mean = reports[0].Predictions.Select((p, i) => p with { FakeProbability = reports.Average(r => r.Predictions[i].FakeProbability) }); // as Predictor would give it once more
        var report = EvaluationReport.From([.. mean], isSample: dataset.IsSample);
        RunFolder.Save(settings.Out, run, dataset, report, reports);
        foreach (var (i, member) in run.Members.Index())
            RunReport.Write(Path.Combine(RunFolder.MemberFolder(settings.Out, i + 1), "report.html"), member, dataset, reports[i]);
        ComparisonReport.Write(Path.Combine(settings.Out, "report.html"), [("ensemble", report), .. reports.Select((r, i) => ($"member {i + 1}", r))], dataset);
        if (!run.Stopped)
            Ensemble.DeleteCheckpoints(settings.Checkpoint, settings.Recipe);
        foreach (var (i, member) in reports.Index())
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"member {i + 1}  accuracy {member.Accuracy.Value:0.000}, AUC {member.Auc.Value:0.000}, {run.Members[i].Best.Phase} epoch {run.Members[i].Best.Epoch}"));
        CommonOptions.Print(report);
        PrintWritten(settings, [RunFolder.RecordFile, "report.html", .. run.Members.Select((_, i) => Path.GetFileName(RunFolder.MemberFolder("", i + 1)))]);
        if (!run.Stopped)
            return 0;
        Console.Error.WriteLine($"Stopped with {run.Members.Count} of {settings.Recipe.Members} members; they are an ensemble of their own, and the same command with --resume goes on.");
        return 1;
    }

    // Not to be cancelled: whoever stops a training wants what it has come to.
    private static EvaluationReport Test(Settings settings, TrainingRun run, FaceDataset dataset) => EvaluationReport.From(
        Predictor.Predict(run.Model, run.Split.Test, run.Preprocessing, dataset.FakeClass, settings.Recipe.MirrorScores, CancellationToken.None), isSample: dataset.IsSample);

    /// <summary>What is measured beside the training, where that was asked for: before it, and with models of its own, so that the training stays as it is without.</summary>
    private static (LearningRateCurve? Rates, IReadOnlyList<LearningCurvePoint> Fewer) Beside(Settings settings, DataSplit split, FaceDataset dataset, CancellationToken cancellation)
    {
        var options = new FitOptions { Seed = settings.Seed, Preprocessing = Preprocessing.Square(settings.Size) };
        LearningRateCurve? rates = null;
        if (settings.FindRate)
        {
            using var model = Fresh();
            rates = Trainer.FindLearningRate(model, split, settings.Recipe, options, cancellation: cancellation);
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"rate      the range test suggests {rates.Suggestion:0.0e+0}; this training takes {settings.Recipe.LearningRate:0.0e+0}"));
        }
        return (rates, LearningCurve.Run(split, settings.Shares, part =>
        {
            using var model = Fresh();
            var report = Test(settings, Trainer.Fit(model, part, settings.Recipe, options, null, cancellation), dataset);
            Console.WriteLine($"curve     {part.Train.Count} training images: {report}");
            return report;
        }, settings.Seed));

        VisionModel Fresh()
        {
            LabRuntime.Seed(settings.Seed);
            return settings.NewModel(dataset);
        }
    }

    private static (TrainingRun, EvaluationReport, RunExtras) AsPublished(StudyRecipe study, Settings settings, FaceDataset dataset, CancellationToken cancellation)
    {
        if (settings.Resume || settings.FindRate || settings.Shares.Length > 0)
            throw new TrainingException("An experiment as published knows no --resume, --lr-find or --learning-curve", study.Name, "Leave that option out");
        study = study with { Model = settings.Model, Size = settings.Size, Recipe = settings.Recipe };
        Console.WriteLine($"study     {study.Name} as published, on purpose with these mistakes: {study.Mistakes}; it reported {study.Reported}");
        var result = study.Run(dataset, settings.Weights, settings.Seed, e => Print(e), cancellation);
        return (result.Run, result.Test, new RunExtras());
    }

    /// <summary>Several trainings: folds, seeds, or both.</summary>
    private static int Repeat(Settings settings, CancellationToken cancellation)
    {
        if (settings.Study is { Mistakes: not StudyMistakes.None } || settings.Resume || settings.FindRate || settings.Shares.Length > 0)
            throw new TrainingException("Folds and seeds go without --resume, --lr-find, --learning-curve and the study's mistakes", settings.Recipe.Name, "Leave one of them out");
        using var progress = TerminalProgress.Show();
        var dataset = CommonOptions.Open(settings.Data, settings.Strict);
        var (size, seeds) = (Preprocessing.Square(settings.Size), settings.Seeds.Length > 0 ? settings.Seeds : [settings.Seed]);
        var result = settings.Folds > 0
            ? Protocol.CrossValidate(dataset, () => settings.NewModel(dataset), settings.Recipe, settings.Folds, seeds, preprocessing: size, onRun: PrintRun, cancellation: cancellation)
            : Protocol.Repeat(dataset, () => settings.NewModel(dataset), settings.Recipe, seeds, preprocessing: size, onRun: PrintRun, cancellation: cancellation);
        var (file, page) = (Path.Combine(settings.Out, "protocol.json"), Path.Combine(settings.Out, "report.html"));
        RunReport.Write(page, result, dataset, settings.Model, settings.Recipe);
        result.Write(file);
        Console.WriteLine($"means     of {result.Runs.Count} trainings, with 95 % t intervals; each threshold chosen on validation images");
        foreach (var (name, _) in result.Pooled.Figures)
            Console.WriteLine($"  {name,-17} {result.Mean(name)}");
        Console.WriteLine($"pooled    {result.Pooled}, 95 % bootstrap intervals");
        PrintWritten(settings, ["protocol.json", "report.html"]);
        return 0;

        static void PrintRun(ProtocolRun run) => Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"seed {run.Seed}, fold {run.Fold}: accuracy {run.Test.Accuracy.Value:0.000}, AUC {run.Test.Auc.Value:0.000}, threshold {run.Threshold:0.000}, {run.Kept}"));
    }

    private static void PrintWritten(Settings settings, IEnumerable<string> files) =>
        Console.WriteLine($"written   {string.Join(", ", files.Select(f => Path.GetRelativePath(Environment.CurrentDirectory, Path.Combine(settings.Out, f))))}");

    private static void Print(EpochFigures e, string before = "")
    {
        if (e.Phase == "fine-tune" || e.Epoch % 10 == 0)
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{before}{e.Phase,-9} epoch {e.Epoch,2}  train loss {e.TrainLoss:0.000}  validation loss {e.ValidationLoss:0.000}  accuracy {e.ValidationAccuracy:0.000}  AUC {e.ValidationAuc:0.000}  {e.Seconds:0.0} s"));
    }
}
