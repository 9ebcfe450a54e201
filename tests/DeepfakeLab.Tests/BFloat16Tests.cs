using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>Our own bfloat16 layers beside sums in double precision of the same rounded numbers, to the edge of every size of block; what is beside the results is not written.</summary>
public sealed unsafe class BFloat16Tests
{
    private const int Guard = 64;
    private const float Untouched = 9;

    private readonly Random random = new(8);

    public BFloat16Tests() => LabRuntime.Start();

    [Theory]
    [InlineData(1, 1, 24, 16), InlineData(1, 1, 7, 48), InlineData(1, 2, 32, 32), InlineData(3, 1, 32, 80), InlineData(3, 2, 64, 16), InlineData(7, 2, 3, 64)]
    public void Products_are_sums_of_rounded_numbers(int kernel, int stride, int inputs, int outputs)
    {
        if (!AreThere())
            return;
        foreach (var (width, lines, rounds, adds, activation) in from width in (int[])[1, 3, 5, 7, 8, 14, 29]
                                                                 from lines in (int[])[1, 2, 5]
                                                                 let kind = (width + lines) % 3
                                                                 select (width, lines, kind == 0, kind == 1, (Activation)((width + lines) % 4)))
            Check(kernel, stride, inputs, outputs, width, lines, rounds, adds, activation);
    }

    private enum Activation
    {
        None,
        ReLU,
        ReLU6,
        SiLU,
    }

    private void Check(int kernel, int stride, int inputs, int outputs, int width, int lines, bool rounds, bool adds, Activation activation)
    {
        using var scope = NewDisposeScope();
        using var weights = Weights(nn.Conv2d(inputs, outputs - 3, kernel, stride: stride), activation);
        using var code = new MachineCode();
        var wide = inputs == 3 ? 4 : BFloat16Filter.Whole(inputs);
        var (images, height, line) = (2, (lines - 1) * stride + kernel, ((width - 1) * stride + kernel) * wide);
        using var product = new BFloat16Product(code, weights, new() { Inputs = wide, InputLine = line, Width = width, Outputs = outputs, OutputLine = width * outputs + 16, Rounds = rounds, Adds = adds }, c => c ^ 1);
        code.Seal();
        var from = Numbers(images * height * line);
        for (var i = 0; i < from.Length; i++)
            from[i] = i % wide < inputs ? from[i] : kernel == 1 && i % wide > inputs ? float.NaN : 0; // what is no channel is not read, or times zero
        var apart = lines * (width * outputs + 16);
        float[] add = Numbers(images * apart), results = [.. Enumerable.Repeat(Untouched, images * apart + Guard)];
        var halves = results.Select(x => (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16)).ToArray();
        fixed (ushort* x = Halves(from), rounded = halves)
        fixed (float* plus = add, y = results)
            product.Multiply(x, lines, rounds ? rounded : y, adds ? plus : null, images, height * line, apart);
        for (var i = 0; i < results.Length; i++)
        {
            var (image, y, x, column) = (i / apart, i % apart / (width * outputs + 16), i % apart % (width * outputs + 16) / outputs, i % apart % (width * outputs + 16) % outputs);
            double expected = Untouched;
            if (image < images && x < width)
            {
                var output = column ^ 1;
                var sum = adds ? (double)add[i] : 0;
                if (output < outputs - 3)
                {
                    sum += weights.Bias.Data[output];
                    for (var input = 0; input < inputs; input++)
                        for (var tap = 0; tap < kernel * kernel; tap++)
                            sum += (double)Rounded(weights.Values[(output * inputs + input) * kernel * kernel + tap])
                                * from[(image * height + y * stride + tap / kernel) * line + (x * stride + tap % kernel) * wide + input];
                }
                expected = Of(activation, sum);
            }
            var actual = rounds ? Float(halves[i]) : results[i];
            Assert.True(Math.Abs(actual - expected) <= 1e-4 + Math.Abs(expected) * (rounds ? 1 / 250.0 : 2e-4), $"{width}x{lines} {rounds} {adds} {activation} at {image}, {y}, {x}, {column}: {actual}, not {expected}");
        }
    }

