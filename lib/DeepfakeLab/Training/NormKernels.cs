using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

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
        static abstract Vector256<float> Value(Vector256<float> z);

        static abstract Vector256<float> Slope(Vector256<float> z);

        /// <summary>The two at once, where they have most of their work in common.</summary>
        static abstract (Vector256<float> Value, Vector256<float> Slope) Both(Vector256<float> z);
    }

    public readonly struct None : IActivation
    {
        public static Vector256<float> Value(Vector256<float> z) => z;

        public static Vector256<float> Slope(Vector256<float> z) => Vector256<float>.One;

        public static (Vector256<float> Value, Vector256<float> Slope) Both(Vector256<float> z) => (Value(z), Slope(z));
    }

    public readonly struct ReLU : IActivation
    {
        public static Vector256<float> Value(Vector256<float> z) => Vector256.Max(z, Vector256<float>.Zero);

        public static Vector256<float> Slope(Vector256<float> z) => Vector256.GreaterThan(z, Vector256<float>.Zero) & Vector256<float>.One;

        public static (Vector256<float> Value, Vector256<float> Slope) Both(Vector256<float> z) => (Value(z), Slope(z));
    }

    public readonly struct ReLU6 : IActivation
    {
        public static Vector256<float> Value(Vector256<float> z) => Vector256.Min(Vector256.Max(z, Vector256<float>.Zero), Vector256.Create(6f));

        public static Vector256<float> Slope(Vector256<float> z) =>
            Vector256.GreaterThan(z, Vector256<float>.Zero) & Vector256.LessThan(z, Vector256.Create(6f)) & Vector256<float>.One;

        public static (Vector256<float> Value, Vector256<float> Slope) Both(Vector256<float> z) => (Value(z), Slope(z));
    }

    public readonly struct SiLU : IActivation
    {
        public static Vector256<float> Value(Vector256<float> z) => z * Sigmoid(z);

        public static Vector256<float> Slope(Vector256<float> z) => Both(z).Slope;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static (Vector256<float> Value, Vector256<float> Slope) Both(Vector256<float> z)
        {
            var s = Sigmoid(z);
            return (z * s, s * Vector256.FusedMultiplyAdd(z, Vector256<float>.One - s, Vector256<float>.One));
        }
    }

    public readonly struct Hardswish : IActivation
    {
        public static Vector256<float> Value(Vector256<float> z) => z * Vector256.Min(Vector256.Max(z + Vector256.Create(3f), Vector256<float>.Zero), Vector256.Create(6f)) / Vector256.Create(6f);

        public static Vector256<float> Slope(Vector256<float> z) => Vector256.ConditionalSelect(Vector256.GreaterThanOrEqual(z, Vector256.Create(3f)), Vector256<float>.One,
            (z / Vector256.Create(3f) + Vector256.Create(0.5f)) & Vector256.GreaterThan(z, Vector256.Create(-3f)));

        public static (Vector256<float> Value, Vector256<float> Slope) Both(Vector256<float> z) => (Value(z), Slope(z));
    }

    /// <summary>1 / (1 + exp(-z)), within 2 units of the last place; 0 below -88.4, where it is less than float32's least normal number.</summary>
    /// <remarks>
    /// exp(-z) is 2^n exp(r) with |r| below ln 2 / 2, and exp(r) a polynomial: Cephes' (Moshier 1989), as in most vector libraries. .NET's own goes
    /// through float64, which takes four times as long.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector256<float> Sigmoid(Vector256<float> z)
    {
        var x = Vector256.MinNative(Vector256.Create(89f), Vector256.MaxNative(Vector256.Create(-87f), -z)); // n from -126 to 128; NaN stays what it is
        var rounder = Vector256.Create(12582912f); // 1.5 * 2^23: after it is added, n lies in the lowest bits
        var shifted = Vector256.FusedMultiplyAdd(x, Vector256.Create(1.44269504f), rounder);
        var n = shifted - rounder;
        var r = Vector256.FusedMultiplyAdd(n, Vector256.Create(2.12194440e-4f), Vector256.FusedMultiplyAdd(n, Vector256.Create(-0.693359375f), x));
        var p = Vector256.FusedMultiplyAdd(r, Vector256.Create(1.9875691500e-4f), Vector256.Create(1.3981999507e-3f));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(8.3334519073e-3f));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(4.1665795894e-2f));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(1.6666665459e-1f));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(5.0000001201e-1f));
        p = Vector256.FusedMultiplyAdd(p, r * r, r + Vector256<float>.One);
        var power = Vector256.ShiftLeft(shifted.AsInt32(), 23) + Vector256.Create(0x3F800000); // 2^n; infinity for 128
        return Vector256<float>.One / Vector256.FusedMultiplyAdd(p, power.AsSingle(), Vector256<float>.One);
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
    internal static bool IsBeyondCache(float* y, long count) => count > BeyondCache && (nint)y % 32 == 0;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Apply<T>(float* x, float* shortcut, float* y, long rows, int channels, float* k, float* b, bool past) where T : struct, IActivation
    {
        for (long row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += 8, at += 8)
            {
                var z = Vector256.FusedMultiplyAdd(Vector256.Load(x + at), Vector256.Load(k + c), Vector256.Load(b + c));
                if (shortcut is not null)
                    z += Vector256.Load(shortcut + at);
                if (past)
                    T.Value(z).StoreAlignedNonTemporal(y + at);
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
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Backward<T>(float* gradient, float* x, float* result, int distance, bool masked, long rows, int channels, float* k, float* b, float* f, float* o) where T : struct, IActivation
    {
        for (long row = 0, at = 0; row < rows; row++, result += distance - channels)
            for (var c = 0; c < channels; c += 8, at += 8)
            {
                var (v, g, vk) = (Vector256.Load(x + at), Vector256.Load(gradient + at), Vector256.Load(k + c));
                if (typeof(T) != typeof(None) && !masked)
                    g *= T.Slope(Vector256.FusedMultiplyAdd(v, vk, Vector256.Load(b + c)));
                Vector256.FusedMultiplyAdd(g, vk, Vector256.FusedMultiplyAdd(v, Vector256.Load(f + c), Vector256.Load(o + c))).Store(result + at);
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
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Add<T>(float* gradient, float* x, float* y, long rows, int channels, float* k, float* b, float* o, float* sums) where T : struct, IActivation
    {
        var row = 0L;
        for (; row + 4 <= rows; row += 4)
            for (var c = 0; c < channels; c += 8)
            {
                var (origin, at) = (Vector256.Load(o + c), row * channels + c);
                var d0 = Vector256.Load(x + at) - origin;
                var d1 = Vector256.Load(x + at + channels) - origin;
                var d2 = Vector256.Load(x + at + 2 * channels) - origin;
                var d3 = Vector256.Load(x + at + 3 * channels) - origin;
                var (g0, g1, g2, g3) = (d0, d1, d2, d3);
                if (gradient is not null)
                {
                    g0 = Behind<T>(gradient, x, y, at, k + c, b + c);
                    g1 = Behind<T>(gradient, x, y, at + channels, k + c, b + c);
                    g2 = Behind<T>(gradient, x, y, at + 2 * channels, k + c, b + c);
                    g3 = Behind<T>(gradient, x, y, at + 3 * channels, k + c, b + c);
                }
                Vector256.Store(Vector256.Load(sums + c) + (g0 + g1 + (g2 + g3)), sums + c);
                var products = Vector256.FusedMultiplyAdd(g1, d1, g0 * d0) + Vector256.FusedMultiplyAdd(g3, d3, g2 * d2);
                Vector256.Store(Vector256.Load(sums + channels + c) + products, sums + channels + c);
            }
        for (; row < rows; row++)
            for (var c = 0; c < channels; c += 8)
            {
                var at = row * channels + c;
                var d = Vector256.Load(x + at) - Vector256.Load(o + c);
                var g = gradient is null ? d : Behind<T>(gradient, x, y, at, k + c, b + c);
                Vector256.Store(Vector256.Load(sums + c) + g, sums + c);
                Vector256.Store(Vector256.FusedMultiplyAdd(g, d, Vector256.Load(sums + channels + c)), sums + channels + c);
            }
    }

    /// <summary>The gradient behind the norm: through the activation. Of the ReLU that follows a sum the output tells as much as what went in.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Behind<T>(float* gradient, float* x, float* y, long at, float* k, float* b) where T : struct, IActivation
    {
        var g = Vector256.Load(gradient + at);
        if (typeof(T) == typeof(None))
            return g;
        if (y is null)
            return g * T.Slope(Vector256.FusedMultiplyAdd(Vector256.Load(x + at), Vector256.Load(k), Vector256.Load(b)));
        g *= T.Slope(Vector256.Load(y + at));
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
