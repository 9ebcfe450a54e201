using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Where a batch stands among those that make one step together.</summary>
internal readonly record struct PartOfStep(int Batches, bool First, bool Last)
{
    /// <summary>A batch that makes a step of its own.</summary>
    public static readonly PartOfStep Whole = new(1, true, true);
}

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
    private readonly Tensor? classWeights, weightsWithMade;
    private readonly int fakeClass; // -1 where no name tells of replaced parts
    private readonly bool makesFakes;
    private readonly double priorShift;
    private readonly MixedPrecision? lowPrecision;
    private TrainingPass? pass; // of the step at hand; null where libtorch does all of it

    public TrainingSteps(
        VisionModel model, Recipe recipe, FitOptions options, DataSplit split, Preprocessing preprocessing, ImageStore images, CancellationToken cancellation)
    {
        (this.model, this.recipe, seed, this.split, this.preprocessing) = (model, recipe, options.Seed, split, preprocessing);
        (this.images, this.cancellation) = (images, cancellation);
        labels = [.. split.Train.Select(i => (long)i.Label)];
        lowPrecision = recipe.TrainingPrecision == Precision.BFloat16 ? new MixedPrecision(model) : null;
        fakeClass = split.Train.FirstOrDefault(i => i.Replaced != FaceParts.None)?.Label ?? -1;
        if (recipe.PartsLoss > 0 && recipe.FeatureCopies == 0 && fakeClass >= 0)
            Parts = new PartHead(model.FeatureCount);
        makesFakes = recipe.MadeFakes > 0 && recipe.FeatureCopies == 0 && fakeClass >= 0;
        double[]? each = recipe.ClassWeights?.ToArray() ?? (recipe.BalanceClasses ? [.. Enumerable.Repeat(1.0, model.Classes)] : null);
        if (recipe.BalanceClasses)
            each = [.. each!.Select((w, c) => w * labels.Length / (model.Classes * Math.Max(1.0, labels.Count(l => l == c))))];
        classWeights = Weights(each);
        if (!makesFakes)
            return;
        // With fakes made there are more of these and fewer others: weighted back to the balance that the images have.
        double fakes = labels.Count(l => l == fakeClass), others = labels.Length - fakes;
        var withMade = fakes + others * recipe.MadeFakes;
        priorShift = Math.Log(withMade / fakes);
        weightsWithMade = Weights([.. (each ?? [.. Enumerable.Repeat(1.0, model.Classes)])
            .Select((w, c) => c == fakeClass ? w * fakes / withMade : w / (1 - recipe.MadeFakes))]);

        static Tensor? Weights(double[]? each) =>
            each is null ? null : tensor(each.Select(w => (float)w).ToArray(), device: LabRuntime.Device).DetachFromDisposeScope();
    }

    /// <summary>The auxiliary head; null where the recipe or the images have none.</summary>
    public PartHead? Parts { get; }

    public void Dispose()
    {
        classWeights?.Dispose();
        weightsWithMade?.Dispose();
        Parts?.Dispose();
        lowPrecision?.Dispose();
    }

    /// <summary>Whether <see cref="CorrectPriors"/> does anything.</summary>
    public bool ShiftsPriors => priorShift != 0;

    /// <summary>
    /// From the class shares that training saw to those that the images have: of the fakes' weight only a part lay on fakes that nobody made, whose odds were so much
    /// lower. Moves the bias of the model's last layer, so that it must be taken back before training goes on.
    /// </summary>
    public void CorrectPriors()
    {
        if (!ShiftsPriors)
            return;
        using var scope = NewDisposeScope();
        using var none = no_grad();
        Initialisation.Modules(model.Head).OfType<Linear>().Last().bias![fakeClass].add_(priorShift);
    }

    /// <summary>To be called when weights, modes, or what learns were changed from outside.</summary>
    public void Begin() => lowPrecision?.Begin();

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
    public double OnImages(TrainingOptimizer optimizer, int[] indices, int epoch, int batch, PartOfStep part, int[]? next = null)
    {
        var pixels = images.Batch(indices, cancellation);
        if (next is { Length: > 0 })
            images.Prepare(next, cancellation);
        var seeds = indices.Select(i => SeededRandom.Combine(seed, epoch, i)).ToArray();
        var made = makesFakes ? Make(ref pixels, indices, epoch) : [];
        var (input, mixed, (partner, share)) = Mix(preprocessing.Normalize(recipe.Augmentation.Apply(pixels, seeds)), Targets(indices, made), indices.Length, epoch, batch);
        if (Parts is null)
            return Step(optimizer, part, () => Loss(Head(Features(TensorLayout.ChannelsLast(input))), mixed, weightsWithMade), () => Name(indices, epoch, batch));
        var parts = tensor(indices.SelectMany((i, at) => PartHead.Targets(split.Train[i].Replaced, recipe.Augmentation.Mirrors(seeds[at]))).ToArray(), [indices.Length, 4], device: LabRuntime.Device);
        var known = tensor(indices.Select((_, at) => made.Contains(at) ? 0f : 1f).ToArray(), [indices.Length, 1], device: LabRuntime.Device);
        if (partner is not null)
            (parts, known) = (parts.lerp(parts.index_select(0, partner), 1 - share), minimum(known, known.index_select(0, partner)));
        Tensor? features = null;
        return Step(optimizer, part, () => Loss(Head(features = Features(TensorLayout.ChannelsLast(input))), mixed, weightsWithMade),
            () => Name(indices, epoch, batch), () => recipe.PartsLoss * Parts.Loss(features!, parts, known));
    }

    /// <summary>What the frozen layers made of the images, through the rest of the model. Returns the loss.</summary>
    public double OnFeatures(TrainingOptimizer optimizer, FrozenFeatures features, int[] indices, int epoch, int batch, PartOfStep part)
    {
        var (input, targets, _) = Mix(features.Batch(indices, epoch), Targets(indices, []), indices.Length, epoch, batch);
        return Step(optimizer, part, () => Loss(Head(Features(input.dim() == 4 ? TensorLayout.ChannelsLast(input) : input, recipe.Cut)), targets),
            () => Name(indices, epoch, batch));
    }

    /// <summary>The new head alone on a batch of features. Returns the loss.</summary>
    public double OnHead(TrainingOptimizer optimizer, Tensor features, Tensor targets) =>
        Step(optimizer, PartOfStep.Whole, () => Loss(model.Head.call(features), targets), () => "head batch");

    /// <summary>The features of images, or of what enters the stage <paramref name="from"/>, computed as it is fastest in the precision that the recipe asks for.</summary>
    private Tensor Features(Tensor input, string? from = null) =>
        pass?.Features(model, input, from) ?? lowPrecision?.Run((m, x) => m.FeaturesFrom(x, from), input) ?? model.FeaturesFrom(input, from);

    private Tensor Head(Tensor features) => lowPrecision?.Run((m, x) => m.Head.call(x), features) ?? model.Head.call(features);

    private Tensor Loss(Tensor logits, Tensor targets, Tensor? weights = null) =>
        nn.functional.cross_entropy(logits, targets, weight: weights ?? classWeights, label_smoothing: recipe.LabelSmoothing);

    /// <param name="auxiliary">What is added to the loss beside penalties, and is not part of the value returned.</param>
    private double Step(TrainingOptimizer optimizer, PartOfStep part, Func<Tensor> classification, Func<string> batchName, Func<Tensor>? auxiliary = null)
    {
        if (part.First)
            optimizer.Forget();
        using var own = lowPrecision is null && TrainingPass.Fits(model) ? new TrainingPass() : null;
        pass = own;
        var loss = classification();
        var value = loss.to(ScalarType.Float64).item<double>();
        if (!double.IsFinite(value))
            throw new TrainingException("The loss is no longer a number", batchName(), "Lower the learning rate, or look at these images");
        if (auxiliary is not null)
            loss += auxiliary();
        if (part.Batches > 1)
            loss /= part.Batches;
        if (pass is not null)
            pass.Backward(loss);
        else
            loss.backward();
        lowPrecision?.TakeGradients();
        if (!part.Last)
            return value;
        var clips = recipe.ClipNorm > 0;
        if (clips)
        {
            optimizer.Penalise();
            Clip(model.parameters().Concat(Parts?.Layer.parameters() ?? []).Where(p => p.requires_grad));
        }
        optimizer.Step(penalises: !clips);
        lowPrecision?.Follow();
        return value;
    }

    /// <summary>As <c>clip_grad_norm_</c>, to the bit, however the gradients lie in memory.</summary>
    private void Clip(IEnumerable<Parameter> parameters)
    {
        using var none = no_grad();
        var gradients = parameters.Select(p => p.grad).OfType<Tensor>().ToList();
        var share = (recipe.ClipNorm / (stack(gradients.Select(g => g.contiguous().norm())).norm() + 1e-6)).clamp_(max: 1);
        gradients.ForEach(g => g.mul_(share));
    }

    /// <summary>Makes fakes of some real images of the batch, drawn for (seed, epoch, image). Returns their places in the batch.</summary>
    private int[] Make(ref Tensor pixels, int[] indices, int epoch)
    {
        int[] real = [.. Enumerable.Range(0, indices.Length).Where(at => labels[indices[at]] != fakeClass)];
        ulong Drawn(int at) => SeededRandom.Combine(seed, 7, epoch, indices[at]);
        int[] made = [.. real.Where(at => new SeededRandom(Drawn(at)).NextDouble() < recipe.MadeFakes)];
        if (made.Length > 0)
            pixels = MadeFakes.Apply(pixels, made, real, [.. made.Select(at => SeededRandom.Combine((long)Drawn(at), 1))]);
        return made;
    }

    /// <summary>One-hot targets [N, classes].</summary>
    private Tensor Targets(int[] indices, int[] made)
    {
        using var own = tensor(indices.Select((i, at) => made.Contains(at) ? fakeClass : labels[i]).ToArray(), device: LabRuntime.Device);
        return nn.functional.one_hot(own, model.Classes).to(ScalarType.Float32);
    }

    /// <summary>With mixup, inputs and targets as weighted means of two; and with which image each was mixed, and its own share.</summary>
    private (Tensor Input, Tensor Targets, (Tensor? Partner, double Share)) Mix(Tensor input, Tensor targets, int count, int epoch, int batch)
    {
        if (recipe.MixUp == 0)
            return (input, targets, (null, 1));
        var random = new SeededRandom(SeededRandom.Combine(seed, 4, epoch, batch));
        var order = Enumerable.Range(0, count).Select(i => (long)i).ToArray();
        random.Shuffle<long>(order);
        var partner = tensor(order, device: LabRuntime.Device);
        var share = random.NextBeta(recipe.MixUp);
        return (input.lerp(input.index_select(0, partner), 1 - share), targets.lerp(targets.index_select(0, partner), 1 - share), (partner, share));
    }

    private string Name(int[] indices, int epoch, int batch) => $"epoch {epoch}, batch {batch + 1}: {string.Join(", ", indices.Select(i => split.Train[i].Name))}";
}
