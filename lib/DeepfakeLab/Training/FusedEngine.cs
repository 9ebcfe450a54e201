using System.IO.Compression;
using System.Runtime.InteropServices;
using System.Text;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// The layers before a cut, their batch norms folded, run by oneDNN with each activation and each sum computed inside the convolution
/// before it, and with weights that lie as oneDNN wants them.
/// </summary>
/// <remarks>
/// libtorch has operators for that, which PyTorch's compiler uses and TorchSharp does not offer. TorchSharp does run TorchScript programs, so a small
/// one calls them. Where libtorch has none of them, or the processor no bfloat16 for them, <see cref="Missing"/> says so.
/// </remarks>
internal sealed class FusedEngine(VisionModel model, string cut) : IDisposable
{
    /// <summary>A class without attributes; its methods are named after activations as oneDNN knows them. Strides and paddings are the same to both sides.</summary>
    private static readonly string program = """
        class Fused(Module):
          __parameters__ = []
          __buffers__ = []
          def pack(self: __torch__.Fused, w: Tensor, s: int, p: int, g: int, n: int, c: int, h: int, v: int) -> Tensor:
            return ops.mkldnn._reorder_convolution_weight(w, [p, p], [s, s], [1, 1], g, [n, c, h, v])

        """
        + Activation("none", "") + Activation("relu", "") + Activation("hardtanh", "0., 6.") + Activation("swish", "") + Activation("hardswish", "")
        + Sum("add", "None") + Sum("add_relu", "\"relu\"");

    private static readonly Lazy<(jit.ScriptModule? Script, string? Missing)> loaded = new(Load);
    private readonly Dictionary<Conv2d, Tensor> packed = new(ReferenceEqualityComparer.Instance);

    /// <summary>Why it cannot be used here; null where it can.</summary>
    public static string? Missing => loaded.Value.Missing;

    /// <summary>Images of the model's type on the CPU, channels last, to what enters the cut.</summary>
    public Tensor Run(Tensor images)
    {
        using var scope = NewDisposeScope();
        var maps = Chain(model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers), images);
        return (cut == model.Stages[^1] ? model.Pooled(maps) : maps).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        foreach (var weight in packed.Values)
            weight.Dispose();
    }

    /// <summary>Layers one after the other. What is computed on the way goes at once; <paramref name="x"/> stays the caller's.</summary>
    /// <param name="sum">What the last convolution adds its result to, in place; null for none.</param>
    private Tensor Chain(IEnumerable<nn.Module> modules, Tensor x, Tensor? sum = null, bool endsInReLU = false)
    {
        var layers = Flatten(modules).ToList();
        var begun = false;
        for (var i = 0; i < layers.Count; i++)
        {
            Tensor y;
            if (layers[i] is Conv2d conv && IsPlain(conv))
                if (i == layers.Count - 1 && sum is not null)
                    y = Convolve(endsInReLU ? "add_relu" : "add", conv, x, sum);
                else
                {
                    var activation = i + 1 < layers.Count ? layers[i + 1] switch { ReLU => "relu", ReLU6 => "hardtanh", SiLU => "swish", Hardswish => "hardswish", _ => "none" } : "none";
                    y = Convolve(activation, conv, x);
                    i += activation == "none" ? 0 : 1;
                }
            else
                y = layers[i] is Layers.IResidual block ? Residual(block, begun ? x : x.clone()) : ((nn.Module<Tensor, Tensor>)layers[i]).call(x);
            if (begun && !ReferenceEquals(x, y))
                x.Dispose();
            (x, begun) = (y, true);
        }
        return begun ? x : x.alias();
    }

    /// <param name="x">May be changed.</param>
    private Tensor Residual(Layers.IResidual block, Tensor x)
    {
        if (!block.Adds)
            return Chain(block.Branch, x);
        using var shortcut = Chain(block.Shortcut, x);
        if (Flatten(block.Branch).Last() is Conv2d last && IsPlain(last))
            return Chain(block.Branch, x, shortcut, block.EndsInReLU);
        var y = Chain(block.Branch, x).add_(shortcut);
        return block.EndsInReLU ? y.relu_() : y;
    }

    private Tensor Convolve(string method, Conv2d conv, Tensor x, params Tensor[] sum)
    {
        var (script, stride, padding, groups) = (loaded.Value.Script!, (int)conv.stride![0], (int)conv.padding![0], (int)conv.groups);
        if (!packed.TryGetValue(conv, out var weight))
        {
            var shape = x.shape;
            weight = (Tensor)script.invoke("pack", conv.weight!, stride, padding, groups, (int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3]);
            packed[conv] = weight.DetachFromDisposeScope();
        }
        return (Tensor)script.invoke(method, [x, weight, conv.bias!, stride, padding, groups, .. sum]);
    }

    private static bool IsPlain(Conv2d conv) => conv is { bias: not null, padding: [var a, var b], stride: [var c, var d], dilation: [1, 1] } && a == b && c == d;

    private static IEnumerable<nn.Module> Flatten(IEnumerable<nn.Module> modules) =>
        modules.SelectMany(m => m is Sequential sequence ? Flatten(sequence.named_children().Select(c => c.module)) : [m]).Where(m => m is not (Identity or Dropout));

    private static string Activation(string name, string values) => $"""
          def {name}(self: __torch__.Fused, x: Tensor, w: Tensor, b: Tensor, s: int, p: int, g: int) -> Tensor:
            return ops.mkldnn._convolution_pointwise(x, w, b, [p, p], [s, s], [1, 1], g, "{name}", annotate(List[Optional[number]], [{values}]), "")

        """;

    private static string Sum(string name, string after) => $"""
          def {name}(self: __torch__.Fused, x: Tensor, w: Tensor, b: Tensor, s: int, p: int, g: int, y: Tensor) -> Tensor:
            return ops.mkldnn._convolution_pointwise_(y, x, w, b, [p, p], [s, s], [1, 1], g, "add", None, {after}, annotate(List[Optional[number]], []), None)

        """;

    /// <summary>The program as the zip archive that <c>torch.jit.save</c> writes, loaded and tried.</summary>
    private static (jit.ScriptModule?, string?) Load()
    {
        LabRuntime.Start();
        using var bytes = new MemoryStream();
        using (var archive = new ZipArchive(bytes, ZipArchiveMode.Create, leaveOpen: true))
            foreach (var (name, content) in ((string, string)[])[("data.pkl", "\u0080\u0002c__torch__\nFused\n)\u0081}b."), ("code/__torch__.py", program.ReplaceLineEndings("\n")), ("constants.pkl", "\u0080\u0002)."), ("version", "3\n")])
            {
                using var entry = archive.CreateEntry("fused/" + name, CompressionLevel.NoCompression).Open();
                entry.Write(Encoding.Latin1.GetBytes(content));
            }
        try
        {
            using var scope = NewDisposeScope();
            using var none = inference_mode();
            var script = jit.load(bytes.ToArray());
            using var x = ones([1, 1, 1, 1], bfloat16);
            using var bias = zeros([1], bfloat16);
            script.invoke("relu", x, x, bias, 1, 0, 1);
            return (script, null);
        }
        catch (Exception e) when (e is ExternalException or NotSupportedException or EntryPointNotFoundException)
        {
            return (null, e.Message.Split('\n')[0]);
        }
    }
}
