using System.Text;
using System.Xml.Linq;

namespace DeepfakeLab.Tests;

/// <summary>What the figures draw, in each of their forms, and the report that holds them.</summary>
public class ChartTests
{
    private static readonly XNamespace svg = "http://www.w3.org/2000/svg";

    [Fact]
    public void Every_figure_is_well_formed_svg_within_its_frame_with_a_title_and_a_description()
    {
        foreach (var figure in All())
        {
            var root = XDocument.Parse(figure.ToSvg()).Root!;
            Assert.Equal(figure.Title, root.Element(svg + "title")!.Value);
            Assert.True(root.Element(svg + "desc")!.Value.Length > 10, figure.Title);
            Assert.DoesNotContain("NaN", figure.ToSvg(), StringComparison.Ordinal);
            foreach (var text in root.Elements(svg + "text"))
            {
                Assert.InRange((double)text.Attribute("x")!, 0, figure.Width);
                Assert.InRange((double)text.Attribute("y")!, 0, figure.Height);
            }
        }
    }

    [Fact]
    public void A_confusion_matrix_shows_counts_and_rates()
    {
        var svg = Charts.Confusion(new ConfusionMatrix(134, 58, 46, 171)).ToSvg();
        foreach (var text in (string[])["134", "58", "46", "171", "69.8 %", "30.2 %", "21.2 %", "78.8 %"])
            Assert.Contains($">{text}</text>", svg, StringComparison.Ordinal);
    }

    [Fact]
    public void A_roc_curve_goes_through_its_points()
    {
        EvaluationReport report = EvaluationReport.From([.. EvaluationReportTests.Some(4, 1).Select((p, i) => p with { IsFake = i < 2, FakeProbability = 0.9 - 0.2 * i })]);
        var json = Charts.RocAndPrecisionRecall(report).ToPlotlyJson();
        Assert.Equal([0, 0, 0, 0.5, 1], json["data"]![0]!["x"]!.AsArray().Select(x => (double)x!));
        Assert.Equal([0, 0.5, 1, 1, 1], json["data"]![0]!["y"]!.AsArray().Select(x => (double)x!));
    }

    [Fact]
    public void A_png_differs_by_theme_and_has_the_size_asked_for()
    {
        var figure = Charts.Confusion(new ConfusionMatrix(3, 1, 1, 3));
        var light = ImageReader.Decode(figure.ToPng(), "light");
        var dark = ImageReader.Decode(figure.ToPng(ChartTheme.Dark, scale: 1), "dark");
        Assert.Equal(((int)figure.Width * 2, (int)figure.Height * 2), (light.Width, light.Height));
        Assert.Equal(((int)figure.Width, (int)figure.Height), (dark.Width, dark.Height));
        Assert.Equal([255, 255, 255], light.Pixels[..3]);
        Assert.Equal([0x16, 0x16, 0x1a], dark.Pixels[..3]);
        // the title's letters are there: some ink in its line
        Assert.Contains(Enumerable.Range(8 * 2, 18 * 2), y => light.Pixels.AsSpan(3 * y * light.Width, 3 * 200).IndexOf((byte)0x1b) >= 0);
    }

    /// <summary>Each two colours as far apart (CIE 1976) as words can tell, whatever cones one has; Machado et al. 2009's matrices for a full loss.</summary>
    [Theory]
    [InlineData("no loss", 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)]
    [InlineData("protanopia", 0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998)]
    [InlineData("deuteranopia", 0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881)]
    [InlineData("tritanopia", 1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039)]
    public void Colours_are_told_apart_with_any_colour_vision(string vision, params double[] seen)
    {
        var closest = Closest(Palette.Series);
        Assert.True(closest > 15, $"{vision}: {closest}");
        if (vision is "protanopia" or "deuteranopia")
            Assert.InRange(Closest(["#d62728", "#2ca02c", "#1f77b4", "#ff7f0e", "#9467bd"]), 0, 10); // Plotly's and Matplotlib's own would not pass

        double Closest(string[] colours)
        {
            var lab = colours.Select(Lab).ToList();
            return lab.SelectMany((a, i) => lab.Skip(i + 1).Select(b => Math.Sqrt(a.Zip(b, (x, y) => (x - y) * (x - y)).Sum()))).Min();
        }

        double[] Lab(string hex)
        {
            double[] linear = [.. Enumerable.Range(0, 3).Select(i => Convert.ToInt32(hex.Substring(1 + 2 * i, 2), 16) / 255.0).Select(c => c <= 0.04045 ? c / 12.92 : Math.Pow((c + 0.055) / 1.055, 2.4))];
            double[] light = [.. Enumerable.Range(0, 3).Select(row => Math.Clamp(linear.Select((c, i) => seen[3 * row + i] * c).Sum(), 0, 1))];
            double F(double r, double g, double b, double white) => (r * light[0] + g * light[1] + b * light[2]) / white is > 0.008856 and var t ? Math.Cbrt(t) : 7.787 * (r * light[0] + g * light[1] + b * light[2]) / white + 16.0 / 116;
            var (x, y, z) = (F(0.4124564, 0.3575761, 0.1804375, 0.95047), F(0.2126729, 0.7151522, 0.072175, 1), F(0.0193339, 0.119192, 0.9503041, 1.08883));
            return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
        }
    }

