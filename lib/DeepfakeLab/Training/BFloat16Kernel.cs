using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What stands before and behind bfloat16 layers: pictures to bfloat16, and means of maps, each in one pass over memory, where libtorch takes two.</summary>
internal static unsafe class BFloat16Kernel
{
    private const int Lanes = 16;

    public static bool IsSupported => Avx512BW.IsSupported;

    /// <summary>float32 [N, 3, H, W], dense, as bfloat16 with the channels last, rounded as torch rounds.</summary>
    public static Tensor Pixels(Tensor images)
    {
        var (count, plane) = ((int)images.shape[0], (int)(images.shape[2] * images.shape[3]));
        using var pixels = empty([count, images.shape[2], images.shape[3], 3], ScalarType.BFloat16);
        fixed (byte* from = images.bytes, to = pixels.bytes)
            for (var image = 0; image < count; image++)
                Interleave((float*)from + 3L * image * plane, plane, (ushort*)to + 3L * image * plane);
        return pixels.permute(0, 3, 1, 2);
    }

    /// <summary>The means of bfloat16 maps [N, C, H, W] with their channels last: [N, C], float32.</summary>
    public static Tensor Means(Tensor maps)
    {
        var (count, channels, pixels) = ((int)maps.shape[0], (int)maps.shape[1], (int)(maps.shape[2] * maps.shape[3]));
        var means = empty([count, channels], ScalarType.Float32);
        using var rows = maps.permute(0, 2, 3, 1);
        fixed (byte* from = rows.bytes, to = means.bytes)
            for (var image = 0; image < count; image++)
                Mean((ushort*)from + (nint)image * pixels * channels, pixels, channels, (float*)to + (nint)image * channels);
        return means;
    }

    /// <summary>Two numbers, rounded, side by side.</summary>
    public static float Pair(float low, float high) => BitConverter.UInt32BitsToSingle((uint)Rounded(high) << 16 | Rounded(low));

    /// <summary>Rounds pixels of 32 channels after 32, whose number may not be full: what lies behind a pixel is rounded with it.</summary>
    /// <param name="apart">Numbers from a pixel to the next.</param>
    /// <param name="wide">Numbers that a pixel gets.</param>
    /// <param name="asFiltered">Whether channels are to lie as <see cref="BFloat16Filter.Place"/> says.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Round(float* from, nint apart, int pixels, int wide, ushort* to, bool asFiltered = false)
    {
        var places = asFiltered ? Vector512.Create(1, 3, 5, 7, 33, 35, 37, 39, 9, 11, 13, 15, 41, 43, 45, 47, 17, 19, 21, 23, 49, 51, 53, 55, 25, 27, 29, 31, 57, 59, 61, (ushort)63)
            : Vector512.Create(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, (ushort)63);
        for (; pixels > 0; pixels--, from += apart)
            for (nint channel = 0; channel < wide; channel += 2 * Lanes, to += 2 * Lanes)
                Avx512BW.PermuteVar32x16x2(RoundedAbove(Vector512.Load(from + channel)), places, RoundedAbove(Vector512.Load(from + channel + Lanes))).Store(to);
    }

    /// <summary>Adds pixels of bfloat16 channels, in multiples of 16, to their sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Sum(ushort* from, int pixels, nint wide, float* sums)
    {
        for (nint channel = 0; channel < wide; channel += Lanes)
        {
            Vector512<float> a = Vector512.Load(sums + channel), b = default;
            var at = from + channel;
            var left = pixels;
            for (; left > 1; left -= 2, at += 2 * wide)
                (a, b) = (a + Widened(at), b + Widened(at + wide));
            (left > 0 ? a + b + Widened(at) : a + b).Store(sums + channel);
        }
    }

