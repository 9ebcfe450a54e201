using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// The way back through a depthwise convolution, each channel by a filter of its own, of 3x3 or 5x5 with the padding that keeps an image's size: gradients
/// of the images and of the filters. On float32 images [N, H, W, C].
/// </summary>
/// <remarks>
/// oneDNN takes four times as long for it as for the way there. A thread takes a few rows of an image: the gradients behind, with zeros around them and, where the
/// stride is 2, between them, are written to a place that stays in the cache, and are then all that both sums need beside the images themselves.
/// </remarks>
internal static unsafe class DepthwiseKernel
{
    /// <summary>Columns whose sums are in registers together.</summary>
    private const int Tile = 4;

    /// <summary>Floats of gradients that a thread keeps in its cache.</summary>
    private const int Cached = 1 << 17;

    private interface IFilter
    {
        static abstract bool IsFive { get; }
    }

    private readonly struct Three : IFilter
    {
        public static bool IsFive => false;
    }

    private readonly struct Five : IFilter
    {
        public static bool IsFive => true;
    }

    /// <summary>The images' size before the convolution, a multiple of 8 channels, and the convolution's filter (3 or 5 a side) and stride (1 or 2).</summary>
    public readonly record struct Shape(int Images, int Height, int Width, int Channels, int Side, int Stride)
    {
        public int Padding => (Side - 1) / 2;
        public int OutHeight => (Height - 1) / Stride + 1;
        public int OutWidth => (Width - 1) / Stride + 1;

        /// <summary>Gradients in a row, with zeros; the last tile may begin at the last column.</summary>
        public int Columns => Width + Side - 1 + Tile - 1;
    }

    /// <summary>Of a convolution of these images; null where it is none that this knows.</summary>
    public static Shape? ShapeOf(Conv2d conv, Tensor images) => conv is { kernel_size: [3 or 5, 3 or 5], stride: [1 or 2, 1 or 2], dilation: [1, 1], padding_mode: PaddingModes.Zeros, bias: null }
        && conv.groups == conv.in_channels && conv.groups == conv.out_channels && conv.groups % 8 == 0 && conv.kernel_size[0] == conv.kernel_size[1] && conv.stride![0] == conv.stride[1]
        && conv.padding is [var padding, var other] && padding == other && padding == conv.kernel_size[0] / 2
            ? new((int)images.shape[0], (int)images.shape[2], (int)images.shape[3], (int)conv.groups, (int)conv.kernel_size[0], (int)conv.stride[0]) : null;

    /// <summary>The gradient of the filters [C, side, side]; that of the images is written to <paramref name="result"/>.</summary>
    /// <param name="gradient">Behind the convolution.</param>
    /// <param name="x">The images; null where the filters learn nothing.</param>
    /// <param name="result">As <paramref name="x"/>; null where the images have no gradient.</param>
    /// <param name="filters">[C, side, side].</param>
    public static float[] Backward(float* gradient, float* x, float* result, float[] filters, Shape shape)
    {
        var taps = shape.Side * shape.Side;
        var turned = new float[filters.Length]; // eight channels at a time, each tap of these next to each other, the last tap first
        for (var c = 0; c < shape.Channels; c++)
            for (var tap = 0; tap < taps; tap++)
                turned[Turned(c, tap, taps)] = filters[c * taps + tap];
        var all = new double[LabRuntime.Threads][];
        NormKernels.Ranges(shape.Images, (thread, from, until) =>
        {
            var (sums, band) = (all[thread] = new double[turned.Length], Math.Clamp(Cached / (shape.Columns * shape.Channels) - shape.Side + 1, 1, shape.Height));
            using var behind = new Floats((long)(band + shape.Side - 1) * shape.Columns * shape.Channels);
            fixed (float* filter = turned)
                for (var image = from; image < until; image++)
                    for (var row = 0; row < shape.Height; row += band)
                    {
                        var rows = Math.Min(band, shape.Height - row);
                        var at = (image * shape.Height + row) * shape.Width * shape.Channels;
                        Spread(gradient + image * shape.OutHeight * shape.OutWidth * shape.Channels, behind.Data, row - shape.Padding, rows + shape.Side - 1, shape);
                        if (shape.Side == 5)
                            Rows<Five>(behind.Data, x is null ? null : x + at, result is null ? null : result + at, filter, sums, rows, shape);
                        else
                            Rows<Three>(behind.Data, x is null ? null : x + at, result is null ? null : result + at, filter, sums, rows, shape);
                    }
        });
        var total = new float[filters.Length];
        foreach (var sums in all.Skip(1))
            for (var i = 0; i < total.Length; i++)
                all[0][i] += sums[i];
        for (var c = 0; c < shape.Channels; c++)
            for (var tap = 0; tap < taps; tap++)
                total[c * taps + tap] = (float)all[0][Turned(c, tap, taps)];
        return total;
    }

