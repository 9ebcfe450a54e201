using System.Security.Cryptography;

namespace DeepfakeLab;

/// <summary>Which weights a new model starts with.</summary>
public abstract record Weights
{
    /// <summary>torchvision's default entry for the model, from torch's own cache folder or its server.</summary>
    public static Weights ImageNet { get; } = new ImageNetWeights(null);

    /// <summary>
    /// The weights that come with this library: MobileNetV2, EfficientNet-B0 and MNASNet 0.75, which it trained on attributes of painted
    /// faces; a ResNet-18 trained on ImageNet, from a NuGet package, whose <c>fc</c> is random.
    /// </summary>
    public static Weights Embedded { get; } = new EmbeddedWeights("chosen");

    /// <summary>Random initialisation, as torchvision's constructor does it.</summary>
    public static Weights None { get; } = new NoWeights();

    /// <summary>
    /// The file that <c>DEEPFAKELAB_WEIGHTS</c> names, or the one in that folder whose name begins with the model's; else <see cref="ImageNet"/>
    /// when it is cached or its server answers within five seconds; else <see cref="Embedded"/>; else random initialisation. The model's
    /// origin says which, and why.
    /// </summary>
    public static Weights Auto { get; } = new AutoWeights();

    /// <summary>A state dict in a file: <c>.pth</c>, <c>.pt</c> or <c>.safetensors</c>.</summary>
    public static Weights File(string path) => new FileWeights(path);

    /// <summary>A particular torchvision entry, such as <c>IMAGENET1K_V1</c>; see <see cref="PretrainedWeights"/>.</summary>
    public static Weights ImageNetEntry(string entry) => new ImageNetWeights(entry);

    /// <summary>The choice of a command line: <c>auto</c>, <c>imagenet</c>, <c>embedded</c> (or <c>package</c>), <c>none</c>, an entry's name, or a file.</summary>
    public static Weights Parse(string text) => text switch
    {
        "auto" => Auto,
        "imagenet" => ImageNet,
        "embedded" or "package" => Embedded,
        "none" => None,
        _ when text.StartsWith("IMAGENET1K_", StringComparison.Ordinal) => ImageNetEntry(text),
        _ => File(text),
    };

    /// <summary>Whether <see cref="Embedded"/> weights of this model came with this build.</summary>
    public static bool ComeWith(string model) => EmbeddedWeights.Names.Contains(model);

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
            model.WeightsOrigin = new WeightsOrigin(Description, Pretrained.Everything, System.IO.Path.GetFullPath(Path), WeightsFile.Hash(Path));
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
            model.WeightsOrigin = new WeightsOrigin($"ImageNet, {weights.Entry} of {weights.Model} ({weights.File})", Pretrained.Everything, path, hash);
        }
    }

    private sealed record EmbeddedWeights(string Reason) : Weights
    {
        private const string Prefix = "DeepfakeLab.EmbeddedWeights.";

        /// <summary>The models whose weights came with this build.</summary>
        public static IReadOnlyList<string> Names { get; } = [.. typeof(Weights).Assembly.GetManifestResourceNames()
            .Where(name => name.StartsWith(Prefix, StringComparison.Ordinal)).Select(name => name[Prefix.Length..]).Concat(Models.Names.Where(PackagedWeights.Has)).Order(StringComparer.Ordinal)];

        public override string Description => "the weights that come with the library";

        internal override void LoadInto(VisionModel model)
        {
            LabRuntime.Start();
            if (model.Name == "resnet18")
            {
                PackagedWeights.LoadInto(model, Reason);
                return;
            }
            using var resource = typeof(Weights).Assembly.GetManifestResourceStream(Prefix + model.Name)
                ?? throw new WeightsException("No weights of this model are embedded in the library", model.Name,
                    $"This build holds those of {string.Join(", ", Names)} (data/weights beside its source decides that); choose Weights.ImageNet, Weights.File or Weights.None");
            var hash = Convert.ToHexStringLower(SHA256.HashData(resource));
            resource.Position = 0;
            using var scope = TorchSharp.torch.NewDisposeScope();
            using var state = EightBits.Unpack(SafeTensors.Read(resource, Prefix + model.Name));
            if (state.TryGetValue("classifier.1.bias", out var bias) && bias.shape[0] != model.Classes)
                model.WithHead((int)bias.shape[0]); // the head of the pretraining task, which has as many classes as that task
            state.LoadInto(model);
            model.WeightsOrigin = new WeightsOrigin($"the embedded weights, trained on painted faces ({Reason})", Pretrained.Everything, null, hash);
        }
    }

    private sealed record AutoWeights : Weights
    {
        private const string Setting = "DEEPFAKELAB_WEIGHTS";

        public override string Description =>
            "the file that DEEPFAKELAB_WEIGHTS names; else ImageNet weights when they can be had, else those that come with the library, else random initialisation";

        internal override void LoadInto(VisionModel model)
        {
            var chosen = Environment.GetEnvironmentVariable(Setting);
            if (chosen is { Length: > 0 } && FileFor(model.Name, chosen) is { } file)
            {
                try
                {
                    File(file).LoadInto(model);
                }
                catch (CheckpointException e)
                {
                    throw new WeightsException($"{Setting} names weights that {model.Name} cannot take ({e.Message.TrimEnd('.')})", file,
                        $"Unset it, or let it name a folder with a file for each model, such as {model.Name}.pth", e);
                }
                return;
            }
            var weights = PretrainedWeights.Find(model.Name);
            if (System.IO.File.Exists(WeightsFile.PathOf(weights)) || WeightsFile.IsReachable(weights, out var reason))
            {
                ImageNet.LoadInto(model);
                return;
            }
            reason = $"ImageNet's are not in the cache, and {reason}";
            if (chosen is { Length: > 0 })
                reason = $"the folder {chosen} has no file for {model.Name}; {reason}";
            if (ComeWith(model.Name))
            {
                new EmbeddedWeights(reason).LoadInto(model);
                return;
            }
            None.LoadInto(model);
            model.WeightsOrigin = new WeightsOrigin($"random initialisation: {reason}; none of {model.Name} come with the library. Figures show training from scratch", Pretrained.Nothing);
        }

        /// <summary>The file itself; in a folder the one whose name begins with the model's and not with a longer model name; null where there is none.</summary>
        private static string? FileFor(string model, string path)
        {
            if (!Directory.Exists(path))
                return path;
            var files = Directory.GetFiles(path).Where(f => System.IO.Path.GetExtension(f).ToLowerInvariant() is ".pth" or ".pt" or ".safetensors"
                && Models.Names.Where(name => System.IO.Path.GetFileName(f).StartsWith(name, StringComparison.Ordinal)).MaxBy(name => name.Length) == model).ToList();
            return files.Count <= 1 ? files.FirstOrDefault()
                : throw new WeightsException($"{Setting} is a folder with several files for {model}", string.Join(", ", files.Select(System.IO.Path.GetFileName).Order(StringComparer.Ordinal)),
                    "Keep one of them, or name it itself");
        }
    }
}
