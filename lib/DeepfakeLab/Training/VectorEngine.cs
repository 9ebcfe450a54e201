using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// The layers before a cut in float32 or bfloat16, computed by our own code where the processor has registers of 512 bits. libtorch's oneDNN and ONNX
/// Runtime compute every 3x3 convolution directly and every layer by itself; here <see cref="Winograd"/> saves multiplications and
/// <see cref="InvertedResidual"/> keeps the wide activations of a few rows in the cache.
/// </summary>
/// <remarks>
/// It knows convolutions, ReLU, ReLU6, SiLU, squeeze and excitation, max pooling and sums: ResNet, ResNeXt, VGG, MobileNetV2, MNASNet and EfficientNet. An image's results are the same to the
/// bit in any batch and with any number of threads. Pixels lie one after the other, each with its channels, whose number is rounded up with zeros.
/// Where weights are few, each thread takes a whole image through several steps: nobody waits, and what a step made is in the cache when the next one reads it.
/// Where they are many, as in ResNet's later layers, all threads share each step for all images, so that weights are read once.
/// </remarks>
internal sealed unsafe class VectorEngine : IFrozenEngine
{
    /// <summary>Floats that the largest activations of the images taken together may have: more would leave the last cache.</summary>
    private const long PartFloats = 10 << 20;

    private const int MostImages = 32;

    /// <summary>Floats of a step's weights that a thread reads anew for each image: 2.5 MB, which come from the last cache while it computes.</summary>
    private const long FewWeights = 5 << 17;

    private readonly List<VectorStep> steps = [];
    private readonly List<(List<VectorStep> Steps, bool ByImage)> groups = [];
    private readonly List<Floats> memory = [];
    private readonly VisionModel model;
    private readonly string cut;
    private readonly Maps result;
    private readonly int part, threads = LabRuntime.Threads;
    private readonly Floats[] scratch;
    private readonly MachineCode? code; // of bfloat16 layers

