using System.IO.Compression;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// The layers before a cut, their batch norms folded, run by oneDNN with each activation and each sum computed inside the convolution
/// before it, and with weights that lie as oneDNN wants them.
/// </summary>
/// <remarks>
/// libtorch has operators for that, which PyTorch's compiler uses and TorchSharp does not offer. TorchSharp does run TorchScript programs, so the
/// layers are written as one. Where libtorch has none of them, or the processor no bfloat16 for them, <see cref="Missing"/> says so.
/// </remarks>
internal sealed class FusedEngine : IDisposable
{
    /// <summary>Images at a time, at most, on one thread: fewer pay more for the calls of 50 layers, more leave the cache.</summary>
    private const int Part = 4;

    /// <summary>The same in late stages, once maps are a sixteenth as high and wide as the image, if their layers have few weights: a call costs as much as such a layer then.</summary>
    private const int LatePart = 16, LateScale = 16, FewWeights = 200_000;

    private const string Input = "x", LateInput = "y", Packing = "_reorder_convolution_weight";
    private static readonly Lazy<string?> missing = new(Try);

    private readonly VisionModel model;
    private readonly string cut;
    private readonly jit.ScriptModule script;
    private readonly bool hasLate;
    private readonly List<Conv2d> convolutions = [];
    private readonly List<string> lines = [];
    private readonly Tensor[] biases;
    private Tensor[]? packed;

    /// <param name="model">On the CPU, in the type to compute in; it stays the caller's and must not change.</param>
    public FusedEngine(VisionModel model, string cut)
    {
        (this.model, this.cut) = (model, cut);
        var stages = model.Stages.TakeWhile(s => s != cut).Select(model.StageLayers).ToList();
        var late = LateFrom(stages);
        hasLate = late < stages.Count;
        var middle = Chain(stages.Take(late).SelectMany(s => s), Input);
        var before = lines.Count;
        var end = Chain(stages.Skip(late).SelectMany(s => s), LateInput);
        var (earlyLines, lateLines) = (lines[..before], lines[before..]);
        script = Load($"""
              def pack(self: __torch__.Fused, x: Tensor, w: List[Tensor], b: List[Tensor]) -> List[Tensor]:
                p = annotate(List[Tensor], [])
            {string.Join('\n', earlyLines)}
                {LateInput} = torch.cat([{string.Join(", ", Enumerable.Repeat(middle, hasLate ? LatePart / Part : 1))}])
            {string.Join('\n', lateLines)}
                return p
              def early(self: __torch__.Fused, x: Tensor, p: List[Tensor], b: List[Tensor]) -> Tensor:
            {string.Join('\n', earlyLines.Where(Computes))}
                return {middle}
              def late(self: __torch__.Fused, {LateInput}: Tensor, p: List[Tensor], b: List[Tensor]) -> Tensor:
            {string.Join('\n', lateLines.Where(Computes))}
                return {end}
            """);
        biases = [.. convolutions.Select(c => (c.bias?.alias() ?? zeros(c.out_channels, c.weight!.dtype)).DetachFromDisposeScope())];
    }

    /// <summary>Why it cannot be used here; null where it can.</summary>
    public static string? Missing => missing.Value;

    /// <summary>
    /// Whether bfloat16 is the faster on this processor. AMD's with AVX512-BF16 multiply twice as many of its numbers at once as of float32's, those with units for matrices
    /// (AMX) sixteen times as many, Intel's without them no more (a Xeon without AMX: MobileNetV2 208 images/s, 372 in float32).
    /// </summary>
    public static bool Pays => Missing is null && (HasMatrixUnits || !IsIntels);

    public static bool HasMatrixUnits { get; } = X86Base.IsSupported && (X86Base.CpuId(7, 0).Edx >> 22 & 1) == 1;

    public static bool IsIntels { get; } = X86Base.IsSupported && X86Base.CpuId(0, 0).Ebx == 0x756E6547; // "Genu"ineIntel

