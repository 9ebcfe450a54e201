using System.Diagnostics;
using System.Formats.Tar;
using System.Globalization;
using System.IO.Compression;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>A trained model as a page, in a browser, beside what <c>predict</c> says. Screenshots are kept under artifacts/screenshots.</summary>
/// <remarks>DEEPFAKELAB_WEB_SIZE=224 makes the page of a model of that input size, to time its first answer.</remarks>
public sealed class WebTests(WebTests.ExportedSite exported, ITestOutputHelper console) : IClassFixture<WebTests.ExportedSite>
{
    /// <summary>A run whose answers differ from picture to picture, and its site; the runtime comes from npm, once for the machine.</summary>
    public sealed class ExportedSite : IDisposable
    {
        private readonly ExportTests.TrainedRun trained = new(Environment.GetEnvironmentVariable("DEEPFAKELAB_WEB_SIZE") ?? "64");

        internal TemporaryFolder Folder => trained.Folder;

        internal string? Problem { get; }

        public ExportedSite()
        {
            ExportTests.Shake(Folder["run"]);
            var record = Path.Combine(Folder["run"], RunFolder.RecordFile);
            File.WriteAllText(record, File.ReadAllText(record).Replace("\"isSample\": false", "\"isSample\": true", StringComparison.Ordinal));
            try
            {
                WebExport.Write(Folder["run"], Folder["site"]);
            }
            catch (ExportException e) when (e.Message.Contains("cannot be had", StringComparison.Ordinal))
            {
                Problem = e.Message;
            }
        }

        public void Dispose() => trained.Dispose();
    }

    private TemporaryFolder Folder => exported.Folder;

    private const string State = "document.getElementById('status').textContent", Answered = "/^Answered/.test(document.getElementById('status').textContent)";

    private void NeedSite()
    {
        if (exported.Problem is { } problem)
            TestSupport.Skip(problem);
    }

    [Theory]
    [InlineData("disk", 1100, false)]
    [InlineData("disk", 360, true)]
    [InlineData("server", 1100, false)]
    public void The_page_says_what_predict_says_and_asks_for_nothing_outside(string from, int width, bool dark)
    {
        NeedSite();
        using var server = from == "server" ? SiteServer() : null;
        using var browser = new Browser(local: server is not null, server?.Address("").ToString());
        string[] pictures = [Picture("a.png", 5, 150, 201), Picture("b.png", 6, 64, 64), Picture("c.png", 3, 40, 700), Path.Combine(Folder["images"], "fake", "fake_0.png"), Picture("d.jpg", 4, 90, 130)];
        var saved = RunFolder.Open(Folder["run"]);
        using var model = saved.Model;
        var expected = PictureStream.Predict(saved, pictures, TestContext.Current.CancellationToken).Select(a => a.Probabilities![saved.FakeClass]).ToList();
        Assert.True(expected.Max() - expected.Min() > 0.05, string.Join(", ", expected)); // one answer for all would hide mistakes

        var clock = Stopwatch.StartNew();
        browser.Open(server?.Address("index.html").ToString() ?? Path.Combine(Folder["site"], "index.html"), dark, width);
        for (var i = 0; i < pictures.Length; i++)
        {
            browser.Choose("#file", pictures[i]);
            browser.WaitFor($"performance.getEntriesByName('answer').length > {i}", State);
            if (i == 0)
                console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{from}: first answer {clock.Elapsed.TotalSeconds:0.00} s after opening"));
            browser.WaitFor(Answered, State);
            var said = double.Parse((string)browser.Evaluate("document.getElementById('answer').dataset.probability")!, CultureInfo.InvariantCulture);
            console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Path.GetFileName(pictures[i])}: page {said:0.000000}, predict {expected[i]:0.000000}, {browser.Evaluate("performance.getEntriesByName('answer').at(-1).duration")} ms"));
            Assert.Equal(expected[i], said, pictures[i].EndsWith(".png", StringComparison.Ordinal) ? 1e-4 : 0.01); // JPEG decoders differ by a level here and there
        }
        // the heat is drawn, weakly here and strongly there; Chromium complains where a canvas is read more than once
        var alphas = browser.Evaluate("(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 == 3); return [Math.min(...d), Math.max(...d)]; })(document.getElementById('heat'))")!;
        Assert.True((int)alphas[1]! > 120 && (int)alphas[0]! < (int)alphas[1]! - 20, alphas.ToJsonString());
        Keep(browser, $"web-{from}-{width}{(dark ? "-dark" : "")}.png");
        Assert.Empty(browser.Complaints);
        Assert.True((bool)browser.Evaluate("document.documentElement.scrollWidth <= innerWidth")!); // nothing sticks out
        Assert.True((bool)browser.Evaluate("[...document.querySelectorAll('input, button, canvas[role=img], video')].every(e => e.labels?.length || e.textContent || e.ariaLabel)")!);
        console.WriteLine($"ready {browser.Evaluate("performance.getEntriesByName('ready')[0].startTime")} ms after opening");