    /// <param name="model">On the CPU, its batch norms folded, in float32; its weights are copied.</param>
    /// <param name="bfloat16">Whether layers are computed in it (<see cref="BFloat16Convolution"/>, <see cref="BFloat16Residual"/>) where that is faster.</param>
    public VectorEngine(VisionModel model, string cut, int height, int width, bool bfloat16 = false)
    {
        (this.model, this.cut, code) = (model, cut, bfloat16 ? new MachineCode() : null);
        var layers = Units(model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers));
        var first = After(layers[0], new Maps(height, width, 3));
        steps.Add(code is null ? new Stem(Weights(layers[0]), height, width, first) : new BFloat16Convolution(code, Weights(layers[0]), null, first, null, height, width));
        result = Chain(layers[1..], first, null, false);
        foreach (var step in steps)
            if (step.Weights > FewWeights)
                groups.Add(([step], false));
            else if (groups is [.., (var last, true)])
                last.Add(step);
            else
                groups.Add(([step], true));
        foreach (var (group, _) in groups.Where(g => g.ByImage))
            foreach (var maps in group.Select(s => s.Output))
                maps.IsOwn = maps != result && steps.Except(group).All(s => !s.Inputs.Contains(maps));
        part = (int)Math.Clamp(PartFloats / steps.Where(s => !s.Output.IsOwn).Max(s => s.Output.Floats), 1, MostImages);
        part -= part > threads ? part % threads : 0;
        Place();
        code?.Seal();
        scratch = [.. Enumerable.Range(0, threads).Select(_ => new Floats(steps.Max(s => s.Scratch)))];
    }

    /// <summary>Whether it knows all layers before the cut, and has a better way than the libraries for some of them.</summary>
    public static bool Covers(VisionModel model, string cut) =>
        Units(model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers)) is [{ Convolution: { in_channels: 3, groups: 1, dilation: [1, 1] } }, ..] units
        && AreKnown(units) && units.Any(IsBetter);

    /// <summary>
    /// Whether it is faster than oneDNN in bfloat16 even where that pays: where <see cref="Winograd"/> computes all convolutions but the
    /// first, as VGG's (VGG16 17.8 images/s, 14.4 in bfloat16 on a Zen 4), and the processor has no units for matrices.
    /// </summary>
    public static bool BeatsBFloat16(VisionModel model, string cut) =>
        Units(model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers)).Skip(1).All(u => u.Layer is MaxPool2d || u.Convolution is { } conv && Winograd.Knows(conv))
        && !FusedEngine.HasMatrixUnits;

    /// <summary>
    /// Whether it is the fastest in bfloat16: where the processor has instructions for it that pay, but no units for matrices, which oneDNN knows to use. What those instructions do not
    /// suit stays in float32: <see cref="Winograd"/>, which multiplies less, and groups of channels.
    /// </summary>
    public static bool CoversBFloat16(VisionModel model, string cut) =>
        MachineCode.Runs && !FusedEngine.HasMatrixUnits && !FusedEngine.IsIntels && Covers(model, cut) && !BeatsBFloat16(model, cut);

    /// <summary>float32 [N, 3, H, W] on the CPU to what enters the cut.</summary>
    public Tensor Run(Tensor images)
    {
        using var scope = NewDisposeScope();
        var dense = images.contiguous();
        var count = (int)dense.shape[0];
        var maps = empty([count, result.Height, result.Width, result.Channels], ScalarType.Float32);
        float* from = TensorLayout.Pointer(dense), to = TensorLayout.Pointer(maps);
        for (var done = 0; done < count; done += part)
        {
            var now = Math.Min(part, count - done);
            foreach (var (group, byImage) in groups)
            {
                var alone = byImage ? now - now % threads : 0; // images that a thread each computes; the rest is shared
                if (alone > 0)
                    RunByImage(group, from + done * dense.stride(0), dense.stride(0), alone);
                if (alone < now)
                    foreach (var step in group)
                        Run(step, new Part(from + (done + alone) * dense.stride(0), alone, now - alone, threads));
            }
            for (var pixel = 0L; pixel < (long)now * result.Pixels; pixel++)
                new ReadOnlySpan<float>(result.Data + pixel * result.Stride, result.Channels).CopyTo(new Span<float>(to + (done * result.Pixels + pixel) * result.Channels, result.Channels));
        }
        var turned = maps.permute(0, 3, 1, 2);
        return (cut == model.Stages[^1] ? model.Pooled(turned) : turned).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        foreach (var step in steps)
            step.Dispose();
        foreach (var floats in memory.Concat(scratch))
            floats.Dispose();
        code?.Dispose();
    }

    private void RunByImage(List<VectorStep> group, float* pixels, long apart, int images)
    {
        var next = 0;
        Team.ForEach(threads, worker =>
        {
            for (int image; (image = Interlocked.Increment(ref next) - 1) < images;)
                foreach (var step in group)
                {
                    var one = new Part(pixels + image * apart, image, 1, 1, worker);
                    for (int item = 0, items = step.Items(one); item < items; item++)
                        step.Run(item, one, scratch[worker].Data);
                }
        });
    }

    private void Run(VectorStep step, Part part)
    {
        var (items, next) = (step.Items(part), 0);
        if (Math.Min(items, threads) == 1)
            for (; next < items; next++)
                step.Run(next, part, scratch[0].Data);
        else
            Team.ForEach(Math.Min(items, threads), worker =>
            {
                for (int item; (item = Interlocked.Increment(ref next) - 1) < items;)
                    step.Run(item, part, scratch[worker].Data);
            });
    }

    /// <summary>A convolution with the activation behind it, or another layer.</summary>
    private sealed record Unit(nn.Module Layer, float Low = float.NegativeInfinity, float High = float.PositiveInfinity, bool IsSmooth = false)
    {
        public bool IsPlain => !IsSmooth && float.IsNegativeInfinity(Low);
        public Conv2d? Convolution => Layer as Conv2d;
        public bool IsPointwise => Layer is Conv2d { kernel_size: [1, 1], stride: [1, 1], padding: [0, 0], groups: 1 };
        public bool IsDepthwise => Layer is Conv2d conv && conv.groups > 1 && conv.groups == conv.in_channels && conv.groups == conv.out_channels;
    }

    private static List<Unit> Units(IEnumerable<nn.Module> modules)
    {
        var units = new List<Unit>();
        foreach (var layer in Layers.Flatten(modules).Where(m => m is not (Identity or Dropout)))
            if (layer is ReLU or ReLU6 or SiLU && units.LastOrDefault() is { Convolution: not null, IsPlain: true } last)
                units[^1] = layer is SiLU ? last with { IsSmooth = true } : last with { Low = 0, High = layer is ReLU6 ? 6 : float.PositiveInfinity };
            else
                units.Add(new Unit(layer));
        return units;
    }

    private static bool AreKnown(List<Unit> units) => units.Index().All(u => IsKnown(u.Item)
        && (u.Item.Layer is not Layers.SqueezeExcitation || u.Index > 0 && units[u.Index - 1].IsDepthwise && u.Index + 1 < units.Count && units[u.Index + 1] is { IsPointwise: true, IsPlain: true }));

    private static bool IsKnown(Unit unit) => unit.Layer switch
    {
        Conv2d { stride: [var a, var b], padding: [var c, var d], dilation: [var e, var f], kernel_size: [var g, var h] } conv => a == b && c == d && e == f && g == h
            && Math.Max(conv.in_channels, conv.out_channels) <= Maps.MostChannels && conv.padding_mode == TorchSharp.PaddingModes.Zeros
            && (conv.groups == 1 && !(unit.IsSmooth && Winograd.Knows(conv)) || unit.IsDepthwise && e == 1 || !unit.IsSmooth && GroupedConvolution.Knows(conv)),
        Layers.SqueezeExcitation excitation => excitation.Steps is [Conv2d, SiLU, Conv2d, Sigmoid],
        MaxPool2d { dilation: null or [1, 1], ceil_mode: false } => true,
        Layers.IResidual { Adds: true } block => Units(block.Branch) is [.., { Convolution: not null, IsPlain: true }] branch && AreKnown(branch) && AreKnown(Units(block.Shortcut)),
        Layers.IResidual block => AreKnown(Units(block.Branch)),
        _ => false,
    };

    private static bool IsBetter(Unit unit) => unit.IsDepthwise || unit.Convolution is { } conv && (Winograd.Knows(conv) || GroupedConvolution.Knows(conv))
        || unit.Layer is Layers.IResidual block && Units(block.Branch).Any(IsBetter);

    /// <param name="add">What the last convolution adds to its sums; null for none.</param>
    private Maps Chain(List<Unit> units, Maps x, Maps? add, bool endsInReLU)
    {
        for (var i = 0; i < units.Count; i++)
        {
            var unit = units[i];
            var filter = unit.IsPointwise && i + 1 < units.Count && units[i + 1].IsDepthwise ? units[i + 1] : unit.IsDepthwise ? unit : null;
            if (filter is not null)
            {
                i += filter == unit ? 0 : 1;
                var excitation = i + 1 < units.Count ? units[i + 1].Layer as Layers.SqueezeExcitation : null;
                i += excitation is null ? 0 : 1;
                var project = i + 1 < units.Count && units[i + 1].IsPointwise ? units[++i] : null;
                var last = project ?? filter;
                var to = After(filter, x, (int)last.Convolution!.out_channels);
                var (expanding, projecting) = (filter == unit ? null : Weights(unit), project is null ? null : Weights(project, Adding(i) is not null && endsInReLU));
                var factors = excitation is null ? null : Factors(excitation);
                steps.Add(code is not null && projecting is not null ? new BFloat16Residual(code, expanding, Weights(filter), factors, projecting, x, to, Adding(i))
                    : new InvertedResidual(expanding, Weights(filter), factors, projecting, x, to, Adding(i)));
                x = steps[^1].Output;
            }
            else if (unit.Convolution is { } conv)
            {
                var to = After(unit, x);
                var weights = Weights(unit, Adding(i) is not null && endsInReLU);
                steps.Add(Winograd.Knows(conv) && Winograd.Pays(to) ? new Winograd(weights, x, to, Adding(i))
                    : code is not null && BFloat16Convolution.Knows(weights, (int)conv.groups) ? new BFloat16Convolution(code, weights, x, to, Adding(i))
                    : conv.groups > 1 ? new GroupedConvolution(weights, x, to, Adding(i)) : new Convolution(weights, x, to, Adding(i)));
                x = to;
            }
            else if (unit.Layer is MaxPool2d pool)
            {
                steps.Add(MaxPool.Of(pool, x));
                x = steps[^1].Output;
            }
            else if (unit.Layer is Layers.IResidual { Adds: true } block)
                x = Chain(Units(block.Branch), x, Chain(Units(block.Shortcut), x, null, false), block.EndsInReLU);
            else
                x = Chain(Units(((Layers.IResidual)unit.Layer).Branch), x, null, false);
        }
        return x;

        Maps? Adding(int i) => i == units.Count - 1 ? add : null;
    }

    private static ConvolutionWeights Weights(Unit unit, bool relu = false) => new(unit.Convolution!, relu ? 0 : unit.Low, unit.High, unit.IsSmooth);

    private static Excitation Factors(Layers.SqueezeExcitation excitation)
    {
        var units = Units(excitation.Steps);
        return new(Weights(units[0]), Weights(units[1])); // behind the second is a sigmoid
    }

    /// <summary>The maps that a convolution makes, or one behind it that keeps their size.</summary>
    private static Maps After(Unit unit, Maps x, int channels = 0)
    {
        var conv = unit.Convolution!;
        return new Maps(Side(x.Height), Side(x.Width), channels > 0 ? channels : (int)conv.out_channels);

        int Side(int length) => (length + 2 * (int)conv.padding![0] - (int)conv.dilation![0] * ((int)conv.kernel_size![0] - 1) - 1) / (int)conv.stride![0] + 1;
    }

    /// <summary>Gives the maps their memory; what is not read any more makes room for others.</summary>
    private void Place()
    {
        List<Floats> own = [], shared = []; // apart, as threads are at different steps of a group
        var held = new Dictionary<Maps, Floats>(ReferenceEqualityComparer.Instance);
        var placed = 0;
        foreach (var (group, _) in groups)
        {
            foreach (var to in group.Select(s => s.Output))
            {
                var free = to.IsOwn ? own : shared;
                var behind = MatrixKernel.Rows * to.Stride + MatrixKernel.Lanes;
                var needed = to.IsOwn ? threads * (to.Floats + behind) : part * to.Floats + behind;
                var place = free.Where(f => f.Count >= needed).MinBy(f => f.Count);
                if (place is null)
                    memory.Add(place = new Floats(needed));
                free.Remove(place);
                held[to] = place;
                to.Data = place.Data;
                to.Apart = to.IsOwn ? place.Count / threads : to.Floats;
                placed++;
                Release(own, isOwn: true);
            }
            Release(shared, isOwn: false);
        }

        void Release(List<Floats> free, bool isOwn)
        {
            foreach (var read in held.Keys.Where(m => m.IsOwn == isOwn && m != result && !steps.Skip(placed).Any(s => s.Inputs.Contains(m))).ToList())
            {
                free.Add(held[read]);
                held.Remove(read);
            }
        }
    }
}
