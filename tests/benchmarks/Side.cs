using System.Diagnostics;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace DeepfakeLab.Benchmarks;

/// <summary>Our side of a row, and plain ONNX Runtime's: the C# counterpart of torch_side.py.</summary>
internal static class Side
{
    public const long ExperimentSeed = 1;

    /// <summary>What one run does, how many images it takes, and what it has to say for itself.</summary>
    /// <param name="Again">Whether it is short enough to be run more than once.</param>
    private sealed record Work(Action Run, int Images, JsonObject Says, bool Again = true)
    {
        public Work(Action run, int images) : this(run, images, [])
        {
        }
    }

    public static int Serve(string variant)
    {
        LabRuntime.Start();
        Work? work = null;
        while (Console.In.ReadLine() is { } line)
        {
            var job = JsonNode.Parse(line)!;
            JsonObject answer;
            if ((string?)job["do"] == "prepare")
            {
                work = Prepare(variant, job);
                if (work.Again)
                    WarmUp(work.Run);
                answer = work.Says;
            }
            else
            {
                if (work!.Again)
                    work.Run(); // not timed: the other sides have had the caches since
                var (times, clock) = (0, Stopwatch.StartNew());
                for (; times == 0 || clock.Elapsed.TotalSeconds < 1; times++)
                    work.Run();
                answer = new JsonObject(work.Says.Select(e => KeyValuePair.Create(e.Key, e.Value?.DeepClone())))
                {
                    ["rate"] = work.Images * times / clock.Elapsed.TotalSeconds,
                    ["seconds"] = clock.Elapsed.TotalSeconds / times,
                };
            }
            Console.WriteLine(answer.ToJsonString());
        }
        return 0;
    }

    private static void WarmUp(Action run)
    {
        var clock = Stopwatch.StartNew();
        for (var i = 0; i < 3 && (i == 0 || clock.Elapsed.TotalSeconds < 2); i++)
            run();
    }

    private static Work Prepare(string variant, JsonNode job)
    {
        var (batch, size) = ((int)job["batch"]!, (int)job["size"]!);
        return (string?)job["what"] switch
        {
            "features" when variant == "onnxruntime" => OnnxRuntime(Load(job), batch, size),
            "features" => Features(Load(job), batch, size, variant == "here-bfloat16" ? ScalarType.BFloat16 : ScalarType.Float32),
            "training" => Training(Load(job), batch, size),
            "decode" => Decoding(Files(job), size),
            "predict" => Predict(job, size),
            var what => what == "experiment" ? Experiment(job, size, variant == "here-bfloat16" ? Precision.BFloat16 : Precision.Float32) : throw new InvalidOperationException(what),
        };
    }

    private static VisionModel Load(JsonNode job) => Models.Create((string)job["model"]!, Weights.File((string)job["file"]!));

    private static string[] Files(JsonNode job) => [.. job["files"]!.AsArray().Select(f => (string)f!)];

    private static Tensor Images(int batch, int size) => rand([batch, 3, size, size]).mul_(4).sub_(2);

    private static Work Features(VisionModel model, int batch, int size, ScalarType precision)
    {
        var (prefix, images) = (new FrozenPrefix(model, model.Stages[^1], precision), Images(batch, size));
        model.Dispose();
        return new Work(() =>
        {
            using var scope = NewDisposeScope();
            prefix.Run(images);
        }, batch);
    }

    private static Work OnnxRuntime(VisionModel model, int batch, int size)
    {
        var options = new SessionOptions { IntraOpNumThreads = LabRuntime.Threads };
        var session = new InferenceSession(OnnxExport.Prefix(model, model.Stages[^1], size, size), options);
        model.Dispose();
        var input = NamedOnnxValue.CreateFromTensor("image", new DenseTensor<float>(Images(batch, size).data<float>().ToArray(), [batch, 3, size, size]));
        return new Work(() => session.Run([input]).Dispose(), batch);
    }

