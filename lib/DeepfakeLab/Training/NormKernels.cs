using System.Runtime.CompilerServices;

namespace DeepfakeLab;

/// <summary>
/// Batch normalisation and the activation behind it as one function of each number, forward and back, on float32 images whose channels
/// lie next to each other: [rows, channels], a row for each place of each image.
/// </summary>
/// <remarks>
/// Written here because libtorch has no such kernel for training on a processor: each of its layers goes through memory by itself, and a
/// training step does little else (MobileNetV2: 430 MB a pass at a batch of 16). Rows are dealt out to threads by their number, and sums
/// added in that order: the same number of threads gives the same bits.
/// </remarks>
internal static unsafe class NormKernels
{
    /// <summary>Numbers of which a processor's cache would keep nothing until they are needed: they are written past it, which spares reading what was there.</summary>
    private const long BeyondCache = 4 << 20;

    /// <summary>Rows that are added in float32.</summary>
    internal const int Block = 128;

    /// <summary>An activation and its derivative.</summary>
    public interface IActivation
    {
        static abstract V Value<V>(V z) where V : struct, ILanes<V>;

        static abstract V Slope<V>(V z) where V : struct, ILanes<V>;

        /// <summary>The two at once, where they have most of their work in common.</summary>
        static abstract (V Value, V Slope) Both<V>(V z) where V : struct, ILanes<V>;
    }

    public readonly struct None : IActivation
    {
        public static V Value<V>(V z) where V : struct, ILanes<V> => z;

        public static V Slope<V>(V z) where V : struct, ILanes<V> => V.Create(1);

        public static (V Value, V Slope) Both<V>(V z) where V : struct, ILanes<V> => (Value(z), Slope(z));
    }

    public readonly struct ReLU : IActivation
    {
        public static V Value<V>(V z) where V : struct, ILanes<V> => V.Max(V.Create(0), z);

        public static V Slope<V>(V z) where V : struct, ILanes<V> => (z > V.Create(0)) & V.Create(1);

        public static (V Value, V Slope) Both<V>(V z) where V : struct, ILanes<V> => (Value(z), Slope(z));
    }

    public readonly struct ReLU6 : IActivation
    {
        public static V Value<V>(V z) where V : struct, ILanes<V> => V.Min(V.Create(6), V.Max(V.Create(0), z));

        public static V Slope<V>(V z) where V : struct, ILanes<V> => (z > V.Create(0)) & (z < V.Create(6)) & V.Create(1);

        public static (V Value, V Slope) Both<V>(V z) where V : struct, ILanes<V> => (Value(z), Slope(z));
    }

    public readonly struct SiLU : IActivation
    {
        public static V Value<V>(V z) where V : struct, ILanes<V> => z / OnePlusExp(z);

        public static V Slope<V>(V z) where V : struct, ILanes<V> => Both(z).Slope;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static (V Value, V Slope) Both<V>(V z) where V : struct, ILanes<V>
        {
            var s = Sigmoid(z);
            var value = z * s;
            return (value, V.FusedMultiplyAdd(value, V.Create(1) - s, s));
        }
    }

    public readonly struct Hardswish : IActivation
    {
        public static V Value<V>(V z) where V : struct, ILanes<V> => z * V.Min(V.Create(6), V.Max(V.Create(0), z + V.Create(3))) / V.Create(6);

        public static V Slope<V>(V z) where V : struct, ILanes<V> =>
            V.Select(z > V.Create(3), V.Create(1), (z / V.Create(3) + V.Create(0.5f)) & (z > V.Create(-3)));

        public static (V Value, V Slope) Both<V>(V z) where V : struct, ILanes<V> => (Value(z), Slope(z));
    }

    /// <summary>1 / (1 + exp(-z)), within 2 units of the last place; 0 below -88.4, where it is less than float32's least normal number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static V Sigmoid<V>(V z) where V : struct, ILanes<V> => V.Create(1) / OnePlusExp(z);

