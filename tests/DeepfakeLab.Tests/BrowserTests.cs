namespace DeepfakeLab.Tests;

/// <summary>Reports and figures as a browser without a network shows them. Screenshots are kept under artifacts/screenshots.</summary>
public class BrowserTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_report_opens_offline_with_every_figure_drawn_and_nothing_to_complain_about(bool dark)
    {
        using var browser = new Browser();
        using var folder = TestSupport.Folder();
        Figure[] figures = [.. ChartTests.All()];
        var section = new ReportSection("Figures");
        foreach (var figure in figures)
            section.Add(figure);
        HtmlReport.Write(folder["report.html"], "A run", [section, new ReportSection("Test").Add(ChartTests.Report())]);

        browser.Open(folder["report.html"], dark);
        Keep(browser, dark ? "report-dark.png" : "report-light.png");
        Assert.Empty(browser.Complaints);
        CheckDrawn(browser, figures.Length);
        Assert.Equal(dark ? "rgb(22, 22, 26)" : "rgb(255, 255, 255)", (string?)browser.Evaluate("getComputedStyle(document.body).backgroundColor"));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_report_of_a_run_shows_all_that_was_measured_of_it(bool dark)
    {
        using var folder = TestSupport.Folder();
        var (run, data, test) = Run(folder);
        using var model = run.Model;
        (double, double, double)[] rates = [.. Enumerable.Range(0, 40).Select(i => (Math.Pow(10, -6 + i * 0.15), 0.7 - i * 0.005, 0.7 - i * 0.005))];
        RunReport.Write(folder["report.html"], run, data, test, new RunExtras
        {
            RateTest = new LearningRateCurve(rates, 1e-3),
            LearningCurve = [new LearningCurvePoint(10, test), new LearningCurvePoint(20, test), new LearningCurvePoint(run.Split.Train.Count, test)],
        });
        Assert.InRange(new FileInfo(folder["report.html"]).Length, 100_000, HtmlReport.LargestReport);
        Assert.Equal(
            ["Some of the training images: fake", "Some of the training images: real", "Training curves", "Learning-rate finder", "Confusion matrix", "ROC and precision-recall curves",
                "Reliability", "At temperature", "By difficulty", "By replaced part", "Learning curve", "Where the model was surest and wrong",
                "Grad-CAM: what spoke for the wrong answer", "Nearest training images", "Grad-CAM for fake", "Occlusion", "Test images, as the model sees them"],
            Shown(folder, dark ? "run-dark.png" : "run.png", dark).Select(t => t.StartsWith("At temperature", StringComparison.Ordinal) ? t[..14] : t));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_report_of_several_trainings_compares_them(bool dark)
    {
        using var folder = TestSupport.Folder();
        var (run, data, test) = Run(folder);
        run.Model.Dispose();
        ProtocolRun[] runs = [.. Enumerable.Range(0, 10).Select(i => new ProtocolRun(1 + i / 5, 1 + i % 5, [run.Best], 0.4 + 0.02 * i, EvaluationReport.From(test.Predictions, 0.4 + 0.02 * i, resamples: 0)))];
        RunReport.Write(folder["report.html"], new ProtocolResult(runs, test), data, "mobilenet_v2", run.Recipe);
        Assert.Equal(
            ["accuracy of 11 runs", "AUC of 11 runs", "Confusion matrix", "ROC and precision-recall curves", "Reliability", "By difficulty", "By replaced part", "Where the model was surest and wrong"],
            Shown(folder, dark ? "protocol-dark.png" : "protocol.png", dark));
    }

    /// <summary>The titles of the page's figures, all drawn; nothing complained of.</summary>
    private static IReadOnlyList<string> Shown(TemporaryFolder folder, string screenshot, bool dark)
    {
        using var browser = new Browser();
        browser.Open(folder["report.html"], dark);
        Keep(browser, screenshot);
        Assert.Empty(browser.Complaints);
        string[] titles = [.. browser.Evaluate("[...document.querySelectorAll('figure svg > title')].map(t => t.textContent)")!.AsArray().Select(t => (string)t!)];
        CheckDrawn(browser, titles.Length);
        return titles;
    }

    /// <summary>What a training on forty noisy pictures could have given.</summary>
    private static (TrainingRun, FaceDataset, EvaluationReport) Run(TemporaryFolder folder)
    {
        var random = new Random(4);
        for (var i = 0; i < 40; i++)
        {
            var name = i % 2 == 0 ? $"training_fake/{(Difficulty)(i / 2 % 3)}_{i}_{i / 2 % 15 + 1:b4}.jpg".ToLowerInvariant() : $"training_real/real_{i:00000}.jpg";
            var pixels = new byte[3 * 96 * 96];
            random.NextBytes(pixels);
            Directory.CreateDirectory(Path.GetDirectoryName(folder[$"faces/{name}"])!);
            File.WriteAllBytes(folder[$"faces/{name}"], new RgbImage(96, 96, pixels).ToJpeg());
        }
        var data = FaceDataset.Open(folder["faces"]);
        var split = data.Split();
        var model = Models.MobileNetV2(Weights.None).WithHead(2);
        EpochFigures[] history = [new("head", 1, 0.7, 0.7, 0.5, 0.5, 1e-3, 1), new("fine-tune", 1, 0.6, 0.65, 0.6, 0.7, 1e-4, 2), new("fine-tune", 2, 0.5, 0.66, 0.6, 0.7, 1e-5, 2)];
        var run = new TrainingRun(model, Recipe.Full(), split, Preprocessing.Square(96), 42, history, history[1]);
        return (run, data, EvaluationReport.From([.. split.Test.Select((image, i) => new Prediction(image, image.Label == data.FakeClass, (i * 0.37 + 0.1) % 1))]));
    }

    [Fact]
    public void Plotly_draws_every_figure_offline_from_the_script_in_the_package()
    {
        static int Loaded() => AppDomain.CurrentDomain.GetAssemblies().Count(a => a.GetName().Name == "FSharp.Core");
        var before = Loaded(); // another test plays a host that holds its own
        using var folder = TestSupport.Folder();
        Figure[] figures = [.. ChartTests.All()];
        PlotlyPage.Write(folder["plotly.html"], "Figures", figures);
        Assert.InRange(new FileInfo(folder["plotly.html"]).Length, 3_000_000, 6_000_000);

        using var browser = new Browser();
        browser.Open(folder["plotly.html"]);
        Keep(browser, "plotly.png");
        Assert.Empty(browser.Complaints);
        // all traces that the figures have were drawn, and all their images
        var drawn = browser.Evaluate("""
            [...document.querySelectorAll('.js-plotly-plot')].map(p => [p._fullData.length, p.querySelectorAll('.scatterlayer .trace, .barlayer .trace, .heatmaplayer image').length, p.querySelectorAll('.imagelayer image, .layer-above image').length])
            """)!.AsArray();
        var wanted = figures.Select(f => f.ToPlotlyJson()).ToArray();
        Assert.Equal(figures.Length, drawn.Count);
        foreach (var (figure, seen) in wanted.Zip(drawn))
        {
            Assert.Equal(figure["data"]!.AsArray().Count, (int)seen![0]!);
            Assert.True((int)seen[1]! >= figure["data"]!.AsArray().Count, figure["layout"]!["title"]!.ToJsonString() + seen.ToJsonString());
            Assert.Equal(figure["layout"]!["images"]!.AsArray().Count, (int)seen[2]!);
        }
        // plotly.js knows every attribute that was written, and finds each value fit
        foreach (var figure in wanted)
            Assert.Equal("[]", browser.Evaluate($"(f => JSON.stringify((Plotly.validate(f.data, f.layout) ?? []).map(e => e.msg)))({figure.ToJsonString()})")!.ToString());
        Assert.Equal("[\"In layout, key nonsense is not part of the schema\"]", browser.Evaluate("JSON.stringify(Plotly.validate([], { nonsense: 1 }).map(e => e.msg))")!.ToString());
        Assert.Equal(before, Loaded());
    }

    [Fact]
    public void Hovering_over_a_point_of_an_embedding_shows_its_image()
    {
        using var folder = TestSupport.Folder();
        var red = new RgbImage(40, 40, [.. Enumerable.Range(0, 4800).Select(i => (byte)(i % 3 == 0 ? 200 : 0))]);
        var blue = new RgbImage(40, 40, [.. Enumerable.Range(0, 4800).Select(i => (byte)(i % 3 == 2 ? 200 : 0))]);
        var figure = Charts.Embedding("Embedding", new double[,] { { 0, 0 }, { 1, 1 } }, [false, true], ["red.jpg", "blue.jpg"], [red, blue]);
        PlotlyPage.Write(folder["plotly.html"], "Embedding", [figure]);
        HtmlReport.Write(folder["report.html"], "Embedding", [new ReportSection("Embedding").Add(figure)]);
        const string visible = "[...document.querySelectorAll('.dl-thumbnail, .dl-dot image')].filter(i => getComputedStyle(i).display != 'none').map(i => i.src ?? i.href.baseVal)";
        using var browser = new Browser();
        foreach (var (page, second) in ((string, string)[])[("plotly.html", ".scatterlayer .trace:last-child .point"), ("report.html", ".dl-dot:last-of-type circle")])
        {
            browser.Open(folder[page]);
            Assert.Empty(browser.Evaluate(visible)!.AsArray());
            browser.Hover(second);
            var clock = System.Diagnostics.Stopwatch.StartNew();
            while (browser.Evaluate(visible)!.AsArray().Count == 0 && clock.Elapsed.TotalSeconds < 10)
                Thread.Sleep(50); // Plotly waits for the pointer to rest
            Keep(browser, $"hover-{page[..^5]}.png");
            Assert.Equal("data:image/jpeg;base64," + Convert.ToBase64String(Charts.Thumbnail(blue, 72)), (string?)Assert.Single(browser.Evaluate(visible)!.AsArray()));
            Assert.Empty(browser.Complaints);
        }
    }

    /// <summary>Drawn: each figure takes up room, and each of its marks and images does so within it.</summary>
    private static void CheckDrawn(Browser browser, int count)
    {
        var drawn = browser.Evaluate("""
            [...document.querySelectorAll('figure svg')].map(svg => {
              const box = svg.getBoundingClientRect();
              const inside = e => { const b = e.getBoundingClientRect(); return b.left >= box.left - 2 && b.right <= box.right + 2 && b.top >= box.top - 2 && b.bottom <= box.bottom + 2; };
              const marks = [...svg.querySelectorAll('polyline,rect,circle,polygon,text,image')].filter(e => getComputedStyle(e).display != 'none');
              return { title: svg.querySelector('title').textContent, width: box.width, height: box.height, marks: marks.length, outside: marks.filter(e => !inside(e)).map(e => e.outerHTML.slice(0, 120)) };
            })
            """)!.AsArray();
        Assert.Equal(count, drawn.Count);
        foreach (var seen in drawn)
        {
            Assert.True((double)seen!["width"]! > 200 && (double)seen["height"]! > 100 && (int)seen["marks"]! > 5, seen.ToJsonString());
            Assert.True(seen["outside"]!.AsArray().Count == 0, seen.ToJsonString());
        }
        Assert.True((bool)browser.Evaluate("[...document.querySelectorAll('svg image')].every(i => i.href.baseVal.startsWith('data:'))")!);
    }

    private static void Keep(Browser browser, string name)
    {
        var folder = Directory.CreateDirectory(Path.Combine(TestSupport.Root, "artifacts", "screenshots")).FullName;
        File.WriteAllBytes(Path.Combine(folder, name), browser.Screenshot());
    }
}