    private static int Turned(int channel, int tap, int taps) => (channel / 8 * taps + taps - 1 - tap) * 8 + channel % 8;

    /// <summary>Writes rows of gradients, from one that may lie before the first, each at the place of the image that its filter lay on.</summary>
    private static void Spread(float* gradient, float* to, int first, int rows, Shape shape)
    {
        var (channels, row) = (shape.Channels, shape.Columns * shape.Channels);
        for (var h = first; h < first + rows; h++, to += row)
        {
            if (h < 0 || h >= shape.Height || h % shape.Stride != 0)
            {
                new Span<float>(to, row).Clear();
                continue;
            }
            var from = gradient + h / shape.Stride * shape.OutWidth * channels;
            new Span<float>(to, shape.Padding * channels).Clear();
            var at = to + shape.Padding * channels;
            if (shape.Stride == 1)
                new Span<float>(from, shape.Width * channels).CopyTo(new Span<float>(at, shape.Width * channels));
            else
                for (var w = 0; w < shape.Width; w++)
                    if (w % 2 == 0)
                        new Span<float>(from + w / 2 * channels, channels).CopyTo(new Span<float>(at + w * channels, channels));
                    else
                        new Span<float>(at + w * channels, channels).Clear();
            at += shape.Width * channels;
            new Span<float>(at, (int)(to + row - at)).Clear();
        }
    }

    private static void Rows<TFilter>(float* behind, float* x, float* result, float* filter, double[] sums, int rows, Shape shape) where TFilter : struct, IFilter
    {
        var taps = shape.Side * shape.Side;
        var own = stackalloc float[8 * taps];
        for (var c = 0; c < shape.Channels; c += 8, filter += 8 * taps)
        {
            if (result is not null)
                Images<TFilter>(behind + c, result + c, filter, rows, shape.Width, shape.Channels, shape.Columns * shape.Channels);
            if (x is null)
                continue;
            for (var a = 0; a < shape.Side; a++)
                Filters<TFilter>(behind + c + a * shape.Columns * shape.Channels, x + c, own + a * 8 * shape.Side, rows, shape.Width, shape.Channels, shape.Columns * shape.Channels);
            for (var i = 0; i < 8 * taps; i++)
                sums[c * taps + i] += own[i];
        }
    }

    /// <summary>The images' gradient for eight channels: the filter, turned around, over what lies behind.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Images<TFilter>(float* behind, float* result, float* filter, int rows, int width, nint channels, nint row) where TFilter : struct, IFilter
    {
        var side = TFilter.IsFive ? 5 : 3;
        for (var h = 0; h < rows; h++, behind += row)
            for (var w = 0; w < width; w += Tile)
            {
                Vector256<float> s0 = default, s1 = default, s2 = default, s3 = default;
                float* g = behind + w * channels, f = filter;
                for (var a = 0; a < side; a++, g += row, f += 8 * side)
                {
                    var (g0, g1, g2, g3, g4, g5) = Six(g, channels);
                    var (f0, f1, f2) = (Vector256.Load(f), Vector256.Load(f + 8), Vector256.Load(f + 16));
                    s0 = Vector256.FusedMultiplyAdd(g2, f2, Vector256.FusedMultiplyAdd(g1, f1, Vector256.FusedMultiplyAdd(g0, f0, s0)));
                    s1 = Vector256.FusedMultiplyAdd(g3, f2, Vector256.FusedMultiplyAdd(g2, f1, Vector256.FusedMultiplyAdd(g1, f0, s1)));
                    s2 = Vector256.FusedMultiplyAdd(g4, f2, Vector256.FusedMultiplyAdd(g3, f1, Vector256.FusedMultiplyAdd(g2, f0, s2)));
                    s3 = Vector256.FusedMultiplyAdd(g5, f2, Vector256.FusedMultiplyAdd(g4, f1, Vector256.FusedMultiplyAdd(g3, f0, s3)));
                    if (!TFilter.IsFive)
                        continue;
                    var (g6, g7) = (Vector256.Load(g + 6 * channels), Vector256.Load(g + 7 * channels));
                    var (f3, f4) = (Vector256.Load(f + 24), Vector256.Load(f + 32));
                    s0 = Vector256.FusedMultiplyAdd(g4, f4, Vector256.FusedMultiplyAdd(g3, f3, s0));
                    s1 = Vector256.FusedMultiplyAdd(g5, f4, Vector256.FusedMultiplyAdd(g4, f3, s1));
                    s2 = Vector256.FusedMultiplyAdd(g6, f4, Vector256.FusedMultiplyAdd(g5, f3, s2));
                    s3 = Vector256.FusedMultiplyAdd(g7, f4, Vector256.FusedMultiplyAdd(g6, f3, s3));
                }
                s0.Store(result);
                if (w + 1 < width)
                    s1.Store(result + channels);
                if (w + 2 < width)
                    s2.Store(result + 2 * channels);
                if (w + 3 < width)
                    s3.Store(result + 3 * channels);
                result += Math.Min(Tile, width - w) * channels;
            }
    }

