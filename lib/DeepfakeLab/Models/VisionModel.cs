using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>A model name, a stage name or a head that does not exist or does not fit.</summary>
public sealed class ModelException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);

/// <summary>How much of a model had learned something before it came here.</summary>
public enum Pretrained
{
    /// <summary>Nothing: all weights are random.</summary>
    Nothing,

    /// <summary>All but the head, which is random.</summary>
    Features,

    /// <summary>Everything.</summary>
    Everything,
}

/// <summary>Where a model's weights came from.</summary>
/// <param name="Description">In words: "IMAGENET1K_V2 of mobilenet_v2, from the cache".</param>
/// <param name="Pretrained">How much of the model they are for.</param>
/// <param name="Path">The file; null for random or embedded weights.</param>
/// <param name="Sha256">Lower-case hash of the file's or resource's bytes; null for random weights.</param>
public sealed record WeightsOrigin(string Description, Pretrained Pretrained, string? Path = null, string? Sha256 = null);

/// <summary>
/// A convolutional image classifier: [N, 3, H, W] normalised float32 images in, [N, classes] logits out. Layers and state-dict keys
/// are torchvision's.
/// </summary>
/// <remarks>
/// The network is a chain of named stages, the last of which is the head; <see cref="ForwardUntil"/> and <see cref="ForwardFrom"/> cut
/// it at any of them. Average pooling belongs to the last stage before the head, so the head's input is <see cref="Features"/>.
/// </remarks>
public abstract class VisionModel : nn.Module<Tensor, Tensor>
{
    private sealed record Stage(string Name, IReadOnlyList<nn.Module<Tensor, Tensor>> Layers);

    private readonly List<Stage> stages = []; // the body's; a list, so that TorchSharp does not register its modules by itself
    private readonly List<nn.Module<Tensor, Tensor>> head = []; // one; a list for the same reason
    private string headName = "";
    private long pooledFeatures;
    private int flattenAt;

    private protected VisionModel(string name, string family) : base(name)
    {
        Name = name;
        Family = family;
        var official = PretrainedWeights.Of(name)[^1];
        (InputSize, Preprocessing) = (official.Crop, official.Preprocessing);
    }

    /// <summary>torchvision's name of the variant, such as <c>mobilenet_v2</c>.</summary>
    public string Name { get; }

    /// <summary>The family, such as <c>MobileNetV2</c>.</summary>
    public string Family { get; }

    /// <summary>Pixels a side of the images that torchvision evaluates it with.</summary>
    public int InputSize { get; }

    /// <summary>How many logits an image gets.</summary>
    public int Classes { get; private set; }

    /// <summary>F, the length of an image's feature vector.</summary>
    public long FeatureCount { get; private set; }

    /// <summary>Where the weights came from; kept when the head is replaced.</summary>
    public WeightsOrigin WeightsOrigin { get; internal set; } = new("random initialisation", Pretrained.Nothing);

    /// <summary>What it was constructed with.</summary>
    internal ModelOptions Options { get; set; } = new();

    /// <summary>What images go through before this model, in torchvision's evaluation of its weights.</summary>
    public Preprocessing Preprocessing { get; internal set; }

    /// <summary>The names that <see cref="ForwardUntil"/> and <see cref="ForwardFrom"/> take, from the image to the head.</summary>
    public IReadOnlyList<string> Stages => [.. stages.Select(s => s.Name), headName];

    /// <summary>The layers that turn <see cref="Features"/> into logits.</summary>
    public nn.Module<Tensor, Tensor> Head => head[0];

    /// <summary>What <see cref="Head"/> was built from by <see cref="WithHead"/>; null for the head that the model came with.</summary>
    public HeadRecipe? HeadRecipe { get; private set; }

    /// <summary>The layers of one stage, as they are applied.</summary>
    public IReadOnlyList<nn.Module<Tensor, Tensor>> StageLayers(string stage) => IndexOf(stage) is var i && i < stages.Count ? stages[i].Layers : head;

    /// <summary>Names (state-dict keys) and parameters of <paramref name="stage"/> and all stages behind it: what fine-tuning from there trains.</summary>
    public IEnumerable<(string Name, Parameter Parameter)> ParametersFrom(string stage)
    {
        var chosen = new HashSet<IntPtr>(Stages.Skip(IndexOf(stage)).SelectMany(StageLayers).SelectMany(m => m.parameters()).Select(p => p.Handle));
        return named_parameters().Where(p => chosen.Contains(p.parameter.Handle));
    }

