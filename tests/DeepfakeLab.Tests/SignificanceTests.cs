using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>Comparisons of models, calibration, thresholds and learning curves.</summary>
public class SignificanceTests
{
    [Fact]
    public void McNemar_DeLong_and_temperature_equal_scipys()
    {
        var random = new Random(8);
        double Score(bool fake, double skill) => Math.Round(Math.Clamp(0.5 + (fake ? skill : -skill) + 0.5 * (random.NextDouble() - 0.5), 0.01, 0.99), 2);
        var cases = Enumerable.Range(0, 20).Select(i =>
        {
            bool[] truth = [.. Enumerable.Range(0, 40 + 20 * i).Select(j => j % 3 != 0)];
            return new { truth, first = truth.Select(t => Score(t, 0.1 + 0.01 * (i % 3))).ToArray(), second = truth.Select(t => Score(t, 0.1)).ToArray() };
        }).ToArray();
        using var folder = TestSupport.Folder();
        File.WriteAllText(folder["cases.json"], JsonSerializer.Serialize(cases));
        var expected = JsonNode.Parse(TestSupport.Python(["scipy"], "significance.py", folder["cases.json"]))!.AsArray();
        foreach (var (c, e) in cases.Zip(expected))
        {
            var mcnemar = Significance.McNemar(c.truth, c.first, c.second);
            Assert.Equal(((int)e!["onlyA"]!, (int)e["onlyB"]!), (mcnemar.OnlyFirst, mcnemar.OnlySecond));
            Assert.Equal((double)e["mcnemar"]!, mcnemar.PValue, 1e-12);
            var delong = Significance.DeLong(c.truth, c.first, c.second);
            Assert.Equal((double)e["difference"]!, delong.Difference.Value, 1e-12);
            Assert.Equal((double)e["error"]!, (delong.Difference.High - delong.Difference.Value) / 1.959963984540054, 1e-12);
            Assert.Equal((double)e["delong"]!, delong.PValue, 1e-12);
            var scaling = TemperatureScaling.Fit(c.truth, c.first);
            Assert.Equal((double)e["temperature"]!, scaling.Temperature, 1e-6);
            double[] scaled = [.. c.first.Select(scaling.Apply)];
            Assert.Equal((double)e["loss"]!, Metrics.LogLoss(c.truth, scaled), 1e-12);
            Assert.Equal(Metrics.Auc(c.truth, c.first), Metrics.Auc(c.truth, scaled), 1e-12);
        }
    }

    [Fact]
    public void A_model_does_not_differ_from_itself()
    {
        bool[] truth = [true, true, false, false, true];
        double[] scores = [0.9, 0.4, 0.6, 0.1, 0.8];
        Assert.Equal(1, Significance.McNemar(truth, scores, scores).PValue);
        double[] halved = [.. scores.Select(s => s / 2)]; // the same answers at half the threshold
        Assert.Equal((0, 0), Significance.McNemar(truth, scores, halved, 0.5, 0.25) is var same1 ? (same1.OnlyFirst, same1.OnlySecond) : default);
        Assert.Equal(new McNemarResult(2, 1, 1), Significance.McNemar(truth, scores, halved));
        var same = Significance.DeLong(truth, scores, scores);
        Assert.Equal((0, 1), (same.Difference.Value, same.PValue));
        Assert.Throws<EvaluationException>(() => Significance.DeLong([true, false, false], [1, 0, 0], [1, 0, 0]));
    }

    [Fact]
    public void The_threshold_is_the_best_one_on_the_given_images()
    {
        bool[] truth = [false, false, false, true, true, false, true];
        double[] scores = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.9];
        Assert.Equal(0.175, Threshold.Choose(truth, scores, m => m.Accuracy), 1e-12);
        Assert.Equal(0.5, Threshold.Choose(truth, scores, m => m.Precision)); // of all that give 1, the nearest to 0.5
        Assert.Equal(0.5, Threshold.Choose([true, false], [0.9, 0.1]));
    }

    [Fact]
    public void Smaller_training_sets_are_stratified_parts_of_larger_ones()
    {
        FaceImage[] train = [.. EvaluationReportTests.Some(240, 1).Select(p => p.Image)];
        var split = new DataSplit(train, [], [], 1);
        var seen = new List<FaceImage[]>();
        var report = ChartTests.Report();
        var curve = LearningCurve.Run(split, [1, 0.25, 0.5], s =>
        {
            seen.Add([.. s.Train]);
            return report;
        });
        Assert.Equal([60, 120, 240], curve.Select(p => p.TrainingImages));
        Assert.Subset(seen[1].ToHashSet(), seen[0].ToHashSet());
        Assert.All(seen, images => Assert.Equal(images.Length / 2, images.Count(i => i.Label == 0)));
        Assert.All(seen, images => Assert.Equal(images.Length / 6, images.Count(i => i.Difficulty == Difficulty.Hard)));
        Assert.Throws<EvaluationException>(() => LearningCurve.Run(split, [0], _ => report));
        Assert.Equal(240, (int)curve.ToDataFrame().Rows[2]["trainingImages"]);
        Assert.Contains("240 training images", Charts.LearningCurve(curve).AltText, StringComparison.Ordinal);
    }

    [Fact]
    public void Data_frames_hold_the_reports_figures()
    {
        var report = ChartTests.Report();
        var figures = report.ToDataFrame();
        Assert.Equal(report.Figures.Count, figures.Rows.Count);
        Assert.Equal(report.Auc.Low, (double)figures.Rows.Single(r => (string)r["figure"] == "auc")["low"]);
        Assert.Equal(300, report.Predictions.ToDataFrame().Rows.Count);
        Assert.Equal("LeftEye, Nose", (string)report.Predictions.ToDataFrame().Rows.First(r => report.Predictions.Any(p => p.Image.Name == (string)r["name"] && p.Image.Replaced == (FaceParts.LeftEye | FaceParts.Nose)))["replaced"]);
        Assert.Equal(3, report.ByDifficulty.ToDataFrame().Rows.Count);
        Assert.Equal(300, report.Reliability().ToDataFrame()["count"].Cast<int>().Sum());
    }
}
