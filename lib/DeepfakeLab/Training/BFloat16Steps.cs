namespace DeepfakeLab;

/// <summary>
/// <see cref="InvertedResidual"/> in bfloat16: what comes in and goes out is float32, so that sums along the shortcuts are not rounded, what lies between is bfloat16.
/// </summary>
internal sealed unsafe class BFloat16Residual : VectorStep
{
    private const int HeldBytes = 1 << 19; // of expanded rows: half of a second cache of 1 MiB
    private const int ScaledBytes = 1 << 15; // of filtered rows that are scaled, then read at once by the convolution behind

    private readonly Maps input;
    private readonly Maps? add;
    private readonly Excitation? excitation;
    private readonly ConvolutionWeights filterWeights;
    private readonly ConvolutionWeights[] weights;
    private readonly BFloat16Product? expand;
    private readonly BFloat16Product project;
    private readonly BFloat16Filter filter;
    private readonly int wide, narrow, deep, border, line, stripe; // numbers of a pixel: expanded, as it came, filtered; pixels of a border; numbers of an expanded row; output rows at a time

    public BFloat16Residual(MachineCode code, ConvolutionWeights? expand, ConvolutionWeights filter, Excitation? excitation, ConvolutionWeights project, Maps input, Maps output, Maps? add) : base(output, input, add)
    {
        (this.input, this.add, this.excitation, filterWeights, border) = (input, add, excitation, filter, filter.Padding);
        weights = [.. ((ConvolutionWeights?[])[expand, filter, project]).OfType<ConvolutionWeights>()];
        (wide, narrow, deep) = (BFloat16Filter.Whole(filter.Outputs), BFloat16Filter.Whole(input.Channels), MatrixKernel.Padded(filter.Outputs));
        line = (input.Width + 2 * border) * wide;
        stripe = Math.Clamp((HeldBytes / sizeof(ushort) / line - filter.Kernel) / filter.Stride + 1, 1, output.Height);
        stripe -= stripe > 2 && stripe < output.Height ? stripe % 2 : 0; // rows are filtered by twos
        this.expand = expand is null ? null
            : new BFloat16Product(code, expand, new() { Inputs = narrow, InputLine = input.Width * narrow, Width = input.Width, Outputs = wide, OutputLine = line, Rounds = true }, BFloat16Filter.Place);
        this.filter = new BFloat16Filter(code, filter, output.Width, input.Width + 2 * border);
        this.project = new BFloat16Product(code, project,
            new() { Inputs = deep, InputLine = output.Width * deep, Width = output.Width, Outputs = output.Stride, OutputLine = output.Width * output.Stride, Adds = add is not null });
    }

    private long Held => (stripe - 1) * filterWeights.Stride + filterWeights.Kernel; // rows, those of the border included

    private long Filtered => (long)(excitation is null ? stripe : Output.Height) * Output.Width * deep;

    private long Rounded => expand is null ? 0 : Held * input.Width * narrow;

    public override long Scratch => (Held * line + Filtered + Rounded) / 2 + MatrixKernel.Lanes + (excitation?.Scratch ?? 0);

    public override long Weights => (expand?.Weights ?? 0) + filter.Weights + project.Weights + (excitation?.Weights ?? 0);

    public override int Items(Part part) => part.Images * Bands(part);

    public override void Run(int item, Part part, float* scratch)
    {
        var bands = Bands(part);
        var (image, band) = (item / bands, item % bands);
        var (y, end) = (Output.Height * band / bands, Output.Height * (band + 1) / bands);
        ushort* rows = (ushort*)scratch, filtered = rows + Held * line, rounded = filtered + Filtered;
        var sums = (float*)(rounded + Rounded);
        float* source = input.Of(part) + input.Offset(image, 0, 0), to = Output.Of(part), plus = add is null ? null : add.Of(part);
        excitation?.Begin(sums);
        for (var (first, last) = (0, int.MinValue / 2); y < end; y += stripe) // the rows that lie there
        {
            var count = Math.Min(stripe, end - y);
            var (from, until) = (y * filterWeights.Stride - border, (y + count - 1) * filterWeights.Stride - border + filterWeights.Kernel);
            var kept = Math.Max(0, last - from);
            if (kept > 0)
                Buffer.MemoryCopy(rows + (long)(from - first) * line, rows, long.MaxValue, (long)kept * line * sizeof(ushort));
            Expand(source, from + kept, until, rows + (long)kept * line, rounded);
            (first, last) = (from, until);
            filter.Run((byte*)rows, count, (byte*)filtered);
            if (excitation is not null)
            {
                BFloat16Kernel.Sum(filtered, count * Output.Width, deep, sums);
                filtered += (long)count * Output.Width * deep;
            }
            else
                Project(y, count);
        }
        if (excitation is null)
            return;
        var factors = excitation.Factors(sums, Output.Pixels);
        filtered = rows + Held * line;
        var together = Math.Max(1, ScaledBytes / (Output.Width * deep * sizeof(ushort)));
        for (y = 0; y < end; y += together, filtered += (long)together * Output.Width * deep)
        {
            BFloat16Kernel.Scale(filtered, Math.Min(together, end - y) * Output.Width, deep, factors);
            Project(y, Math.Min(together, end - y));
        }

        void Project(int y, int count)
        {
            var at = Output.Offset(image, y, 0);
            project.Multiply(filtered, count, to + at, plus == null ? null : plus + at);
        }
    }

    public override void Dispose()
    {
        foreach (var held in (IDisposable?[])[expand, filter, excitation, project, .. weights])
            held?.Dispose();
    }

