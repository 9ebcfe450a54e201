using System.Runtime.CompilerServices;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A depthwise convolution in training, each channel by a filter of its own, of 3x3 or 5x5 with the padding that keeps an image's size, there and back. The norm and
/// activation before it are computed as the images are read, the statistics for the norm behind it as its result is written, and on the way back the sums for the
/// norm before it, so that neither what that norm makes nor a pass over it costs memory. On float32 images [N, H, W, C].
/// </summary>
/// <remarks>
/// oneDNN takes four times as long for the way back as for the way there. A thread takes a few rows of an image: on the way there the normalised rows with zeros around
/// them, on the way back the gradients behind with zeros around them and, where the stride is 2, between them, are written to a place that stays in the cache, and are
/// then all that the sums need beside the images themselves. Images are dealt out to threads by their number, and sums added in that order: the same number of threads
/// gives the same bits.
/// </remarks>
internal static unsafe class DepthwiseKernel
{
    /// <summary>Columns whose sums are in registers together.</summary>
    private const int Tile = 4;

    /// <summary>Floats of normalised rows, or of gradients, that a thread keeps in its cache.</summary>
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

    /// <summary>The convolution of activation(scale x + shift), written to <paramref name="y"/>; the mean and (biased) variance of each of its channels.</summary>
    /// <param name="filters">[C, side, side].</param>
    public static (double[] Mean, double[] Variance) Forward<T>(float* x, float* y, float[] filters, float[] scale, float[] shift, Shape shape) where T : struct, NormKernels.IActivation =>
        Sixteen.Fits(shape.Channels) ? Forward<T, Sixteen>(x, y, filters, scale, shift, shape) : Forward<T, Eight>(x, y, filters, scale, shift, shape);

