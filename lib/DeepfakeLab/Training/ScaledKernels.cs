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
        for (var i = 0; i < images * channels; i++)
            to[i] /= rows;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddValues<T>(float* x, long rows, int channels, float* k, float* b, float* sums) where T : struct, NormKernels.IActivation
    {
        for (var first = 0L; first < rows; first += Few)
            for (var c = 0; c < channels; c += 8)
            {
                var (vk, vb, sum, last) = (Vector256.Load(k + c), Vector256.Load(b + c), Vector256<float>.Zero, Math.Min(rows, first + Few));
                for (var row = first; row < last; row++)
                    sum += T.Value(Vector256.FusedMultiplyAdd(Vector256.Load(x + row * channels + c), vk, vb));
                (Vector256.Load(sums + c) + sum).Store(sums + c);
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

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Apply<T>(float* x, float* shortcut, float* y, long rows, int channels, float* k, float* b, float* f, bool past) where T : struct, NormKernels.IActivation
    {
        for (long row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += 8, at += 8)
            {
                var z = T.Value(Vector256.FusedMultiplyAdd(Vector256.Load(x + at), Vector256.Load(k + c), Vector256.Load(b + c))) * Vector256.Load(f + c);
                if (shortcut is not null)
                    z += Vector256.Load(shortcut + at);
                if (past)
                    z.StoreAlignedNonTemporal(y + at);
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

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddProducts<T>(float* gradient, float* x, long rows, int channels, float* k, float* b, float* m, float* sums) where T : struct, NormKernels.IActivation
    {
        for (var first = 0L; first < rows; first += Few)
            for (var c = 0; c < channels; c += 8)
            {
                var (vk, vb, mean, last) = (Vector256.Load(k + c), Vector256.Load(b + c), Vector256.Load(m + c), Math.Min(rows, first + Few));
                Vector256<float> values = default, gradients = default, slopes = default, gradientsWithX = default, slopesWithX = default;
                for (var row = first; row < last; row++)
                {
                    var (v, g) = (Vector256.Load(x + row * channels + c), Vector256.Load(gradient + row * channels + c));
                    var (value, slope) = T.Both(Vector256.FusedMultiplyAdd(v, vk, vb));
                    var (behind, d) = (g * slope, v - mean);
                    values = Vector256.FusedMultiplyAdd(g, value, values);
                    gradients += behind;
                    slopes += slope;
                    gradientsWithX = Vector256.FusedMultiplyAdd(behind, d, gradientsWithX);
                    slopesWithX = Vector256.FusedMultiplyAdd(slope, d, slopesWithX);
                }
                Add(sums + c, values);
                Add(sums + channels + c, gradients);
                Add(sums + 2 * channels + c, slopes);
                Add(sums + 3 * channels + c, gradientsWithX);
                Add(sums + 4 * channels + c, slopesWithX);
            }

        static void Add(float* sum, Vector256<float> more) => (Vector256.Load(sum) + more).Store(sum);
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

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Backward<T>(float* gradient, float* x, float* result, long rows, int channels, float* k, float* b, float* f, float* o, float* byX, float* constant)
        where T : struct, NormKernels.IActivation
    {
        for (long row = 0, at = 0; row < rows; row++)
            for (var c = 0; c < channels; c += 8, at += 8)
            {
                var (v, vk) = (Vector256.Load(x + at), Vector256.Load(k + c));
                var g = Vector256.FusedMultiplyAdd(Vector256.Load(gradient + at), Vector256.Load(f + c), Vector256.Load(o + c)) * T.Slope(Vector256.FusedMultiplyAdd(v, vk, Vector256.Load(b + c)));
                Vector256.FusedMultiplyAdd(g, vk, Vector256.FusedMultiplyAdd(v, Vector256.Load(byX + c), Vector256.Load(constant + c))).Store(result + at);
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
