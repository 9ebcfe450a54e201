using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>The <c>models</c> command in a process of its own, as a user runs it.</summary>
public class ModelsCommandTests
{
    private static (int Code, string Output, string Error) Cli(IDictionary<string, string>? environment, params string[] arguments) =>
        TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), "models", .. arguments], environment);

    [Fact]
    public void List_gives_every_variant_with_its_figures()
    {
        var (code, output, _) = Cli(null, "list", "--json");
        Assert.Equal(0, code);
        var models = JsonNode.Parse(output)!.AsArray();
        Assert.Equal(Models.Names, models.Select(m => m!["name"]!.GetValue<string>()));
        Assert.Equal(47, models.Sum(m => m!["weights"]!.AsArray().Count));
        var resnet = models.Single(m => m!["name"]!.GetValue<string>() == "resnet50")!;
        Assert.Equal(25557032, resnet["parameters"]!.GetValue<long>());
        Assert.Equal(Models.Names.Where(Weights.ComeWith), models.Where(m => m!["embedded"]!.GetValue<bool>()).Select(m => m!["name"]!.GetValue<string>()));
        Assert.Equal(80.858, resnet["weights"]![1]!["top1"]!.GetValue<double>());
        Assert.Equal(1 + 1 + 36, Cli(null, "list").Output.Trim().Split('\n').Length);
    }

    [Fact]
    public void Run_reads_images_and_writes_logits_and_features()
    {
        using var folder = TestSupport.Folder();
        using var scope = NewDisposeScope();
        using var model = Models.MobileNetV2(classes: 3);
        model.eval();
        using (var state = StateDict.Of(model))
            Checkpoint.Write(folder["w.pth"], state);
        var x = randn(2, 3, 64, 64);
        SafeTensors.Write(folder["x.safetensors"], [("x", x)]);
        var (code, output, error) = Cli(null, "run", "--model", "mobilenet_v2", "--weights", folder["w.pth"], "--classes", "3",
            "--input", folder["x.safetensors"], "--output", folder["y.safetensors"]);
        Assert.True(code == 0, output + error);
        using var result = SafeTensors.Read(folder["y.safetensors"]);
        using var frozen = no_grad();
        Assert.True(result["logits"].allclose(model.call(x), 1e-5, 1e-6));
        Assert.True(result["features"].allclose(model.Features(x), 1e-5, 1e-6));

        (code, _, error) = Cli(null, "run", "--model", "resnet18", "--weights", folder["w.pth"], "--input", folder["x.safetensors"], "--output", folder["z.safetensors"]);
        Assert.Equal(1, code);
        Assert.Contains("missing", error);
        Assert.False(File.Exists(folder["z.safetensors"]));
        Assert.Equal(2, Cli(null, "run", "--model", "resnet18").Code);
    }

    [Fact]
    public void Inspect_prints_keys_types_and_shapes_and_get_says_what_is_missing()
    {
        using var folder = TestSupport.Folder();
        using var scope = NewDisposeScope();
        SafeTensors.Write(folder["a.safetensors"], [("w", zeros(2, 3)), ("n", zeros(1, dtype: int64))]);
        var (code, output, _) = Cli(null, "inspect", folder["a.safetensors"], "--json");
        Assert.Equal(0, code);
        Assert.Equal("""[{"key":"w","type":"float32","shape":[2,3]},{"key":"n","type":"int64","shape":[1]}]""", JsonNode.Parse(output)!.ToJsonString());
        Assert.Equal(1, Cli(null, "inspect", folder["none.pth"]).Code);

        (code, _, var error) = Cli(new Dictionary<string, string> { ["TORCH_HOME"] = folder.Path, ["DEEPFAKELAB_OFFLINE"] = "1" }, "get", "resnet18");
        Assert.Equal(1, code);
        Assert.Contains("resnet18-f37072fd.pth", error);
    }

    [Fact]
    public void Get_fetches_a_file_from_a_mirror_once_and_prints_where_it_lies()
    {
        // An official file is half a gigabyte. Of this text, too, the SHA-256 begins with 8ba56ff5: found by trying numbers.
        var file = System.Text.Encoding.ASCII.GetBytes("no weights, but a file whose hash begins as theirs does: 15690243");
        using var folder = TestSupport.Folder();
        using var server = new TestServer(TestServer.Ranges(file));
        var environment = new Dictionary<string, string> { ["TORCH_HOME"] = folder.Path, ["DEEPFAKELAB_WEIGHTS_MIRROR"] = server.Address("models").ToString() };
        string[] get = ["get", "resnext101_32x8d", "--entry", "IMAGENET1K_V1", "--progress", "silent"];
        var (code, output, error) = Cli(environment, get);
        Assert.True(code == 0, error);
        var path = Path.Combine(folder.Path, "hub", "checkpoints", "resnext101_32x8d-8ba56ff5.pth");
        Assert.Equal($"{path} (sha256 {Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(file))})", output.Trim());
        Assert.Equal(file, File.ReadAllBytes(path));
        environment["DEEPFAKELAB_OFFLINE"] = "1";
        Assert.Equal((0, output, ""), Cli(environment, get));
        Assert.Equal(("GET", "/models/resnext101_32x8d-8ba56ff5.pth"), server.Requests.Select(r => (r.Method, r.Path)).Single());
    }

    [Fact]
    public void A_proxy_of_the_environment_is_used()
    {
        using var folder = TestSupport.Folder();
        using var proxy = new TestServer((_, connection) => connection.Head("404 Not Found", 0));
        var (code, _, error) = Cli(new Dictionary<string, string>
        {
            ["TORCH_HOME"] = folder.Path,
            ["DEEPFAKELAB_WEIGHTS_MIRROR"] = "http://weights.invalid/models/",
            ["http_proxy"] = proxy.Address("").ToString(),
        }, "get", "resnet18");
        Assert.Equal(1, code);
        Assert.Contains("404", error);
        Assert.Contains("begins with f37072fd", error);
        Assert.Contains(Path.Combine(folder.Path, "hub", "checkpoints", "resnet18-f37072fd.pth"), error);
        Assert.Equal("http://weights.invalid/models/resnet18-f37072fd.pth", proxy.Requests.Single().Path);
    }
}