    private static (double[] Mean, double[] Variance) Forward<T, V>(float* x, float* y, float[] filters, float[] scale, float[] shift, Shape shape)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        var (taps, channels, all) = (shape.Side * shape.Side, shape.Channels, new double[LabRuntime.Threads][]);
        var packed = new float[filters.Length];
        for (var c = 0; c < channels; c++)
            for (var tap = 0; tap < taps; tap++)
                packed[Turned<V>(c, taps - 1 - tap, taps)] = filters[c * taps + tap];
        var origin = new float[channels]; // what the first image's first place gives: numbers are counted from there, so that their squares do not drown the variance
        NormKernels.Ranges(shape.Images, (thread, from, until) =>
        {
            var sums = all[thread] = new double[2 * channels];
            var row = shape.Columns * channels;
            var band = Math.Clamp((Cached / row - shape.Side) / shape.Stride + 1, 1, shape.OutHeight);
            using Floats near = new((long)((band - 1) * shape.Stride + shape.Side) * row), partial = new(2 * channels), first = new(shape.Columns * channels);
            fixed (float* filter = packed, k = scale, b = shift)
            {
                Normalise<T>(x, near.Data, -shape.Padding, shape.Side, k, b, shape);
                Convolve<V>(near.Data, first.Data, filter, 1, shape with { Width = 1 }, row);
                if (thread == 0)
                    new Span<float>(first.Data, channels).CopyTo(origin);
                for (var image = from; image < until; image++)
                    for (var at = 0; at < shape.OutHeight; at += band)
                    {
                        var rows = Math.Min(band, shape.OutHeight - at);
                        var to = y + (image * shape.OutHeight + at) * shape.OutWidth * channels;
                        Normalise<T>(x + image * shape.Height * shape.Width * channels, near.Data, at * shape.Stride - shape.Padding, (rows - 1) * shape.Stride + shape.Side, k, b, shape);
                        Convolve<V>(near.Data, to, filter, rows, shape, row);
                        for (var block = 0; block < rows * shape.OutWidth; block += NormKernels.Block)
                        {
                            NormKernels.Add<NormKernels.None>(null, to + block * channels, null, Math.Min(NormKernels.Block, rows * shape.OutWidth - block), channels, null, null, first.Data, partial.Data);
                            NormKernels.Take(partial.Data, sums);
                        }
                    }
            }
        });
        return NormKernels.Moments(NormKernels.Join(all, channels), (long)shape.Images * shape.OutHeight * shape.OutWidth, origin);
    }

    /// <summary>The way back.</summary>
    /// <param name="gradient">Behind the convolution: puts some rows [C] of it where they are wanted.</param>
    /// <param name="x">The images, or with <paramref name="norm"/> what its norm takes to make them.</param>
    /// <param name="result">Where the images' gradient goes, or with <paramref name="norm"/> that gradient times the activation's slope; null for nowhere.</param>
    /// <param name="filters">[C, side, side].</param>
    /// <param name="learns">Whether the filters' gradient is wanted; else it is 0.</param>
    /// <param name="norm">What was done to <paramref name="x"/> before: scale and shift, and the mean for the sums below.</param>
    /// <returns>The gradient of the filters [C, side, side], and over all rows the sums a channel of what went to <paramref name="result"/> and of that times x - mean.</returns>
    public static (float[] Filters, double[] Sum, double[] WithX) Backward<T>(
        PointwiseTraining.Rows gradient, float* x, float* result, float[] filters, bool learns, (float[] Scale, float[] Shift, float[] Mean)? norm, Shape shape) where T : struct, NormKernels.IActivation =>
        Sixteen.Fits(shape.Channels) ? Backward<T, Sixteen>(gradient, x, result, filters, learns, norm, shape) : Backward<T, Eight>(gradient, x, result, filters, learns, norm, shape);

    private static (float[] Filters, double[] Sum, double[] WithX) Backward<T, V>(
        PointwiseTraining.Rows gradient, float* x, float* result, float[] filters, bool learns, (float[] Scale, float[] Shift, float[] Mean)? norm, Shape shape)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        var (taps, channels) = (shape.Side * shape.Side, shape.Channels);
        var turned = new float[filters.Length]; // eight channels at a time, each tap of these next to each other, the last tap first
        for (var c = 0; c < channels; c++)
            for (var tap = 0; tap < taps; tap++)
                turned[Turned<V>(c, tap, taps)] = filters[c * taps + tap];
        var (all, both) = (new double[LabRuntime.Threads][], new double[LabRuntime.Threads][]);
        NormKernels.Ranges(shape.Images, (thread, from, until) =>
        {
            var (sums, own, band) = (all[thread] = new double[turned.Length], both[thread] = new double[2 * channels], Math.Clamp(Cached / (shape.Columns * channels) - shape.Side + 1, 1, shape.Height));
            using Floats behind = new((long)(band + shape.Side - 1) * shape.Columns * channels), near = new(norm is null ? 1 : (long)band * shape.Width * channels), partial = new(2 * channels);
            fixed (float* filter = turned, k = norm?.Scale, b = norm?.Shift, o = norm?.Mean)
                for (var image = from; image < until; image++)
                    for (var row = 0; row < shape.Height; row += band)
                    {
                        var rows = Math.Min(band, shape.Height - row);
                        var at = (image * shape.Height + row) * shape.Width * channels;
                        var images = x + at;
                        if (norm is not null && learns)
                            NormKernels.Apply<T>(x + at, null, images = near.Data, rows * shape.Width, channels, k, b, past: false);
                        Spread(gradient, image * shape.OutHeight * shape.OutWidth, behind.Data, row - shape.Padding, rows + shape.Side - 1, shape);
                        if (shape.Side == 5)
                            Rows<Five, V>(behind.Data, learns ? images : null, result is null ? null : result + at, filter, sums, rows, shape);
                        else
                            Rows<Three, V>(behind.Data, learns ? images : null, result is null ? null : result + at, filter, sums, rows, shape);
                        if (norm is null || result is null)
                            continue;
                        for (var block = 0; block < rows * shape.Width; block += NormKernels.Block)
                        {
                            Mask<T, V>(x + at + block * channels, result + at + block * channels, Math.Min(NormKernels.Block, rows * shape.Width - block), channels, k, b, o, partial.Data);
                            NormKernels.Take(partial.Data, own);
                        }
                    }
        });
        var gradients = new float[filters.Length];
        for (var c = 0; c < channels; c++)
            for (var tap = 0; tap < taps; tap++)
            {
                var total = 0.0;
                foreach (var sums in all)
                    total += sums[Turned<V>(c, tap, taps)];
                gradients[c * taps + tap] = (float)total;
            }
        var (sum, withX) = NormKernels.Join(both, channels);
        return (gradients, sum, withX);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Turned<V>(int channel, int tap, int taps) where V : struct, ILanes<V> => (channel / V.Count * taps + taps - 1 - tap) * V.Count + channel % V.Count;

    /// <summary>Writes rows of the normalised image, from one that may lie before the first, with zeros around.</summary>
    private static void Normalise<T>(float* image, float* to, int first, int rows, float* k, float* b, Shape shape) where T : struct, NormKernels.IActivation
    {
        var (channels, row) = (shape.Channels, shape.Columns * shape.Channels);
        for (var h = first; h < first + rows; h++, to += row)
        {
            if (h < 0 || h >= shape.Height)
            {
                new Span<float>(to, row).Clear();
                continue;
            }
            var (before, inside) = (shape.Padding * channels, shape.Width * channels);
            new Span<float>(to, before).Clear();
            NormKernels.Apply<T>(image + h * inside, null, to + before, shape.Width, channels, k, b, past: false);
            new Span<float>(to + before + inside, row - before - inside).Clear();
        }
    }

    /// <summary>The convolution of rows with zeros around them, <paramref name="row"/> floats each.</summary>
    private static void Convolve<V>(float* near, float* y, float* filter, int rows, Shape shape, int row) where V : struct, ILanes<V>
    {
        var taps = shape.Side * shape.Side;
        for (var c = 0; c < shape.Channels; c += V.Count, filter += V.Count * taps)
            if (shape is { Stride: 1, Side: 5 })
                Images<Five, V>(near + c, y + c, filter, rows, shape.OutWidth, shape.Channels, row);
            else if (shape.Stride == 1)
                Images<Three, V>(near + c, y + c, filter, rows, shape.OutWidth, shape.Channels, row);
            else if (shape.Side == 5)
                Halved<Five, V>(near + c, y + c, filter, rows, shape.OutWidth, shape.Channels, row);
            else
                Halved<Three, V>(near + c, y + c, filter, rows, shape.OutWidth, shape.Channels, row);
    }

    /// <summary>As <see cref="Images"/>, at every second column of every second row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Halved<TFilter, V>(float* near, float* y, float* filter, int rows, int width, nint channels, nint row) where TFilter : struct, IFilter where V : struct, ILanes<V>
    {
        var side = TFilter.IsFive ? 5 : 3;
        for (var h = 0; h < rows; h++, near += 2 * row)
            for (var w = 0; w < width; w += 2)
            {
                V s0 = default, s1 = default;
                float* g = near + 2 * w * channels, f = filter;
                for (var a = 0; a < side; a++, g += row, f += V.Count * side)
                {
                    var (g0, g1, g2, g3, g4, _) = Six<V>(g, channels);
                    var (f0, f1, f2) = (V.Load(f), V.Load(f + V.Count), V.Load(f + 2 * V.Count));
                    s0 = V.FusedMultiplyAdd(g2, f2, V.FusedMultiplyAdd(g1, f1, V.FusedMultiplyAdd(g0, f0, s0)));
                    s1 = V.FusedMultiplyAdd(g4, f2, V.FusedMultiplyAdd(g3, f1, V.FusedMultiplyAdd(g2, f0, s1)));
                    if (!TFilter.IsFive)
                        continue;
                    var (g5, g6, f3, f4) = (V.Load(g + 5 * channels), V.Load(g + 6 * channels), V.Load(f + 3 * V.Count), V.Load(f + 4 * V.Count));
                    s0 = V.FusedMultiplyAdd(g4, f4, V.FusedMultiplyAdd(g3, f3, s0));
                    s1 = V.FusedMultiplyAdd(g6, f4, V.FusedMultiplyAdd(g5, f3, s1));
                }
                s0.Store(y);
                if (w + 1 < width)
                    s1.Store(y + channels);
                y += Math.Min(2, width - w) * channels;
            }
    }

    /// <summary>Multiplies gradients by the activation's slope, and adds them, and them times x - <paramref name="o"/>, to the sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Mask<T, V>(float* x, float* gradient, int rows, int channels, float* k, float* b, float* o, float* sums)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        for (int row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += V.Count, at += V.Count)
            {
                var v = V.Load(x + at);
                var g = V.Load(gradient + at) * T.Slope(V.FusedMultiplyAdd(v, V.Load(k + c), V.Load(b + c)));
                g.Store(gradient + at);
                (V.Load(sums + c) + g).Store(sums + c);
                V.FusedMultiplyAdd(g, v - V.Load(o + c), V.Load(sums + channels + c)).Store(sums + channels + c);
            }
    }

    /// <summary>Writes rows of gradients, from one that may lie before the first, each at the place of the image that its filter lay on.</summary>
    /// <param name="begin">The row [C] of the gradients at which the image's begin.</param>
    private static void Spread(PointwiseTraining.Rows gradient, long begin, float* to, int first, int rows, Shape shape)
    {
        var (channels, row) = (shape.Channels, shape.Columns * shape.Channels);
        for (var h = first; h < first + rows; h++, to += row)
        {
            if (h < 0 || h >= shape.Height || h % shape.Stride != 0)
            {
                new Span<float>(to, row).Clear();
                continue;
            }
            var at = to + shape.Padding * channels;
            new Span<float>(to, shape.Padding * channels).Clear();
            gradient(begin + h / shape.Stride * shape.OutWidth, shape.OutWidth, at, shape.Stride * channels);
            if (shape.Stride == 2)
                for (var w = 1; w < shape.Width; w += 2)
                    new Span<float>(at + w * channels, channels).Clear();
            at += shape.Width * channels;
            new Span<float>(at, (int)(to + row - at)).Clear();
        }
    }

    private static void Rows<TFilter, V>(float* behind, float* x, float* result, float* filter, double[] sums, int rows, Shape shape) where TFilter : struct, IFilter where V : struct, ILanes<V>
    {
        var taps = shape.Side * shape.Side;
        var own = stackalloc float[V.Count * taps];
        for (var c = 0; c < shape.Channels; c += V.Count, filter += V.Count * taps)
        {
            if (result is not null)
                Images<TFilter, V>(behind + c, result + c, filter, rows, shape.Width, shape.Channels, shape.Columns * shape.Channels);
            if (x is null)
                continue;
            for (var a = 0; a < shape.Side; a++)
                Filters<TFilter, V>(behind + c + a * shape.Columns * shape.Channels, x + c, own + a * V.Count * shape.Side, rows, shape.Width, shape.Channels, shape.Columns * shape.Channels);
            for (var i = 0; i < V.Count * taps; i++)
                sums[c * taps + i] += own[i];
        }
    }

    /// <summary>The images' gradient for eight channels: the filter, turned around, over what lies behind.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Images<TFilter, V>(float* behind, float* result, float* filter, int rows, int width, nint channels, nint row) where TFilter : struct, IFilter where V : struct, ILanes<V>
    {
        var side = TFilter.IsFive ? 5 : 3;
        for (var h = 0; h < rows; h++, behind += row)
            for (var w = 0; w < width; w += Tile)
            {
                V s0 = default, s1 = default, s2 = default, s3 = default;
                float* g = behind + w * channels, f = filter;
                for (var a = 0; a < side; a++, g += row, f += V.Count * side)
                {
                    var (g0, g1, g2, g3, g4, g5) = Six<V>(g, channels);
                    var (f0, f1, f2) = (V.Load(f), V.Load(f + V.Count), V.Load(f + 2 * V.Count));
                    s0 = V.FusedMultiplyAdd(g2, f2, V.FusedMultiplyAdd(g1, f1, V.FusedMultiplyAdd(g0, f0, s0)));
                    s1 = V.FusedMultiplyAdd(g3, f2, V.FusedMultiplyAdd(g2, f1, V.FusedMultiplyAdd(g1, f0, s1)));
                    s2 = V.FusedMultiplyAdd(g4, f2, V.FusedMultiplyAdd(g3, f1, V.FusedMultiplyAdd(g2, f0, s2)));
                    s3 = V.FusedMultiplyAdd(g5, f2, V.FusedMultiplyAdd(g4, f1, V.FusedMultiplyAdd(g3, f0, s3)));
                    if (!TFilter.IsFive)
                        continue;
                    var (g6, g7) = (V.Load(g + 6 * channels), V.Load(g + 7 * channels));
                    var (f3, f4) = (V.Load(f + 3 * V.Count), V.Load(f + 4 * V.Count));
                    s0 = V.FusedMultiplyAdd(g4, f4, V.FusedMultiplyAdd(g3, f3, s0));
                    s1 = V.FusedMultiplyAdd(g5, f4, V.FusedMultiplyAdd(g4, f3, s1));
                    s2 = V.FusedMultiplyAdd(g6, f4, V.FusedMultiplyAdd(g5, f3, s2));
                    s3 = V.FusedMultiplyAdd(g7, f4, V.FusedMultiplyAdd(g6, f3, s3));
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
    private static void Filters<TFilter, V>(float* behind, float* x, float* sums, int rows, int width, nint channels, nint row) where TFilter : struct, IFilter where V : struct, ILanes<V>
    {
        V s0 = default, s1 = default, s2 = default, s3 = default, s4 = default, t0 = default, t1 = default, t2 = default, t3 = default, t4 = default;
        for (var h = 0; h < rows; h++, behind += row)
            for (var w = 0; w < width; w += Tile)
            {
                var g = behind + w * channels;
                var x0 = V.Load(x);
                var x1 = w + 1 < width ? V.Load(x + channels) : default;
                var x2 = w + 2 < width ? V.Load(x + 2 * channels) : default;
                var x3 = w + 3 < width ? V.Load(x + 3 * channels) : default;
                x += Math.Min(Tile, width - w) * channels;
                var (g0, g1, g2, g3, g4, g5) = Six<V>(g, channels);
                s0 = V.FusedMultiplyAdd(x1, g1, V.FusedMultiplyAdd(x0, g0, s0));
                s1 = V.FusedMultiplyAdd(x1, g2, V.FusedMultiplyAdd(x0, g1, s1));
                s2 = V.FusedMultiplyAdd(x1, g3, V.FusedMultiplyAdd(x0, g2, s2));
                t0 = V.FusedMultiplyAdd(x3, g3, V.FusedMultiplyAdd(x2, g2, t0));
                t1 = V.FusedMultiplyAdd(x3, g4, V.FusedMultiplyAdd(x2, g3, t1));
                t2 = V.FusedMultiplyAdd(x3, g5, V.FusedMultiplyAdd(x2, g4, t2));
                if (!TFilter.IsFive)
                    continue;
                var (g6, g7) = (V.Load(g + 6 * channels), V.Load(g + 7 * channels));
                s3 = V.FusedMultiplyAdd(x1, g4, V.FusedMultiplyAdd(x0, g3, s3));
                s4 = V.FusedMultiplyAdd(x1, g5, V.FusedMultiplyAdd(x0, g4, s4));
                t3 = V.FusedMultiplyAdd(x3, g6, V.FusedMultiplyAdd(x2, g5, t3));
                t4 = V.FusedMultiplyAdd(x3, g7, V.FusedMultiplyAdd(x2, g6, t4));
            }
        (s0 + t0).Store(sums);
        (s1 + t1).Store(sums + V.Count);
        (s2 + t2).Store(sums + 2 * V.Count);
        if (!TFilter.IsFive)
            return;
        (s3 + t3).Store(sums + 3 * V.Count);
        (s4 + t4).Store(sums + 4 * V.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (V, V, V, V, V, V) Six<V>(float* at, nint channels) where V : struct, ILanes<V> =>
        (V.Load(at), V.Load(at + channels), V.Load(at + 2 * channels), V.Load(at + 3 * channels), V.Load(at + 4 * channels), V.Load(at + 5 * channels));
}
