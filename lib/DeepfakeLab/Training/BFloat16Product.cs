using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace DeepfakeLab;

/// <summary>Where a convolution's numbers lie: distances are numbers, bfloat16 ones of its input and those of its output.</summary>
internal readonly record struct ProductShape
{
    /// <summary>Numbers of an input pixel. All are multiplied under windows larger than a pixel, else only as many as there are channels.</summary>
    public required int Inputs { get; init; }

    /// <summary>Of an input line, border included.</summary>
    public required int InputLine { get; init; }

    /// <summary>Pixels of an output line.</summary>
    public required int Width { get; init; }

    /// <summary>Numbers of an output pixel, in multiples of 16.</summary>
    public required int Outputs { get; init; }
    public required int OutputLine { get; init; }

    /// <summary>Whether results are bfloat16; else they are float32.</summary>
    public bool Rounds { get; init; }

    /// <summary>Whether something, laid out as the results, is added to them; float32 only.</summary>
    public bool Adds { get; init; }
}

/// <summary>
/// A convolution in bfloat16 by products of matrices, as <see cref="MatrixKernel"/> computes them in float32: sums of products of two numbers at a time, kept in float32, by an
/// instruction (vdpbf16ps) that does twice as much as one on float32. What lies under a window is a run of each row of pixels and read from there.
/// </summary>
internal sealed unsafe class BFloat16Product : IDisposable
{
    private const int Lanes = MatrixKernel.Lanes, Panel = 2 * Lanes, Vector = Lanes * sizeof(float), Most = MatrixKernel.Rows, Few = Most / 2; // pixels together

    private readonly MachineCode code;
    private readonly ProductShape shape;
    private readonly ConvolutionWeights weights;
    private readonly int pairs, size; // of a run; bytes of a result
    private readonly (int Lines, int Width, int[] Functions)[] blocks; // the largest, one line of it, a part of one; functions for whole panels, and for a half
    private readonly Floats packed; // panel by panel: the bias, then for two inputs at a time the panel's weights, side by side

    /// <param name="channel">Which output a column is; none, if there is no such output. Null where they are in order.</param>
    public BFloat16Product(MachineCode code, ConvolutionWeights weights, ProductShape shape, Func<int, int>? channel = null)
    {
        (this.code, this.weights, this.shape, size) = (code, weights, shape, shape.Rounds ? sizeof(ushort) : sizeof(float));
        pairs = weights.Kernel == 1 ? (weights.Inputs + 1) / 2 : weights.Kernel * shape.Inputs / 2;
        var width = Math.Min(Most, shape.Width);
        var large = Block(Most / width, width);
        var line = large.Lines > 1 ? Block(1, width) : large;
        blocks = [large, line, width > Few && shape.Width % Most is > 0 and <= Few ? Block(1, Few) : line];
        packed = new Floats((weights.Kernel * pairs + 1L) * shape.Outputs);
        var at = packed.Data;
        for (var column = 0; column < shape.Outputs; column += Panel)
        {
            int[] outputs = [.. Enumerable.Range(column, Math.Min(Panel, shape.Outputs - column)).Select(c => channel?.Invoke(c) ?? c)];
            foreach (var output in outputs)
                *at++ = output < weights.Outputs ? weights.Bias.Data[output] : 0;
            for (var row = 0; row < weights.Kernel; row++)
                for (var pair = 0; pair < pairs; pair++)
                    foreach (var output in outputs)
                        *at++ = BFloat16Kernel.Pair(Weight(output, row, 2 * pair), Weight(output, row, 2 * pair + 1));
        }
    }

    public long Weights => packed.Count;

    /// <param name="from">What is under the first window; images <paramref name="fromApart"/> numbers apart.</param>
    /// <param name="lines">Of each image's results.</param>
    /// <param name="to">Images <paramref name="toApart"/> numbers apart.</param>
    /// <param name="add">As <paramref name="to"/>, which it is not; null for none.</param>
    public void Multiply(ushort* from, int lines, void* to, float* add = null, int images = 1, long fromApart = 0, long toApart = 0)
    {
        var panel = (byte*)packed.Data;
        for (var column = 0; column < shape.Outputs; column += Panel)
        {
            var half = shape.Outputs - column < Panel ? 1 : 0;
            for (var image = 0; image < images; image++)
                for (int line = 0, taken; line < lines; line += taken)
                {
                    taken = lines - line < blocks[0].Lines ? 1 : blocks[0].Lines;
                    for (var pixel = 0; pixel < shape.Width;)
                    {
                        var block = taken > 1 ? blocks[0] : shape.Width - pixel > Few ? blocks[1] : blocks[2];
                        pixel = Math.Min(pixel, shape.Width - block.Width); // a few may be computed twice
                        var at = image * toApart + (long)line * shape.OutputLine + (long)pixel * shape.Outputs + column;
                        code.Call(block.Functions[half], from + image * fromApart + ((long)line * shape.InputLine + (long)pixel * shape.Inputs) * weights.Stride, panel, (byte*)to + at * size, add + at);
                        pixel += block.Width;
                    }
                }
            panel += (weights.Kernel * pairs + 1L) * (2 - half) * Vector;
        }
    }