    private int Bands(Part part) => excitation is not null ? 1 : ImageBands(part, (Output.Height + stripe - 1) / stripe);

    /// <summary>Rows of the image with a border of zeros, and rows of zeros above and below it.</summary>
    private void Expand(float* source, int from, int until, ushort* to, ushort* rounded)
    {
        BFloat16Convolution.Border(input.Height, from, until, line, border * wide, to, out var top, out var bottom);
        if (expand is null)
            for (var y = top; y < bottom; y++)
                BFloat16Kernel.Round(source + input.Offset(0, y, 0), input.Stride, input.Width, wide, to + (long)(y - from) * line + border * wide, asFiltered: true);
        else if (top < bottom)
        {
            BFloat16Kernel.Round(source + input.Offset(0, top, 0), input.Stride, (bottom - top) * input.Width, narrow, rounded);
            expand.Multiply(rounded, bottom - top, to + (long)(top - from) * line + border * wide);
        }
    }
}

/// <summary>A convolution in bfloat16 of float32 maps, or of pictures as torch has them, [N, 3, H, W], whose pixels get a fourth number, zero.</summary>
internal sealed unsafe class BFloat16Convolution : VectorStep
{
    private const int HeldBytes = 1 << 18, Colours = 3, MostImages = 4;

    private readonly Maps? input;
    private readonly Maps? add;
    private readonly ConvolutionWeights weights;
    private readonly BFloat16Product product;
    private readonly int height, width, wide, line, stripe, together; // of the input; numbers of a pixel and of a row; output rows, and images, at a time

    /// <param name="input">Null for pictures of that size.</param>
    public BFloat16Convolution(MachineCode code, ConvolutionWeights weights, Maps? input, Maps output, Maps? add, int height = 0, int width = 0) : base(output, input, add)
    {
        (this.weights, this.input, this.add) = (weights, input, add);
        (this.height, this.width) = (input?.Height ?? height, input?.Width ?? width);
        wide = input is null ? Colours + 1 : BFloat16Filter.Whole(input.Channels);
        line = (this.width + 2 * weights.Padding) * wide;
        stripe = Math.Clamp((HeldBytes / sizeof(ushort) / line - weights.Kernel) / weights.Stride + 1, 1, output.Height);
        product = new BFloat16Product(code, weights, new() { Inputs = wide, InputLine = line, Width = output.Width, Outputs = output.Stride, OutputLine = output.Width * output.Stride, Adds = add is not null });
        together = stripe == output.Height && product.Weights > 1 << 18 ? MostImages : 1; // many weights are read once for all of these
    }

    /// <summary>Whether no number that is not there is multiplied.</summary>
    public static bool Knows(ConvolutionWeights weights, int groups) =>
        groups == 1 && weights.Dilation == 1 && (weights.Kernel == 1 || weights.Inputs % BFloat16Filter.Chunk == 0);

    private long Held => (stripe - 1) * weights.Stride + weights.Kernel; // rows, those of the border included

    public override long Scratch => (together * Held * line + MatrixKernel.Lanes) / 2 + MatrixKernel.Lanes;

    public override long Weights => product.Weights;

    public override int Items(Part part) => (part.Images + Together(part) - 1) / Together(part) * Bands;

    private int Bands => (Output.Height + stripe - 1) / stripe;

    /// <summary>Images of an item, so that each thread has as many.</summary>
    private int Together(Part part) => Math.Clamp(part.Images / part.Threads, 1, together);

    public override void Run(int item, Part part, float* scratch)
    {
        var (first, band) = (item / Bands * Together(part), item % Bands);
        var images = Math.Min(Together(part), part.Images - first);
        var (y, end) = (Output.Height * band / Bands, Output.Height * (band + 1) / Bands);
        var (from, until) = (y * weights.Stride - weights.Padding, (end - 1) * weights.Stride - weights.Padding + weights.Kernel);
        var rows = (ushort*)scratch;
        for (var image = 0; image < images; image++)
            Lay(part, first + image, from, until, rows + image * Held * line);
        var at = Output.Offset(first, y, 0);
        product.Multiply(rows, end - y, Output.Of(part) + at, add is null ? null : add.Of(part) + at, images, Held * line, Output.Floats);
    }

    public override void Dispose()
    {
        product.Dispose();
        weights.Dispose();
    }

    /// <summary>Zeros around rows of an image: rows above and below it, a border to the left and right.</summary>
    public static void Border(int height, int from, int until, int line, int border, ushort* to, out int top, out int bottom)
    {
        (top, bottom) = (Math.Clamp(0, from, until), Math.Clamp(height, from, until));
        new Span<ushort>(to, (top - from) * line).Clear();
        new Span<ushort>(to + (long)(bottom - from) * line, (until - bottom) * line).Clear();
        for (var row = top - from; border > 0 && row < bottom - from; row++)
        {
            new Span<ushort>(to + (long)row * line, border).Clear();
            new Span<ushort>(to + (row + 1L) * line - border, border).Clear();
        }
    }

    private void Lay(Part part, int image, int from, int until, ushort* to)
    {
        Border(height, from, until, line, weights.Padding * wide, to, out var top, out var bottom);
        to += weights.Padding * wide;
        for (var y = top; y < bottom; y++)
            if (input is null)
                BFloat16Kernel.Quads(part.Pixels + ((long)image * Colours * height + y) * width, height * width, width, to + (long)(y - from) * line);
            else
                BFloat16Kernel.Round(input.Of(part) + input.Offset(image, y, 0), input.Stride, width, wide, to + (long)(y - from) * line);
    }
}
