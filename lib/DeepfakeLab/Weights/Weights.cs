using System.Security.Cryptography;

namespace DeepfakeLab;

/// <summary>Which weights a new model starts with.</summary>
public abstract record Weights
{
    /// <summary>torchvision's default entry for the model, from torch's own cache folder or its server.</summary>
    public static Weights ImageNet { get; } = new ImageNetWeights(null);

    /// <summary>The weights that come with this library: a MobileNetV2 that it trained on attributes of painted faces.</summary>
    public static Weights Embedded { get; } = new EmbeddedWeights("chosen");

    /// <summary>Random initialisation, as torchvision's constructor does it.</summary>
    public static Weights None { get; } = new NoWeights();

    /// <summary><see cref="ImageNet"/> when it is cached or its server answers within five seconds, else <see cref="Embedded"/>; the model's origin says which.</summary>
    public static Weights Auto { get; } = new AutoWeights();

    /// <summary>A state dict in a file: <c>.pth</c>, <c>.pt</c> or <c>.safetensors</c>.</summary>
    public static Weights File(string path) => new FileWeights(path);

    /// <summary>A particular torchvision entry, such as <c>IMAGENET1K_V1</c>; see <see cref="PretrainedWeights"/>.</summary>
    public static Weights ImageNetEntry(string entry) => new ImageNetWeights(entry);

    /// <summary>The choice of a command line: <c>auto</c>, <c>imagenet</c>, <c>embedded</c>, <c>none</c>, an entry's name, or a file.</summary>
    public static Weights Parse(string text) => text switch
    {
        "auto" => Auto,
        "imagenet" => ImageNet,
        "embedded" => Embedded,
        "none" => None,
        _ when text.StartsWith("IMAGENET1K_", StringComparison.Ordinal) => ImageNetEntry(text),
        _ => File(text),
    };

    /// <summary>The choice in words.</summary>
    public abstract string Description { get; }

    internal abstract void LoadInto(VisionModel model);

    private sealed record NoWeights : Weights
    {
        public override string Description => "random initialisation";

        internal override void LoadInto(VisionModel model) => model.Initialise();
    }

    private sealed record FileWeights(string Path) : Weights
    {
        public override string Description => $"the file {Path}";

        internal override void LoadInto(VisionModel model)
        {
            using var state = Checkpoint.Read(Path);
            state.LoadInto(model);
            model.WeightsOrigin = new WeightsOrigin(Description, System.IO.Path.GetFullPath(Path), WeightsFile.Hash(Path));
        }
    }

    private sealed record ImageNetWeights(string? Entry) : Weights
    {
        public override string Description => $"ImageNet weights ({Entry ?? "torchvision's default entry"})";

        internal override void LoadInto(VisionModel model)
        {
            var weights = PretrainedWeights.Find(model.Name, Entry);
            if (model.Classes != ImageNetClasses.Names.Count)
                throw new WeightsException($"ImageNet weights of {model.Name} tell 1000 classes apart", $"classes = {model.Classes}",
                    "Create the model with 1000 classes and call WithHead(classes) on it");
            var (path, hash) = weights.Fetch();
            using var state = Checkpoint.Read(path);
            state.LoadInto(model);
            model.Preprocessing = weights.Preprocessing;
            model.WeightsOrigin = new WeightsOrigin($"ImageNet, {weights.Entry} of {weights.Model} ({weights.File})", path, hash);
        }
    }

    private sealed record EmbeddedWeights(string Reason) : Weights
    {
        private const string Prefix = "DeepfakeLab.EmbeddedWeights.";

        public static bool Has(string model) => typeof(Weights).Assembly.GetManifestResourceInfo(Prefix + model) is not null;

        public override string Description => "the embedded weights, trained on painted faces";

        internal override void LoadInto(VisionModel model)
        {
            LabRuntime.Start();
            using var resource = typeof(Weights).Assembly.GetManifestResourceStream(Prefix + model.Name)
                ?? throw new WeightsException("No weights of this model are embedded in the library", model.Name,
                    model.Name == "mobilenet_v2" ? "This build was made without data/weights; build it with them, or choose Weights.ImageNet or Weights.None"
                        : "Only mobilenet_v2 is; choose Weights.ImageNet, Weights.File or Weights.None");
            var hash = Convert.ToHexStringLower(SHA256.HashData(resource));
            resource.Position = 0;
            using var scope = TorchSharp.torch.NewDisposeScope();
            using var state = SafeTensors.Read(resource, Prefix + model.Name);
            if (state.TryGetValue("classifier.1.bias", out var bias) && bias.shape[0] != model.Classes)
                model.WithHead((int)bias.shape[0]); // the head of the pretraining task, which has as many classes as that task
            state.LoadInto(model);
            model.WeightsOrigin = new WeightsOrigin($"{Description} ({Reason})", null, hash);
        }
    }

    private sealed record AutoWeights : Weights
    {
        public override string Description => "the file that DEEPFAKELAB_WEIGHTS names; else ImageNet weights when they can be had, else the embedded ones";

        internal override void LoadInto(VisionModel model)
        {
            if (Environment.GetEnvironmentVariable("DEEPFAKELAB_WEIGHTS") is { Length: > 0 } chosen)
            {
                File(chosen).LoadInto(model);
                return;
            }
            var weights = PretrainedWeights.Find(model.Name);
            // where nothing is embedded there is nothing to fall back to, and ImageNet's own error says what to do
            var embedded = EmbeddedWeights.Has(model.Name);
            if (!embedded || System.IO.File.Exists(WeightsFile.PathOf(weights)) || WeightsFile.IsReachable(weights, out var reason))
                ImageNet.LoadInto(model);
            else
                new EmbeddedWeights($"ImageNet's are not in the cache, and {reason}").LoadInto(model);
        }
    }
}
