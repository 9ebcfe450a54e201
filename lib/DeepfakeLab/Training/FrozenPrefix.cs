using System.Runtime.Intrinsics;
using System.Security.Cryptography;
using System.Text;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What computes the layers before a cut for images of one size on the CPU.</summary>
internal interface IFrozenEngine : IDisposable
{
    /// <summary>float32 [N, 3, H, W] on the CPU to what enters the cut.</summary>
    Tensor Run(Tensor images);
}

/// <summary>
/// The layers of a model before a stage as they run fastest when they are frozen: each batch norm folded into the convolution before it,
/// without gradients, in bfloat16 where that is asked for. A copy: the model may change afterwards.
/// </summary>
/// <remarks>
/// On the CPU <see cref="VectorEngine"/> runs float32 where the processor has registers of 512 bits and the engine a better way for some layer than the
/// libraries have, and bfloat16 where <see cref="VectorEngine.CoversBFloat16"/> says so; else ONNX Runtime and <see cref="FusedEngine"/> do, where they load; all else torch with the channels last in memory.
/// Where bfloat16 is asked for and float32 is the faster (<see cref="FusedEngine.Pays"/>, <see cref="VectorEngine.BeatsBFloat16"/>), float32 it is, and <see cref="Engine"/> says so.
/// </remarks>
internal sealed class FrozenPrefix : IDisposable
{
    private readonly VisionModel layers;
    private readonly string cut;
    private readonly ScalarType precision;
    private readonly FusedEngine? fused;
    private readonly bool vectors, halves; // our own engine, and whether in bfloat16
    private IFrozenEngine? engine; // made for the first images' size, and anew for another
    private (int Height, int Width) size;

    /// <param name="cut">The first stage that is left out.</param>
    /// <param name="precision">The least that the layers compute in. bfloat16 has 8 bits of mantissa: features of random networks were off by up to 7 %.</param>
    public FrozenPrefix(VisionModel model, string cut, ScalarType precision = ScalarType.Float32)
    {
        this.cut = cut;
        WeightsHash = Hash(model, cut);
        layers = model.Options.CanFold ? Fold(model, cut) : Copy(model);
        layers.eval();
        var able = model.parameters().First().device_type == DeviceType.CPU && model.Options.CanFold;
        halves = able && precision == ScalarType.BFloat16 && VectorEngine.CoversBFloat16(layers, cut);
        precision = precision == ScalarType.BFloat16 && able && !FusedEngine.Pays ? ScalarType.Float32 : precision;
        vectors = halves || able && Vector512.IsHardwareAccelerated && VectorEngine.Covers(layers, cut) && (precision == ScalarType.Float32 || VectorEngine.BeatsBFloat16(layers, cut));
        this.precision = precision = vectors ? ScalarType.Float32 : precision;
        layers.to(precision);
        var type = precision == ScalarType.Float32 && !halves ? "float32" : "bfloat16";
        IsFast = vectors || able && precision == ScalarType.Float32 && OnnxEngine.Missing is null;
        if (able && precision == ScalarType.BFloat16)
            fused = new FusedEngine(layers, cut);
        Engine = vectors ? $"512-bit vectors, {type}" : IsFast ? $"ONNX Runtime, {type}"
            : fused is not null ? $"oneDNN, {type}{Because("our machine code may not run", MachineCode.Refusal)}"
            : $"torch, {type}{(able ? Because("ONNX Runtime does not load", OnnxEngine.Missing) : "")}";

        static string Because(string what, string? why) => why is null ? "" : $"; {what}: {why}";
    }

    /// <summary>Whether something computes that is faster in float32 than torch.</summary>
    public bool IsFast { get; }

    /// <summary>What computes, in which type, and why nothing faster does: part of the progress text.</summary>
    public string Engine { get; }

    /// <summary>SHA-256 over names, shapes and values of the layers' parameters and buffers.</summary>
    public string WeightsHash { get; }