    /// <summary>1 + exp(-z): exp(-z) is 2^n 2^f with |f| up to 1/2, and 2^f a polynomial, Cephes' exp2f (Moshier 1989).</summary>
    /// <remarks>.NET's own exp goes through float64, which takes four times as long.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V OnePlusExp<V>(V z) where V : struct, ILanes<V>
    {
        z = V.Min(V.Create(87), V.Max(V.Create(-89), z)); // n from -126 to 128; NaN stays what it is
        var (rounder, one) = (V.Create(12582912), V.Create(1)); // 1.5 * 2^23: after it is added, n lies in the lowest bits
        var (turns, rest) = (V.Create(-1.44269502f), V.Create(-1.92596303e-8f)); // -1 / ln 2 in two parts
        var shifted = V.FusedMultiplyAdd(z, turns, rounder);
        var f = V.FusedMultiplyAdd(z, rest, V.FusedMultiplyAdd(z, turns, rounder - shifted));
        var p = V.FusedMultiplyAdd(f, V.Create(1.535336188319500e-4f), V.Create(1.339887440266574e-3f));
        p = V.FusedMultiplyAdd(p, f, V.Create(9.618437357674640e-3f));
        p = V.FusedMultiplyAdd(p, f, V.Create(5.550332471162809e-2f));
        p = V.FusedMultiplyAdd(p, f, V.Create(2.402264791363012e-1f));
        p = V.FusedMultiplyAdd(p, f, V.Create(6.931472028550421e-1f));
        p = V.FusedMultiplyAdd(p, f, one);
        return V.FusedMultiplyAdd(p, V.PowerOfTwo(shifted), one);
    }

    /// <summary>Mean and variance (over all rows, biased) of each channel.</summary>
    public static (double[] Mean, double[] Variance) Statistics(float* x, long rows, int channels)
    {
        var origin = new Span<float>(x, channels).ToArray(); // the first row: numbers are counted from there, so that their squares do not drown the variance
        return Moments(Sums<None>(null, x, null, rows, channels, origin, origin, origin), rows, origin);
    }

    /// <summary>Mean and (biased) variance of each channel from its sums over all rows of x - origin and of the square of that.</summary>
    internal static (double[] Mean, double[] Variance) Moments((double[] First, double[] Second) sums, long rows, float[] origin)
    {
        var (mean, variance) = sums;
        for (var c = 0; c < mean.Length; c++)
        {
            var shifted = mean[c] / rows;
            variance[c] = Math.Max(0, variance[c] / rows - shifted * shifted);
            mean[c] = shifted + origin[c];
        }
        return (mean, variance);
    }

    /// <summary>Adds what was summed in float32 to sums in float64, and begins anew.</summary>
    internal static void Take(float* partial, double[] sums)
    {
        for (var i = 0; i < sums.Length; i++)
            sums[i] += partial[i];
        new Span<float>(partial, sums.Length).Clear();
    }

    /// <summary>The threads' sums, added in the threads' order: the first of the two that each channel has, and the second.</summary>
    internal static (double[] First, double[] Second) Join(double[][] all, int channels)
    {
        var (first, second) = (new double[channels], new double[channels]);
        foreach (var sums in all)
            for (var c = 0; c < channels; c++)
                (first[c], second[c]) = (first[c] + sums[c], second[c] + sums[channels + c]);
        return (first, second);
    }

    /// <summary>y = activation(scale x + shift + shortcut).</summary>
    /// <param name="shortcut">null for none.</param>
    public static void Apply<T>(float* x, float* shortcut, float* y, long rows, int channels, float[] scale, float[] shift) where T : struct, IActivation =>
        Ranges(rows, (_, from, until) =>
        {
            fixed (float* k = scale, b = shift)
                Apply<T>(x + from * channels, shortcut is null ? null : shortcut + from * channels, y + from * channels, until - from, channels, k, b, IsBeyondCache(y, rows * channels));
        });

    /// <summary>Whether <paramref name="count"/> numbers are so many, and lie so, that they are written past the cache.</summary>
    internal static bool IsBeyondCache(float* y, long count) => count > BeyondCache && (nint)y % 64 == 0;

