using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Microsoft.Win32.SafeHandles;

namespace DeepfakeLab;

/// <summary>Native float32 memory that begins at a cache line and holds zeros, unless told not to.</summary>
internal sealed unsafe class Floats : SafeHandleZeroOrMinusOneIsInvalid
{
    public Floats(long count, bool zeros = true) : base(ownsHandle: true)
    {
        Count = count;
        var large = LargeBlocks.Take(checked(count * sizeof(float)));
        SetHandle((nint)(large is null ? NativeMemory.AlignedAlloc(checked((nuint)count * sizeof(float)), 64) : large));
        for (var at = 0L; zeros && at < count; at += 1 << 28)
            new Span<float>(Data + at, (int)Math.Min(count - at, 1 << 28)).Clear();
    }

    public long Count { get; }

    public float* Data => (float*)handle;

    protected override bool ReleaseHandle()
    {
        if (!LargeBlocks.TryReturn(Data))
            NativeMemory.AlignedFree(Data);
        return true;
    }
}

/// <summary>
/// The matrix product that all of <see cref="VectorEngine"/> rests on. No library that is at hand lends one: a BLAS packs both matrices at each
/// call, which costs as much as these small products, and adds neither bias, sum nor activation while the results are in registers.
/// </summary>
/// <remarks>
/// Fourteen rows (or seven, at the end) by 32 columns are summed in 28 registers of 16 floats: images of 224 pixels and what is left of them at any layer are
/// whole sevens.
/// </remarks>
internal static unsafe class MatrixKernel
{
    /// <summary>Rows computed together. What lies behind a matrix's last row may be read, up to this many rows, and is not used.</summary>
    public const int Rows = 14;

    /// <summary>Floats in a register; columns come in multiples of it.</summary>
    public const int Lanes = 16;

    private const int Panel = 2 * Lanes;

    /// <summary>Whether a block of the result is as wide, or as tall, as it can be (32 columns, 14 rows) or half of that; known when its code is made.</summary>
    private interface IFull
    {
        static abstract bool Is { get; }
    }

    private readonly struct Full : IFull
    {
        public static bool Is => true;
    }

    private readonly struct Half : IFull
    {
        public static bool Is => false;
    }

    /// <summary>The least multiple of <see cref="Lanes"/> that holds this many.</summary>
    public static int Padded(int count) => (count + Lanes - 1) / Lanes * Lanes;

    /// <summary>A distance between rows at which they do not fall on the same few places of the first cache.</summary>
    public static int Spread(int count) => Padded(count) % 256 == 0 ? Padded(count) + Lanes : Padded(count);

    /// <summary>Where element (row, column) of the right matrix [depth, columns] lies: 32 columns at a time (the last may be 16), row by row.</summary>
    public static long At(int row, int column, int depth, int columns)
    {
        var panel = column / Panel * Panel;
        return (long)panel * depth + row * Math.Min(Panel, columns - panel) + (column - panel);
    }

