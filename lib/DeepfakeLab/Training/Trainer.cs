using System.Diagnostics;
using TorchSharp.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What a training needs beside model, data and recipe.</summary>
public sealed record FitOptions
{
    /// <summary>Decides the head's first weights, the order of the images, how they are varied, and dropout.</summary>
    public long Seed { get; init; } = 42;

    /// <summary>How images become tensors; null takes the model's own input size, the whole image squeezed into the square.</summary>
    public Preprocessing? Preprocessing { get; init; }

    /// <summary>Where the state after each epoch of fine-tuning is kept, so that a stopped run can go on; null keeps none.</summary>
    public string? CheckpointFile { get; init; }

    /// <summary>Go on from <see cref="CheckpointFile"/> if it is there.</summary>
    public bool Resume { get; init; }
}

/// <summary>The training loop: a new head on frozen features, then fine-tuning.</summary>
/// <remarks>
/// Ours because TorchSharp brings none. On the CPU the same model, data, recipe and seed give the same weights to the bit for the
/// same number of threads: all randomness comes from (seed, epoch, image), which is also why a run that was killed can go on and
/// end as if it had not been.
/// </remarks>
public static class Trainer
{
    /// <summary>Trains <paramref name="model"/> in place on the split's training images; validation decides which epoch is kept.</summary>
    /// <param name="model">A model whose head has one output a class.</param>
    /// <param name="split">The images. The test images are not looked at.</param>
    /// <param name="recipe">How to train.</param>
    /// <param name="options">Seed, preprocessing, checkpoint.</param>
    /// <param name="onEpoch">Called with each epoch's figures as it ends.</param>
    /// <param name="cancellation">Stops training at the next batch.</param>
    /// <exception cref="TrainingException">The recipe makes no sense, there are too few images, the loss is no number, or the checkpoint is of another run.</exception>
    public static TrainingRun Fit(
        VisionModel model, DataSplit split, Recipe recipe, FitOptions? options = null, Action<EpochFigures>? onEpoch = null,
        CancellationToken cancellation = default)
    {
        options ??= new FitOptions();
        LabRuntime.Start();
        recipe.Check();
        if (split.Train.Count < 4 || split.Validation.Count < 2)
            throw new TrainingException("Too few images to train on", $"{split.Train.Count} training, {split.Validation.Count} validation images",
                "Give a folder with at least a dozen images of each class");
        var preprocessing = options.Preprocessing ?? Preprocessing.Square(model.InputSize);
        using var linked = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        model.to(LabRuntime.Device);
        using var training = new ImageStore(split.Train, preprocessing, linked.Token);
        using var validation = new ImageStore(split.Validation, preprocessing, linked.Token);
        using var loop = new Loop(model, recipe, options, split, preprocessing, training, validation, onEpoch, linked.Token);
        return loop.Run();
    }

