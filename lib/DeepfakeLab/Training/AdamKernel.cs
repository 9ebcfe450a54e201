using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A step of Adam (Kingma and Ba 2014, arXiv:1412.6980) or AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) on float32 parameters on the
/// processor, in one pass over memory where torch's operators take nine. A network of many weights and small images spends much of its time there.
/// </summary>
internal static unsafe class AdamKernel
{
    /// <summary>Numbers that a thread takes at a time.</summary>
    private const int Block = 1 << 15;

    /// <summary>PyTorch's defaults, which no recipe changes.</summary>
    public const double Beta1 = 0.9, Beta2 = 0.999, Epsilon = 1e-8;

    /// <summary>What is the same for all numbers of a parameter.</summary>
    /// <param name="Keep">What is left of the number itself by AdamW's decay.</param>
    /// <param name="Sign">How much of the number's sign is added to its gradient.</param>
    /// <param name="Decay">How much of the number itself is.</param>
    /// <param name="Size">The rate, by Adam's correction of the mean.</param>
    /// <param name="Root">The root of Adam's correction of the mean square.</param>
    internal readonly record struct Factors(float Keep, float Sign, float Decay, double Size, double Root);

    /// <summary>One parameter, its gradient, and the means of its gradients and of their squares, all in the same order in memory.</summary>
    internal readonly record struct Numbers(nint Value, nint Gradient, nint Mean, nint Square, long Count, Factors Factors);

    public static void Step(IReadOnlyList<Numbers> all)
    {
        (Numbers Of, long From)[] blocks = [.. all.SelectMany(n => Enumerable.Range(0, (int)((n.Count + Block - 1) / Block)).Select(i => (n, (long)i * Block)))];
        Team.ForEach(blocks.Length, block =>
        {
            var (n, from) = blocks[block];
            Step((float*)n.Value + from, (float*)n.Gradient + from, (float*)n.Mean + from, (float*)n.Square + from, (int)Math.Min(Block, n.Count - from), n.Factors);
        });
    }

    /// <summary>Where a dense float32 tensor begins in memory, and whether its channels lie last there; null for one that is neither like that nor in the order of its dimensions.</summary>
    public static (nint Begin, bool ChannelsLast)? Find(Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CPU || tensor.dtype != ScalarType.Float32)
            return null;
        using var plain = tensor.detach();
        if (plain.is_contiguous())
            return (Begin(plain), false);
        if (plain.dim() != 4)
            return null;
        using var last = plain.permute(0, 2, 3, 1);
        return last.is_contiguous() ? (Begin(last), true) : null;

        static nint Begin(Tensor dense)
        {
            fixed (byte* p = dense.bytes) // torch's memory, which stays where it is
                return (nint)p;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Step(float* value, float* gradient, float* mean, float* square, int count, Factors f)
    {
        var i = 0;
        for (; i <= count - 8; i += 8)
        {
            var (p, m, v) = Step(Vector256.Load(value + i), Vector256.Load(gradient + i), Vector256.Load(mean + i), Vector256.Load(square + i), f);
            p.Store(value + i);
            m.Store(mean + i);
            v.Store(square + i);
        }
        for (; i < count; i++)
        {
            var (p, m, v) = Step(Vector256.CreateScalar(value[i]), Vector256.CreateScalar(gradient[i]), Vector256.CreateScalar(mean[i]), Vector256.CreateScalar(square[i]), f);
            (value[i], mean[i], square[i]) = (p[0], m[0], v[0]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector256<float> Value, Vector256<float> Mean, Vector256<float> Square) Step(
        Vector256<float> p, Vector256<float> g, Vector256<float> m, Vector256<float> v, Factors f)
    {
        var zero = Vector256<float>.Zero;
        g += f.Decay * p + ((Vector256.GreaterThan(p, zero) & Vector256.Create(f.Sign)) - (Vector256.LessThan(p, zero) & Vector256.Create(f.Sign)));
        m = (float)Beta1 * m + (float)(1 - Beta1) * g;
        v = (float)Beta2 * v + (float)(1 - Beta2) * (g * g);
        return (f.Keep * p - (float)(f.Size * f.Root) * (m / (Vector256.Sqrt(v) + Vector256.Create((float)(f.Root * Epsilon)))), m, v);
    }
}
