using System.Security.Cryptography;

namespace DeepfakeLab;

/// <summary>Which weights a new model starts with.</summary>
public abstract record Weights
{
    /// <summary>Random initialisation, as torchvision's constructor does it.</summary>
    public static Weights None { get; } = new NoWeights();

    /// <summary>A state dict in a file: <c>.pth</c>, <c>.pt</c> or <c>.safetensors</c>.</summary>
    public static Weights File(string path) => new FileWeights(path);

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
            model.WeightsOrigin = new WeightsOrigin(Description, System.IO.Path.GetFullPath(Path), Sha256(Path));
        }
    }

    private protected static string Sha256(string path)
    {
        using var stream = System.IO.File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(stream));
    }
}
