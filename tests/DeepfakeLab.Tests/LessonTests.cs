using TorchSharp;

namespace DeepfakeLab.Tests;

/// <summary>What the notebooks share.</summary>
public class LessonTests
{
    [Fact]
    public void Reported_stands_beside_reproduced()
    {
        var faces = FaceDataset.Open();
        using var model = Models.MobileNetV2();
        var predictions = faces.Images.Take(40).Select((f, i) => new Prediction(f, f.Label == faces.FakeClass, i % 3 == 0 ? 0.9 : 0.2)).ToList();
        var report = EvaluationReport.From(predictions, resamples: 50, isSample: true);
        var html = Study.EfficientNet.Beside(faces, model, ("mine", report)).ToHtml();
        Assert.Contains($"<td>0.746</td><td>{report.Accuracy}</td>", html);
        Assert.Contains("says nothing about photographs", html);
        Assert.Contains("random initialisation", html);
        Assert.All((Study[])[Study.EfficientNet, Study.MnaNet, Study.MobileNet, Study.ResNet, Study.ResNext, Study.Vgg16],
            s => Assert.Equal(s.Published.Model, s.Corrected.Model));
    }

    [Fact]
    public void A_random_split_tears_photos_apart_and_ours_none()
    {
        var faces = FaceDataset.Open();
        Assert.Equal(0, Lesson.PhotosTorn(faces, faces.Split()));
        Assert.InRange(Lesson.PhotosTorn(faces, Lesson.RandomSplit(faces)), 1, 15);
        Assert.Equal(faces.Images.Count(f => f.Difficulty == Difficulty.Mid), Lesson.ReplacedParts(faces)[^1].Mid);
    }

    [Fact]
    public void Images_whose_names_tell_nothing_are_shown_and_the_figures_say_so()
    {
        using var folder = TestSupport.Folder();
        var sample = FaceDataset.Open();
        foreach (var (image, i) in sample.Images.Where(f => f.Label == sample.FakeClass).Take(7).Concat(sample.Images.Where(f => f.Label != sample.FakeClass).TakeLast(7)).Select((f, i) => (f, i)))
        {
            var target = folder[Path.Combine(sample.Classes[image.Label], $"picture{i}.jpg")];
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            File.Copy(image.Path, target);
        }
        var faces = FaceDataset.Open(folder.Path);
        Assert.Equal(["fake", "fake", "fake", "real", "real", "real"], Lesson.Rows(faces, perRow: 3).Select(f => faces.Classes[f.Label]));
        Assert.Contains("tell no difficulty", Charts.Faces(faces).ToSvg());
        Assert.Contains("names do not tell it", Assert.Single(Lesson.ReplacedParts(faces)).Part);
        Assert.Contains("there are none", Charts.SamePhotos(faces).ToSvg());
        var report = EvaluationReport.From([.. faces.Images.Select((f, i) => new Prediction(f, f.Label == faces.FakeClass, i / 20.0))], resamples: 20);
        foreach (var figure in (Figure[])[Charts.BySlice("By difficulty", report.ByDifficulty), Charts.BySlice("By part", report.ByPart)])
        {
            Assert.Contains("names do not tell it", figure.ToSvg());
            Assert.NotEmpty(figure.ToPng());
            Assert.NotNull(figure.ToPlotlyJson());
        }
    }

    [Fact]
    public void Replaced_parts_are_captioned_in_words_and_a_long_caption_goes_on_in_a_third_line()
    {
        var faces = FaceDataset.Open();
        var svg = Charts.Faces(faces).ToSvg();
        Assert.Contains(">left eye, right eye,<", svg);
        Assert.Contains(">nose, mouth<", svg);
        Assert.DoesNotContain("lefteye", svg, StringComparison.OrdinalIgnoreCase);
        Assert.Contains("left eye, right eye, nose, mouth", Charts.Faces(faces).AltText);
    }

    [Fact]
    public void A_mistake_is_measured_with_and_without_and_an_image_depends_on_its_neighbours_in_training_mode()
    {
        var faces = FaceDataset.Open();
        var few = faces.Images.Where(f => f.Label == faces.FakeClass).Take(30).Concat(faces.Images.Where(f => f.Label != faces.FakeClass).Take(30)).ToList();
        LabRuntime.Seed(3);
        using var model = Models.MobileNetV2(null, 1000, new ModelOptions { WidthMultiplier = 0.25 }).WithHead(2);
        var split = DataSplit.Create(few, 0.2, 0.2, 1);
        var run = Trainer.Fit(model, split, Recipe.HeadOnly() with { HeadEpochs = 1 }, new FitOptions { Preprocessing = Preprocessing.Square(64) });
        using var before = StateDict.Of(model);
        var sums = before.ToDictionary(e => e.Key, e => e.Value.to(torch.float64).sum().item<double>());
        var fakes = Lesson.AmongOthers(run, few[0], few.Where(f => f.Label == faces.FakeClass).Skip(1).Take(7), faces.FakeClass);
        var reals = Lesson.AmongOthers(run, few[0], few.Where(f => f.Label != faces.FakeClass).Take(7), faces.FakeClass);
        Assert.Equal(fakes.Evaluation, reals.Evaluation, 5);
        Assert.True(Math.Abs(fakes.Training - reals.Training) > 1e-6);
        using var after = StateDict.Of(model);
        Assert.All(after, e => Assert.Equal(sums[e.Key], e.Value.to(torch.float64).sum().item<double>()));

        var tiny = new StudyRecipe { Name = "tiny", Model = "mobilenet_v2", Size = 32, Reported = "", Recipe = Recipe.HeadOnly() with { HeadEpochs = 2, MirrorScores = false } };
        var comparison = MistakeComparison.Measure(tiny, StudyMistakes.WrongStd, faces, Weights.None, seeds: [1, 2]);
        Assert.Equal([0.299f, 0.229f], [comparison.With[0].Run.Preprocessing.Std[0], comparison.Without[0].Run.Preprocessing.Std[0]]);
        Assert.Contains("std .299 for .229", comparison.ToHtml());
        Assert.Equal(4, comparison.Rows.Count());
        Assert.All(comparison.Rows, row => // two seeds: Student's t with one degree of freedom reaches 12.7 standard errors
        {
            Assert.All((Estimate[])[row.With, row.Without], share => Assert.True(share.Low >= 0 && share.Low <= share.Value && share.Value <= share.High && share.High <= 1, row.Figure));
            Assert.InRange(row.Difference.Value, Math.Max(-1, row.Difference.Low), Math.Min(1, row.Difference.High));
        });
    }

    [Fact]
    public void A_quick_check_says_so_and_cuts_sample_and_training()
    {
        using var folder = TestSupport.Folder();
        var (code, output, error) = TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), "train", "--model", "mobilenet_v2", "--weights", "none",
            "--size", "32", "--out", Path.Combine(folder.Path, "run")], new Dictionary<string, string> { ["DEEPFAKELAB_QUICK"] = "1" });
        Assert.True(code == 0, error);
        var record = File.ReadAllText(Path.Combine(folder.Path, "run", RunFolder.RecordFile));
        Assert.Contains("\"Epochs\": \"1\"", record);
        Assert.Contains("QUICK CHECK", output + error + record);
    }
}