    /// <summary>One training under way.</summary>
    private sealed class Loop(
        VisionModel model, Recipe recipe, FitOptions options, DataSplit split, Preprocessing preprocessing, ImageStore training,
        ImageStore validation, Action<EpochFigures>? onEpoch, CancellationToken cancellation) : IDisposable
    {
        private readonly List<EpochFigures> history = [];
        private readonly long[] trainLabels = split.Train.Select(i => (long)i.Label).ToArray();
        private readonly long[] validationLabels = split.Validation.Select(i => (long)i.Label).ToArray();
        private readonly Device device = LabRuntime.Device;
        private WeightCopy? best;

        /// <summary>
        /// What validation chooses by. The loss punishes confidence that fine-tuning on a thousand images soon has too much of, and would
        /// choose an early epoch that ranks worse; AUC asks only for the ranking. With more than two classes, accuracy.
        /// </summary>
        private static double Quality(EpochFigures e) => double.IsNaN(e.ValidationAuc) ? e.ValidationAccuracy : e.ValidationAuc;

        private EpochFigures Best => history.MaxBy(Quality)!;

        public TrainingRun Run()
        {
            using var state = options is { Resume: true, CheckpointFile: { } file } && File.Exists(file)
                ? TrainingCheckpoint.Read(file, Identity()) : null;
            var frozen = recipe.Cut is null ? [] : model.Stages.TakeWhile(stage => stage != recipe.Cut).SelectMany(model.StageLayers).ToArray();
            if (state is null)
            {
                if (recipe.Epochs > 0 && recipe.BatchNorm == BatchNormMode.BatchStatistics)
                    AdaptStatistics(frozen);
                TrainHead();
                best?.CopyTo(model); // fine-tuning sets out from the best head, not from the last
            }
            if (recipe.Epochs > 0)
                FineTune(state, frozen);
            best?.CopyTo(model);
            model.eval();
            return new TrainingRun(model, recipe, split, preprocessing, options.Seed, history, Best);
        }

        public void Dispose() => best?.Dispose();

        /// <summary>A checkpoint belongs to one training: same images, same split, same settings, same start.</summary>
        private string Identity() => string.Join('\n', recipe.Settings().Select(s => s.Name + "=" + s.Value)
            .Concat([$"seed={options.Seed}", $"model={model.Name}", $"weights={model.WeightsOrigin.Sha256}", $"preprocessing={preprocessing}"])
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
            foreach (var indices in Order(2, 0, split.Train.Count).Chunk(recipe.BatchSize).Where(c => c.Length > 1))
            {
                cancellation.ThrowIfCancellationRequested();
                using var batch = NewDisposeScope();
                model.Features(TensorLayout.ChannelsLast(preprocessing.Normalize(training.Batch(indices, cancellation).to(device))));
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
            var features = Features("features of the training images", training, mirrored: recipe.Augmentation.Flip > 0);
            var labels = tensor(trainLabels, device: device).repeat(features.shape[0] / trainLabels.Length);
            var held = Features("features of the validation images", validation, mirrored: recipe.MirrorScores);
            using var optimizer = Optimizer(model.Head, recipe.HeadLearningRate);
            var (count, size) = ((int)features.shape[0], Math.Min(64, (int)features.shape[0]));
            var (steps, step) = ((long)recipe.HeadEpochs * (count / size), 0L);
            var progress = LabProgress.Begin("new head on frozen features", recipe.HeadEpochs, "epochs");
            for (var epoch = 1; epoch <= recipe.HeadEpochs; epoch++)
            {
                var clock = Stopwatch.StartNew();
                var order = Order(0, epoch, count);
                var loss = 0.0;
                for (var at = 0; at + size <= count; at += size, step++)
                {
                    cancellation.ThrowIfCancellationRequested();
                    SetRate(optimizer, Schedule.Cosine(recipe.HeadLearningRate, 0, (double)step / steps));
                    using var batch = NewDisposeScope();
                    using var rows = tensor(order[at..(at + size)].Select(i => (long)i).ToArray(), device: device);
                    model.Head.train();
                    loss += Step(optimizer, () => model.Head.call(features.index_select(0, rows)), labels.index_select(0, rows), () => "head batch");
                }
                model.Head.eval();
                var probabilities = Probabilities(model.Head, held, mirrored: recipe.MirrorScores);
                Record("head", epoch, loss / (count / size), probabilities, optimizer, clock, progress);
            }
        }

        /// <summary>Phase two: from the cut on, on augmented images.</summary>
        private void FineTune(TrainingCheckpoint? state, nn.Module<Tensor, Tensor>[] frozen)
        {
            foreach (var parameter in frozen.SelectMany(stage => stage.parameters()))
                parameter.requires_grad = false;
            using var average = recipe.AverageDecay > 0 ? new WeightCopy(model) : null;
            using var optimizer = Optimizer(model, recipe.LearningRate);
            if (state is not null)
            {
                history.AddRange(state.History);
                best?.Dispose();
                best = state.RestoreTo(model, optimizer, average);
            }
            var size = Math.Min(recipe.BatchSize, split.Train.Count);
            var perEpoch = split.Train.Count / size;
            var steps = (long)recipe.Epochs * perEpoch;
            for (var epoch = history.Count(e => e.Phase == FineTunePhase) + 1; epoch <= recipe.Epochs && !OutOfPatience(); epoch++)
            {
                var clock = Stopwatch.StartNew();
                var progress = LabProgress.Begin($"fine-tuning, epoch {epoch} of {recipe.Epochs}", (long)perEpoch * size, "images");
                var order = Order(1, epoch, split.Train.Count);
                LabRuntime.Seed((long)(SeededRandom.Combine(options.Seed, 2, epoch) >> 1)); // dropout
                SetModes(frozen);
                var loss = 0.0;
                for (var i = 0; i < perEpoch; i++)
                {
                    cancellation.ThrowIfCancellationRequested();
                    var indices = order[(i * size)..((i + 1) * size)];
                    SetRate(optimizer, Schedule.OneCycle(recipe.LearningRate, (long)(epoch - 1) * perEpoch + i, steps, recipe.WarmUp));
                    using (NewDisposeScope())
                        loss += Step(optimizer, indices, epoch, i);
                    average?.MoveTowards(model, 1 - recipe.AverageDecay);
                    progress.Advance(size, ("loss", loss / (i + 1)), ("best accuracy", history.Count > 0 ? Best.ValidationAccuracy : 0));
                }
                using var plain = average is null ? null : new WeightCopy(model);
                average?.CopyTo(model);
                Record(FineTunePhase, epoch, loss / perEpoch, Predictor.Probabilities(model, validation, preprocessing, recipe.MirrorScores, cancellation), optimizer, clock, null);
                plain?.CopyTo(model);
                if (options.CheckpointFile is { } file)
                    TrainingCheckpoint.Write(file, Identity(), history, model, best!, optimizer, average);
            }
            foreach (var parameter in model.parameters())
                parameter.requires_grad = true;
        }

        private const string FineTunePhase = "fine-tune";

        private double Step(AdamW optimizer, int[] indices, int epoch, int batch)
        {
            var images = training.Batch(indices, cancellation).to(device);
            var seeds = indices.Select(i => SeededRandom.Combine(options.Seed, epoch, i)).ToArray();
            var input = preprocessing.Normalize(recipe.Augmentation.Apply(images, seeds));
            using var labels = tensor(indices.Select(i => trainLabels[i]).ToArray(), device: device);
            var targets = nn.functional.one_hot(labels, model.Classes).to(ScalarType.Float32);
            if (recipe.MixUp > 0)
            {
                var random = new SeededRandom(SeededRandom.Combine(options.Seed, 4, epoch, batch));
                var order = Enumerable.Range(0, indices.Length).Select(i => (long)i).ToArray();
                random.Shuffle<long>(order);
                using var partner = tensor(order, device: device);
                var own = random.NextBeta(recipe.MixUp);
                input = input.lerp(input.index_select(0, partner), 1 - own);
                targets = targets.lerp(targets.index_select(0, partner), 1 - own);
            }
            return Step(optimizer, () => model.call(TensorLayout.ChannelsLast(input)), targets,
                () => $"epoch {epoch}, batch {batch + 1}: {string.Join(", ", indices.Select(i => split.Train[i].Name))}");
        }

        private double Step(AdamW optimizer, Func<Tensor> forward, Tensor labels, Func<string> batchName)
        {
            optimizer.zero_grad();
            var loss = nn.functional.cross_entropy(forward(), labels, label_smoothing: recipe.LabelSmoothing);
            var value = loss.to(ScalarType.Float64).item<double>();
            if (!double.IsFinite(value))
                throw new TrainingException("The loss is no longer a number", batchName(), "Lower the learning rate, or look at these images");
            loss.backward();
            if (recipe.ClipNorm > 0)
                nn.utils.clip_grad_norm_(model.parameters().Where(p => p.requires_grad), recipe.ClipNorm);
            optimizer.step();
            return value;
        }

        /// <summary>Weight decay is for the weights of layers; biases and batch norm's scale and shift go without, as is usual.</summary>
        private AdamW Optimizer(nn.Module part, double rate)
        {
            var parameters = part.parameters().Where(p => p.requires_grad).ToList();
            return optim.AdamW(
                [
                    new AdamW.ParamGroup(parameters.Where(p => p.dim() > 1), weight_decay: recipe.WeightDecay),
                    new AdamW.ParamGroup(parameters.Where(p => p.dim() <= 1), weight_decay: 0),
                ], rate);
        }

        private static void SetRate(optim.Optimizer optimizer, double rate)
        {
            foreach (var group in optimizer.ParamGroups)
                group.LearningRate = rate;
        }

        private void SetModes(nn.Module<Tensor, Tensor>[] frozen)
        {
            model.train();
            foreach (var stage in frozen)
                stage.eval();
            if (recipe.BatchNorm == BatchNormMode.FrozenStatistics)
                foreach (var norm in model.modules().OfType<BatchNorm2d>())
                    norm.eval();
        }

        private int[] Order(long phase, int epoch, int count)
        {
            var order = Enumerable.Range(0, count).ToArray();
            new SeededRandom(SeededRandom.Combine(options.Seed, 3, phase, epoch)).Shuffle<int>(order);
            return order;
        }

        /// <summary>[N, F], or [2N, F] with the mirror images after the images.</summary>
        private Tensor Features(string task, ImageStore images, bool mirrored)
        {
            var plain = Predictor.Run(model, images, preprocessing, mirror: false, model.Features, task, cancellation);
            return mirrored ? cat([plain, Predictor.Run(model, images, preprocessing, mirror: true, model.Features, task + " mirrored", cancellation)]) : plain;
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

        private void Record(string phase, int epoch, double loss, double[][] probabilities, optim.Optimizer optimizer, Stopwatch clock, ProgressTask? progress)
        {
            var (lossHeld, accuracy, auc) = Predictor.Figures(probabilities, validationLabels);
            var figures = new EpochFigures(phase, epoch, loss, lossHeld, accuracy, auc, optimizer.ParamGroups.First().LearningRate, clock.Elapsed.TotalSeconds);
            history.Add(figures);
            if (ReferenceEquals(Best, figures))
            {
                best?.Dispose();
                best = new WeightCopy(model);
            }
            progress?.Advance(1, ("loss", loss), ("accuracy", accuracy));
            onEpoch?.Invoke(figures);
        }
    }
}