    /// <summary>Images [N, 3, H, W] on the CPU to what enters the cut, in float32.</summary>
    public Tensor Run(Tensor images)
    {
        using var scope = NewDisposeScope();
        var type = biases[0].dtype;
        if (packed is null) // by a worker, as with one thread oneDNN may choose another form than with several
            TorchWorkers.ForEach(1, _ => packed = [.. ((Tensor[])script.invoke("pack", zeros([Part, .. images.shape[1..]], type), convolutions.Select(c => (Tensor)c.weight!).ToArray(), biases))
                .Select(p => p.DetachFromDisposeScope())]);
        var count = (int)images.shape[0];
        var part = Math.Clamp((count + LabRuntime.Threads - 1) / LabRuntime.Threads, 1, hasLate ? LatePart : Part);
        var results = new Tensor[(count + part - 1) / part];
        var own = BFloat16Kernel.IsSupported && type == ScalarType.BFloat16;
        try
        {
            TorchWorkers.ForEach(results.Length, i =>
            {
                var (first, last) = (i * part, Math.Min((i + 1) * part, count));
                var maps = new List<Tensor>();
                for (var at = first; at < last; at += Part)
                {
                    using var x = images.narrow(0, at, Math.Min(Part, last - at));
                    using var pixels = own && x.is_contiguous() ? BFloat16Kernel.Pixels(x) : TensorLayout.ChannelsLast(x.to(type));
                    maps.Add((Tensor)script.invoke("early", pixels, packed, biases));
                }
                results[i] = Result(hasLate ? (Tensor)script.invoke("late", cat(maps), packed, biases) : maps[0], own).DetachFromDisposeScope();
            });
            return cat(results).MoveToOuterDisposeScope();
        }
        finally
        {
            Array.ForEach(results, r => r?.Dispose());
        }
    }

    private Tensor Result(Tensor maps, bool own) => cut != model.Stages[^1] ? maps.to(ScalarType.Float32)
        : own && model is { PooledSide: 1, FlattensMaps: false } && TensorLayout.IsChannelsLast(maps) ? BFloat16Kernel.Means(maps) : model.Pooled(maps.to(ScalarType.Float32));

    public void Dispose()
    {
        script.Dispose();
        foreach (var tensor in biases.Concat(packed ?? []))
            tensor.Dispose();
    }

    private static bool Computes(string line) => !line.Contains(Packing, StringComparison.Ordinal);

    /// <summary>The first stage that takes <see cref="LatePart"/> images at a time; as many as there are, if none does.</summary>
    private static int LateFrom(IReadOnlyList<IEnumerable<nn.Module>> stages)
    {
        var late = 0;
        for (var scale = 1L; late < stages.Count && scale < LateScale; late++)
            scale *= Stride(stages[late]);
        var rest = stages.Skip(late).SelectMany(s => s).SelectMany(Initialisation.Modules).OfType<Conv2d>();
        return rest.Select(c => c.weight!.numel()).DefaultIfEmpty(FewWeights).Average() < FewWeights ? late : stages.Count;

        static long Stride(IEnumerable<nn.Module> modules) => Flatten(modules).Aggregate(1L, (product, m) => product * m switch
        {
            Conv2d conv => conv.stride![0],
            MaxPool2d pool => pool.stride![0],
            Layers.IResidual block => Stride(block.Branch),
            _ => 1,
        });
    }

    /// <summary>Writes layers one after the other. Returns the variable with what comes out.</summary>
    /// <param name="sum">The variable that the last convolution adds its result to, in place; null for none.</param>
    private string Chain(IEnumerable<nn.Module> modules, string x, string? sum = null, bool endsInReLU = false)
    {
        var layers = Flatten(modules).ToList();
        for (var i = 0; i < layers.Count; i++)
            switch (layers[i])
            {
                case Conv2d conv when i == layers.Count - 1 && sum is not null:
                    x = Convolve(conv, x, sum, endsInReLU ? "\"relu\"" : "None");
                    break;
                case Conv2d conv:
                    var (activation, values) = Activation(layers.ElementAtOrDefault(i + 1));
                    x = Convolve(conv, x, null, $"\"{activation}\", annotate(List[Optional[number]], [{values}]), \"\"");
                    i += activation == "none" ? 0 : 1;
                    break;
                case ReLU:
                    x = Line($"torch.relu({x})");
                    break;
                case Hardsigmoid:
                    x = Line($"torch.hardsigmoid({x})");
                    break;
                case MaxPool2d pool:
                    x = Line($"torch.max_pool2d({x}, {Pair(pool.kernel_size)}, {Pair(pool.stride)}, {Pair(pool.padding)}, [1, 1], False)");
                    break;
                case Layers.SqueezeExcitation excitation: // behind a convolution, whose result is nobody else's
                    x = Line($"torch.mul_({x}, {Chain(excitation.Steps, Line($"torch.mean({x}, [2, 3], True)"))})");
                    break;
                case Layers.IResidual block:
                    x = Residual(block, x);
                    break;
                default:
                    throw new NotSupportedException($"{layers[i].GetName()} of {model.Name} is not known to {nameof(FusedEngine)}");
            }
        return x;
    }

