using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A second head for training only, which tells from the features [N, F] which parts of the face were replaced (left eye, right eye, nose,
/// mouth): auxiliary targets, four more bits an image, that make it harder to learn photos by heart (Caruana, "Multitask Learning", 1997).
/// </summary>
/// <remarks>It begins at zero, so it moves the backbone only after it has learned something itself.</remarks>
internal sealed class PartHead : IDisposable
{
    private static readonly FaceParts[] parts = [FaceParts.LeftEye, FaceParts.RightEye, FaceParts.Nose, FaceParts.Mouth];

    public PartHead(long features)
    {
        Layer = nn.Linear(features, parts.Length);
        nn.init.zeros_(Layer.weight);
        nn.init.zeros_(Layer.bias);
        Layer.to(LabRuntime.Device);
    }

    public Linear Layer { get; }

    public void Dispose() => Layer.Dispose();

    /// <summary>What the head is to say of an image: 1 for each replaced part; in a mirror image left is right.</summary>
    public static float[] Targets(FaceParts replaced, bool mirrored)
    {
        var targets = Array.ConvertAll(parts, p => replaced.HasFlag(p) ? 1f : 0f);
        if (mirrored)
            (targets[0], targets[1]) = (targets[1], targets[0]);
        return targets;
    }

    /// <summary>Mean binary cross entropy over the images whose parts are known; 0 where none is.</summary>
    /// <param name="targets">[N, 4].</param>
    /// <param name="known">[N, 1]: 1 where an image's parts are known, else 0.</param>
    public Tensor Loss(Tensor features, Tensor targets, Tensor known) =>
        nn.functional.binary_cross_entropy_with_logits(Layer.call(features), targets, weight: known.expand_as(targets));
}
