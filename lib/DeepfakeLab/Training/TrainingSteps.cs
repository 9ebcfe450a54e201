using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What happens with one batch: varied, mixed, run forward and back, and a step made.</summary>
internal sealed class TrainingSteps : IDisposable
{
    private readonly VisionModel model;
    private readonly Recipe recipe;
    private readonly long seed;
    private readonly DataSplit split;
    private readonly Preprocessing preprocessing;
    private readonly ImageStore images;
    private readonly CancellationToken cancellation;
    private readonly long[] labels;
    private readonly Tensor? classWeights;

    public TrainingSteps(
        VisionModel model, Recipe recipe, FitOptions options, DataSplit split, Preprocessing preprocessing, ImageStore images, CancellationToken cancellation)
    {
        (this.model, this.recipe, seed, this.split, this.preprocessing) = (model, recipe, options.Seed, split, preprocessing);
        (this.images, this.cancellation) = (images, cancellation);
        labels = [.. split.Train.Select(i => (long)i.Label)];
        if (recipe.ClassWeights is null && !recipe.BalanceClasses)
            return;
        var each = recipe.ClassWeights?.ToArray() ?? [.. Enumerable.Repeat(1.0, model.Classes)];
        if (recipe.BalanceClasses)
            each = [.. each.Select((w, c) => w * labels.Length / (model.Classes * Math.Max(1.0, labels.Count(l => l == c))))];
        classWeights = tensor(each.Select(w => (float)w).ToArray(), device: LabRuntime.Device).DetachFromDisposeScope();
    }

    /// <summary>The parameters that learn at the moment: what penalties are on.</summary>
    public IReadOnlyList<Parameter> Learning { get; set; } = [];

    public void Dispose() => classWeights?.Dispose();

    /// <summary>The training labels, so many times over.</summary>
    public Tensor TrainLabels(int copies) => tensor(labels, device: LabRuntime.Device).repeat(copies);

    /// <summary>The order in which a phase's epoch takes the images.</summary>
    public int[] Order(long phase, int epoch, int count)
    {
        var order = Enumerable.Range(0, count).ToArray();
        new SeededRandom(SeededRandom.Combine(seed, 3, phase, epoch)).Shuffle<int>(order);
        return order;
    }

    /// <summary>A batch of images, varied for this epoch, through the whole model. Returns the loss.</summary>
    /// <param name="next">The batch that comes after it, to be decoded meanwhile; empty or null for none.</param>
    public double OnImages(TrainingOptimizer optimizer, int[] indices, int epoch, int batch, (int, bool, bool) part, int[]? next = null)
    {
        var pixels = images.Batch(indices, cancellation).to(LabRuntime.Device);
        if (next is { Length: > 0 })
            images.Prepare(next, cancellation);
        var seeds = indices.Select(i => SeededRandom.Combine(seed, epoch, i)).ToArray();
        var (input, targets) = Mix(preprocessing.Normalize(recipe.Augmentation.Apply(pixels, seeds)), indices, epoch, batch);
        return Step(optimizer, () => model.call(TensorLayout.ChannelsLast(input)), targets, () => Name(indices, epoch, batch), part);
    }

    /// <summary>What the frozen layers made of the images, through the rest of the model. Returns the loss.</summary>
    public double OnFeatures(TrainingOptimizer optimizer, FrozenFeatures features, int[] indices, int epoch, int batch, (int, bool, bool) part)
    {
        var (input, targets) = Mix(features.Batch(indices, epoch), indices, epoch, batch);
        return Step(optimizer, () => model.ForwardFrom(input.dim() == 4 ? TensorLayout.ChannelsLast(input) : input, recipe.Cut!), targets,
            () => Name(indices, epoch, batch), part);
    }

    /// <param name="part">How many batches make one step together, and whether this is the first or the last of them.</param>
    public double Step(TrainingOptimizer optimizer, Func<Tensor> forward, Tensor targets, Func<string> batchName, (int Batches, bool First, bool Last) part)
    {
        if (part.First)
            optimizer.Forget();
        var loss = nn.functional.cross_entropy(forward(), targets, weight: classWeights, label_smoothing: recipe.LabelSmoothing);
        var value = loss.to(ScalarType.Float64).item<double>();
        if (!double.IsFinite(value))
            throw new TrainingException("The loss is no longer a number", batchName(), "Lower the learning rate, or look at these images");
        if (recipe.L1 > 0)
            loss += recipe.L1 * stack(Learning.Select(p => p.abs().sum())).sum();
        if (recipe.L2 > 0)
            loss += recipe.L2 * stack(Learning.Select(p => p.square().sum())).sum();
        if (part.Batches > 1)
            loss /= part.Batches;
        loss.backward();
        if (!part.Last)
            return value;
        if (recipe.ClipNorm > 0)
            nn.utils.clip_grad_norm_(model.parameters().Where(p => p.requires_grad), recipe.ClipNorm);
        optimizer.Step();
        return value;
    }

    /// <summary>One-hot targets; with mixup, inputs and targets as weighted means of two.</summary>
    private (Tensor Input, Tensor Targets) Mix(Tensor input, int[] indices, int epoch, int batch)
    {
        using var own = tensor(indices.Select(i => labels[i]).ToArray(), device: LabRuntime.Device);
        var targets = nn.functional.one_hot(own, model.Classes).to(ScalarType.Float32);
        if (recipe.MixUp == 0)
            return (input, targets);
        var random = new SeededRandom(SeededRandom.Combine(seed, 4, epoch, batch));
        var order = Enumerable.Range(0, indices.Length).Select(i => (long)i).ToArray();
        random.Shuffle<long>(order);
        using var partner = tensor(order, device: LabRuntime.Device);
        var share = random.NextBeta(recipe.MixUp);
        return (input.lerp(input.index_select(0, partner), 1 - share), targets.lerp(targets.index_select(0, partner), 1 - share));
    }

    private string Name(int[] indices, int epoch, int batch) => $"epoch {epoch}, batch {batch + 1}: {string.Join(", ", indices.Select(i => split.Train[i].Name))}";
}
