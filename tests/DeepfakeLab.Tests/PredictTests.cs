using System.Globalization;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>Pictures from files, folders, patterns, lists and servers through a trained model.</summary>
public sealed class PredictTests(ExportTests.TrainedRun trained) : IClassFixture<ExportTests.TrainedRun>
{
    private string Images => trained.Folder["images"];

    [Fact]
    public void A_stream_gives_what_one_picture_alone_gives_in_order_and_does_not_stop_at_a_bad_one()
    {
        using var folder = TestSupport.Folder();
        File.WriteAllText(folder["broken.jpg"], "no image");
        var good = PictureStream.Expand(Images).ToList();
        Assert.Equal(40, good.Count);
        List<string> all = [.. good[..3], folder["broken.jpg"], folder["absent.png"], .. good[3..], .. good, .. good]; // enough for ONNX Runtime to take over
        using var model = Models.MobileNetV2().WithHead(2); // one epoch makes all answers alike; these differ from picture to picture
        OnnxTests.Shake(model);
        var opened = RunFolder.Open(trained.Folder["run"]);
        opened.Model.Dispose();
        var run = opened with { Members = [model] };
        var answers = PictureStream.Predict(run, all, TestContext.Current.CancellationToken).ToList();
        Assert.Equal(all, answers.Select(a => a.Picture));
        Assert.Equal([folder["broken.jpg"], folder["absent.png"]], answers.Where(a => a.Error is not null).Select(a => a.Picture));
        var alone = Predictor.Probabilities(model, [.. good.Select(f => new FaceImage("x", f, 0, null, FaceParts.None, 0))], run.Preprocessing, run.MirrorScores, default);
        var streamed = answers.Where(a => a.Error is null).Select(a => a.Probabilities![0]).ToList();
        Assert.True(streamed.Max() - streamed.Min() > 1e-3);
        Assert.Equal(Enumerable.Repeat(alone.Select(p => p[0]), 3).SelectMany(p => p), streamed, (x, y) => Math.Abs(x - y) < 1e-5);
    }

    [Fact]
    public void Patterns_find_files_and_what_finds_nothing_is_itself()
    {
        Assert.Equal(20, PictureStream.Expand(Path.Combine(Images, "fake", "*.png")).Count());
        Assert.Equal(40, PictureStream.Expand(Path.Combine(Images, "**", "*.png")).Count());
        Assert.Equal(10, PictureStream.Expand(Path.Combine(Images, "**", "fake_?.png")).Count());
        Assert.Equal(20, PictureStream.Expand(Path.Combine(Images, "f*", "*.png")).Count());
        Assert.Equal(2, PictureStream.Expand(Path.Combine(Path.GetDirectoryName(Images)!, "image?", "**", "*_0.png")).Count());
        Assert.Equal(40, PictureStream.Expand(Path.Combine(Images, "**")).Count());
        Assert.Single(PictureStream.Expand(Path.Combine(Path.GetDirectoryName(Images)!, "*", "fake", "fake_0.png")));
        Assert.Equal(["nothing/*.png"], PictureStream.Expand("nothing/*.png"));
    }

    [Fact]
    public void Nothing_to_look_at_is_said_and_is_a_failure()
    {
        using var folder = TestSupport.Folder();
        var (was, wasIn) = (Console.Error, Console.In);
        using var errors = new StringWriter(CultureInfo.InvariantCulture);
        Console.SetError(errors);
        Console.SetIn(new StringReader("\n"));
        try
        {
            Assert.Equal(1, ExportTests.TrainedRun.Command("predict", "--run", trained.Folder["run"], folder.Path));
            Assert.Equal(1, ExportTests.TrainedRun.Command("predict", "--run", trained.Folder["run"], "-"));
        }
        finally
        {
            Console.SetError(was);
            Console.SetIn(wasIn);
        }
        Assert.Contains("no images in this folder: " + folder.Path, errors.ToString());
        Assert.Contains("No picture was named", errors.ToString());
    }

    [Fact]
    public void Addresses_are_fetched_within_bounds_of_size_and_time()
    {
        var picture = File.ReadAllBytes(Path.Combine(Images, "fake", "fake_0.png"));
        using var server = new TestServer((request, connection) =>
        {
            switch (request.Path)
            {
                case "/moved": connection.Head("302 Found", 0, "Location: /picture\r\n"); break;
                case "/picture": connection.Head("200 OK", picture.Length); connection.Body(picture); break;
                case "/endless": connection.Head("200 OK", null); for (var i = 0; i < 70; i++) connection.Body(new byte[1 << 20]); break;
                case "/silent": connection.WaitForClient(); break;
                default: connection.Head("404 Not Found", 0); break;
            }
        });
        var run = RunFolder.Open(trained.Folder["run"]);
        using var model = run.Model;
        PictureStream.Patience = TimeSpan.FromSeconds(3);
        var answers = PictureStream.Predict(run, ((string[])["moved", "endless", "silent", "absent", "picture"]).Select(f => server.Address(f).ToString()), TestContext.Current.CancellationToken).ToList();
        PictureStream.Patience = TimeSpan.FromSeconds(30);
        Assert.NotNull(answers[0].Probabilities);
        Assert.Contains("64 MiB", answers[1].Error);
        Assert.Contains("within 3 s", answers[2].Error);
        Assert.Contains("404", answers[3].Error);
        Assert.Equal(answers[0].Probabilities![0], answers[4].Probabilities![0], 1e-5);
    }

    [Theory, InlineData("csv"), InlineData("json"), InlineData("text")]
    public void Every_form_names_the_picture_and_its_probability(string format)
    {
        using var folder = TestSupport.Folder();
        var odd = folder["a, b.png"];
        File.Copy(Path.Combine(Images, "fake", "fake_0.png"), odd);
        var (was, wasIn) = (Console.Out, Console.In);
        using var output = new StringWriter(CultureInfo.InvariantCulture);
        Console.SetOut(output);
        Console.SetIn(new StringReader(odd + "\n\n"));
        try
        {
            Assert.Equal(0, ExportTests.TrainedRun.Command("predict", "--run", trained.Folder["run"], "--format", format, "-"));
        }
        finally
        {
            Console.SetOut(was);
            Console.SetIn(wasIn);
        }
        var last = output.ToString().TrimEnd().Split('\n')[^1];
        if (format == "json")
            Assert.Equal(odd, (string?)JsonNode.Parse(last)!["image"]);
        else
            Assert.StartsWith(format == "csv" ? $"\"{odd}\"," : odd + ": ", last);
        Assert.Matches(@"0\.\d\d\d|1\.000", last);
    }
}
