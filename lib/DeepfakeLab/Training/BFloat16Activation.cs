using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace DeepfakeLab;

/// <summary>What is done with sums in registers before they are stored: limits or SiLU (<see cref="ConvolutionWeights"/>), and rounding.</summary>
/// <param name="constant">See <see cref="MachineCode.Add"/>.</param>
/// <param name="spare">The first of three vectors that it may use.</param>
internal readonly struct BFloat16Activation(Assembler c, ConvolutionWeights weights, Func<float, AssemblerMemoryOperand> constant, int spare)
{
    private readonly AssemblerRegisterZMM first = MachineCode.Vector(spare), second = MachineCode.Vector(spare + 1), third = MachineCode.Vector(spare + 2);

    /// <summary>Once before all sums; it uses r10.</summary>
    public void Begin()
    {
        foreach (var (limit, to) in ((float, AssemblerRegisterZMM)[])[(weights.Low, first), (weights.High, second)])
            if (float.IsFinite(limit))
            {
                c.mov(r10d, BitConverter.SingleToInt32Bits(limit));
                c.vpbroadcastd(to, r10d);
            }
    }

    public void Apply(AssemblerRegisterZMM x)
    {
        if (weights.IsSmooth)
            ApplySiLU(x);
        if (float.IsFinite(weights.Low)) // what is not a number stays none, as these instructions give their second operand then
            c.vmaxps(x, first, x);
        if (float.IsFinite(weights.High))
            c.vminps(x, second, x);
    }

    public void StoreRounded(AssemblerRegisterZMM x, AssemblerMemoryOperand at)
    {
        var rounded = new AssemblerRegisterYMM(Register.YMM0 + (x.Value - Register.ZMM0));
        c.vcvtneps2bf16(rounded, x);
        c.vmovups(at, rounded);
    }

    /// <summary>x / (1 + exp(-x)), within 1e-4: exp(-x) is 2^n 2^f with f from 0 to 1, and 2^f a polynomial of least relative error, 3e-6.</summary>
    private void ApplySiLU(AssemblerRegisterZMM x)
    {
        const byte downwards = 1;
        ReadOnlySpan<float> polynomial = [0.013534168f, 0.05201146f, 0.24144275f, 0.69300383f, 1.0000026f];
        c.vmulps(first, x, constant(-1.44269504f)); // -1 / ln 2
        c.vreduceps(second, first, downwards);
        c.vmulps(third, second, constant(polynomial[0]));
        c.vaddps(third, third, constant(polynomial[1]));
        foreach (var factor in polynomial[2..])
            c.vfmadd213ps(third, second, constant(factor));
        c.vscalefps(third, third, first);
        c.vaddps(third, third, constant(1));
        c.vrcp14ps(third, third);
        c.vmulps(x, x, third);
    }
}
