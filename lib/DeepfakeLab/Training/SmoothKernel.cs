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
        public static Vector512<float> Of(Vector512<float> x, Vector512<float> low, Vector512<float> high) => NormKernels.SiLU.Value(new Sixteen(x));
    }

    /// <summary>x times its sigmoid, in place.</summary>
    /// <param name="count">A multiple of 16.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    public static void SiLU(float* x, long count)
    {
        for (var end = x + count; x < end; x += Sixteen.Count)
            NormKernels.SiLU.Value(Sixteen.Load(x)).Store(x);
    }
}
