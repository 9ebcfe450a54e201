using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>Several models whose probabilities are averaged: their division of the images, their folder, and their answers.</summary>
public sealed class EnsembleTests : IDisposable
{
    private static readonly Recipe small = Recipe.Full() with { Name = "small", HeadEpochs = 1, Epochs = 2, BatchSize = 8, Patience = 0, Members = 2 };
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public EnsembleTests() => TrainingTests.PaintImages(folder["images"], 20);

    public void Dispose() => folder.Dispose();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private FaceDataset Data => FaceDataset.Open(folder["images"]);

    private EnsembleRun Fit(Recipe recipe, FitOptions? options = null, Action<int, EpochFigures>? onEpoch = null) => Ensemble.Fit(
        () => Models.MobileNetV2().WithHead(2), Data.Split(0.2, 0.08, seed: 3), recipe, (options ?? new()) with { Seed = 3, Preprocessing = Preprocessing.Square(32) }, onEpoch, Cancellation);

    [Theory, InlineData(3), InlineData(12)]
    public void Members_are_chosen_by_images_that_the_others_learn_from(int members)
    {
        FaceImage[] images = [.. Enumerable.Range(0, 300).Select(i => new FaceImage($"{i}", "", i % 2, null, FaceParts.None, i / 2))]; // two of each photo
        var split = DataSplit.Create(images, 0.2, 0.08, 5);
        var rest = split.Train.Concat(split.Validation).Select(i => i.Name).Order().ToList();
        DataSplit[] parts = [.. Enumerable.Range(1, members).Select(m => Ensemble.Part(split, members, m))];
        Assert.All(parts, p => Assert.Equal(split.Test, p.Test));
        Assert.All(parts, p => Assert.Equal(rest, p.Train.Concat(p.Validation).Select(i => i.Name).Order()));
        Assert.All(parts, p => Assert.Empty(p.Train.Select(i => i.Group).Intersect(p.Validation.Select(i => i.Group))));
        Assert.All(parts, p => Assert.InRange(p.Validation.Count, rest.Count / Math.Max(10, members) - 2, rest.Count / Math.Max(10, members) + 2));
        var held = parts.SelectMany(p => p.Validation).Select(i => i.Name).ToList();
        Assert.Equal(held.Count, held.Distinct().Count());
    }

    [Fact]
    public void An_ensemble_answers_with_the_mean_of_its_members_after_saving_too_and_no_one_else_takes_it_for_one_model()
    {
        var run = Fit(small);
        var images = run.Split.Test;
        var members = run.Models.Select(m => Predictor.Probabilities(m, images, run.Preprocessing, mirrorScores: true, Cancellation)).ToArray();
        Assert.NotEqual(members[0][0][0], members[1][0][0]);
        var mean = Predictor.Probabilities(run.Models, images, run.Preprocessing, mirrorScores: true, Cancellation);
        Assert.Equal(members[0].Zip(members[1], (a, b) => (a[0] + b[0]) / 2), mean.Select(p => p[0]), (a, b) => Math.Abs(a - b) < 1e-12);
        Assert.Equal(run.Members.SelectMany(m => m.Split.Validation).Select(i => i.Name), run.OutOfFold(0, Cancellation).Select(p => p.Image.Name));

        RunFolder.Save(folder["run"], run, Data, test: null);
        run.Dispose();
        using (var saved = RunFolder.Open(folder["run"]))
        {
            Assert.Equal(2, saved.Members.Count);
            Assert.Equal(images, RunFolder.Unseen(saved, Data));
            Assert.Equal(mean, Predictor.Probabilities(saved.Members, images, saved.Preprocessing, saved.MirrorScores, Cancellation));
            var streamed = PictureStream.Predict(saved, images.Select(i => i.Path), Cancellation).Select(a => a.Probabilities![0]);
            Assert.Equal(mean.Select(p => p[0]), streamed, (a, b) => Math.Abs(a - b) < 1e-5);
            Assert.Contains("member-1", Assert.Throws<TrainingException>(() => saved.Model).Message);
        }
        Assert.Throws<TrainingException>(() => ModelExport.WriteWeights(folder["run"], folder["model.pth"]));
        Assert.False(File.Exists(folder["model.pth"]));
        ModelExport.WriteWeights(RunFolder.MemberFolder(folder["run"], 2), folder["model.pth"]);

        var file = Path.Combine(folder["run"], RunFolder.RecordFile);
        var record = JsonNode.Parse(File.ReadAllText(file))!;
        foreach (var bad in (JsonNode[])[0, 3, 101, "2", new JsonArray()]) // 3: one is not there
        {
            record["members"] = bad.DeepClone();
            File.WriteAllText(file, record.ToJsonString());
            Assert.Contains(folder["run"], Assert.Throws<TrainingException>(() => RunFolder.Open(folder["run"])).Message);
        }
        record["members"] = 2;
        record["data"]!["fakeClass"] = 1;
        File.WriteAllText(file, record.ToJsonString());
        Assert.Contains("member-1", Assert.Throws<TrainingException>(() => RunFolder.Open(folder["run"])).Message);
    }

