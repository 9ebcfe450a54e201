using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace DeepfakeLab;

/// <summary>How pixels are computed between those there are.</summary>
public enum Interpolation { Nearest, Bilinear, Bicubic }

/// <summary>
/// Resizes images exactly as Pillow does (<c>src/libImaging/Resample.c</c>: two passes, the filter widened when shrinking, 8-bit
/// fixed point). It is ours because no .NET library gives the same bytes, and a model sees other pixels than it was trained on
/// where they differ.
/// </summary>
internal static unsafe class Resampler
{
    private const int PrecisionBits = 32 - 8 - 2;

    public static RgbImage Resize(RgbImage image, int width, int height, Interpolation interpolation)
    {
        using var before = PixelBuffer.From(image);
        using var after = Resize(before, width, height, interpolation);
        return after.ToRgb();
    }

    /// <summary>Another image, even where this one has that size.</summary>
    public static PixelBuffer Resize(PixelBuffer image, int width, int height, Interpolation interpolation)
    {
        if (interpolation == Interpolation.Nearest)
            return Nearest(image, width, height);
        if (image.Width == width)
            return AlongColumns(image, height, Coefficients(image.Height, height, interpolation));
        var along = AlongRows(image, width, Coefficients(image.Width, width, interpolation));
        if (image.Height == height)
            return along;
        using (along)
            return AlongColumns(along, height, Coefficients(image.Height, height, interpolation));
    }

    /// <summary>For each output pixel: its first input pixel, how many it takes, and their fixed-point weights.</summary>
    private sealed record Filter(int[] First, int[] Count, int[] Weights, int Stride)
    {
        private (int[] First, int[] Weights, int Together)? together;

        /// <summary>The same with as many input pixels for each, an even number, at most one more than there are, and each weight four times: for the four bytes of a pixel.</summary>
        public (int[] First, int[] Weights, int Together) Together(int input)
        {
            if (together is { } known)
                return known;
            var count = (Count.Max() + 1) / 2 * 2;
            int[] first = [.. First.Select(f => Math.Max(0, Math.Min(f, input - count)))], each = new int[First.Length * count * 4];
            for (var x = 0; x < First.Length; x++)
                for (var k = 0; k < Count[x]; k++)
                    each.AsSpan((x * count + First[x] - first[x] + k) * 4, 4).Fill(Weights[x * Stride + k]);
            together = (first, each, count);
            return together.Value;
        }
    }

    /// <summary>This thread's last filters: the images of a dataset are mostly of one size.</summary>
    [ThreadStatic]
    private static ((int, int, Interpolation) Of, Filter Filter)[]? last;

    private static Filter Coefficients(int input, int output, Interpolation interpolation)
    {
        last ??= new ((int, int, Interpolation), Filter)[2];
        if (last[0].Of == (input, output, interpolation))
            return last[0].Filter;
        if (last[1].Of != (input, output, interpolation))
            last[1] = ((input, output, interpolation), Compute(input, output, interpolation));
        (last[0], last[1]) = (last[1], last[0]);
        return last[0].Filter;
    }

    private static Filter Compute(int input, int output, Interpolation interpolation)
    {
        var scale = (double)input / output;
        var filterScale = Math.Max(scale, 1);
        var support = (interpolation == Interpolation.Bilinear ? 1.0 : 2.0) * filterScale;
        var stride = (int)Math.Ceiling(support) * 2 + 1;
        var filter = new Filter(new int[output], new int[output], new int[output * stride], stride);
        var weights = new double[stride];
        for (var i = 0; i < output; i++)
        {
            var center = (i + 0.5) * scale;
            var first = Math.Max((int)(center - support + 0.5), 0);
            var count = Math.Min((int)(center + support + 0.5), input) - first;
            var sum = 0.0;
            for (var k = 0; k < count; k++)
                sum += weights[k] = Kernel((k + first - center + 0.5) * (1.0 / filterScale), interpolation);
            for (var k = 0; k < count; k++)
            {
                var weight = (sum != 0 ? weights[k] / sum : weights[k]) * (1 << PrecisionBits);
                filter.Weights[i * stride + k] = (int)(weight < 0 ? weight - 0.5 : weight + 0.5);
            }
            (filter.First[i], filter.Count[i]) = (first, count);
        }
        return filter;
    }

    private static double Kernel(double x, Interpolation interpolation)
    {
        x = Math.Abs(x);
        if (interpolation == Interpolation.Bilinear)
            return x < 1 ? 1 - x : 0;
        const double a = -0.5; // Keys' cubic with Pillow's parameter
        if (x < 1)
            return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
        return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    }

