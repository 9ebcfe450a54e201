using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>A run that was trained, exported as a user would, and read by the program it was exported for.</summary>
public sealed class ExportTests(ExportTests.TrainedRun trained) : IClassFixture<ExportTests.TrainedRun>
{
    public sealed class TrainedRun : IDisposable
    {
        internal TemporaryFolder Folder { get; } = TestSupport.Folder();

        public TrainedRun() : this("64")
        {
        }

        internal TrainedRun(string size)
        {
            TrainingTests.PaintImages(Folder["images"], 20);
            Assert.Equal(0, Command("train", "--data", Folder["images"], "--weights", "none", "--size", size, "--epochs", "1", "--out", Folder["run"]));
        }

        /// <summary>Runs the command line in this process and gives its exit code.</summary>
        internal static int Command(params string[] arguments) => Cli.Program.Main(arguments).GetAwaiter().GetResult();

        public void Dispose() => Folder.Dispose();
    }

    /// <summary>Gives a run's model weights with which its answers differ from picture to picture; one epoch makes them all alike.</summary>
    internal static void Shake(string run)
    {
        LabRuntime.Seed(6);
        using var model = RunFolder.Open(run).Model;
        OnnxTests.Shake(model);
        using var state = StateDict.Of(model);
        SafeTensors.Write(Path.Combine(run, RunFolder.ModelFile), state.Select(e => (e.Key, e.Value)), new Dictionary<string, string> { ["format"] = "pt" });
    }

    private TemporaryFolder Folder => trained.Folder;

    private int Export(string format, string file, params string[] more) =>
        TrainedRun.Command(["export", format, "--run", Folder["run"], "--out", Folder[file], .. more]);

    [Fact]
    public void A_pth_gives_torchvision_the_same_logits()
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        Shake(Folder["run"]);
        Assert.Equal(0, Export("pth", "model.pth"));
        var x = randn(2, 3, 64, 64);
        SafeStateOf(x, Folder["x.pth"]);
        TestSupport.Python(["torch", "torchvision"], "export.py", Folder["model.pth"], Folder["x.pth"], Folder["logits.pth"]);
        using var theirs = Checkpoint.Read(Folder["logits.pth"]);
        using var model = RunFolder.Open(Folder["run"]).Model;
        Assert.True((theirs["logits"][0] - theirs["logits"][1]).abs().max().item<float>() > 1e-3f * theirs["logits"].abs().max().item<float>()); // one answer for all would hide mistakes
        Assert.InRange((theirs["logits"] - model.call(x)).abs().max().item<float>(), 0, 1e-5f * theirs["logits"].abs().max().item<float>());
    }

    [Fact]
    public void A_safetensors_file_holds_the_same_numbers_and_its_terms()
    {
        Assert.Equal(0, Export("safetensors", "model.safetensors"));
        using var written = Checkpoint.Read(Folder["model.safetensors"]);
        using var original = Checkpoint.Read(Path.Combine(Folder["run"], "model.safetensors"));
        Assert.Equal(original.Keys.Order(), written.Keys.Order());
        Assert.All(original, t => Assert.True(t.Value.Equals(written[t.Key]), t.Key));
        Assert.Contains("MIT", written.Metadata["licence"]);
    }

    [Fact]
    public void An_onnx_file_comes_with_a_card_that_says_what_it_is_worth()
    {
        Assert.Equal(0, Export("onnx", "model.onnx", "--fold", "--preprocess", "--softmax"));
        Assert.True(new FileInfo(Folder["model.onnx"]).Length > 8 << 20);
        var card = File.ReadAllText(Folder["model.onnx.md"]);
        Assert.Contains("| accuracy |", card);
        Assert.Contains("must not be used", card);
        Assert.Contains("0 = fake, 1 = real", card);
        Assert.Contains("`image`, uint8 [N, H, W, 3], RGB bytes of any size", card);
        Assert.Contains("`probabilities`", card);
        Assert.DoesNotContain("softmax makes", card);
        Assert.DoesNotContain("`maps`", card);
        Assert.Equal(0, Export("onnx", "plain.onnx", "--class-maps", "--half"));
        card = File.ReadAllText(Folder["plain.onnx.md"]);
        Assert.Contains("`image`, float32 [N, 3, 64, 64]", card);
        Assert.Contains("`logits`", card);
        Assert.Contains("`maps`", card);
        Assert.Contains("float16", card);
        Assert.Equal(2, Export("onnx", "model.bin")); // a name that hides what it is
    }

    [Fact]
    public void Eight_bits_are_tested_before_and_after()
    {
        var export = OnnxInt8.Write(Folder["run"], Folder["int8.onnx"], FaceDataset.Open(Folder["images"]), new OnnxOptions { Softmax = true });
        Assert.Equal(8, export.After.N); // a fifth of the forty is for testing
        Assert.Equal(32, export.Calibration);
        Assert.Equal(export.Before.Probabilities, export.After.Probabilities, (a, b) => Math.Abs(a - b) < 0.1);
        Assert.NotEqual(export.Before.Probabilities, export.After.Probabilities);
        var card = File.ReadAllText(Folder["int8.onnx.md"]);
        Assert.Contains("32 training images", card);
        Assert.Contains($"accuracy {export.Before.Accuracy} before and {export.After.Accuracy} after", card);
        Assert.Equal(0, Export("onnx", "again.onnx", "--int8", "--data", Folder["images"]));
        Assert.Equal(2, Export("onnx", "both.onnx", "--int8", "--half"));
        foreach (var name in (string[])["fake/a.png", "fake/b.png", "real/c.png", "real/d.png"])
        {
            Directory.CreateDirectory(Path.Combine(Folder["others"], Path.GetDirectoryName(name)!));
            File.WriteAllBytes(Path.Combine(Folder["others"], name), new RgbImage(64, 64, [.. Enumerable.Range(0, 3 * 64 * 64).Select(i => (byte)(i * name[5]))]).ToPng());
        }
        Assert.Contains("trained on", Assert.Throws<ExportException>(() => OnnxInt8.Write(Folder["run"], Folder["no.onnx"], FaceDataset.Open(Folder["others"]))).Message);
    }

    private static void SafeStateOf(Tensor x, string path)
    {
        using var state = new StateDict("test");
        state.Add("x", x.alias().DetachFromDisposeScope());
        Checkpoint.Write(path, state);
    }
}