    /// <summary>Multiplies pixels' channels, in multiples of 16, by a factor each, in place.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Scale(ushort* pixels, int count, nint wide, float* factors)
    {
        for (; count > 0; count--, pixels += wide)
            for (nint channel = 0; channel < wide; channel += Lanes)
                Rounded(Widened(pixels + channel) * Vector512.Load(factors + channel)).Store(pixels + channel);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Interleave(float* planes, int plane, ushort* to)
    {
        // red and green lie in one register, blue in another; the first 32 numbers of 16 pixels, then the other 16
        var first = Vector512.Create((ushort)0, 16, 32, 1, 17, 33, 2, 18, 34, 3, 19, 35, 4, 20, 36, 5, 21, 37, 6, 22, 38, 7, 23, 39, 8, 24, 40, 9, 25, 41, 10, 26);
        var second = Vector512.Create((ushort)42, 11, 27, 43, 12, 28, 44, 13, 29, 45, 14, 30, 46, 15, 31, 47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        var pixel = 0;
        for (; pixel <= plane - Lanes; pixel += Lanes, to += 3 * Lanes)
        {
            var (redGreen, blue) = Colours(planes + pixel, plane);
            Avx512BW.PermuteVar32x16x2(redGreen, first, blue).Store(to);
            Avx512BW.PermuteVar32x16x2(redGreen, second, blue).GetLower().Store(to + 2 * Lanes);
        }
        for (; pixel < plane; pixel++)
            for (var colour = 0; colour < 3; colour++)
                *to++ = Rounded(planes[colour * plane + pixel]);
    }

    /// <summary>Pixels of three planes, each with a zero behind its colours.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Quads(float* planes, nint plane, int pixels, ushort* to)
    {
        var first = Vector512.Create((ushort)0, 16, 32, 48, 1, 17, 33, 48, 2, 18, 34, 48, 3, 19, 35, 48, 4, 20, 36, 48, 5, 21, 37, 48, 6, 22, 38, 48, 7, 23, 39, 48);
        var second = first + Vector512.Create(0x0000_0008_0008_0008).AsUInt16();
        var pixel = 0;
        for (; pixel <= pixels - Lanes; pixel += Lanes, to += 4 * Lanes)
        {
            var (redGreen, blue) = Colours(planes + pixel, plane);
            Avx512BW.PermuteVar32x16x2(redGreen, first, blue).Store(to);
            Avx512BW.PermuteVar32x16x2(redGreen, second, blue).Store(to + 2 * Lanes);
        }
        for (; pixel < pixels; pixel++, to += 4)
            (to[0], to[1], to[2], to[3]) = (Rounded(planes[pixel]), Rounded(planes[plane + pixel]), Rounded(planes[2 * plane + pixel]), 0);
    }

    /// <summary>Sixteen pixels of three planes: red and green, and blue with zeros behind.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector512<ushort> RedGreen, Vector512<ushort> Blue) Colours(float* from, nint plane) =>
        (Vector512.Create(Rounded(Vector512.Load(from)), Rounded(Vector512.Load(from + plane))), Rounded(Vector512.Load(from + 2 * plane)).ToVector512());

    private static ushort Rounded(float x) => (ushort)((BitConverter.SingleToUInt32Bits(x) is var bits && float.IsNaN(x) ? 0x7FC0_0000 : bits + 0x7FFF + (bits >>> 16 & 1)) >>> 16);

    /// <summary>To the nearest, or to the even one of two; what is not a number stays none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ushort> Rounded(Vector512<float> x) => Avx512F.ConvertToVector256UInt16(RoundedAbove(x).AsUInt32() >>> 16);

    /// <summary>The same in the upper half of each number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ushort> RoundedAbove(Vector512<float> x)
    {
        var bits = x.AsUInt32();
        var rounded = bits + Vector512.Create(0x7FFFu) + (bits >>> 16 & Vector512<uint>.One);
        return Vector512.ConditionalSelect(Vector512.Equals(x, x).AsUInt32(), rounded, Vector512.Create(0x7FC00000u)).AsUInt16();
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Mean(ushort* maps, int pixels, int channels, float* to)
    {
        var channel = 0;
        for (; channel <= channels - 2 * Lanes; channel += 2 * Lanes)
        {
            Vector512<float> a = default, b = default;
            for (var (at, end) = ((nint)channel, (nint)pixels * channels); at < end; at += channels)
                (a, b) = (a + Widened(maps + at), b + Widened(maps + at + Lanes));
            (a / pixels).Store(to + channel);
            (b / pixels).Store(to + channel + Lanes);
        }
        for (; channel < channels; channel++)
        {
            var sum = 0f;
            for (var pixel = 0; pixel < pixels; pixel++)
                sum += BitConverter.UInt32BitsToSingle((uint)maps[pixel * channels + channel] << 16);
            to[channel] = sum / pixels;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Widened(ushort* at) => (Avx512F.ConvertToVector512UInt32(Vector256.Load(at)) << 16).AsSingle();
}