    /// <remarks>Two neighbours are read at a time, and for each pixel as many, whose weights are 0 where the filter has fewer: a loop of changing length costs more.</remarks>
    private static PixelBuffer AlongRows(PixelBuffer image, int width, Filter filter)
    {
        var output = new PixelBuffer(width, image.Height);
        var (first, each, together) = filter.Together(image.Width);
        var half = Vector128.Create(1 << (PrecisionBits - 1));
        fixed (byte* pixels = image.Pixels, target = output.Pixels)
        fixed (int* firsts = first, weights = each)
        {
            var to = (uint*)target;
            for (var y = 0; y < image.Height; y++)
            {
                var row = pixels + 4L * y * image.Width;
                var weight = weights;
                for (var x = 0; x < width; x++)
                {
                    var from = row + 4 * firsts[x];
                    var sums = Vector256<int>.Zero;
                    for (var left = together; left > 0; left -= 2, from += 8, weight += 8)
                        sums += Vector256.WidenLower(Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)from).AsByte()).ToVector256Unsafe()).AsInt32() * Vector256.Load(weight);
                    *to++ = Narrow(Clip(half + sums.GetLower() + sums.GetUpper() >> PrecisionBits));
                }
            }
        }
        return output;
    }

    private static PixelBuffer AlongColumns(PixelBuffer image, int height, Filter filter)
    {
        var output = new PixelBuffer(image.Width, height);
        var stride = image.Width * 4;
        var half = Vector128.Create(1 << (PrecisionBits - 1));
        fixed (byte* pixels = image.Pixels, target = output.Pixels)
        fixed (int* weights = filter.Weights)
            for (var y = 0; y < height; y++)
            {
                var rows = pixels + (long)filter.First[y] * stride;
                var to = target + (long)y * stride;
                var weight = weights + (long)y * filter.Stride;
                var count = filter.Count[y];
                var x = 0;
                for (; x <= stride - 16; x += 16)
                {
                    Vector128<int> a = half, b = half, c = half, d = half;
                    var from = rows + x;
                    for (var k = 0; k < count; k++, from += stride)
                    {
                        var (low, high) = Vector128.Widen(Vector128.Load(from));
                        var (w0, w1) = Vector128.Widen(low);
                        var (w2, w3) = Vector128.Widen(high);
                        var w = Vector128.Create(weight[k]);
                        a += w0.AsInt32() * w;
                        b += w1.AsInt32() * w;
                        c += w2.AsInt32() * w;
                        d += w3.AsInt32() * w;
                    }
                    var ab = Vector128.Narrow(Clip(a >> PrecisionBits), Clip(b >> PrecisionBits));
                    var cd = Vector128.Narrow(Clip(c >> PrecisionBits), Clip(d >> PrecisionBits));
                    Vector128.Narrow(ab.AsUInt16(), cd.AsUInt16()).Store(to + x);
                }
                for (; x < stride; x += 4)
                {
                    var sum = half;
                    for (var k = 0; k < count; k++)
                        sum += Widen(*(uint*)(rows + x + k * (long)stride)) * Vector128.Create(weight[k]);
                    *(uint*)(to + x) = Narrow(Clip(sum >> PrecisionBits));
                }
            }
        return output;
    }

    private static Vector128<int> Widen(uint four) =>
        Vector128.WidenLower(Vector128.WidenLower(Vector128.CreateScalarUnsafe(four).AsByte())).AsInt32();

    private static Vector128<int> Clip(Vector128<int> value) =>
        Vector128.Min(Vector128.Max(value, Vector128<int>.Zero), Vector128.Create(255));

    /// <summary>Four numbers from 0 to 255 as bytes.</summary>
    private static uint Narrow(Vector128<int> four)
    {
        var shorts = Vector128.Narrow(four, four).AsUInt16();
        return Vector128.Narrow(shorts, shorts).AsUInt32().ToScalar();
    }

    /// <summary>Pillow's nearest neighbour is its affine transform, which adds the step up instead of multiplying (<c>Geometry.c</c>).</summary>
    private static PixelBuffer Nearest(PixelBuffer image, int width, int height)
    {
        var output = new PixelBuffer(width, height);
        int[] columns = Positions(image.Width, width), rows = Positions(image.Height, height);
        for (var y = 0; y < height; y++)
        {
            Span<uint> from = MemoryMarshal.Cast<byte, uint>(image.Row(rows[y])), to = MemoryMarshal.Cast<byte, uint>(output.Row(y));
            for (var x = 0; x < width; x++)
                to[x] = from[columns[x]];
        }
        return output;
    }

    private static int[] Positions(int input, int output)
    {
        var positions = new int[output];
        var step = (double)input / output;
        var at = step * 0.5;
        for (var i = 0; i < output; i++, at += step)
            positions[i] = Math.Min((int)at, input - 1);
        return positions;
    }
}