        browser.Click("#show");
        Assert.True((bool)browser.Evaluate("document.getElementById('heat').hidden")!);
        browser.Choose("#file", Path.Combine(Folder["site"], "style.css"));
        browser.WaitFor("/no picture that the browser can read/.test(document.getElementById('status').textContent)", State);
        Assert.True((bool)browser.Evaluate("document.getElementById('answer').hidden")!);
        Assert.Empty(browser.Complaints);
    }

    [Fact]
    public void A_dropped_picture_and_one_from_the_camera_are_answered_and_nothing_can_be_sent()
    {
        NeedSite();
        using var server = SiteServer();
        using var browser = new Browser(local: true, server.Address("").ToString());
        browser.Open(server.Address("index.html").ToString());
        browser.Evaluate("""
            (async () => {
              const canvas = new OffscreenCanvas(90, 70);
              canvas.getContext("2d").fillRect(10, 10, 30, 30);
              const transfer = new DataTransfer();
              transfer.items.add(new File([await canvas.convertToBlob()], "dropped.png", { type: "image/png" }));
              document.getElementById("ask").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
            })()
            """);
        browser.WaitFor(Answered, State);
        Assert.Equal(90, (int)browser.Evaluate("document.getElementById('picture').width")!);

        browser.Click("#camera"); // Chromium plays a green picture with a clock
        browser.WaitFor("document.getElementById('video').videoWidth > 0", State);
        browser.Click("#take");
        browser.WaitFor("performance.getEntriesByName('answer').length > 1", State);
        Assert.True((int)browser.Evaluate("document.getElementById('picture').width")! > 90);
        Assert.True((bool)browser.Evaluate("document.getElementById('video').srcObject === null")!);
        Keep(browser, "web-camera.png");
        Assert.Empty(browser.Complaints);
        Assert.Equal(["/app.js", "/index.html", "/model.js", "/ort.wasm.min.js", "/runtime.js", "/style.css"], server.Requests.Select(r => r.Path).Order(StringComparer.Ordinal));

        Assert.Equal("refused", (string?)browser.Evaluate("fetch('index.html').then(() => 'sent', () => 'refused')")); // even to the page's own server
    }

    [Fact]
    public void The_site_says_what_it_is_worth_and_holds_what_it_needs()
    {
        NeedSite();
        var page = File.ReadAllText(Path.Combine(Folder["site"], "index.html"));
        foreach (var text in (string[])["Evidence that a picture is real or manipulated", "painted faces, a sample", "accuracy", "MIT"])
            Assert.Contains(text, page);
        Assert.DoesNotContain("{{", page);
        var card = File.ReadAllText(Path.Combine(Folder["site"], WebExport.Card));
        Assert.Contains("`image`, uint8 [N, H, W, 3], RGB bytes of any size", card);
        Assert.Contains("`probabilities`", card);
        Assert.Contains("`maps`", card);
        Assert.Equal(["LICENCES.txt", "app.js", "index.html", "model-card.md", "model.js", "ort.wasm.min.js", "runtime.js", "style.css"],
            Directory.GetFiles(Folder["site"]).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));
        Assert.Contains("is taken", Assert.Throws<ExportException>(() => WebExport.Write(Folder["run"], Folder["site"])).Message);
    }

    [Fact]
    public void A_runtime_given_by_hand_is_checked_and_an_archive_may_name_no_other_place()
    {
        using var folder = TestSupport.Folder();
        Assert.Contains("There is no ort.wasm.min.js", Assert.Throws<ExportException>(() => WebExport.Write(Folder["run"], folder["site"], folder.Path)).Message);
        File.WriteAllText(folder["a.tgz"], "no archive");
        Assert.Equal(folder["a.tgz"], Assert.Throws<ExportException>(() => WebExport.Write(Folder["run"], folder["site"], folder["a.tgz"])).Subject);
        Pack(folder["b.tgz"], ("package/dist/../../../escaped", "x"), ("package/dist/ort.wasm.min.js", "another"), ("package/dist/ort-wasm-simd-threaded.mjs", ""), ("package/dist/ort-wasm-simd-threaded.wasm", ""));
        Assert.Contains("is not that of onnxruntime-web 1.30.0", Assert.Throws<ExportException>(() => WebExport.Write(Folder["run"], folder["site"], folder["b.tgz"])).Message);
        Assert.Equal(["a.tgz", "b.tgz"], Directory.GetFileSystemEntries(folder.Path).Select(f => Path.GetFileName(f)).Order());
        Assert.Equal(1, ExportTests.TrainedRun.Command("export", "web", "--run", Folder["run"], "--out", folder["site"], "--runtime", folder["absent.tgz"]));
    }

    [Fact]
    public void What_a_page_cannot_do_is_an_error_and_no_site()
    {
        using var folder = TestSupport.Folder();
        Directory.CreateDirectory(folder["run"]);
        var record = JsonNode.Parse(File.ReadAllText(Path.Combine(Folder["run"], RunFolder.RecordFile)))!;
        record["preprocessing"]!["Resize"]!["Width"] = 0;
        File.WriteAllText(Path.Combine(folder["run"], RunFolder.RecordFile), record.ToJsonString());
        File.Copy(Path.Combine(Folder["run"], RunFolder.ModelFile), Path.Combine(folder["run"], RunFolder.ModelFile));
        Assert.Contains("exact resize", Assert.Throws<ExportException>(() => WebExport.Write(folder["run"], folder["site"])).Message);
        Assert.Single(Directory.GetFileSystemEntries(folder.Path));
    }

    private TestServer SiteServer() => new((request, connection) =>
    {
        var file = Path.Combine(Folder["site"], Path.GetFileName(request.Path));
        if (!File.Exists(file))
        {
            connection.Head("404 Not Found", 0);
            return;
        }
        var bytes = File.ReadAllBytes(file);
        var type = Path.GetExtension(file) switch { ".html" => "text/html", ".js" => "text/javascript", ".css" => "text/css", _ => "text/plain" };
        connection.Head("200 OK", bytes.Length, $"Content-Type: {type}\r\n");
        connection.Body(bytes);
    });

    /// <summary>Waves and noise of a kind of their own for each seed, as a file.</summary>
    private string Picture(string name, int seed, int width, int height)
    {
        var image = new RgbImage(width, height);
        var random = new Random(seed);
        for (var i = 0; i < image.Pixels.Length; i++)
            image.Pixels[i] = (byte)Math.Clamp(128 + 90 * Math.Sin(i % 3 * seed + i / 3 % width * 0.02 * seed) + random.Next(-30, 30) + i / 3 / width * (seed - 5.5), 0, 255);
        File.WriteAllBytes(Folder[name], name.EndsWith(".png", StringComparison.Ordinal) ? image.ToPng() : image.ToJpeg(90));
        return Folder[name];
    }

    private static void Pack(string path, params (string Name, string Text)[] entries)
    {
        using var zip = new GZipStream(File.Create(path), CompressionLevel.Fastest);
        using var tar = new TarWriter(zip);
        foreach (var (name, text) in entries)
            tar.WriteEntry(new PaxTarEntry(TarEntryType.RegularFile, name) { DataStream = new MemoryStream(System.Text.Encoding.UTF8.GetBytes(text)) });
    }

    private static void Keep(Browser browser, string name)
    {
        var folder = Directory.CreateDirectory(Path.Combine(TestSupport.Root, "artifacts", "screenshots")).FullName;
        File.WriteAllBytes(Path.Combine(folder, name), browser.Screenshot());
    }
}