    [Theory]
    [InlineData(3, 1), InlineData(3, 2), InlineData(5, 1), InlineData(5, 2), InlineData(7, 1)]
    public void Filters_are_sums_of_rounded_numbers(int kernel, int stride)
    {
        if (!AreThere())
            return;
        foreach (var (width, lines, channels) in from width in (int[])[1, 3, 7, 8, 15] from lines in (int[])[1, 2, 5] from channels in (int[])[5, 16, 32, 40, 64] select (width, lines, channels))
        {
            using var scope = NewDisposeScope();
            var activation = (Activation)((width + lines + channels) % 4);
            using var weights = Weights(nn.Conv2d(channels, channels, kernel, stride: stride, groups: channels), activation);
            using var code = new MachineCode();
            var (wide, deep, across) = (BFloat16Filter.Whole(channels), MatrixKernel.Padded(channels), (width - 1) * stride + kernel);
            using var filter = new BFloat16Filter(code, weights, width, across);
            code.Seal();
            var from = Numbers(((lines - 1) * stride + kernel) * across * wide);
            var to = Halves([.. Enumerable.Repeat(Untouched, lines * width * deep + Guard)]);
            fixed (ushort* x = Halves(from), y = to)
                filter.Run((byte*)x, lines, (byte*)y);
            for (var i = 0; i < to.Length; i++)
            {
                var (y, x, channel) = (i / deep / width, i / deep % width, i % deep);
                double expected = Untouched;
                if (y < lines && channel < channels)
                {
                    var place = Enumerable.Range(0, wide).Single(p => BFloat16Filter.Place(p) == channel);
                    double sum = weights.Bias.Data[channel];
                    for (var tap = 0; tap < kernel * kernel; tap++)
                        sum += (double)Rounded(weights.Values[channel * kernel * kernel + tap]) * from[((y * stride + tap / kernel) * across + x * stride + tap % kernel) * wide + place];
                    expected = Of(activation, sum);
                }
                else if (y < lines)
                    expected = Of(activation, 0); // a channel that is none
                Assert.True(Math.Abs(Float(to[i]) - expected) <= 1e-4 + Math.Abs(expected) / 250, $"{width}x{lines}x{channels} {activation} at {y}, {x}, {channel}: {Float(to[i])}, not {expected}");
            }
        }
    }

    [Fact]
    public void Pixels_are_rounded_in_order_or_in_the_order_of_the_filter_and_pictures_by_fours()
    {
        Assert.SkipUnless(BFloat16Kernel.IsSupported, "needs registers of 512 bits");
        var from = Numbers(3 * 80 + 16, round: false);
        var to = new ushort[3 * 64];
        foreach (var asFiltered in (bool[])[false, true])
        {
            fixed (float* x = from)
            fixed (ushort* y = to)
                BFloat16Kernel.Round(x, 80, 3, 64, y, asFiltered);
            for (var i = 0; i < to.Length; i++)
                Assert.Equal(Rounded(from[i / 64 * 80 + (asFiltered ? BFloat16Filter.Place(i % 64) : i % 64)]), Float(to[i]));
        }
        var quads = new ushort[4 * 37];
        fixed (float* x = from)
        fixed (ushort* y = quads)
            BFloat16Kernel.Quads(x, 40, 37, y);
        for (var i = 0; i < quads.Length; i++)
            Assert.Equal(i % 4 == 3 ? 0 : Rounded(from[i % 4 * 40 + i / 4]), Float(quads[i]));
    }

    [Fact]
    public void What_is_infinite_or_no_number_stays_so_through_limits_and_SiLU()
    {
        if (!AreThere())
            return;
        using var scope = NewDisposeScope();
        foreach (var activation in Enum.GetValues<Activation>())
        {
            var conv = nn.Conv2d(2, 16, 1, bias: false);
            using (no_grad())
                conv.weight!.fill_(1);
            using var weights = Weights(conv, activation);
            using var code = new MachineCode();
            using var product = new BFloat16Product(code, weights, new() { Inputs = 2, InputLine = 8, Width = 4, Outputs = 16, OutputLine = 64 });
            code.Seal();
            float[] given = [float.NaN, float.PositiveInfinity, -100, 100], results = new float[64];
            fixed (ushort* x = Halves([.. given.SelectMany(g => (float[])[g, 0])]))
            fixed (float* y = results)
                product.Multiply(x, 1, y);
            for (var i = 0; i < given.Length; i++)
                Assert.Equal(Of(activation, given[i]), results[16 * i], 0.01);
        }
    }

    /// <summary>Whether the processor has them; where it has, they must run.</summary>
    internal static bool AreThere()
    {
        Assert.Null(MachineCode.Refusal);
        Assert.True(MachineCode.IsSupported || !File.Exists("/proc/cpuinfo") || !File.ReadAllText("/proc/cpuinfo").Contains("avx512_bf16", StringComparison.Ordinal));
        return MachineCode.IsSupported;
    }

    private static ConvolutionWeights Weights(TorchSharp.Modules.Conv2d conv, Activation activation) =>
        new(conv, activation is Activation.ReLU or Activation.ReLU6 ? 0 : float.NegativeInfinity, activation == Activation.ReLU6 ? 6 : float.PositiveInfinity, activation == Activation.SiLU);

    private static double Of(Activation activation, double x) => activation switch
    {
        Activation.ReLU => double.IsNaN(x) ? x : Math.Max(0, x),
        Activation.ReLU6 => double.IsNaN(x) ? x : Math.Clamp(x, 0, 6),
        Activation.SiLU => x / (1 + Math.Exp(-x)),
        _ => x,
    };

    private float[] Numbers(int count, bool round = true) => [.. Enumerable.Range(0, count).Select(_ => random.NextSingle() * 4 - 2).Select(x => round ? Rounded(x) : x)];

    private static ushort[] Halves(float[] rounded) => [.. rounded.Select(x => (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16))];

    private static float Float(ushort half) => BitConverter.UInt32BitsToSingle((uint)half << 16);

    /// <summary>To the nearest, or to the even one of two.</summary>
    private static float Rounded(float x)
    {
        var bits = BitConverter.SingleToUInt32Bits(x);
        return BitConverter.UInt32BitsToSingle(bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000);
    }
}
