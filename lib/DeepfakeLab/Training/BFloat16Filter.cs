using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace DeepfakeLab;

/// <summary>
/// A filter of each channel by itself in bfloat16: two rows' numbers lie side by side in a register, so that an instruction that sums two products (vdpbf16ps) takes two of a
/// window's rows at once. Two rows of seven pixels are computed together.
/// </summary>
/// <remarks>
/// Laying two rows side by side takes the numbers of a register out of order, the first four of each eight before the others. <see cref="Place"/> says where a channel has to lie
/// for results to come in order.
/// </remarks>
internal sealed unsafe class BFloat16Filter : IDisposable
{
    public const int Chunk = 2 * Lanes; // channels of a register of bfloat16 numbers, which makes two of sums

    private const int Lanes = MatrixKernel.Lanes, Vector = Lanes * sizeof(float), MostColumns = 7;

    private readonly MachineCode code;
    private readonly ConvolutionWeights weights;
    private readonly int kernel, stride, halves, columns, width, fromPixel, fromLine, toPixel; // distances are bytes
    private readonly int[] functions; // for one row of pixels, and for two
    private readonly Floats packed; // 16 channels after 16: their bias; then what multiplies two rows, the first of them even, then uneven, under a window

    /// <param name="width">Pixels of a resulting row.</param>
    /// <param name="fromWidth">Pixels of a row, border included, of which each has whole chunks of channels.</param>
    public BFloat16Filter(MachineCode code, ConvolutionWeights weights, int width, int fromWidth)
    {
        (this.code, this.weights, this.width) = (code, weights, width);
        (kernel, stride, columns) = (weights.Kernel, weights.Stride, Math.Min(width, MostColumns));
        halves = MatrixKernel.Padded(weights.Outputs) / Lanes;
        fromPixel = Whole(weights.Outputs) * sizeof(ushort);
        fromLine = fromWidth * fromPixel;
        toPixel = halves * Lanes * sizeof(ushort);
        functions = [code.Add((c, constant) => Write(c, constant, 1)), code.Add((c, constant) => Write(c, constant, 2))];
        packed = new Floats((long)halves * (Taps + 1) * Lanes);
        var at = packed.Data;
        for (var channel = 0; channel < halves * Lanes; channel += Lanes)
        {
            for (var lane = 0; lane < Lanes; lane++)
                *at++ = channel + lane < weights.Outputs ? weights.Bias.Data[channel + lane] : 0;
            for (var phase = 0; phase <= stride % 2; phase++)
                for (var pair = 0; pair < Pairs(phase); pair++)
                    for (var tap = 0; tap < kernel; tap++)
                        for (var lane = 0; lane < Lanes; lane++)
                            *at++ = BFloat16Kernel.Pair(Weight(channel + lane, 2 * pair - phase, tap), Weight(channel + lane, 2 * pair + 1 - phase, tap));
        }
    }

    public long Weights => packed.Count;

    /// <summary>Which channel has to lie at this place of a pixel that is filtered.</summary>
    public static int Place(int at) => at / Chunk * Chunk + at % 8 / 4 * Lanes + at % Chunk / 8 * 4 + at % 4;

    /// <summary>Channels, rounded up to whole chunks.</summary>
    public static int Whole(int channels) => (channels + Chunk - 1) / Chunk * Chunk;

    /// <param name="from">The first pixel under the window, border included.</param>
    /// <param name="to">Rows of pixels that follow one another, with as many channels as there are, in multiples of 16.</param>
    public void Run(byte* from, int lines, byte* to)
    {
        for (int line = 0, together; line < lines; line += together)
        {
            together = Math.Min(2, lines - line);
            for (var x = 0; x < width; x += columns)
            {
                x = Math.Min(x, width - columns); // a few may be computed twice
                code.Call(functions[together - 1], from + (long)line * stride * fromLine + (long)x * stride * fromPixel, packed.Data, to + ((long)line * width + x) * toPixel, null);
            }
        }
    }

    public void Dispose() => packed.Dispose();

    /// <summary>How many pairs of rows a window lies on that begins at the first of two rows, or at the second.</summary>
    private int Pairs(int phase) => (kernel + phase + 1) / 2;

