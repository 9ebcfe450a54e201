using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>The command line as a shell sees it: exit codes, what goes where, and files.</summary>
public sealed class CommandTests : IDisposable
{
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData("train", "--epochs", "many"), InlineData("train", "--size", "7"), InlineData("evaluate"), InlineData("no-such-command")]
    public void Bad_usage_ends_with_2_and_says_what_is_bad(params string[] arguments)
    {
        var (code, output, error) = Run(arguments);
        Assert.Equal(2, code);
        Assert.Contains("--help", error, StringComparison.Ordinal);
        Assert.Empty(output);
    }

    [Fact]
    public void A_run_that_fails_ends_with_1_and_names_the_cause()
    {
        var (code, _, error) = Run("train", "--data", folder["absent"], "--out", folder["run"]);
        Assert.Equal(1, code);
        Assert.Contains(folder["absent"], error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(folder["run"]));
    }

    [Theory]
    [InlineData("train"), InlineData("lr-find"), InlineData("evaluate"), InlineData("predict"), InlineData("notebook"), InlineData("pretrain"), InlineData("sweep")]
    public void Help_shows_an_example(string command)
    {
        var (code, output, _) = Run(command, "--help");
        Assert.Equal(0, code);
        Assert.Contains("deepfakelab " + command, output, StringComparison.Ordinal);
    }

    [Fact]
    public void Training_leaves_a_model_a_record_and_a_page_that_evaluate_and_predict_can_use()
    {
        TrainingTests.PaintImages(folder["images"], 20);
        var train = Run("train", "--data", folder["images"], "--weights", "none", "--size", "32", "--epochs", "1", "--out", folder["run"]);
        Assert.True(train.Code == 0, train.Error);
        Assert.Equal(["model.safetensors", "report.html", "run.json"], Directory.GetFiles(folder["run"]).Select(Path.GetFileName).Order());
        var record = JsonNode.Parse(File.ReadAllText(Path.Combine(folder["run"], "run.json")))!;
        Assert.Equal(64, ((string)record["data"]!["fingerprint"]!).Length);
        Assert.Equal(40, record["split"]!["train"]!.AsArray().Count + record["split"]!["validation"]!.AsArray().Count + record["split"]!["test"]!.AsArray().Count);

        var again = Run("train", "--data", folder["images"], "--out", folder["run"]);
        Assert.Equal(1, again.Code); // a finished run is not written over

        var evaluate = Run("evaluate", "--run", folder["run"], "--data", folder["images"], "--json");
        Assert.True(evaluate.Code == 0, evaluate.Error);
        var figures = JsonNode.Parse(evaluate.Output)!;
        foreach (var key in (string[])["accuracy", "precision", "recall", "f1", "auc", "confusion", "byDifficulty", "n"])
            Assert.True(figures.AsObject().ContainsKey(key), key);
        Assert.Equal(record["split"]!["test"]!.AsArray().Count, (int)figures["n"]!); // what it was trained on is known by content
        Assert.Equal((double)record["test"]!["accuracy"]!, (double)figures["accuracy"]!);

        File.WriteAllText(folder["broken.jpg"], "no image");
        var predict = Run("predict", "--run", folder["run"], "--json", folder["broken.jpg"], Path.Combine(folder["images"], "fake", "fake_0.png"));
        Assert.Equal(1, predict.Code); // one of the two could not be read, and the other still was
        var lines = predict.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(l => JsonNode.Parse(l)!).ToArray();
        Assert.Contains("broken.jpg", (string)lines[0]["error"]!, StringComparison.Ordinal);
        Assert.InRange((double)lines[1]["fakeProbability"]!, 0, 1);
    }

    [Fact]
    public void Pages_show_the_range_test_the_learning_curve_and_several_trainings_or_runs_beside_each_other()
    {
        TrainingTests.PaintImages(folder["images"], 20);
        string[] quick = ["train", "--data", folder["images"], "--weights", "none", "--size", "32"];
        var curve = Run([.. quick, "--epochs", "1", "--lr-find", "--learning-curve", "0.5", "--out", folder["curve"]]);
        Assert.True(curve.Code == 0, curve.Error);
        var page = File.ReadAllText(Path.Combine(folder["curve"], "report.html"));
        Assert.Contains("<title>Learning curve</title>", page, StringComparison.Ordinal);
        Assert.Contains("<title>Learning-rate finder</title>", page, StringComparison.Ordinal);
        var plain = Run([.. quick, "--epochs", "1", "--out", folder["plain"]]);
        Assert.True(plain.Code == 0, plain.Error);
        Assert.Equal(File.ReadAllBytes(Path.Combine(folder["plain"], "model.safetensors")), File.ReadAllBytes(Path.Combine(folder["curve"], "model.safetensors")));
        Assert.Equal(1, Run([.. quick, "--learning-curve", "2", "--out", folder["bad"]]).Code);

        var other = Run([.. quick, "--epochs", "2", "--out", folder["other"]]);
        Assert.True(other.Code == 0, other.Error);
        string[] both = ["evaluate", "--run", folder["plain"], folder["other"], "--data", folder["images"]];
        var compared = Run([.. both, "--json", "--report", folder["compared.html"]]);
        Assert.True(compared.Code == 0, compared.Error);
        var figures = JsonNode.Parse(compared.Output)!;
        Assert.Equal(["plain", "other"], figures["runs"]!.AsObject().Select(r => r.Key));
        Assert.Equal((double)figures["runs"]!["plain"]!["auc"]! - (double)figures["runs"]!["other"]!["auc"]!, (double)figures["pairs"]![0]!["aucDifference"]!, 1e-12);
        Assert.Contains("<title>ROC curves</title>", File.ReadAllText(folder["compared.html"]), StringComparison.Ordinal);
        Assert.Contains("plain - other: AUC", Run(both).Output, StringComparison.Ordinal);
        Assert.Equal(2, Run("evaluate", "--run", folder["plain"], "--report", folder["one.html"]).Code);

        var folds = Run([.. quick, "--epochs", "0", "--folds", "2", "--out", folder["folds"]]);
        Assert.True(folds.Code == 0, folds.Error);
        Assert.Contains("<title>accuracy of 3 runs</title>", File.ReadAllText(Path.Combine(folder["folds"], "report.html")), StringComparison.Ordinal);
    }

    private static (int Code, string Output, string Error) Run(params string[] arguments) =>
        TestSupport.Run("dotnet", [typeof(Cli.Program).Assembly.Location, .. arguments]);
}