    /// <summary>How many numbers the model learns.</summary>
    public long ParameterCount => parameters().Sum(p => p.numel());

    /// <summary>Multiplications (each with an addition) that convolutions and linear layers do for one image, as papers count them.</summary>
    /// <param name="size">Pixels a side; 0 for <see cref="InputSize"/>. One image is run through the model.</param>
    public long CountMultiplyAdds(int size = 0)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var (was, like, pixels, total) = (training, parameters().First(), size > 0 ? size : InputSize, 0L);
        void Count(Tensor weight, Tensor output) => total += output.numel() * (weight.numel() / weight.shape[0]);
        var unhook = new List<Action>();
        foreach (var module in Initialisation.Modules(this))
            if (module is Conv2d conv)
                unhook.Add(conv.register_forward_hook((_, _, output) => { Count(conv.weight, output); return output; }).remove);
            else if (module is Linear linear)
                unhook.Add(linear.register_forward_hook((_, _, output) => { Count(linear.weight, output); return output; }).remove);
        eval();
        call(zeros(1, 3, pixels, pixels, like.dtype, like.device));
        train(was);
        unhook.ForEach(remove => remove());
        return total;
    }

    public override Tensor forward(Tensor x) => Run(x, 0, stages.Count + 1);

    /// <remarks>
    /// In training, ReLU6, SiLU and Hardswish do not work in place: libtorch would first copy what their gradients need. ReLU needs only its result.
    /// </remarks>
    public override void train(bool train = true)
    {
        base.train(train);
        foreach (var module in Initialisation.Modules(this))
            _ = module switch
            {
                ReLU6 relu6 => relu6.inplace = !train,
                SiLU silu => silu.inplace = !train,
                Hardswish hardswish => hardswish.inplace = !train,
                _ => train,
            };
    }

    /// <summary>The feature vectors [N, F] that enter the head.</summary>
    public Tensor Features(Tensor x) => Run(x, 0, stages.Count);

    /// <summary>The same from the activations that enter <paramref name="stage"/>; null for images.</summary>
    internal Tensor FeaturesFrom(Tensor h, string? stage) => Run(h, stage is null ? 0 : IndexOf(stage), stages.Count);

    /// <summary>The activations that enter <paramref name="stage"/>: for the first the images themselves, for the head the features [N, F].</summary>
    /// <exception cref="ModelException">There is no such stage.</exception>
    public Tensor ForwardUntil(Tensor x, string stage) => Run(x, 0, IndexOf(stage));

    /// <summary>Finishes what <see cref="ForwardUntil"/> began: logits [N, classes] from the activations that enter <paramref name="stage"/>.</summary>
    /// <exception cref="ModelException">There is no such stage.</exception>
    public Tensor ForwardFrom(Tensor h, string stage) => Run(h, IndexOf(stage), stages.Count + 1);

    /// <summary>Puts a new, randomly initialised head on the model and returns the model.</summary>
    /// <param name="classes">How many classes it tells apart.</param>
    /// <param name="recipe">Its layers; null for the family's own: one linear layer, behind dropout where torchvision has one.</param>
    public VisionModel WithHead(int classes, HeadRecipe? recipe = null)
    {
        if (classes is < 1 or > 1_000_000)
            throw new ModelException("A head needs between 1 and 1,000,000 classes", classes.ToString(System.Globalization.CultureInfo.InvariantCulture), "Pass the number of classes");
        recipe ??= DefaultHead;
        if (recipe.Hidden.FirstOrDefault(width => width is < 1 or > 1_000_000, 1) is (< 1 or > 1_000_000) and var bad)
            throw new ModelException("A head's hidden layer needs a width between 1 and 1,000,000", bad.ToString(System.Globalization.CultureInfo.InvariantCulture), "Use such as 512");
        HeadRecipe = recipe;
        flattenAt = recipe.FlattenAt;
        FeatureCount = flattenAt == 0 ? pooledFeatures : FlattenedFeatures(flattenAt);
        var first = head[0].parameters().First();
        var layers = recipe.Build(FeatureCount, classes);
        if (recipe == DefaultHead && !DrawsByOutputs)
            Initialisation.Apply(layers, InitialiseLinear); // the study's heads keep PyTorch's own
        layers.to(first.dtype).to(first.device);
        layers.train(training);
        register_module(headName, null!); // TorchSharp's way to take a submodule out
        head[0].Dispose();
        head[0] = layers;
        register_module(headName, layers);
        Classes = classes;
        return this;
    }

    /// <summary>Completes the random weights of a new model as torchvision's constructor does; <see cref="LabRuntime.Seed"/> makes them repeatable.</summary>
    internal virtual void Initialise()
    {
        Initialisation.Apply(this, InitialiseLinear);
        InitialiseRest();
    }

    /// <summary>The head that <see cref="WithHead"/> builds when it is not told.</summary>
    internal abstract HeadRecipe DefaultHead { get; }

    /// <summary>Draws a linear layer's weights as torchvision's constructor does.</summary>
    internal abstract void InitialiseLinear(Linear layer);

    /// <summary>
    /// Whether <see cref="InitialiseLinear"/> draws the wider the fewer outputs there are. That suits a thousand; for two classes it makes
    /// weights near 1, a first loss of 4 where guessing has 0.7, and a backbone that is torn down by it: new heads are PyTorch's own then.
    /// </summary>
    internal virtual bool DrawsByOutputs => false;

    /// <summary>What torchvision's constructor does after that.</summary>
    internal virtual void InitialiseRest()
    {
    }

    /// <summary>Places a side that are left of the feature maps before they become a vector.</summary>
    internal virtual int PooledSide => 1;

    /// <summary>Whether the head takes the feature maps unpooled (<see cref="HeadRecipe.FlattenAt"/>).</summary>
    internal bool FlattensMaps => flattenAt != 0;

    /// <summary>The last stage's maps as the feature vectors that enter the head.</summary>
    internal Tensor Pooled(Tensor maps) => flattenAt == 0 ? Pool(maps) : maps.flatten(1);

    /// <summary>Feature maps [N, C, h, w] to feature vectors: average over the image, unless the family keeps more.</summary>
    /// <remarks>Over places as one dimension behind which the channels lie, as the gradient then lies as the maps do: with <c>mean([2, 3])</c> the layers before took four times as long.</remarks>
    private protected virtual Tensor Pool(Tensor maps)
    {
        using var places = maps.permute(0, 2, 3, 1).flatten(1, 2);
        return places.mean([1]);
    }

    /// <summary>Registers a container under its name and makes each of its layers a stage "name.i".</summary>
    private protected void AddStages(string name, Sequential container)
    {
        register_module(name, container);
        stages.AddRange(container.named_children().Select(c => new Stage($"{name}.{c.name}", [(nn.Module<Tensor, Tensor>)c.module])));
    }

    /// <summary>Registers layers under their own names and makes them one stage.</summary>
    private protected void AddStage(string name, params (string Name, nn.Module<Tensor, Tensor> Layer)[] layers)
    {
        foreach (var (layerName, layer) in layers)
            register_module(layerName, layer);
        stages.Add(new Stage(name, [.. layers.Select(l => l.Layer)]));
    }

    private protected void AddHead(string name, nn.Module<Tensor, Tensor> layers, int classes, long features)
    {
        register_module(name, layers);
        head.Add(layers);
        (headName, Classes, FeatureCount, pooledFeatures) = (name, classes, features, features);
    }

    private Tensor Run(Tensor x, int from, int until)
    {
        using var scope = NewDisposeScope();
        var h = x.alias();
        for (var i = from; i < until; i++)
        {
            foreach (var layer in i < stages.Count ? stages[i].Layers : head)
                h = Next(h, layer.call(h));
            if (i == stages.Count - 1)
                h = Next(h, Pooled(h));
        }
        return h.MoveToOuterDisposeScope();
    }

    /// <summary>Lets go of the old activations as soon as the new ones are there, rather than at the end of the scope.</summary>
    private static Tensor Next(Tensor old, Tensor next)
    {
        if (!ReferenceEquals(old, next))
            old.Dispose();
        return next;
    }

    private int IndexOf(string stage)
    {
        var i = stages.FindIndex(s => s.Name == stage);
        if (i < 0 && stage != headName)
            throw new ModelException($"{Name} has no such stage", stage, $"Use one of {string.Join(", ", Stages)}");
        return i < 0 ? stages.Count : i;
    }

    private long FlattenedFeatures(int size)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var (was, like) = (training, parameters().First());
        eval();
        var count = Features(zeros(1, 3, size, size, like.dtype, like.device)).shape[1];
        train(was);
        return count;
    }
}
