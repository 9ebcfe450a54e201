using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>Sweep files, running their tasks, gathering results, and what is written for Kubernetes.</summary>
public sealed class SweepTests : IDisposable
{
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Tasks_are_the_combinations_by_recipe_model_seed_and_fold()
    {
        var file = Read("""
            { // comments are allowed, and so is a last comma
              "models": ["mobilenet_v2", "resnet18"], "seeds": [1, 2], "folds": 2, "out": "results",
              "recipes": [{ "name": "full", "epochs": 3, "augmentation": { "flip": 0 } }, { "name": "late", "base": "mobilenet", "batchSize": 8, "schedule": "cosine" }],
            }
            """);
        Assert.Equal(16, file.Tasks.Count);
        Assert.Equal(Enumerable.Range(0, 16), file.Tasks.Select(t => t.Index));
        Assert.Equal(["mobilenet_v2-full-s1-f1", "mobilenet_v2-full-s1-f2", "mobilenet_v2-full-s2-f1"], file.Tasks.Take(3).Select(t => t.Id));
        Assert.Equal("resnet18-late-s2-f2", file.Tasks[^1].Id);
        Assert.Equal(Path.Combine(folder.Path, "results"), file.Out);
        Assert.Equal(Recipe.Full() with { Name = "full", Epochs = 3, Augmentation = Augmentation.Faces with { Flip = 0 } }, file.Tasks[0].Recipe);
        var study = StudyRecipes.Find("mobilenet").Recipe;
        var late = file.Tasks[^1].Recipe;
        Assert.Equal((study.Cut, study.Epochs, 8, RateSchedule.Cosine), (late.Cut, late.Epochs, late.BatchSize, late.Schedule));
        Assert.Equal(study.Head?.ToString(), late.Head?.ToString());
        Assert.Equal(file.Tasks[3], file.Find("3"));
        Assert.Equal(file.Tasks[^1], file.Find("resnet18-late-s2-f2"));
    }

