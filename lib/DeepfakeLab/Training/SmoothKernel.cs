using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace DeepfakeLab;

/// <summary>What follows a convolution: limits, or SiLU.</summary>
internal static unsafe class SmoothKernel
{
    public interface IActivation
    {
        static abstract Vector512<float> Of(Vector512<float> x, Vector512<float> low, Vector512<float> high);
    }

    public readonly struct Limited : IActivation
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector512<float> Of(Vector512<float> x, Vector512<float> low, Vector512<float> high) => MatrixKernel.Clamp(x, null, low, high);
    }

    public readonly struct Smooth : IActivation
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector512<float> Of(Vector512<float> x, Vector512<float> low, Vector512<float> high) => x * Sigmoid(x);
    }

    /// <summary>x times its sigmoid, in place.</summary>
    /// <param name="count">A multiple of 16.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    public static void SiLU(float* x, long count)
    {
        for (var end = x + count; x < end; x += MatrixKernel.Lanes)
        {
            var z = Vector512.Load(x);
            (z * Sigmoid(z)).Store(x);
        }
    }

    /// <summary>As <see cref="NormKernels.Sigmoid"/>, of sixteen numbers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Sigmoid(Vector512<float> z)
    {
        var x = Vector512.MinNative(Vector512.Create(89f), Vector512.MaxNative(Vector512.Create(-87f), -z));
        var rounder = Vector512.Create(12582912f);
        var shifted = Vector512.FusedMultiplyAdd(x, Vector512.Create(1.44269504f), rounder);
        var n = shifted - rounder;
        var r = Vector512.FusedMultiplyAdd(n, Vector512.Create(2.12194440e-4f), Vector512.FusedMultiplyAdd(n, Vector512.Create(-0.693359375f), x));
        var p = Vector512.FusedMultiplyAdd(r, Vector512.Create(1.9875691500e-4f), Vector512.Create(1.3981999507e-3f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(8.3334519073e-3f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(4.1665795894e-2f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1.6666665459e-1f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(5.0000001201e-1f));
        p = Vector512.FusedMultiplyAdd(p, r * r, r + Vector512<float>.One);
        var power = Vector512.ShiftLeft(shifted.AsInt32(), 23) + Vector512.Create(0x3F800000);
        return Vector512<float>.One / Vector512.FusedMultiplyAdd(p, power.AsSingle(), Vector512<float>.One);
    }
}