    /// <summary>Vectors of weights for sixteen channels: with a stride of two a window begins at the first of two rows only.</summary>
    private int Taps => (Pairs(0) + (stride % 2 == 1 ? Pairs(1) : 0)) * kernel;

    private float Weight(int channel, int row, int column) =>
        channel < weights.Outputs && row >= 0 && row < kernel ? weights.Values[(channel * kernel + row) * kernel + column] : 0;

    private void Write(Assembler c, Func<float, AssemblerMemoryOperand> constant, int lines)
    {
        if (halves > 1)
            MachineCode.Loop(c, eax, halves / 2, () =>
            {
                WriteHalf(c, constant, lines, false);
                WriteHalf(c, constant, lines, true);
                c.add(MachineCode.Arguments.A, Chunk * sizeof(ushort));
            });
        if (halves % 2 == 1)
            WriteHalf(c, constant, lines, false);
    }

    private void WriteHalf(Assembler c, Func<float, AssemblerMemoryOperand> constant, int lines, bool second)
    {
        var (from, right, to, _) = MachineCode.Arguments;
        var (rows, held) = (stride * (lines - 1) + kernel, lines > 1 ? Taps : Pairs(0) * kernel);
        var (sums, inRegisters) = (lines * columns, lines * columns + held + 3 <= 32);
        var (x, zero) = (MachineCode.Vector(31), MachineCode.Vector(30));
        for (var i = 0; i < sums; i++)
            if (i == 0)
                c.vmovups(Sum(0, 0), __zmmword_ptr[right]);
            else
                c.vmovaps(MachineCode.Vector(i), Sum(0, 0));
        for (var i = 0; inRegisters && i < held; i++)
            c.vmovups(MachineCode.Vector(sums + i), __zmmword_ptr[right + (i + 1) * Vector]);
        c.vpxord(zero, zero, zero);
        for (var column = 0; column < stride * (columns - 1) + kernel; column++)
            for (var pair = 0; pair < (rows + 1) / 2; pair++)
            {
                var uses = (from line in Enumerable.Range(0, lines)
                            let phase = stride * line % 2
                            let part = pair - stride * line / 2
                            where part >= 0 && part < Pairs(phase)
                            from pixel in Enumerable.Range(0, columns)
                            let tap = column - stride * pixel
                            where tap >= 0 && tap < kernel
                            select (line, pixel, Weight: (phase * Pairs(0) + part) * kernel + tap)).ToList();
                if (uses.Count == 0)
                    continue;
                var at = from + (2 * pair * fromLine + column * fromPixel);
                c.vmovups(x, __zmmword_ptr[at]);
                switch (second, 2 * pair + 1 < rows)
                {
                    case (false, true):
                        c.vpunpcklwd(x, x, __zmmword_ptr[at + fromLine]);
                        break;
                    case (true, true):
                        c.vpunpckhwd(x, x, __zmmword_ptr[at + fromLine]);
                        break;
                    case (false, false):
                        c.vpunpcklwd(x, x, zero);
                        break;
                    default:
                        c.vpunpckhwd(x, x, zero);
                        break;
                }
                foreach (var (line, pixel, weight) in uses)
                    if (inRegisters)
                        c.vdpbf16ps(Sum(line, pixel), x, MachineCode.Vector(sums + weight));
                    else
                        c.vdpbf16ps(Sum(line, pixel), x, __zmmword_ptr[right + (weight + 1) * Vector]);
            }
        var activation = new BFloat16Activation(c, weights, constant, 29);
        activation.Begin();
        for (var line = 0; line < lines; line++)
            for (var pixel = 0; pixel < columns; pixel++)
            {
                activation.Apply(Sum(line, pixel));
                activation.StoreRounded(Sum(line, pixel), __ymmword_ptr[to + (line * width + pixel) * toPixel]);
            }
        c.add(right, (Taps + 1) * Vector);
        c.add(to, Lanes * sizeof(ushort));

        AssemblerRegisterZMM Sum(int line, int pixel) => MachineCode.Vector(line * columns + pixel);
    }
}