    /// <summary>float32 [N, 3, H, W] normalised images to what enters the cut, float32 on the same device.</summary>
    public Tensor Run(Tensor images)
    {
        using var scope = NewDisposeScope();
        using var none = inference_mode();
        if (IsFast)
        {
            var asked = ((int)images.shape[2], (int)images.shape[3]);
            if (engine is null || size != asked)
            {
                engine?.Dispose();
                engine = null;
                (engine, size) = (vectors ? new VectorEngine(layers, cut, asked.Item1, asked.Item2, halves) : new OnnxEngine(layers, cut, asked.Item1, asked.Item2), asked);
            }
            return engine.Run(images).MoveToOuterDisposeScope();
        }
        return (fused?.Run(images) ?? layers.ForwardUntil(TensorLayout.ChannelsLast(images.to(precision)), cut).to(ScalarType.Float32)).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        engine?.Dispose();
        fused?.Dispose();
        layers.Dispose();
    }

    /// <summary>Another model with the same layers and weights.</summary>
    internal static VisionModel Copy(VisionModel model)
    {
        using var none = no_grad();
        var copy = Models.Construct(model.Name, model.Classes, model.Options);
        if (model.HeadRecipe is { } head)
            copy.WithHead(model.Classes, head);
        copy.to(model.parameters().First().device);
        using var weights = new WeightCopy(model);
        weights.CopyTo(copy);
        return copy;
    }

    /// <summary>The same network without batch norms: y = scale * (conv(x) - mean) + shift is a convolution with other weights and a bias.</summary>
    internal static VisionModel Fold(VisionModel model, string cut)
    {
        // where each layer is a stage, a cut may part a convolution from its batch norm, which then stays where it is
        var before = model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers).SelectMany(Initialisation.Modules).ToHashSet<nn.Module>(ReferenceEqualityComparer.Instance);
        using var scope = NewDisposeScope();
        using var none = no_grad();
        var folded = Models.Construct(model.Name, 1, model.Options with { NormLayer = _ => nn.Identity(), PlainHead = true }).WithHead(1, model.HeadRecipe);
        folded.to(model.parameters().First().device);
        using var targets = Initialisation.Modules(folded).OfType<Conv2d>().GetEnumerator();
        Conv2d? from = null, to = null;
        foreach (var module in Initialisation.Modules(model))
        {
            if (module is Conv2d conv)
            {
                targets.MoveNext();
                (from, to) = (conv, targets.Current);
                var needed = before.Contains(conv); // what lies behind the cut holds nothing
                to.weight = Constant(needed ? conv.weight! : empty(0));
                to.bias = conv.bias is not null && needed ? Constant(conv.bias) : null;
            }
            else if (module is BatchNorm2d norm && before.Contains(norm)) // always that of the convolution before it
            {
                var scale = norm.weight! / (norm.running_var! + norm.eps).sqrt();
                var bias = norm.bias! - norm.running_mean! * scale;
                to!.weight = Constant(from!.weight! * scale.reshape(-1, 1, 1, 1));
                to.bias = Constant(from.bias is null ? bias : bias + from.bias * scale);
            }
        }
        return folded;

        static Parameter Constant(Tensor value) =>
            new(TensorLayoutOf(value).DetachFromDisposeScope(), requires_grad: false);
        static Tensor TensorLayoutOf(Tensor value) => value.dim() == 4 ? TensorLayout.ChannelsLast(value.detach()).clone() : value.detach().clone();
    }

    private static string Hash(VisionModel model, string cut)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var scope = NewDisposeScope();
        foreach (var (i, layer) in model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers).Index())
        {
            using var state = StateDict.Of(layer);
            foreach (var (key, value) in state)
            {
                hash.AppendData(Encoding.UTF8.GetBytes($"{i}.{key} {string.Join('x', value.shape)} {value.dtype}\n"));
                hash.AppendData(value.cpu().contiguous().bytes);
            }
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