    [Fact]
    public void Heat_colours_hot_places_and_leaves_cold_ones()
    {
        var grey = new RgbImage(20, 10, [.. Enumerable.Repeat((byte)100, 600)]);
        var over = Charts.HeatOverlay(grey, new float[,] { { 0, 1 } });
        Assert.Equal([100, 100, 100], over.Pixels[..3]);
        Assert.True(over.Pixels[3 * 19] > 180);
        Assert.Equal([0f, 0.5f, 1f], ((double[])[0.1, 0.5, 0.9]).Select(u => Charts.Sample(new float[,] { { 0, 1 } }, u, 0.5)));
    }

    [Fact]
    public void Hostile_names_stay_text()
    {
        const string name = "<script>alert(1)</script>\"&";
        var figure = Charts.ImageGrid(name, [(new RgbImage(8, 8), name)]);
        var page = HtmlReport.ToHtml(name, [new ReportSection(name).Text(name).Facts([(name, name)]).Add(figure)]);
        Assert.DoesNotContain("<script", page, StringComparison.Ordinal);
        Assert.DoesNotContain("<script", figure.ToPlotlyJson()["layout"]!["annotations"]![0]!["text"]!.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_report_is_one_file_without_addresses_and_is_refused_when_too_large()
    {
        using var folder = TestSupport.Folder();
        HtmlReport.Write(folder["report.html"], "Report", [new ReportSection("All").Add([.. All()]).Add(Report())]);
        var page = File.ReadAllText(folder["report.html"]);
        foreach (var address in (string[])["src=\"http", "href=\"http", "url(", "@import", "<script", "<link"])
            Assert.DoesNotContain(address, page, StringComparison.Ordinal);
        var noise = new byte[3 * 512 * 512];
        new Random(1).NextBytes(noise);
        var large = Charts.ImageGrid("large", [.. Enumerable.Repeat((new RgbImage(512, 512, noise), "noise"), 40)], size: 512);
        Assert.Throws<ChartException>(() => HtmlReport.Write(folder["large.html"], "Large", [new ReportSection("x").Add(large)]));
        Assert.Equal(["report.html"], Directory.GetFiles(folder.Path).Select(f => Path.GetFileName(f)));
    }

    [Fact]
    public void Live_curves_come_at_most_four_times_a_second_and_end_with_the_last_epoch()
    {
        var (clock, shown) = (new StoppedClock(), new List<Figure>());
        EpochFigures Epoch(int n) => new("fine-tune", n, 0.7 / n, 0.8 / n, 0.5, 0.6, 1e-4, 1);
        double?[] Losses() => [.. shown[^1].ToPlotlyJson()["data"]!.AsArray().Single(t => (string)t!["name"]! == "training")!["y"]!.AsArray().Select(y => (double?)y)];
        using (var live = new LiveCurves(shown.Add, clock))
        {
            for (var n = 1; n <= 200; n++, clock.Now += TimeSpan.FromMilliseconds(10)) // two seconds of epochs, as those of a head on cached features
                live.Add(Epoch(n));
            Assert.Equal(8, shown.Count);
            Assert.Equal(176, Losses().Length);
            LabProgress.Begin("scoring images", 1, "images").Advance(); // whatever reports next lets what waits be drawn
            Assert.Equal(200, Losses().Length);
            Assert.Equal(9, shown.Count);
            clock.Now += TimeSpan.FromSeconds(1);
            LabProgress.Begin("scoring images", 1, "images").Advance(); // nothing waits
            Assert.Equal(9, shown.Count);
            LabProgress.Begin("fine-tuning, epoch 201 of 300", 100, "images").Advance(10, ("loss", 0.125));
            Assert.Equal((201, 0.125), (Losses().Length, Losses()[^1])); // the epoch under way: a training loss, no validation yet
            Assert.Contains("200 epochs; at the end training loss 0.004", shown[^1].AltText, StringComparison.Ordinal);
            live.Add(Epoch(201));
            Assert.Equal(10, shown.Count); // too soon
        }
        Assert.Equal(11, shown.Count);
        Assert.Equal((201, 0.7 / 201), (Losses().Length, Losses()[^1]!.Value));
        LabProgress.Begin("fine-tuning, epoch 1 of 2", 100, "images").Advance(10, ("loss", 0.125));
        Assert.Equal(11, shown.Count); // it listens no longer
    }

    private sealed class StoppedClock : TimeProvider
    {
        public TimeSpan Now { get; set; }

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => Now.Ticks;
    }

    internal static EvaluationReport Report() => EvaluationReport.From(EvaluationReportTests.Some(300, 9), isSample: true);

    /// <summary>One of each figure.</summary>
    internal static IEnumerable<Figure> All()
    {
        var report = Report();
        var random = new Random(2);
        double[] Falling(double from, double to) => [.. Enumerable.Range(0, 8).Select(e => to + (from - to) * Math.Exp(-e / 2.5) + 0.02 * random.NextDouble())];
        double[] Rising(double to) => [.. Falling(0.5, 0).Select(v => to - v * (to - 0.5) * 2)];
        yield return Charts.TrainingCurves(Falling(0.75, 0.1), Falling(0.72, 0.48), Rising(0.78), Rising(0.86), best: 6, fineTuningFrom: 3);
        yield return Charts.TrainingCurves([0.7], [0.69], [0.52], [0.55]);
        yield return Charts.TrainingCurves([], [], [], []);
        double[] rates = [.. Enumerable.Range(0, 50).Select(i => Math.Pow(10, -6 + i * 0.1))];
        yield return Charts.LearningRateFinder(rates, [.. rates.Select(r => 0.7 - 0.3 * Math.Exp(-Math.Pow(Math.Log10(r) + 3, 2)) + (r > 0.01 ? 10 * r : 0))], 4e-4);
        yield return Charts.Confusion(report.Confusion);
        yield return Charts.RocAndPrecisionRecall(report);
        yield return Charts.Roc([("first", report), ("second", report)]);
        yield return Charts.Reliability(report);
        yield return Charts.BySlice("By difficulty", report.ByDifficulty);
        yield return Charts.BySlice("By replaced part", report.ByPart);
        yield return Charts.Comparison("accuracy", [("mobilenet_v2", report.Accuracy), ("resnet18", report.Recall), ("vgg16", report.Specificity)]);
        RgbImage[] faces = [.. Enumerable.Range(0, 8).Select(i => new RgbImage(60, 60, [.. Enumerable.Range(0, 10800).Select(p => (byte)(p * (i + 1) / 90))]))];
        var heat = new float[7, 7];
        (heat[2, 2], heat[2, 3], heat[3, 2]) = (1, 0.7f, 0.5f);
        yield return Charts.ImageGrid("Images with heat", [.. faces.Select((f, i) => (Charts.HeatOverlay(f, heat), $"easy_{i}_0001.jpg\nfake, 0.{i}5 fake ✓"))]);
        var points = new double[40, 2];
        for (var i = 0; i < 40; i++)
            (points[i, 0], points[i, 1]) = (random.NextDouble() + i % 2, random.NextDouble());
        yield return Charts.Embedding("Embedding", points, [.. Enumerable.Range(0, 40).Select(i => i % 2 == 0)], [.. Enumerable.Range(0, 40).Select(i => $"{i}.jpg")], [.. Enumerable.Range(0, 40).Select(i => faces[i % 8])]);
    }
}

file static class ReportExtensions
{
    public static ReportSection Add(this ReportSection section, Figure[] figures) => figures.Aggregate(section, (s, f) => s.Add(f));
}