    public void Dispose() => packed.Dispose();

    private (int Lines, int Width, int[] Functions) Block(int lines, int width) =>
        (lines, width, [shape.Outputs >= Panel ? code.Add((c, constant) => Write(c, constant, lines, width, 2)) : 0, shape.Outputs % Panel > 0 ? code.Add((c, constant) => Write(c, constant, lines, width, 1)) : 0]);

    private float Weight(int output, int row, int number)
    {
        var (column, input) = (number / shape.Inputs, number % shape.Inputs);
        return output < weights.Outputs && input < weights.Inputs && column < weights.Kernel ? weights.Values[((output * weights.Inputs + input) * weights.Kernel + row) * weights.Kernel + column] : 0;
    }

    private void Write(Assembler c, Func<float, AssemblerMemoryOperand> constant, int lines, int columns, int vectors)
    {
        var (from, right, to, add) = MachineCode.Arguments;
        var (x, pixels) = (MachineCode.Vector(31), lines * columns);
        for (var pixel = 0; pixel < pixels; pixel++)
            for (var i = 0; i < vectors; i++)
                if (pixel == 0)
                    c.vmovups(Sum(0, i), __zmmword_ptr[right + i * Vector]);
                else
                    c.vmovaps(Sum(pixel, i), Sum(0, i));
        for (var pixel = 0; pixel < pixels; pixel++) // it is needed when all is summed
            for (var i = 0; i < vectors * size; i += sizeof(float))
                c.prefetcht0(__byte_ptr[to + Result(pixel) * size + i / sizeof(float) * Vector]);
        MachineCode.Loop(c, r11d, weights.Kernel, () =>
        {
            MachineCode.Loop(c, eax, pairs, () =>
            {
                c.add(right, vectors * Vector);
                for (var i = 0; i < vectors; i++)
                {
                    c.vmovups(Right(i), __zmmword_ptr[right + i * Vector]);
                    c.prefetcht1(__byte_ptr[right + i * Vector + (weights.Kernel * pairs + 1) * vectors * Vector]); // the next panel, which may lie in a farther cache
                }
                for (var pixel = 0; pixel < pixels; pixel++)
                {
                    c.vpbroadcastd(x, __dword_ptr[from + (pixel / columns * shape.InputLine + pixel % columns * shape.Inputs) * weights.Stride * sizeof(ushort)]);
                    for (var i = 0; i < vectors; i++)
                        c.vdpbf16ps(Sum(pixel, i), Right(i), x);
                }
                c.add(from, 2 * sizeof(ushort));
            });
            if (weights.Kernel > 1)
                c.add(from, (shape.InputLine - 2 * pairs) * sizeof(ushort));
        });
        var activation = new BFloat16Activation(c, weights, constant, 28);
        activation.Begin();
        for (var pixel = 0; pixel < pixels; pixel++)
        {
            var at = to + Result(pixel) * size;
            for (var i = 0; i < vectors; i++)
            {
                if (shape.Adds)
                    c.vaddps(Sum(pixel, i), Sum(pixel, i), __zmmword_ptr[add + Result(pixel) * sizeof(float) + i * Vector]);
                activation.Apply(Sum(pixel, i));
                if (!shape.Rounds)
                    c.vmovups(__zmmword_ptr[at + i * Vector], Sum(pixel, i));
            }
            if (shape.Rounds && vectors == 2)
            {
                c.vcvtne2ps2bf16(x, Sum(pixel, 1), Sum(pixel, 0));
                c.vmovups(__zmmword_ptr[at], x);
            }
            else if (shape.Rounds)
                activation.StoreRounded(Sum(pixel, 0), __ymmword_ptr[at]);
        }

        AssemblerRegisterZMM Sum(int pixel, int i) => MachineCode.Vector(pixel * vectors + i);
        AssemblerRegisterZMM Right(int i) => MachineCode.Vector(28 + i);
        int Result(int pixel) => pixel / columns * shape.OutputLine + pixel % columns * shape.Outputs;
    }
}