    [Fact]
    public void A_stopped_ensemble_keeps_what_is_finished_and_resumes_to_the_same_weights_to_the_bit()
    {
        var whole = Fit(small);
        var options = new FitOptions { CheckpointFile = folder["state.safetensors"], Resume = true };
        EnsembleRun Stopped(int at) => Assert.Throws<EnsembleStoppedException>(() => Fit(small, options, (member, e) =>
        {
            if (member == at && e is { Phase: "fine-tune", Epoch: 2 })
                throw new OperationCanceledException();
        })).Run;
        Assert.True(Assert.Single(Stopped(1).Members).Stopped);
        var one = Stopped(2);
        Assert.Equal((1, true, false), (one.Members.Count, one.Stopped, one.Members[0].Stopped));
        var epochs = new List<(int, int)>();
        var resumed = Fit(small, options, (member, e) => epochs.Add((member, e.Epoch)));
        Assert.Equal([(2, 2)], epochs);
        foreach (var (expected, actual) in whole.Models.Zip(resumed.Models))
            foreach (var (key, value) in StateDict.Of(expected))
                Assert.True(value.Equals(StateDict.Of(actual)[key]), key);
        Ensemble.DeleteCheckpoints(options.CheckpointFile!, small);
        Assert.Empty(Directory.GetFiles(folder.Path));
        foreach (var run in (EnsembleRun[])[whole, resumed, one])
            run.Dispose();
        using var single = Models.MobileNetV2().WithHead(2);
        Assert.Contains("Ensemble.Fit", Assert.Throws<TrainingException>(() => Trainer.Fit(single, whole.Split, small)).Message);
        Assert.Throws<TrainingException>(() => (small with { ScoreInTrainingMode = true }).Check());
    }

    [Fact]
    public void A_protocol_chooses_an_ensembles_threshold_on_images_that_the_scoring_member_has_not_seen()
    {
        var result = Protocol.Repeat(Data, () => Models.MobileNetV2().WithHead(2), small, [3], preprocessing: Preprocessing.Square(32), cancellation: Cancellation);
        var run = Fit(small);
        Assert.Equal(Protocol.ChooseThreshold(run.OutOfFold(Data.FakeClass, Cancellation)), result.Runs[0].Threshold);
        Assert.Equal(Predictor.Predict(run.Models, run.Split.Test, run.Preprocessing, Data.FakeClass, true, Cancellation), result.Runs[0].Test.Predictions);
        Assert.Equal(run.Members.Select(m => (m.Best.Phase, m.Best.Epoch, m.Best.ValidationAuc)), result.Runs[0].Best.Select(b => (b.Phase, b.Epoch, b.ValidationAuc)));
        Assert.Equal(string.Join(", ", run.Members.Select(m => $"{m.Best.Phase} epoch {m.Best.Epoch}")), result.Runs[0].Kept);
        run.Dispose();
    }

    [Fact]
    public void The_command_trains_tests_and_predicts_with_an_ensemble()
    {
        int Command(params string[] arguments) => ExportTests.TrainedRun.Command(arguments);
        string[] train = ["train", "--data", folder["images"], "--weights", "none", "--size", "32", "--epochs", "1", "--members", "2", "--out", folder["run"]];
        Assert.Equal(0, Command(train));
        foreach (var file in (string[])["report.html", "run.json", "member-1/model.safetensors", "member-1/report.html", "member-2/run.json", "member-2/report.html"])
            Assert.True(File.Exists(Path.Combine(folder["run"], file)), file);
        Assert.Empty(Directory.GetFiles(folder["run"], "checkpoint*"));
        var record = JsonNode.Parse(File.ReadAllText(Path.Combine(folder["run"], "run.json")))!;
        Assert.Equal((8, "2"), ((int)record["test"]!["n"]!, (string)record["recipe"]!["Members"]!));
        Assert.Contains("member 2", File.ReadAllText(Path.Combine(folder["run"], "report.html")));
        Assert.Equal(0, Command("evaluate", "--run", folder["run"], Path.Combine(folder["run"], "member-1"), "--data", folder["images"], "--json"));
        Assert.Equal(0, Command("predict", "--run", folder["run"], folder["images"]));
        Assert.Equal(1, Command("export", "onnx", "--run", folder["run"], "--out", folder["model.onnx"]));
        Assert.Equal(1, Command([.. train[..^1], folder["other"], "--lr-find"]));
        Assert.Equal(1, Command(train)); // a finished run is not trained over
    }
}
