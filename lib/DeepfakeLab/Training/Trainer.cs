using TorchSharp;

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

    /// <summary>Called with the number of epochs that a resumed training had done already.</summary>
    internal Action<int>? OnResumed { get; init; }

    /// <summary>Bytes that decoded training images may take; where they would take more, batches are decoded while the last one is learned from.</summary>
    public long ImageMemory { get; init; } = ImageStore.DefaultMemory;
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
    /// <exception cref="TrainingStoppedException">It was cancelled after the first epoch; the model is then the best one so far, ready for use.</exception>
    public static TrainingRun Fit(
        VisionModel model, DataSplit split, Recipe recipe, FitOptions? options = null, Action<EpochFigures>? onEpoch = null,
        CancellationToken cancellation = default) =>
        With(model, split, recipe, options ?? new FitOptions(), onEpoch, cancellation, loop => loop.Run());

    /// <summary>
    /// The learning-rate range test (Smith, "Cyclical Learning Rates", 2017): a short training at a rate that grows exponentially. The
    /// model's weights are as before afterwards. The head is trained as it is, so train it first, or give a recipe with head epochs.
    /// </summary>
    /// <param name="steps">Batches to learn from; it ends sooner when the loss has grown fourfold.</param>
    /// <param name="from">The first rate.</param>
    /// <param name="to">The last rate.</param>
    /// <exception cref="TrainingException">As for <see cref="Fit"/>.</exception>
    public static LearningRateCurve FindLearningRate(
        VisionModel model, DataSplit split, Recipe recipe, FitOptions? options = null, int steps = 100, double from = 1e-6, double to = 1,
        CancellationToken cancellation = default)
    {
        if (!(from > 0 && to > from && steps >= 10))
            throw new TrainingException("A range test needs ten steps and a rising rate", FormattableString.Invariant($"{steps} steps, {from} to {to}"), "Use such as 100, 1e-6, 1");
        return With(model, split, recipe, options ?? new FitOptions(), null, cancellation, loop => loop.FindRate(LabRuntime.Quick ? 5 : steps, from, to));
    }

    private static T With<T>(
        VisionModel model, DataSplit split, Recipe recipe, FitOptions options, Action<EpochFigures>? onEpoch, CancellationToken cancellation,
        Func<TrainingLoop, T> work)
    {
        LabRuntime.Start();
        recipe.Check();
        if (recipe.Members > 1)
            throw new TrainingException("The recipe is of an ensemble", FormattableString.Invariant($"{recipe.Members} members"), "Use Ensemble.Fit, or set Members to 1");
        if (LabRuntime.Quick)
        {
            split = split with { Train = split.Train.Count < 48 ? split.Train : [.. split.Train.Where((_, i) => i % 3 == 0)] };
            recipe = recipe with { HeadEpochs = Math.Min(recipe.HeadEpochs, 2), Epochs = Math.Min(recipe.Epochs, 1), UnfreezeStages = 1, FeatureCopies = Math.Min(recipe.FeatureCopies, 1) };
        }
        if (split.Train.Count < 4 || split.Validation.Count < 2)
            throw new TrainingException("Too few images to train on", $"{split.Train.Count} training, {split.Validation.Count} validation images",
                "Give a folder with at least a dozen images of each class");
        if (recipe.ClassWeights is { } weights && weights.Count != model.Classes)
            throw new TrainingException("The recipe's ClassWeights are not as many as the model's classes", $"{weights.Count} and {model.Classes}", "Give one weight a class");
        var preprocessing = options.Preprocessing ?? Preprocessing.Square(model.InputSize);
        using var linked = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        if (recipe.Head is not null)
        {
            LabRuntime.Seed((long)(SeededRandom.Combine(options.Seed, 5) >> 1));
            model.WithHead(model.Classes, recipe.Head);
        }
        model.to(LabRuntime.Device);
        var memory = recipe.LooksOnce ? 0 : options.ImageMemory;
        using var training = new ImageStore(split.Train, preprocessing, linked.Token, memory);
        using var validation = new ImageStore(split.Validation, preprocessing, linked.Token, memory);
        using var loop = new TrainingLoop(model, recipe, options, split, preprocessing, training, validation, onEpoch, linked.Token);
        if (LabRuntime.Device.type != DeviceType.CPU)
            return work(loop);
        TensorLayout.Weights(model, channelsLast: true);
        try
        {
            return work(loop);
        }
        finally
        {
            TensorLayout.Weights(model, channelsLast: false);
        }
    }
}