    /// <summary>A row of the filters' gradient, turned around, for eight channels.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Filters<TFilter>(float* behind, float* x, float* sums, int rows, int width, nint channels, nint row) where TFilter : struct, IFilter
    {
        Vector256<float> s0 = default, s1 = default, s2 = default, s3 = default, s4 = default, t0 = default, t1 = default, t2 = default, t3 = default, t4 = default;
        for (var h = 0; h < rows; h++, behind += row)
            for (var w = 0; w < width; w += Tile)
            {
                var g = behind + w * channels;
                var x0 = Vector256.Load(x);
                var x1 = w + 1 < width ? Vector256.Load(x + channels) : default;
                var x2 = w + 2 < width ? Vector256.Load(x + 2 * channels) : default;
                var x3 = w + 3 < width ? Vector256.Load(x + 3 * channels) : default;
                x += Math.Min(Tile, width - w) * channels;
                var (g0, g1, g2, g3, g4, g5) = Six(g, channels);
                s0 = Vector256.FusedMultiplyAdd(x1, g1, Vector256.FusedMultiplyAdd(x0, g0, s0));
                s1 = Vector256.FusedMultiplyAdd(x1, g2, Vector256.FusedMultiplyAdd(x0, g1, s1));
                s2 = Vector256.FusedMultiplyAdd(x1, g3, Vector256.FusedMultiplyAdd(x0, g2, s2));
                t0 = Vector256.FusedMultiplyAdd(x3, g3, Vector256.FusedMultiplyAdd(x2, g2, t0));
                t1 = Vector256.FusedMultiplyAdd(x3, g4, Vector256.FusedMultiplyAdd(x2, g3, t1));
                t2 = Vector256.FusedMultiplyAdd(x3, g5, Vector256.FusedMultiplyAdd(x2, g4, t2));
                if (!TFilter.IsFive)
                    continue;
                var (g6, g7) = (Vector256.Load(g + 6 * channels), Vector256.Load(g + 7 * channels));
                s3 = Vector256.FusedMultiplyAdd(x1, g4, Vector256.FusedMultiplyAdd(x0, g3, s3));
                s4 = Vector256.FusedMultiplyAdd(x1, g5, Vector256.FusedMultiplyAdd(x0, g4, s4));
                t3 = Vector256.FusedMultiplyAdd(x3, g6, Vector256.FusedMultiplyAdd(x2, g5, t3));
                t4 = Vector256.FusedMultiplyAdd(x3, g7, Vector256.FusedMultiplyAdd(x2, g6, t4));
            }
        (s0 + t0).Store(sums);
        (s1 + t1).Store(sums + 8);
        (s2 + t2).Store(sums + 16);
        if (!TFilter.IsFive)
            return;
        (s3 + t3).Store(sums + 24);
        (s4 + t4).Store(sums + 32);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector256<float>, Vector256<float>, Vector256<float>, Vector256<float>, Vector256<float>, Vector256<float>) Six(float* at, nint channels) =>
        (Vector256.Load(at), Vector256.Load(at + channels), Vector256.Load(at + 2 * channels), Vector256.Load(at + 3 * channels), Vector256.Load(at + 4 * channels), Vector256.Load(at + 5 * channels));
}
