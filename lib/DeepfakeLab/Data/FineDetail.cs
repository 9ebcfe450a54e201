using System.Numerics;
using System.Runtime.Intrinsics;

namespace DeepfakeLab;

/// <summary>
/// What is finest in a small grey picture, for comparing face crops: two faces of different people are alike in the large, two
/// crops of one photo are alike in their detail, everywhere but in the parts that were replaced.
/// </summary>
/// <remarks>
/// Block by block Pearson's r of the detail (the picture minus its 5x5 mean), at each of 7x7 shifts, since two crops of one photo
/// seldom begin at the same pixel; the likeness is the mean of the better half of the blocks at the best shift. Whole numbers
/// up to the last step, so that every machine finds the same groups.
/// </remarks>
internal sealed class FineDetail
{
    /// <summary>The side of the square grey pictures that are compared.</summary>
    public const int Side = 64;

    private const int Shift = 3, Block = 8, Blocks = 6, Margin = (Side - Block * Blocks) / 2;
    private const double CoarseAlike = 0.3; // all 61 pairs that are alike on the face crops lie above .35, 97 % of the others below

    private readonly int[] detail, coarse;
    private readonly double coarseLength;

    public FineDetail(byte[] grey)
    {
        detail = HighPass(grey, 2);
        coarse = HighPass(grey, 6);
        coarseLength = Math.Sqrt(coarse.Sum(v => (double)v * v));
    }

    /// <summary>Likeness to <paramref name="other"/>, -1 to 1; 0 where a first comparison shows another photo.</summary>
    public double Likeness(FineDetail other)
    {
        if (coarseLength == 0 || other.coarseLength == 0 || Dot(coarse, other.coarse) < CoarseAlike * coarseLength * other.coarseLength)
            return 0;
        var (best, blocks) = (-1.0, new double[Blocks * Blocks]);
        for (var dy = -Shift; dy <= Shift; dy++)
            for (var dx = -Shift; dx <= Shift; dx++)
            {
                for (var b = 0; b < blocks.Length; b++)
                {
                    var (x, y) = (Margin + b % Blocks * Block, Margin + b / Blocks * Block);
                    blocks[b] = Correlation(y * Side + x, other, (y + dy) * Side + x + dx);
                }
                Array.Sort(blocks);
                var sum = 0.0;
                foreach (var r in blocks.AsSpan(blocks.Length / 2))
                    sum += r;
                best = Math.Max(best, sum / (blocks.Length / 2));
            }
        return best;
    }

    private double Correlation(int at, FineDetail other, int otherAt)
    {
        const int n = Block * Block;
        Vector256<int> a = default, b = default, aa = default, bb = default, ab = default;
        for (var y = 0; y < Block; y++)
        {
            var p = Vector256.Create<int>(detail.AsSpan(at + y * Side, Block));
            var q = Vector256.Create<int>(other.detail.AsSpan(otherAt + y * Side, Block));
            (a, b, aa, bb, ab) = (a + p, b + q, aa + p * p, bb + q * q, ab + p * q);
        }
        // A block that is nearly flat tells nothing: its noise counts as a little contrast of its own.
        double Spread(int sum, int squares) => Math.Sqrt(Math.Max(squares - (double)sum * sum / n, n));
        int sumA = Vector256.Sum(a), sumB = Vector256.Sum(b);
        return (Vector256.Sum(ab) - (double)sumA * sumB / n) / (Spread(sumA, Vector256.Sum(aa)) * Spread(sumB, Vector256.Sum(bb)));
    }

    private static long Dot(int[] a, int[] b)
    {
        var total = Vector<int>.Zero; // at most 512 products of bytes a lane: they fit
        for (var i = 0; i < a.Length; i += Vector<int>.Count)
            total += new Vector<int>(a, i) * new Vector<int>(b, i);
        var sum = 0L;
        for (var i = 0; i < Vector<int>.Count; i++)
            sum += total[i];
        return sum;
    }

    /// <summary>Each pixel minus the mean of the square around it, rounded towards zero; the edge goes on outside.</summary>
    private static int[] HighPass(byte[] grey, int radius)
    {
        var window = (2 * radius + 1) * (2 * radius + 1);
        var rows = new int[grey.Length];
        for (var i = 0; i < grey.Length; i++)
            for (var d = -radius; d <= radius; d++)
                rows[i] += grey[i / Side * Side + Math.Clamp(i % Side + d, 0, Side - 1)];
        var result = new int[grey.Length];
        for (var i = 0; i < grey.Length; i++)
        {
            var sum = 0;
            for (var d = -radius; d <= radius; d++)
                sum += rows[Math.Clamp(i / Side + d, 0, Side - 1) * Side + i % Side];
            result[i] = (window * grey[i] - sum) / window;
        }
        return result;
    }
}
