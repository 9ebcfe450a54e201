using System.Diagnostics;
using System.Text.Json;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>One training under way: its phases, its history, the best weights so far.</summary>
internal sealed class TrainingLoop(
    VisionModel model, Recipe recipe, FitOptions options, DataSplit split, Preprocessing preprocessing, ImageStore training,
    ImageStore validation, Action<EpochFigures>? onEpoch, CancellationToken cancellation) : IDisposable
{
    /// <summary>Steps after which their arrays, a megabyte or two each, are collected: the collector itself lets as much gather as the processor's last cache holds, a hundred of them.</summary>
    private const int StepsToCollect = 4;

    private const string HeadPhase = "head", FineTunePhase = "fine-tune";

    /// <summary>A stretch of fine-tuning with the same layers: all of it, or one stage of gradual unfreezing.</summary>
    private sealed record Stretch(int FirstEpoch, int LastEpoch, string? Cut, double Rate);

    private readonly List<EpochFigures> history = [];
    private readonly TrainingSteps steps = new(model, recipe, options, split, preprocessing, training, cancellation);
    private readonly long[] validationLabels = split.Validation.Select(i => (long)i.Label).ToArray();
    private WeightCopy? best;

    /// <summary>
    /// What validation chooses by. The loss punishes confidence that fine-tuning on a thousand images soon has too much of, and would
    /// choose an early epoch that ranks worse; AUC asks only for the ranking. With more than two classes, accuracy.
    /// </summary>
    private static double Quality(EpochFigures e) => double.IsNaN(e.ValidationAuc) ? e.ValidationAccuracy : e.ValidationAuc;

    private EpochFigures Best => Kept(history, recipe.KeepLatest, validationLabels);

    /// <summary>The epoch to be kept, as far as is known yet; see <see cref="Recipe.KeepLatest"/>.</summary>
    internal static EpochFigures Kept(IReadOnlyList<EpochFigures> history, bool latest, long[] labels)
    {
        var (kept, highest) = (history[0], Quality(history[0]));
        foreach (var e in history.Skip(1))
        {
            if (Quality(e) > highest || latest && e.Phase == FineTunePhase && Quality(e) >= highest - Error(e, highest))
                kept = e;
            highest = Math.Max(highest, Quality(e));
        }
        return kept;

        double Error(EpochFigures e, double quality) => double.IsNaN(e.ValidationAuc)
            ? Math.Sqrt(quality * (1 - quality) / labels.Length) : Metrics.AucError(quality, labels.Count(l => l == 1), labels.Count(l => l == 0));
    }

    public TrainingRun Run()
    {
        try
        {
            using var state = options is { Resume: true, CheckpointFile: { } file } && File.Exists(file)
                ? TrainingCheckpoint.Read(file, Identity()) : null;
            if (state is null)
            {
                if (recipe.AdaptsStatistics)
                    AdaptStatistics(Frozen(recipe.Cut));
                TrainHead();
                best?.CopyTo(model); // fine-tuning sets out from the best head, not from the last
            }
            if (recipe.Epochs > 0)
                FineTune(state);
            return Finished();
        }
        catch (OperationCanceledException e) when (best is not null)
        {
            throw new TrainingStoppedException(Finished() with { Stopped = true }, e);
        }
    }

    /// <summary>Phase one, then steps at a rate that grows exponentially; the weights come back.</summary>
    public LearningRateCurve FindRate(int count, double from, double to)
    {
        using var before = new WeightCopy(model);
        try
        {
            TrainHead();
            var frozen = Freeze(recipe.Cut);
            using var optimizer = new TrainingOptimizer(recipe, model, from, RateFactors(), steps.Parts?.Layer);
            var size = Math.Min(LabRuntime.Quick ? 4 : recipe.BatchSize, split.Train.Count);
            var points = new List<(double Rate, double Loss)>();
            var progress = LabProgress.Begin("learning-rate range test", count, "batches");
            SetModes(frozen);
            steps.Begin();
            for (var i = 0; i < count; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                var perEpoch = split.Train.Count / size;
                var indices = steps.Order(1, 1 + i / perEpoch, split.Train.Count)[(i % perEpoch * size)..((i % perEpoch + 1) * size)];
                optimizer.Rate = from * Math.Pow(to / from, (double)i / (count - 1));
                using var batch = NewDisposeScope();
                double loss;
                try
                {
                    loss = steps.OnImages(optimizer, indices, 1, i, PartOfStep.Whole);
                }
                catch (TrainingException) when (points.Count > 0)
                {
                    break; // beyond all numbers: the curve ends here
                }
                points.Add((optimizer.Rate, loss));
                progress.Advance(1, ("loss", loss));
                if (loss > 4 * points.Min(p => p.Loss))
                    break;
            }
            return LearningRateCurve.From(points);
        }
        finally
        {
            before.CopyTo(model);
            Thaw();
        }
    }

    public void Dispose()
    {
        best?.Dispose();
        steps.Dispose();
    }

    private TrainingRun Finished()
    {
        best?.CopyTo(model);
        Thaw();
        model.eval();
        return new TrainingRun(model, recipe, split, preprocessing, options.Seed, history, Best);
    }

    /// <summary>A checkpoint belongs to one training: same images, same split, same settings, same start.</summary>
    private string Identity() => string.Join('\n', recipe.Settings().Select(s => s.Name + "=" + s.Value)
        .Concat([$"seed={options.Seed}", $"model={model.Name}", $"weights={model.WeightsOrigin.Sha256}", $"preprocessing={JsonSerializer.Serialize(preprocessing)}"])
        .Concat(split.Train.Select(i => "train " + i.Name)).Concat(split.Validation.Select(i => "validation " + i.Name)));

    /// <summary>
    /// Runs the training images through once, without learning, so that batch norm's running statistics become those of faces (Li et
    /// al., "Adaptive Batch Normalization", 2018). Fine-tuning normalises with the statistics of its batches; a head that was trained
    /// on features normalised with ImageNet's would find other features there, and its errors would tear the backbone down.
    /// </summary>
    private void AdaptStatistics(nn.Module<Tensor, Tensor>[] frozen)
    {
        using var none = no_grad();
        SetModes(frozen);
        var progress = LabProgress.Begin("batch statistics of the training images", split.Train.Count, "images");
        foreach (var indices in steps.Order(2, 0, split.Train.Count).Chunk(recipe.BatchSize).Where(c => c.Length > 1))
        {
            cancellation.ThrowIfCancellationRequested();
            using var batch = NewDisposeScope();
            model.Features(TensorLayout.ChannelsLast(preprocessing.Normalize(training.Batch(indices, cancellation))));
            progress.Advance(indices.Length);
        }
    }

    /// <summary>Phase one: the backbone's features are computed once, for each image and its mirror image, and the head learns on them.</summary>
    private void TrainHead()
    {
        if (recipe.HeadEpochs == 0)
            return;
        using var scope = NewDisposeScope();
        model.eval();
        using var backbone = new FrozenPrefix(model, model.Stages[^1], recipe.FeaturePrecision == Precision.BFloat16 ? ScalarType.BFloat16 : ScalarType.Float32);
        var features = Features(backbone, "features of the training images", training, mirrored: recipe.Augmentation.Flip > 0);
        var labels = steps.TrainLabels(copies: (int)(features.shape[0] / split.Train.Count));
        var held = Features(backbone, "features of the validation images", validation, mirrored: recipe.MirrorScores);
        using var optimizer = new TrainingOptimizer(recipe, model.Head, recipe.HeadLearningRate);
        var (count, size) = ((int)features.shape[0], Math.Min(64, (int)features.shape[0]));
        var (all, step) = ((long)recipe.HeadEpochs * (count / size), 0L);
        var progress = LabProgress.Begin("new head on frozen features", recipe.HeadEpochs, "epochs");
        for (var epoch = 1; epoch <= recipe.HeadEpochs; epoch++)
        {
            var clock = Stopwatch.StartNew();
            var order = steps.Order(0, epoch, count);
            var loss = 0.0;
            for (var at = 0; at + size <= count; at += size, step++)
            {
                cancellation.ThrowIfCancellationRequested();
                optimizer.Rate = Schedule.Cosine(recipe.HeadLearningRate, 0, (double)step / all);
                using var batch = NewDisposeScope();
                using var rows = tensor(order[at..(at + size)].Select(i => (long)i).ToArray(), device: LabRuntime.Device);
                model.Head.train();
                loss += steps.OnHead(optimizer, features.index_select(0, rows), labels.index_select(0, rows));
            }
            model.Head.train(recipe.ScoreInTrainingMode);
            var probabilities = Probabilities(model.Head, held, mirrored: recipe.MirrorScores);
            Record(HeadPhase, epoch, loss / (count / size), probabilities, optimizer, clock, progress);
        }
    }

    /// <summary>Phase two: from the cut on, on augmented images.</summary>
    private void FineTune(TrainingCheckpoint? state)
    {
        using var average = recipe.AverageDecay > 0 ? new WeightCopy(model, Constant) : null;
        if (state is not null)
        {
            history.AddRange(state.History);
            best?.Dispose();
            best = state.RestoreTo(model, average, steps.Parts?.Layer);
        }
        var done = history.Count(e => e.Phase == FineTunePhase);
        if (state is not null)
            options.OnResumed?.Invoke(done);
        using var features = recipe.FeatureCopies > 0 ? new FrozenFeatures(model, recipe, options.Seed, preprocessing, training, validation, cancellation) : null;
        GnuLibrary.Trim(); // what features took
        foreach (var stretch in Stretches().Where(s => s.LastEpoch > done))
        {
            var frozen = Freeze(stretch.Cut);
            using var optimizer = new TrainingOptimizer(recipe, model, stretch.Rate, RateFactors(), steps.Parts?.Layer);
            if (state is not null && done >= stretch.FirstEpoch) // in the midst of it; another stretch had another optimizer
                state.RestoreTo(optimizer);
            FineTune(stretch, frozen, optimizer, average, features);
        }
    }

    private void FineTune(Stretch stretch, nn.Module<Tensor, Tensor>[] frozen, TrainingOptimizer optimizer, WeightCopy? average, FrozenFeatures? features)
    {
        var size = Math.Min(recipe.BatchSize, split.Train.Count);
        var perEpoch = split.Train.Count / size;
        var all = (long)(stretch.LastEpoch - stretch.FirstEpoch + 1) * perEpoch;
        var first = Math.Max(stretch.FirstEpoch, history.Count(e => e.Phase == FineTunePhase) + 1);
        var whole = LabProgress.Begin("all epochs", (recipe.Epochs - first + 1L) * perEpoch * size, "images");
        for (var epoch = first; epoch <= stretch.LastEpoch && !OutOfPatience(); epoch++)
        {
            var clock = Stopwatch.StartNew();
            var progress = whole.Part($"fine-tuning, epoch {epoch} of {recipe.Epochs}", (long)perEpoch * size);
            var order = steps.Order(1, epoch, split.Train.Count);
            LabRuntime.Seed((long)(SeededRandom.Combine(options.Seed, 2, epoch) >> 1)); // dropout
            SetModes(frozen);
            steps.Begin();
            var loss = 0.0;
            for (var i = 0; i < perEpoch; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                var indices = order[(i * size)..((i + 1) * size)];
                optimizer.Rate = Schedule.Rate(recipe, stretch.Rate, (long)(epoch - stretch.FirstEpoch) * perEpoch + i, all, perEpoch);
                var part = Part(i, perEpoch);
                using (NewDisposeScope())
                    loss += features is null ? steps.OnImages(optimizer, indices, epoch, i, part, next: order.AsSpan((i + 1) * size, i + 1 < perEpoch ? size : 0).ToArray()) : steps.OnFeatures(optimizer, features, indices, epoch, i, part);
                if (part.Last)
                    average?.MoveTowards(model, 1 - recipe.AverageDecay);
                if (i % StepsToCollect == 0)
                    GC.Collect(0);
                progress.Advance(size, ("loss", loss / (i + 1)), ("best accuracy", history.Count > 0 ? Best.ValidationAccuracy : 0));
            }
            using var plain = average is null && !steps.ShiftsPriors ? null : new WeightCopy(model, Constant);
            average?.CopyTo(model);
            steps.CorrectPriors();
            Record(FineTunePhase, epoch, loss / perEpoch, Score(features), optimizer, clock, null);
            plain?.CopyTo(model);
            if (options.CheckpointFile is { } file)
                TrainingCheckpoint.Write(file, Identity(), history, model, best!, optimizer, average, steps.Parts?.Layer);
        }
    }

    /// <summary>Where batch <paramref name="i"/> of an epoch stands among those that make one step together.</summary>
    private PartOfStep Part(int i, int perEpoch)
    {
        var start = i - i % recipe.Accumulate;
        var batches = Math.Min(recipe.Accumulate, perEpoch - start);
        return new(batches, i == start, i == start + batches - 1);
    }

    private double[][] Score(FrozenFeatures? features) => features is not null
        ? features.Score(recipe.MirrorScores, recipe.ScoreInTrainingMode)
        : Predictor.Probabilities(model, validation, preprocessing, recipe.MirrorScores, cancellation, recipe.ScoreInTrainingMode);

    private IEnumerable<Stretch> Stretches()
    {
        if (recipe.UnfreezeStages == 1)
            return [new Stretch(1, recipe.Epochs, recipe.Cut, recipe.LearningRate)];
        var (n, body) = (recipe.UnfreezeStages, model.Stages.SkipLast(1).SkipWhile(s => recipe.Cut is not null && s != recipe.Cut).ToList());
        return Enumerable.Range(0, n).Select(i => (Thawed: (i + 1) * body.Count / n, i)).Select(s => new Stretch(
            s.i * recipe.Epochs / n + 1, (s.i + 1) * recipe.Epochs / n,
            s.Thawed == 0 ? model.Stages[^1] : s.Thawed == body.Count ? recipe.Cut : body[^s.Thawed],
            recipe.LearningRate * Math.Pow(recipe.UnfreezeRate, s.i)));
    }

    /// <summary>What has the same values from the beginning to the end. Scoring in training mode moves the statistics of all batch norms.</summary>
    private nn.Module<Tensor, Tensor>[] Constant => recipe.ScoreInTrainingMode ? [] : Frozen(recipe.Cut);

    private nn.Module<Tensor, Tensor>[] Frozen(string? cut) =>
        cut is null ? [] : [.. model.Stages.TakeWhile(stage => stage != cut).SelectMany(model.StageLayers)];

    private nn.Module<Tensor, Tensor>[] Freeze(string? cut)
    {
        if (cut is not null)
            _ = model.StageLayers(cut); // throws where there is no such stage
        Thaw();
        var frozen = Frozen(cut);
        foreach (var parameter in frozen.SelectMany(stage => stage.parameters()))
            parameter.requires_grad = false;
        return frozen;
    }

    private void Thaw()
    {
        foreach (var parameter in model.parameters())
            parameter.requires_grad = true;
    }

    /// <summary>Each parameter's share of the rate: 1 for the head, less for the backbone where the recipe says so; null for 1 everywhere.</summary>
    private Func<Parameter, double>? RateFactors()
    {
        if (recipe is { BackboneRate: 1, StageRate: 1 })
            return null;
        var factors = new Dictionary<IntPtr, double>();
        foreach (var (distance, stage) in model.Stages.Reverse().Index().Skip(1))
            foreach (var parameter in model.StageLayers(stage).SelectMany(layer => layer.parameters()))
                factors[parameter.Handle] = recipe.BackboneRate * Math.Pow(recipe.StageRate, distance - 1);
        return p => factors.GetValueOrDefault(p.Handle, 1);
    }

    /// <summary>
    /// Batch norms that follow more slowly than this do as PyTorch's others do: MNASNet's statistics change by 0.0003 a step, and would
    /// be those of another network after the hundreds of steps that a training has here.
    /// </summary>
    private const double SlowestMomentum = 0.005;

    private void SetModes(nn.Module<Tensor, Tensor>[] frozen)
    {
        model.train();
        foreach (var norm in model.modules().OfType<BatchNorm2d>().Where(norm => norm.momentum < SlowestMomentum))
            norm.momentum = 0.1;
        foreach (var stage in frozen)
            stage.eval();
        if (recipe.BatchNorm == BatchNormMode.FrozenStatistics)
            foreach (var norm in model.modules().OfType<BatchNorm2d>())
                norm.eval();
    }

    /// <summary>[N, F], or [2N, F] with the mirror images after the images.</summary>
    private Tensor Features(FrozenPrefix backbone, string task, ImageStore images, bool mirrored)
    {
        var plain = Predictor.Run(model, images, preprocessing, mirror: false, backbone.Run, $"{task} ({backbone.Engine})", cancellation);
        return mirrored ? cat([plain, Predictor.Run(model, images, preprocessing, mirror: true, backbone.Run, $"{task} mirrored ({backbone.Engine})", cancellation)]) : plain;
    }

    /// <summary>Class probabilities [N, classes] from features, averaged over an image and its mirror image.</summary>
    private static double[][] Probabilities(nn.Module<Tensor, Tensor> head, Tensor features, bool mirrored)
    {
        using var scope = NewDisposeScope();
        using var none = inference_mode();
        var p = head.call(features).softmax(1).to(ScalarType.Float64);
        return Predictor.Rows(mirrored ? p.reshape(2, -1, p.shape[1]).mean([0]) : p);
    }

    private bool OutOfPatience() =>
        recipe.Patience > 0 && history.Count(e => e.Phase == FineTunePhase && e.Epoch > BestFineTuneEpoch()) >= recipe.Patience;

    private int BestFineTuneEpoch() => history.Where(e => e.Phase == FineTunePhase).MaxBy(Quality)?.Epoch ?? 0;

    private void Record(string phase, int epoch, double loss, double[][] probabilities, TrainingOptimizer optimizer, Stopwatch clock, ProgressTask? progress)
    {
        var (lossHeld, accuracy, auc) = Predictor.Figures(probabilities, validationLabels);
        var figures = new EpochFigures(phase, epoch, loss, lossHeld, accuracy, auc, optimizer.Rate, clock.Elapsed.TotalSeconds);
        history.Add(figures);
        if (ReferenceEquals(Best, figures))
        {
            best?.Dispose();
            best = new WeightCopy(model, Constant);
        }
        progress?.Advance(1, ("loss", loss), ("accuracy", accuracy), ("best accuracy", Best.ValidationAccuracy));
        onEpoch?.Invoke(figures);
    }
}
