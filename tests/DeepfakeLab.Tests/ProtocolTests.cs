namespace DeepfakeLab.Tests;

/// <summary>Folds, thresholds, intervals over repetitions.</summary>
public sealed class ProtocolTests
{
    [Fact]
    public void Folds_share_no_photo_hold_every_image_once_and_have_the_kinds_in_equal_shares()
    {
        var random = new SeededRandom(3);
        FaceImage[] images = [.. Enumerable.Range(0, 300).Select(i => new FaceImage($"c/{i}.png", "", i % 2, i % 2 == 0 ? (Difficulty)(i / 2 % 3) : null, FaceParts.None, i < 60 ? i / 3 : i))];
        random.Shuffle(images.AsSpan());
        var folds = Protocol.Folds(images, 5, 0.1, seed: 4);
        Assert.Equal(images.Select(i => i.Name).Order(), folds.SelectMany(f => f.Test).Select(i => i.Name).Order());
        foreach (var fold in folds)
        {
            Assert.Equal(300, fold.Train.Count + fold.Validation.Count + fold.Test.Count);
            var sides = new[] { fold.Train, fold.Validation, fold.Test }.Select(s => s.Select(i => i.Group).ToHashSet()).ToList();
            Assert.False(sides[0].Overlaps(sides[1]) || sides[0].Overlaps(sides[2]) || sides[1].Overlaps(sides[2]));
            foreach (var kind in images.GroupBy(i => (i.Label, i.Difficulty)))
                Assert.InRange(fold.Test.Count(i => (i.Label, i.Difficulty) == kind.Key), kind.Count() / 5 - 2, kind.Count() / 5 + 2);
        }
        Assert.Equal(folds[0].Test, Protocol.Folds([.. images.Reverse()], 5, 0.1, seed: 4)[0].Test);
        Assert.NotEqual(folds[0].Test, Protocol.Folds(images, 5, 0.1, seed: 5)[0].Test);
    }

    [Fact]
    public void The_threshold_is_the_one_that_tells_validation_images_best()
    {
        Assert.Equal(0.2, Protocol.ChooseThreshold(Predictions((0.3, true), (0.25, true), (0.15, false), (0.1, false))), 12);
        Assert.Equal(0.5, Protocol.ChooseThreshold(Predictions((0.9, true), (0.1, false))), 12);
        Assert.Equal(0.75, Protocol.ChooseThreshold(Predictions((0.9, true), (0.8, true), (0.7, false), (0.6, false), (0.1, false))), 12);

        static Prediction[] Predictions(params (double P, bool Fake)[] values) =>
            [.. values.Select((v, i) => new Prediction(new FaceImage($"{i}", "", v.Fake ? 0 : 1, null, FaceParts.None, i), v.Fake, v.P))];
    }

    [Fact]
    public void A_shifted_probability_says_fake_where_the_threshold_was_reached_and_keeps_the_order()
    {
        double[] scores = [0, 1e-300, 0.1, 0.3, Math.BitIncrement(0.3), 0.5, 0.7, Math.BitDecrement(1), 1];
        foreach (var threshold in (double[])[0, 0.3, Math.BitIncrement(0.3), 0.5, 0.9, 1, Math.BitIncrement(1), 1.5])
        {
            double[] shifted = [.. scores.Select(p => Protocol.Shift(p, threshold))];
            Assert.Equal(scores.Select(p => p >= threshold), shifted.Select(p => p >= 0.5));
            Assert.Equal(shifted.Order(), shifted);
            Assert.All(shifted, p => Assert.InRange(p, 0, 1));
        }
        Assert.Equal(0.5, Protocol.Shift(0.2, 0.2), 1e-12);
        Assert.Equal(0.8, Protocol.Shift(0.5, 0.2), 1e-12);
        // a model that is worse than chance: nothing is called fake, and the threshold lies above its highest score
        FaceImage image = new("x", "", 0, null, FaceParts.None, 0);
        var threshold1 = Protocol.ChooseThreshold([new(image, false, 1), new(image, true, 0.9)]);
        Assert.True(threshold1 is <= 0.9 or > 1, $"{threshold1}");
    }

    [Theory] // from a table of Student's t
    [InlineData(1, 12.70620), InlineData(2, 4.302653), InlineData(4, 2.77645), InlineData(9, 2.26216), InlineData(30, 2.04227)]
    public void The_interval_over_repetitions_is_Students(int freedom, double t) => Assert.Equal(t, StudentT.Quantile(0.95, freedom), 1e-4);

    [Fact]
    public void Cross_validation_tests_every_image_with_a_model_that_begins_anew()
    {
        using var folder = TestSupport.Folder();
        TrainingTests.PaintImages(folder.Path, 12);
        var data = FaceDataset.Open(folder.Path);
        var made = 0;
        var recipe = Recipe.HeadOnly() with { HeadEpochs = 2 };
        var result = Protocol.CrossValidate(data, () => { made++; return Models.MobileNetV2().WithHead(2); }, recipe, folds: 2, seeds: [1, 2], preprocessing: Preprocessing.Square(32));
        Assert.Equal((4, 4), (made, result.Runs.Count));
        Assert.Equal(2 * data.Images.Count, result.Pooled.N);
        foreach (var seed in (long[])[1, 2])
            Assert.Equal(data.Images.Select(i => i.Name), result.Runs.Where(r => r.Seed == seed).SelectMany(r => r.Test.Predictions).Select(p => p.Image.Name).Order(StringComparer.Ordinal));
        // the shift to a threshold of 0.5 leaves each run's answers as they are
        Assert.Equal(result.Runs.Sum(r => r.Test.Confusion.TruePositives), result.Pooled.Confusion.TruePositives);
        Assert.Equal(result.Runs.Average(r => r.Test.Auc.Value), result.Auc.Value, 12);
        Assert.InRange(result.Accuracy.Value, result.Accuracy.Low, result.Accuracy.High);
        Assert.Equal(4, result.ToJson()["runs"]!.AsArray().Count);
    }
}
