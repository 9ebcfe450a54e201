using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace DeepfakeLab;

/// <summary>
/// Batch normalisation, the activation behind it and a factor for each channel of each image as one function of each number, forward and back: squeeze
/// and excitation, and stochastic depth. On float32 images whose channels lie next to each other: [images, rows, channels], a row for each place.
/// </summary>
/// <remarks>
/// <see cref="NormKernels"/>' reason: libtorch goes through memory for the means, for the product, for its two gradients and for the means'. Images are
/// dealt out to threads by their number, and sums are an image's own: any number of threads gives the same bits.
/// </remarks>
internal static unsafe class ScaledKernels
{
    /// <summary>Rows that are added in float32, and those of them that are added while their sums are in registers.</summary>
    private const int Block = 128, Few = 8;

    /// <summary>Sums a channel that <see cref="BackwardSums"/> makes.</summary>
    public const int BackwardKinds = 5;

    private delegate void Adding(int image, long row, long count, float* sums);

    /// <summary>The mean of activation(scale x + shift) over an image's rows, to <paramref name="to"/>: [images, channels].</summary>
    public static void Means<T>(float* x, int images, long rows, int channels, float[] scale, float[] shift, float* to) where T : struct, NormKernels.IActivation
    {
        Sums(images, rows, channels, to, (image, row, count, sums) =>
        {
            fixed (float* k = scale, b = shift)
                AddValues<T>(x + (image * rows + row) * channels, count, channels, k, b, sums);
        });
        var count = Eight.Create(rows);
        for (var i = 0; i < images * channels; i += Eight.Count)
            (Eight.Load(to + i) / count).Store(to + i);
    }