    /// <summary>The same for some rows, on one thread.</summary>
    internal static void Apply<T>(float* x, float* shortcut, float* y, long rows, int channels, float* k, float* b, bool past) where T : struct, IActivation
    {
        if (Sixteen.Fits(channels))
            Apply<T, Sixteen>(x, shortcut, y, rows, channels, k, b, past);
        else
            Apply<T, Eight>(x, shortcut, y, rows, channels, k, b, past);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Apply<T, V>(float* x, float* shortcut, float* y, long rows, int channels, float* k, float* b, bool past) where T : struct, IActivation where V : struct, ILanes<V>
    {
        for (long row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += V.Count, at += V.Count)
            {
                var z = V.FusedMultiplyAdd(V.Load(x + at), V.Load(k + c), V.Load(b + c));
                if (shortcut is not null)
                    z += V.Load(shortcut + at);
                if (past)
                    T.Value(z).StorePast(y + at);
                else
                    T.Value(z).Store(y + at);
            }
    }

    /// <summary>
    /// The first half of the way back: sums over the rows of g and of g (x - mean), g being the gradient behind the norm. Where there is a shortcut, g
    /// replaces <paramref name="gradient"/>, as it is the shortcut's too.
    /// </summary>
    /// <param name="y">The output where there is a shortcut, else null.</param>
    public static (double[] Sum, double[] WithX) BackwardSums<T>(float* gradient, float* x, float* y, long rows, int channels, float[] scale, float[] shift, float[] mean)
        where T : struct, IActivation => Sums<T>(gradient, x, y, rows, channels, scale, shift, mean);

    /// <summary>The second half: the gradient before the norm, scale g + byX x + constant; may be written over <paramref name="gradient"/>.</summary>
    /// <param name="masked">Whether <paramref name="gradient"/> is g already.</param>
    public static void Backward<T>(
        float* gradient, float* x, float* result, bool masked, long rows, int channels, float[] scale, float[] shift, float[] byX, float[] constant)
        where T : struct, IActivation =>
        Ranges(rows, (_, from, until) =>
        {
            fixed (float* k = scale, b = shift, f = byX, o = constant)
                Backward<T>(gradient + from * channels, x + from * channels, result + from * channels, channels, masked, until - from, channels, k, b, f, o);
        });

    /// <summary>The same for some rows, on one thread.</summary>
    /// <param name="distance">From a row of <paramref name="result"/> to the next.</param>
    internal static void Backward<T>(float* gradient, float* x, float* result, int distance, bool masked, long rows, int channels, float* k, float* b, float* f, float* o) where T : struct, IActivation
    {
        if (Sixteen.Fits(channels))
            Backward<T, Sixteen>(gradient, x, result, distance, masked, rows, channels, k, b, f, o);
        else
            Backward<T, Eight>(gradient, x, result, distance, masked, rows, channels, k, b, f, o);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Backward<T, V>(float* gradient, float* x, float* result, int distance, bool masked, long rows, int channels, float* k, float* b, float* f, float* o)
        where T : struct, IActivation where V : struct, ILanes<V>
    {
        for (long row = 0, at = 0; row < rows; row++, result += distance - channels)
            for (var c = 0; c < channels; c += V.Count, at += V.Count)
            {
                var (v, g, vk) = (V.Load(x + at), V.Load(gradient + at), V.Load(k + c));
                if (typeof(T) != typeof(None) && !masked)
                    g *= T.Slope(V.FusedMultiplyAdd(v, vk, V.Load(b + c)));
                V.FusedMultiplyAdd(g, vk, V.FusedMultiplyAdd(v, V.Load(f + c), V.Load(o + c))).Store(result + at);
            }
    }

    /// <summary>
    /// Two sums a channel over all rows: of g and of g (x - origin), or without a gradient of x - origin and its square. In float32 within blocks
    /// of rows, in float64 over these.
    /// </summary>
    private static (double[] First, double[] Second) Sums<T>(float* gradient, float* x, float* y, long rows, int channels, float[] scale, float[] shift, float[] origin)
        where T : struct, IActivation
    {
        var threads = LabRuntime.Threads;
        var all = new double[threads][];
        Ranges(rows, (thread, from, until) =>
        {
            var sums = new double[2 * channels];
            var partial = new float[2 * channels];
            fixed (float* p = partial, k = scale, b = shift, o = origin)
                for (var row = from; row < until; row += Block)
                {
                    Add<T>(At(gradient), At(x), At(y), Math.Min(Block, until - row), channels, k, b, o, p);
                    Take(p, sums);

                    float* At(float* numbers) => numbers is null ? null : numbers + row * channels;
                }
            all[thread] = sums;
        });
        return Join(all, channels);
    }

    /// <summary>Adds some rows, four at a time, so that memory is read in the order in which it lies.</summary>
    internal static void Add<T>(float* gradient, float* x, float* y, long rows, int channels, float* k, float* b, float* o, float* sums) where T : struct, IActivation
    {
        if (Sixteen.Fits(channels))
            Add<T, Sixteen>(gradient, x, y, rows, channels, k, b, o, sums);
        else
            Add<T, Eight>(gradient, x, y, rows, channels, k, b, o, sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Add<T, V>(float* gradient, float* x, float* y, long rows, int channels, float* k, float* b, float* o, float* sums) where T : struct, IActivation where V : struct, ILanes<V>
    {
        var row = 0L;
        for (; row + 4 <= rows; row += 4)
            for (var c = 0; c < channels; c += V.Count)
            {
                var (origin, at) = (V.Load(o + c), row * channels + c);
                var d0 = V.Load(x + at) - origin;
                var d1 = V.Load(x + at + channels) - origin;
                var d2 = V.Load(x + at + 2 * channels) - origin;
                var d3 = V.Load(x + at + 3 * channels) - origin;
                var (g0, g1, g2, g3) = (d0, d1, d2, d3);
                if (gradient is not null)
                {
                    g0 = Behind<T, V>(gradient, x, y, at, k + c, b + c);
                    g1 = Behind<T, V>(gradient, x, y, at + channels, k + c, b + c);
                    g2 = Behind<T, V>(gradient, x, y, at + 2 * channels, k + c, b + c);
                    g3 = Behind<T, V>(gradient, x, y, at + 3 * channels, k + c, b + c);
                }
                (V.Load(sums + c) + (g0 + g1 + (g2 + g3))).Store(sums + c);
                var products = V.FusedMultiplyAdd(g1, d1, g0 * d0) + V.FusedMultiplyAdd(g3, d3, g2 * d2);
                (V.Load(sums + channels + c) + products).Store(sums + channels + c);
            }
        for (; row < rows; row++)
            for (var c = 0; c < channels; c += V.Count)
            {
                var at = row * channels + c;
                var d = V.Load(x + at) - V.Load(o + c);
                var g = gradient is null ? d : Behind<T, V>(gradient, x, y, at, k + c, b + c);
                (V.Load(sums + c) + g).Store(sums + c);
                V.FusedMultiplyAdd(g, d, V.Load(sums + channels + c)).Store(sums + channels + c);
            }
    }

    /// <summary>The gradient behind the norm: through the activation. Of the ReLU that follows a sum the output tells as much as what went in.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Behind<T, V>(float* gradient, float* x, float* y, long at, float* k, float* b) where T : struct, IActivation where V : struct, ILanes<V>
    {
        var g = V.Load(gradient + at);
        if (typeof(T) == typeof(None))
            return g;
        if (y is null)
            return g * T.Slope(V.FusedMultiplyAdd(V.Load(x + at), V.Load(k), V.Load(b)));
        g *= T.Slope(V.Load(y + at));
        g.Store(gradient + at);
        return g;
    }

    /// <summary>Each thread's rows: those from one to before another.</summary>
    internal static void Ranges(long rows, Action<int, long, long> work)
    {
        var threads = LabRuntime.Threads;
        Team.ForEach(threads, t => work(t, t * rows / threads, (t + 1) * rows / threads));
    }
}
