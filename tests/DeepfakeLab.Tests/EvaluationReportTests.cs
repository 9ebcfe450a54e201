namespace DeepfakeLab.Tests;

/// <summary>Intervals, slices and the written forms of an evaluation.</summary>
public class EvaluationReportTests
{
    [Fact]
    public void Intervals_hold_the_figure_and_repeat_with_their_seed()
    {
        var predictions = Some(300, seed: 1);
        var (a, b, c) = (EvaluationReport.From(predictions, seed: 3), EvaluationReport.From(predictions, seed: 3), EvaluationReport.From(predictions, seed: 4));
        Assert.Equal(a.Figures, b.Figures);
        Assert.NotEqual(a.Brier, c.Brier);
        Assert.All(a.Figures.Where(f => f.Name != "calibrationError"), f => // ECE is biased upwards by resampling
            Assert.True(f.Estimate.Low < f.Estimate.Value && f.Estimate.Value < f.Estimate.High, $"{f.Name} {f.Estimate}"));
    }

    [Fact]
    public void The_interval_of_an_accuracy_is_as_wide_as_theory_says()
    {
        var report = EvaluationReport.From(Some(400, seed: 2), resamples: 4000);
        var (tpr, tnr) = (report.Recall.Value, report.Specificity.Value);
        // classes are drawn apart: the variance is the mean of the two classes' binomial variances
        var expected = 2 * 1.96 * Math.Sqrt((tpr * (1 - tpr) + tnr * (1 - tnr)) * 200) / 400;
        Assert.InRange((report.Accuracy.High - report.Accuracy.Low) / expected, 0.9, 1.1);
    }

    [Fact]
    public void Images_of_one_photo_are_drawn_together()
    {
        // Each photo ten times: ten times the images, and no more knowledge.
        var once = Some(100, seed: 3);
        Prediction[] tenfold = [.. once.SelectMany(p => Enumerable.Repeat(p, 10))];
        Prediction[] asIfApart = [.. tenfold.Select((p, i) => p with { Image = p.Image with { Group = i } })];
        double Width(Prediction[] p) => EvaluationReport.From(p) is var r ? r.Accuracy.High - r.Accuracy.Low : 0;
        Assert.InRange(Width(tenfold) / Width(once), 0.9, 1.1);
        Assert.True(Width(asIfApart) < 0.5 * Width(once));
    }

    [Fact]
    public void Slices_count_fakes_by_difficulty_and_by_each_replaced_part()
    {
        Prediction At(Difficulty? difficulty, FaceParts parts, bool fake, double p, int group) =>
            new(new FaceImage($"{group}.jpg", $"/{group}.jpg", fake ? 0 : 1, difficulty, parts, group), fake, p);
        var report = EvaluationReport.From(
        [
            At(Difficulty.Easy, FaceParts.LeftEye | FaceParts.Mouth, true, 0.9, 0),
            At(Difficulty.Easy, FaceParts.Mouth, true, 0.2, 1),
            At(Difficulty.Hard, FaceParts.Nose, true, 0.4, 2),
            At(null, FaceParts.None, false, 0.3, 3),
            At(null, FaceParts.None, false, 0.1, 4),
        ]);
        Assert.Equal(["easy", "hard"], report.ByDifficulty.Select(s => s.Name));
        Assert.Equal([2, 1], report.ByDifficulty.Select(s => s.N));
        Assert.Equal([0.5, 0], report.ByDifficulty.Select(s => s.Recall.Value));
        Assert.Equal([0.75, 1], report.ByDifficulty.Select(s => s.Auc.Value));
        Assert.Equal([("left eye", 1, 1.0), ("nose", 1, 0.0), ("mouth", 2, 0.5)], report.ByPart.Select(s => (s.Name, s.N, s.Recall.Value)));
        Assert.Equal(["1.jpg", "2.jpg"], report.MostConfidentMistakes().Select(p => p.Image.Name));
    }

    [Fact]
    public void The_json_has_the_keys_that_evaluate_prints_and_null_where_a_figure_has_no_meaning()
    {
        var json = EvaluationReport.From(Some(50, seed: 4)).ToJson();
        foreach (var key in (string[])["accuracy", "precision", "recall", "f1", "auc"])
            Assert.InRange((double)json[key]!, (double)json["intervals"]![key]![0]!, (double)json["intervals"]![key]![1]!);
        Assert.Equal(50, (int)json["n"]!);
        Assert.Equal(50, (int)json["confusion"]!["tp"]! + (int)json["confusion"]!["fn"]! + (int)json["confusion"]!["fp"]! + (int)json["confusion"]!["tn"]!);
        Assert.Equal(["easy", "mid", "hard"], json["byDifficulty"]!.AsObject().Select(p => p.Key));
        Assert.Equal(4, json["byPart"]!.AsObject().Count);
        var fakesOnly = EvaluationReport.From([.. Some(50, seed: 4).Where(p => p.IsFake)]).ToJson();
        Assert.True(fakesOnly.ContainsKey("auc") && fakesOnly["auc"] is null);
        Assert.DoesNotContain("NaN", fakesOnly.ToJsonString(), StringComparison.Ordinal);
    }

    [Fact]
    public void The_tables_say_when_the_figures_are_the_samples()
    {
        Assert.Contains("painted sample", EvaluationReport.From(Some(20, seed: 5), isSample: true).ToHtml(), StringComparison.Ordinal);
        Assert.DoesNotContain("painted sample", EvaluationReport.From(Some(20, seed: 5)).ToHtml(), StringComparison.Ordinal);
    }

    /// <summary>Half fakes of all difficulties and parts, found about three times in four.</summary>
    internal static Prediction[] Some(int n, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, n).Select(i =>
        {
            var fake = i % 2 == 0;
            var image = fake
                ? new FaceImage($"training_fake/{i}.jpg", $"/{i}.jpg", 0, (Difficulty)(i / 2 % 3), (FaceParts)(i / 2 % 15 + 1), i)
                : new FaceImage($"training_real/{i}.jpg", $"/{i}.jpg", 1, null, FaceParts.None, i);
            return new Prediction(image, fake, Math.Clamp(0.5 + (fake ? 0.18 : -0.18) + 0.26 * (random.NextDouble() + random.NextDouble() + random.NextDouble() - 1.5), 0, 1));
        })];
    }
}