    private static void AddValues<T>(float* x, long rows, int channels, float* k, float* b, float* sums) where T : struct, NormKernels.IActivation
    {
        if (Sixteen.Fits(channels))
            AddValues<T, Sixteen>(x, rows, channels, k, b, sums);
        else
            AddValues<T, Eight>(x, rows, channels, k, b, sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddValues<T, V>(float* x, long rows, int channels, float* k, float* b, float* sums)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        for (var first = 0L; first < rows; first += Few)
            for (var c = 0; c < channels; c += V.Count)
            {
                var (vk, vb, sum, last) = (V.Load(k + c), V.Load(b + c), default(V), Math.Min(rows, first + Few));
                for (var row = first; row < last; row++)
                    sum += T.Value(V.FusedMultiplyAdd(V.Load(x + row * channels + c), vk, vb));
                (V.Load(sums + c) + sum).Store(sums + c);
            }
    }

    /// <summary>y = factor activation(scale x + shift) + shortcut.</summary>
    /// <param name="shortcut">null for none.</param>
    /// <param name="factors">[images, channels].</param>
    public static void Apply<T>(float* x, float* shortcut, float* y, int images, long rows, int channels, float[] scale, float[] shift, float* factors)
        where T : struct, NormKernels.IActivation => NormKernels.Ranges(images, (_, from, until) =>
        {
            fixed (float* k = scale, b = shift)
                for (var image = from; image < until; image++)
                {
                    var at = image * rows * channels;
                    Apply<T>(x + at, shortcut is null ? null : shortcut + at, y + at, rows, channels, k, b, factors + image * channels, NormKernels.IsBeyondCache(y, images * rows * channels));
                }
        });

    private static void Apply<T>(float* x, float* shortcut, float* y, long rows, int channels, float* k, float* b, float* f, bool past) where T : struct, NormKernels.IActivation
    {
        if (Sixteen.Fits(channels))
            Apply<T, Sixteen>(x, shortcut, y, rows, channels, k, b, f, past);
        else
            Apply<T, Eight>(x, shortcut, y, rows, channels, k, b, f, past);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Apply<T, V>(float* x, float* shortcut, float* y, long rows, int channels, float* k, float* b, float* f, bool past)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        for (long row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += V.Count, at += V.Count)
            {
                var z = T.Value(V.FusedMultiplyAdd(V.Load(x + at), V.Load(k + c), V.Load(b + c))) * V.Load(f + c);
                if (shortcut is not null)
                    z += V.Load(shortcut + at);
                if (past)
                    z.StorePast(y + at);
                else
                    z.Store(y + at);
            }
    }

    /// <summary>
    /// The first half of the way back: for each image five sums a channel over its rows, of gradient * value, gradient * slope, slope,
    /// gradient * slope * (x - mean) and slope * (x - mean), those of the activation. The gradients of the factors and of the norm are made of them.
    /// </summary>
    /// <param name="to">[images, <see cref="BackwardKinds"/>, channels].</param>
    public static void BackwardSums<T>(float* gradient, float* x, int images, long rows, int channels, float[] scale, float[] shift, float[] mean, float* to)
        where T : struct, NormKernels.IActivation => Sums(images, rows, BackwardKinds * channels, to, (image, row, count, sums) =>
        {
            var at = (image * rows + row) * channels;
            fixed (float* k = scale, b = shift, m = mean)
                AddProducts<T>(gradient + at, x + at, count, channels, k, b, m, sums);
        });

    private static void AddProducts<T>(float* gradient, float* x, long rows, int channels, float* k, float* b, float* m, float* sums) where T : struct, NormKernels.IActivation
    {
        if (Sixteen.Fits(channels))
            AddProducts<T, Sixteen>(gradient, x, rows, channels, k, b, m, sums);
        else
            AddProducts<T, Eight>(gradient, x, rows, channels, k, b, m, sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddProducts<T, V>(float* gradient, float* x, long rows, int channels, float* k, float* b, float* m, float* sums)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        for (var first = 0L; first < rows; first += Few)
            for (var c = 0; c < channels; c += V.Count)
            {
                var (vk, vb, mean, last) = (V.Load(k + c), V.Load(b + c), V.Load(m + c), Math.Min(rows, first + Few));
                V values = default, gradients = default, slopes = default, gradientsWithX = default, slopesWithX = default;
                for (var row = first; row < last; row++)
                {
                    var (v, g) = (V.Load(x + row * channels + c), V.Load(gradient + row * channels + c));
                    var (value, slope) = T.Both(V.FusedMultiplyAdd(v, vk, vb));
                    var (behind, d) = (g * slope, v - mean);
                    values = V.FusedMultiplyAdd(g, value, values);
                    gradients += behind;
                    slopes += slope;
                    gradientsWithX = V.FusedMultiplyAdd(behind, d, gradientsWithX);
                    slopesWithX = V.FusedMultiplyAdd(slope, d, slopesWithX);
                }
                Add(sums + c, values);
                Add(sums + channels + c, gradients);
                Add(sums + 2 * channels + c, slopes);
                Add(sums + 3 * channels + c, gradientsWithX);
                Add(sums + 4 * channels + c, slopesWithX);
            }

        static void Add(float* sum, V more) => (V.Load(sum) + more).Store(sum);
    }

    /// <summary>From the sums over each image to those over all, of g and of g (x - mean), g being as below.</summary>
    public static (double[] Sum, double[] WithX) Join(float* sums, int images, int channels, float* factors, float* offsets)
    {
        var (sum, withX) = (new double[channels], new double[channels]);
        NormKernels.Ranges(channels / 8, (_, from, until) =>
        {
            for (var c = (int)from * 8; c < until * 8; c += 8)
            {
                Vector256<double> low = default, high = default, lowWithX = default, highWithX = default;
                for (var image = 0; image < images; image++)
                {
                    var s = sums + image * BackwardKinds * channels + c;
                    var (f, o) = (Vector256.Load(factors + image * channels + c), Vector256.Load(offsets + image * channels + c));
                    var (a, b) = Vector256.Widen(Vector256.FusedMultiplyAdd(f, Vector256.Load(s + channels), o * Vector256.Load(s + 2 * channels)));
                    (low, high) = (low + a, high + b);
                    (a, b) = Vector256.Widen(Vector256.FusedMultiplyAdd(f, Vector256.Load(s + 3 * channels), o * Vector256.Load(s + 4 * channels)));
                    (lowWithX, highWithX) = (lowWithX + a, highWithX + b);
                }
                low.CopyTo(sum, c);
                high.CopyTo(sum, c + 4);
                lowWithX.CopyTo(withX, c);
                highWithX.CopyTo(withX, c + 4);
            }
        });
        return (sum, withX);
    }

    /// <summary>The second half: the gradient before the norm, scale g + byX x + constant with g = (factor gradient + offset) slope; may be written over <paramref name="gradient"/>.</summary>
    /// <param name="offsets">What the means' gradient adds at each place: [images, channels], as <paramref name="factors"/>.</param>
    public static void Backward<T>(
        float* gradient, float* x, float* result, int images, long rows, int channels, float[] scale, float[] shift, float* factors, float* offsets, float[] byX, float[] constant)
        where T : struct, NormKernels.IActivation => NormKernels.Ranges(images, (_, from, until) =>
        {
            fixed (float* k = scale, b = shift, vx = byX, v = constant)
                for (var image = from; image < until; image++)
                {
                    var at = image * rows * channels;
                    Backward<T>(gradient + at, x + at, result + at, rows, channels, k, b, factors + image * channels, offsets + image * channels, vx, v);
                }
        });

    private static void Backward<T>(float* gradient, float* x, float* result, long rows, int channels, float* k, float* b, float* f, float* o, float* byX, float* constant) where T : struct, NormKernels.IActivation
    {
        if (Sixteen.Fits(channels))
            Backward<T, Sixteen>(gradient, x, result, rows, channels, k, b, f, o, byX, constant);
        else
            Backward<T, Eight>(gradient, x, result, rows, channels, k, b, f, o, byX, constant);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Backward<T, V>(float* gradient, float* x, float* result, long rows, int channels, float* k, float* b, float* f, float* o, float* byX, float* constant)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        for (long row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += V.Count, at += V.Count)
            {
                var (v, vk) = (V.Load(x + at), V.Load(k + c));
                var g = V.FusedMultiplyAdd(V.Load(gradient + at), V.Load(f + c), V.Load(o + c)) * T.Slope(V.FusedMultiplyAdd(v, vk, V.Load(b + c)));
                V.FusedMultiplyAdd(g, vk, V.FusedMultiplyAdd(v, V.Load(byX + c), V.Load(constant + c))).Store(result + at);
            }
    }

    /// <summary>For each image sums over its rows, to [images, count]: in float32 within blocks of rows, in float64 over these.</summary>
    private static void Sums(int images, long rows, int count, float* to, Adding add) => NormKernels.Ranges(images, (_, from, until) =>
    {
        var sums = rows > Block ? new double[count] : [];
        for (var image = (int)from; image < until; image++)
        {
            var partial = new Span<float>(to + (long)image * count, count);
            for (var row = 0L; row < rows; row += Block)
            {
                partial.Clear();
                add(image, row, Math.Min(Block, rows - row), to + (long)image * count);
                for (var i = 0; i < sums.Length; i++)
                    sums[i] = partial[i] + (row > 0 ? sums[i] : 0);
            }
            for (var i = 0; i < sums.Length; i++)
                partial[i] = (float)sums[i];
        }
    });
}