    /// <summary>c = clamp(a b + bias + add, low, high).</summary>
    /// <param name="a">[rows, depth], rows <paramref name="lda"/> floats apart.</param>
    /// <param name="b">[depth, columns], as <see cref="At"/> says.</param>
    /// <param name="c">[rows, columns], rows <paramref name="ldc"/> floats apart.</param>
    /// <param name="add">Laid out as <paramref name="c"/>, which it may be; null for none.</param>
    /// <param name="runs">Into how many equal runs each of a's rows is divided, as under a convolution's window: one of each row of pixels.</param>
    /// <param name="apart">Floats from a run to the next: with runs of one number, a may be read across.</param>
    public static void Multiply(float* a, int lda, int rows, float* b, int depth, int columns, float* bias, float* c, int ldc, float* add = null,
        float low = float.NegativeInfinity, float high = float.PositiveInfinity, int runs = 1, int apart = 0)
    {
        var (run, step, skip) = runs == depth ? (depth, (nint)apart, (nint)0) : (depth / runs, 1, apart - depth / runs);
        runs = depth / run;
        for (var column = 0; column < columns; column += Panel, b += Panel * depth)
            for (var row = 0; row < rows; row += Rows)
            {
                var left = a + (nint)row * lda;
                var to = c + (nint)row * ldc + column;
                var plus = add == null ? null : add + (nint)row * ldc + column;
                switch (columns - column >= Panel, rows - row > Rows / 2)
                {
                    case (true, true):
                        Block<Full, Full>(left, lda, runs, run, step, skip, b, bias + column, to, ldc, plus, rows - row, low, high);
                        break;
                    case (true, false):
                        Block<Full, Half>(left, lda, runs, run, step, skip, b, bias + column, to, ldc, plus, rows - row, low, high);
                        break;
                    case (false, true):
                        Block<Half, Full>(left, lda, runs, run, step, skip, b, bias + column, to, ldc, plus, rows - row, low, high);
                        break;
                    default:
                        Block<Half, Half>(left, lda, runs, run, step, skip, b, bias + column, to, ldc, plus, rows - row, low, high);
                        break;
                }
            }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Block<TWide, TTall>(float* a, nint lda, int runs, int run, nint step, nint skip, float* b, float* bias, float* c, nint ldc, float* add, int rows, float lowest, float highest)
        where TWide : struct, IFull where TTall : struct, IFull
    {
        float* a3 = a + 3 * lda, a6 = a + 6 * lda, a9 = a + 9 * lda, a12 = a + 12 * lda;
        for (nint at = 0, end = Math.Min(rows, TTall.Is ? Rows : Rows / 2) * ldc; at < end; at += ldc) // it is needed when all is summed
        {
            Sse.Prefetch0(c + at);
            Sse.Prefetch0(c + at + Lanes);
            if (add == null)
                continue;
            Sse.Prefetch0(add + at);
            Sse.Prefetch0(add + at + Lanes);
        }
        var c0 = Vector512.Load(bias);
        var d0 = TWide.Is ? Vector512.Load(bias + Lanes) : default;
        Vector512<float> c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, c8 = c0, c9 = c0, c10 = c0, c11 = c0, c12 = c0, c13 = c0, d1 = d0, d2 = d0, d3 = d0, d4 = d0, d5 = d0, d6 = d0, d7 = d0, d8 = d0, d9 = d0, d10 = d0, d11 = d0, d12 = d0, d13 = d0, x;
        var ahead = (nint)runs * run * Panel; // the next columns, which may lie in a farther cache
        for (; runs > 0; runs--, a += skip, a3 += skip, a6 += skip, a9 += skip, a12 += skip)
            for (var left = run; left > 0; left--, a += step, a3 += step, a6 += step, a9 += step, a12 += step, b += TWide.Is ? Panel : Lanes)
            {
                Sse.Prefetch1(b + ahead);
                Sse.Prefetch1(b + ahead + Lanes);
                var b0 = Vector512.Load(b);
                var b1 = TWide.Is ? Vector512.Load(b + Lanes) : default;
                x = Vector512.Create(*a); c0 = Vector512.FusedMultiplyAdd(x, b0, c0); d0 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d0) : d0;
                x = Vector512.Create(a[lda]); c1 = Vector512.FusedMultiplyAdd(x, b0, c1); d1 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d1) : d1;
                x = Vector512.Create(a[2 * lda]); c2 = Vector512.FusedMultiplyAdd(x, b0, c2); d2 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d2) : d2;
                x = Vector512.Create(*a3); c3 = Vector512.FusedMultiplyAdd(x, b0, c3); d3 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d3) : d3;
                x = Vector512.Create(a3[lda]); c4 = Vector512.FusedMultiplyAdd(x, b0, c4); d4 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d4) : d4;
                x = Vector512.Create(a3[2 * lda]); c5 = Vector512.FusedMultiplyAdd(x, b0, c5); d5 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d5) : d5;
                x = Vector512.Create(*a6); c6 = Vector512.FusedMultiplyAdd(x, b0, c6); d6 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d6) : d6;
                if (TTall.Is)
                {
                    x = Vector512.Create(a6[lda]); c7 = Vector512.FusedMultiplyAdd(x, b0, c7); d7 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d7) : d7;
                    x = Vector512.Create(a6[2 * lda]); c8 = Vector512.FusedMultiplyAdd(x, b0, c8); d8 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d8) : d8;
                    x = Vector512.Create(*a9); c9 = Vector512.FusedMultiplyAdd(x, b0, c9); d9 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d9) : d9;
                    x = Vector512.Create(a9[lda]); c10 = Vector512.FusedMultiplyAdd(x, b0, c10); d10 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d10) : d10;
                    x = Vector512.Create(a9[2 * lda]); c11 = Vector512.FusedMultiplyAdd(x, b0, c11); d11 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d11) : d11;
                    x = Vector512.Create(*a12); c12 = Vector512.FusedMultiplyAdd(x, b0, c12); d12 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d12) : d12;
                    x = Vector512.Create(a12[lda]); c13 = Vector512.FusedMultiplyAdd(x, b0, c13); d13 = TWide.Is ? Vector512.FusedMultiplyAdd(x, b1, d13) : d13;
                }
            }
        var (low, high) = (Vector512.Create(lowest), Vector512.Create(highest));
        Put<TWide>(c, 0, ldc, rows, add, low, high, c0, d0);
        Put<TWide>(c, 1, ldc, rows, add, low, high, c1, d1);
        Put<TWide>(c, 2, ldc, rows, add, low, high, c2, d2);
        Put<TWide>(c, 3, ldc, rows, add, low, high, c3, d3);
        Put<TWide>(c, 4, ldc, rows, add, low, high, c4, d4);
        Put<TWide>(c, 5, ldc, rows, add, low, high, c5, d5);
        Put<TWide>(c, 6, ldc, rows, add, low, high, c6, d6);
        if (TTall.Is)
        {
            Put<TWide>(c, 7, ldc, rows, add, low, high, c7, d7);
            Put<TWide>(c, 8, ldc, rows, add, low, high, c8, d8);
            Put<TWide>(c, 9, ldc, rows, add, low, high, c9, d9);
            Put<TWide>(c, 10, ldc, rows, add, low, high, c10, d10);
            Put<TWide>(c, 11, ldc, rows, add, low, high, c11, d11);
            Put<TWide>(c, 12, ldc, rows, add, low, high, c12, d12);
            Put<TWide>(c, 13, ldc, rows, add, low, high, c13, d13);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put<TWide>(float* c, int row, nint ldc, int rows, float* add, Vector512<float> low, Vector512<float> high, Vector512<float> x, Vector512<float> y)
        where TWide : struct, IFull
    {
        if (row >= rows)
            return;
        var at = row * ldc;
        Clamp(x, add == null ? null : add + at, low, high).Store(c + at);
        if (TWide.Is)
            Clamp(y, add == null ? null : add + at + Lanes, low, high).Store(c + at + Lanes);
    }

    /// <summary>NaN stays NaN, as in torch: these instructions give their second operand then.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Clamp(Vector512<float> x, float* add, Vector512<float> low, Vector512<float> high) =>
        Vector512.MinNative(high, Vector512.MaxNative(low, add == null ? x : x + Vector512.Load(add)));
}