    private string Residual(Layers.IResidual block, string x)
    {
        if (!block.Adds)
            return Chain(block.Branch, x);
        var shortcut = Chain(block.Shortcut, x == Input ? Line($"torch.clone({x})") : x);
        if (Flatten(block.Branch).Last() is Conv2d)
            return Chain(block.Branch, x, shortcut, block.EndsInReLU);
        var y = Line($"torch.add_({Chain(block.Branch, x)}, {shortcut})");
        return block.EndsInReLU ? Line($"torch.relu_({y})") : y;
    }

    private string Convolve(Conv2d conv, string x, string? sum, string after)
    {
        var n = convolutions.Count;
        convolutions.Add(conv);
        var shape = $"{Pair(conv.padding)}, {Pair(conv.stride)}, {Pair(conv.dilation)}, {conv.groups}";
        Line($"torch.append(p, ops.mkldnn.{Packing}(w[{n}], {shape}, torch.size({x})))");
        return Line(sum is null ? $"ops.mkldnn._convolution_pointwise({x}, p[{n}], b[{n}], {shape}, {after})"
            : $"ops.mkldnn._convolution_pointwise_({sum}, {x}, p[{n}], b[{n}], {shape}, \"add\", None, {after}, annotate(List[Optional[number]], []), None)");
    }

    /// <summary>Its name to oneDNN and its constants; "none" for what is no activation that a convolution can compute.</summary>
    private static (string Name, string Values) Activation(nn.Module? layer) => layer switch
    {
        ReLU => ("relu", ""),
        ReLU6 => ("hardtanh", "0., 6."),
        SiLU => ("swish", ""),
        Hardswish => ("hardswish", ""),
        Sigmoid => ("sigmoid", ""),
        _ => ("none", ""),
    };

    /// <summary>Writes an assignment to a new variable, and returns that.</summary>
    private string Line(string expression)
    {
        var name = $"v{lines.Count}";
        lines.Add($"    {name} = {expression}");
        return name;
    }

    private static string Pair(IReadOnlyList<long>? sizes) => $"[{sizes![0]}, {sizes[^1]}]";

    private static IEnumerable<nn.Module> Flatten(IEnumerable<nn.Module> modules) => Layers.Flatten(modules).Where(m => m is not (Identity or Dropout));

    /// <summary>A class without attributes and with these methods, as the zip archive that <c>torch.jit.save</c> writes, loaded.</summary>
    private static jit.ScriptModule Load(string methods)
    {
        var program = $"class Fused(Module):\n  __parameters__ = []\n  __buffers__ = []\n{methods}\n";
        using var bytes = new MemoryStream();
        using (var archive = new ZipArchive(bytes, ZipArchiveMode.Create, leaveOpen: true))
            foreach (var (name, content) in ((string, string)[])[("data.pkl", "\u0080\u0002c__torch__\nFused\n)\u0081}b."), ("code/__torch__.py", program.ReplaceLineEndings("\n")), ("constants.pkl", "\u0080\u0002)."), ("version", "3\n")])
            {
                using var entry = archive.CreateEntry("fused/" + name, CompressionLevel.NoCompression).Open();
                entry.Write(Encoding.Latin1.GetBytes(content));
            }
        return jit.load(bytes.ToArray());
    }

    private static string? Try()
    {
        LabRuntime.Start();
        try
        {
            using var scope = NewDisposeScope();
            using var none = inference_mode();
            using var script = Load("""
                  def run(self: __torch__.Fused, x: Tensor) -> Tensor:
                    return ops.mkldnn._convolution_pointwise(x, x, None, [0, 0], [1, 1], [1, 1], 1, "relu", annotate(List[Optional[number]], []), "")
                """);
            script.invoke("run", ones([1, 1, 1, 1], bfloat16));
            return null;
        }
        catch (Exception e) when (e is ExternalException or NotSupportedException or EntryPointNotFoundException)
        {
            return e.Message.Split('\n')[0];
        }
    }
}