    [Theory]
    [InlineData("""{ "models": ["mobilenet_v2"], "out": "r", "modles": [] }""", "modles")]
    [InlineData("""{ "models": ["mobilenet_v2"], "models": ["vgg16"], "out": "r" }""", "models")]
    [InlineData("""{ "models": [], "out": "r" }""", "models")]
    [InlineData("""{ "models": ["mobilenet_v9"], "out": "r" }""", "mobilenet_v9")]
    [InlineData("""{ "models": ["vgg16", "vgg16"], "out": "r" }""", "vgg16 twice")]
    [InlineData("""{ "models": ["vgg16"], "seeds": [], "out": "r" }""", "seeds")]
    [InlineData("""{ "models": ["vgg16"], "seeds": [1, 1], "out": "r" }""", "1 twice")]
    [InlineData("""{ "models": ["vgg16"], "seeds": ["one"], "out": "r" }""", "$.seeds[0]")]
    [InlineData("""{ "models": ["vgg16"], "folds": 1, "out": "r" }""", "folds")]
    [InlineData("""{ "models": ["vgg16"], "size": 9, "out": "r" }""", "size")]
    [InlineData("""{ "models": ["vgg16"] }""", "out")]
    [InlineData("""{ "models": ["vgg16"], "recipes": null, "out": "r" }""", "recipes")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "../up" }], "out": "r" }""", "../up")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "a", "base": "full" }, { "name": "A", "base": "full" }], "out": "r" }""", "twice")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "a", "base": "best" }], "out": "r" }""", "best")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "full", "epoch": 3 }], "out": "r" }""", "epoch ")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "full", "epochs": 2.5 }], "out": "r" }""", "epochs")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "full", "learningRate": -1 }], "out": "r" }""", "LearningRate")]
    [InlineData("""{ "models": ["vgg16"], "recipes": [{ "name": "resnet-published" }], "out": "r" }""", "resnet-published")]
    [InlineData("""{ "models": ["vgg16"], "seeds": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,77,78,79,80,81,82,83,84,85,86,87,88,89,90,91,92,93,94,95,96,97,98,99,100,101], "folds": 100, "out": "r" }""", "10100")]
    [InlineData("""{ "models": ["vgg16"], "out": "r", "slurm": { "options": null } }""", "options")]
    [InlineData("null", "empty")]
    [InlineData("[", "$")]
    public void A_bad_file_is_refused_and_the_key_is_named(string text, string named)
    {
        var error = Assert.Throws<SweepException>(() => Read(text));
        Assert.Contains(named, error.Message, StringComparison.Ordinal);
        Assert.Contains("sweep.json", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_file_that_help_shows_is_good_for_all_engines()
    {
        var help = Cli.SweepCommand.Create().Description!;
        var file = Read(help[help.IndexOf('{', StringComparison.Ordinal)..(help.IndexOf("\n  }", StringComparison.Ordinal) + 4)]);
        Assert.Equal(60, file.Tasks.Count);
        Assert.Contains("#SBATCH --array=0-59\n", SweepJobs.Slurm(file, ["deepfakelab"]), StringComparison.Ordinal);
        Assert.Contains("\"completions\": 60", SweepJobs.Kubernetes(file), StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_file_and_a_missing_task_are_named()
    {
        Assert.Contains("absent.json", Assert.Throws<SweepException>(() => SweepFile.Read(folder["absent.json"])).Message, StringComparison.Ordinal);
        var file = Read("""{ "models": ["vgg16"], "out": "r" }""");
        foreach (var task in (string[])["1", "-1", "vgg16-full-s42-f2", ""])
            Assert.Contains("Use 0 to 0", Assert.Throws<SweepException>(() => file.Find(task)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_sweep_gives_what_cross_validation_gives_and_one_bad_task_does_not_stop_the_others()
    {
        TrainingTests.PaintImages(folder["images"], 12);
        var text = """
            { "data": "images", "models": ["mobilenet_v2"], "seeds": [1], "folds": 2, "size": 32, "weights": "none", "out": "results",
              "recipes": [{ "name": "bad", "base": "full", "cut": "no.such.layer", "headEpochs": 0, "epochs": 1 },
                          { "name": "small", "base": "full", "headEpochs": 1, "epochs": 1, "batchSize": 8 }] }
            """;
        var file = Read(text);
        var lines = new List<string>();
        Assert.Equal(2, Sweep.Run(file, file.Tasks, lines.Add, TestContext.Current.CancellationToken));
        Assert.Contains(lines, l => l.Contains("mobilenet_v2-bad-s1-f1: failed. ", StringComparison.Ordinal) && l.Contains("no.such.layer", StringComparison.Ordinal));
        var table = SweepTable.Gather(file);
        Assert.False(table.IsComplete);
        Assert.Equal([0, 1], table.Missing.Select(m => m.Task.Index));
        Assert.All(table.Missing, m => Assert.True(m.State == SweepState.Failed && m.Reason.Contains("no.such.layer", StringComparison.Ordinal)));
        Assert.Contains("missing   [0] mobilenet_v2-bad-s1-f1: failed.", table.ToText(), StringComparison.Ordinal);

        var data = FaceDataset.Open(folder["images"]);
        var expected = Protocol.CrossValidate(
            data, () => Models.MobileNetV2(Weights.None).WithHead(2), Recipe.Full() with { HeadEpochs = 1, Epochs = 1, BatchSize = 8 }, folds: 2, seeds: [1],
            preprocessing: Preprocessing.Square(32), cancellation: TestContext.Current.CancellationToken);
        Assert.Equal(expected.ToJson().ToJsonString(), table.Rows[1].Result!.ToJson().ToJsonString());

        // once more: nothing is done again, and nobody touches what is there
        var before = File.GetLastWriteTimeUtc(Path.Combine(file.Folder(file.Tasks[2]), "result.json"));
        lines.Clear();
        Assert.Equal(0, Sweep.Run(file, [file.Tasks[2], file.Tasks[3]], lines.Add, TestContext.Current.CancellationToken));
        Assert.Equal(2, lines.Count(l => l.EndsWith("done already", StringComparison.Ordinal)));
        Assert.Equal(before, File.GetLastWriteTimeUtc(Path.Combine(file.Folder(file.Tasks[2]), "result.json")));

        // an edited file does not pass old results off as its own
        var edited = SweepTable.Gather(Read(text.Replace("\"batchSize\": 8", "\"batchSize\": 6", StringComparison.Ordinal)));
        Assert.Equal([SweepState.Failed, SweepState.Failed, SweepState.Outdated, SweepState.Outdated], edited.Missing.Select(m => m.State));

        // a task that another process is at is left to it
        using (new FileStream(Path.Combine(file.Folder(file.Tasks[0]), "lock"), FileMode.Open, FileAccess.ReadWrite, FileShare.None))
        {
            lines.Clear();
            Assert.Equal(1, Sweep.Run(file, [file.Tasks[0]], lines.Add, TestContext.Current.CancellationToken));
            Assert.EndsWith("another process is at it", lines[^1], StringComparison.Ordinal);
        }

        // other images under the same names are other images
        File.Copy(Path.Combine(folder["images"], "real", "real_1.png"), Path.Combine(folder["images"], "real", "real_0.png"), overwrite: true);
        lines.Clear();
        Assert.Equal(0, Sweep.Run(file, [file.Tasks[2]], lines.Add, TestContext.Current.CancellationToken));
        Assert.Contains(lines, l => l.Contains("of other settings or images", StringComparison.Ordinal));
        Assert.Contains(SweepTable.Gather(file).Warnings, w => w.Contains("different images", StringComparison.Ordinal));

        File.WriteAllText(Path.Combine(file.Folder(file.Tasks[3]), "result.json"), "{ \"settings\": 3");
        Assert.Contains("damaged", SweepTable.Gather(file).Missing[^1].Reason, StringComparison.Ordinal);
        Assert.Equal(0, Sweep.Run(file, [file.Tasks[3]], lines.Add, TestContext.Current.CancellationToken));
        Assert.Empty(SweepTable.Gather(file).Warnings);
    }

    [Fact]
    public void The_Kubernetes_Job_is_as_the_published_schema_wants_it()
    {
        var file = Read("""
            { "data": "faces", "models": ["mobilenet_v2"], "seeds": [1, 2, 3], "weights": "/data/weights.safetensors", "out": "results",
              "kubernetes": { "image": "registry.example/deepfakelab:1", "namespace": "lab", "parallel": 8, "retries": 2, "cpu": "4", "memory": "8Gi", "gpus": 1,
                              "dataClaim": "faces", "outClaim": "results", "env": { "DEEPFAKELAB_OFFLINE": "1" } } }
            """);
        var manifest = SweepJobs.Kubernetes(file);
        var job = JsonNode.Parse(manifest)!["items"]![1]!;
        Assert.Equal(("Indexed", 3, 3, 2), ((string)job["spec"]!["completionMode"]!, (int)job["spec"]!["completions"]!, (int)job["spec"]!["parallelism"]!, (int)job["spec"]!["backoffLimitPerIndex"]!));
        Assert.Equal(file.Text, (string)JsonNode.Parse(manifest)!["items"]![0]!["data"]!["sweep.json"]!);
        Assert.Equal("", Validate(manifest));
        // the schema does refuse what is wrong
        Assert.Contains("completionMod", Validate(manifest.Replace("\"completionMode\"", "\"completionMod\"", StringComparison.Ordinal)), StringComparison.Ordinal);
        Assert.Contains("parallelism", Validate(manifest.Replace("\"parallelism\": 3", "\"parallelism\": \"3\"", StringComparison.Ordinal)), StringComparison.Ordinal);

        string Validate(string text)
        {
            File.WriteAllText(folder["job.json"], text);
            return TestSupport.Python(["jsonschema"], "validate_kubernetes.py", Path.Combine(AppContext.BaseDirectory, "parity", "kubernetes-job.schema.json"), folder["job.json"]);
        }
    }

    [Theory]
    [InlineData("kubernetes", """{ "outClaim": "r" }""", "kubernetes.image")]
    [InlineData("kubernetes", """{ "image": "a b", "outClaim": "r" }""", "kubernetes.image")]
    [InlineData("kubernetes", """{ "image": "a" }""", "kubernetes.outClaim")]
    [InlineData("kubernetes", """{ "image": "a", "outClaim": "r", "name": "Upper" }""", "kubernetes.name")]
    [InlineData("kubernetes", """{ "image": "a", "outClaim": "r", "memory": "much" }""", "kubernetes.memory")]
    [InlineData("kubernetes", """{ "image": "a", "outClaim": "r", "env": { "A-B": "1" } }""", "kubernetes.env")]
    [InlineData("slurm", """{ "partition": "a b" }""", "slurm.partition")]
    [InlineData("slurm", """{ "cpus": -1 }""", "slurm.cpus")]
    [InlineData("slurm", """{ "options": ["--wrap=a\nrm -r x"] }""", "slurm.options")]
    [InlineData("slurm", """{ "setup": ["a\nb"] }""", "slurm.setup")]
    [InlineData("slurm", """{ "command": [] }""", "slurm.command")]
    public void Bad_settings_of_an_engine_are_refused(string engine, string settings, string named)
    {
        var file = Read($$"""{ "models": ["vgg16"], "out": "r", "{{engine}}": {{settings}} }""");
        var error = Assert.Throws<SweepException>(() => engine == "slurm" ? SweepJobs.Slurm(file, ["deepfakelab"]) : SweepJobs.Kubernetes(file));
        Assert.Contains(named, error.Message, StringComparison.Ordinal);
    }

    private SweepFile Read(string text)
    {
        File.WriteAllText(folder["sweep.json"], text);
        return SweepFile.Read(folder["sweep.json"]);
    }
}