    private static Work Training(VisionModel model, int batch, int size)
    {
        model.train();
        TensorLayout.Weights(model, channelsLast: true);
        var images = TensorLayout.ChannelsLast(Images(batch, size));
        var labels = arange(batch).remainder(2);
        var optimizer = new TrainingOptimizer(new Recipe(), model, 1e-4);
        return new Work(() =>
        {
            using var scope = NewDisposeScope();
            optimizer.Forget();
            using var pass = new TrainingPass(); // as the trainer does
            pass.Backward(nn.functional.cross_entropy(model.Head.call(pass.Features(model, images)), labels));
            optimizer.Step();
        }, batch);
    }

    private static Work Decoding(string[] files, int size)
    {
        var preprocessing = Preprocessing.Square(size);
        byte[][] contents = [.. files.Select(File.ReadAllBytes)];
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var bytes in contents)
        {
            using var picture = Decode(bytes);
            hash.AppendData(picture.bytes);
        }
        return new Work(() => Array.ForEach(contents, bytes => Decode(bytes).Dispose()), files.Length, new JsonObject { ["hash"] = Convert.ToHexStringLower(hash.GetHashAndReset()) });

        Tensor Decode(byte[] bytes) // as the loader does
        {
            using var picture = preprocessing.Apply(ImageReader.DecodePixels(bytes, "a JPEG"));
            var planes = empty([3, size, size], ScalarType.Byte);
            picture.WritePlanes(planes.bytes);
            return planes;
        }
    }

    private static Work Predict(JsonNode job, int size)
    {
        var model = Models.Create((string)job["model"]!).WithHead(2);
        using (var weights = Checkpoint.Read((string)job["file"]!))
            weights.LoadInto(model);
        model.eval();
        var run = new SavedRun([model], Preprocessing.Square(size), ["fake", "real"], 0, MirrorScores: true, new HashSet<string>());
        var files = Files(job);
        var answers = PictureStream.Predict(run, files).Select(a => a.Probabilities![0]);
        return new Work(() => PictureStream.Predict(run, files).Count(), files.Length, new JsonObject { ["answers"] = Values(answers) });
    }

    /// <summary>The published EfficientNet recipe without what is random: no copies varied by chance. Its head comes without dropout.</summary>
    public static Recipe ExperimentRecipe(int epochs, int batch) => StudyRecipes.Find("efficientnet-published").Recipe with
    {
        Epochs = epochs,
        BatchSize = batch,
        FeatureCopies = 1,
        Augmentation = Augmentation.None,
        Head = null,
        ScoreInTrainingMode = false,
    };

    private static Work Experiment(JsonNode job, int size, Precision precision)
    {
        var images = Files(job).Select((file, i) => new FaceImage(Path.GetFileName(file), file, i % 2, null, FaceParts.None, i)).ToList();
        var train = (int)job["train"]!;
        var split = new DataSplit(images[..train], images[train..], [], ExperimentSeed);
        var recipe = ExperimentRecipe(job["orders"]!.AsArray().Count, (int)job["batch"]!) with { FeaturePrecision = precision, TrainingPrecision = precision };
        var says = new JsonObject();
        return new Work(() =>
        {
            if (Directory.Exists(LabFolders.Cache))
                Directory.Delete(LabFolders.Cache, recursive: true); // features of an earlier turn would be found there
            using var model = Models.Create((string)job["model"]!).WithHead(2, HeadRecipe.StudyEfficientNet with { Dropout = 0 });
            using (var weights = Checkpoint.Read((string)job["file"]!))
                weights.LoadInto(model);
            var run = Trainer.Fit(model, split, recipe, new FitOptions { Seed = ExperimentSeed, Preprocessing = Preprocessing.Square(size) });
            says["losses"] = Values(run.History.Select(e => e.TrainLoss));
            says["held"] = Values(run.History.Select(e => e.ValidationLoss));
        }, train * recipe.Epochs, says, Again: false);
    }

    private static JsonArray Values(IEnumerable<double> values) => [.. values.Select(v => (JsonNode)v)];
}
