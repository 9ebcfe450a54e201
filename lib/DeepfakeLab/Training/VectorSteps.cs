using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Activations of some images, [images, height, width, stride]: a pixel's channels, then zeros up to the stride.</summary>
internal sealed unsafe class Maps(int height, int width, int channels, int stride = 0)
{
    public const int MostChannels = 1 << 14;

    private static readonly Floats zeros = new(MostChannels);

    public int Height => height;
    public int Width => width;
    public int Channels => channels;
    public int Stride { get; } = stride > 0 ? stride : MatrixKernel.Padded(channels);
    public int Pixels => height * width;
    public long Floats => (long)Pixels * Stride;
    public float* Data { get; set; }

    /// <summary>Whether it holds one image a thread rather than all images that are computed together: nothing reads it but the steps that a thread goes through with its image.</summary>
    public bool IsOwn { get; set; }

    /// <summary>Floats from one image, or one thread's, to the next.</summary>
    public long Apart { get; set; }

    /// <summary>The first of the part's images; the others follow.</summary>
    public float* Of(Part part) => Data + (IsOwn ? part.Worker : part.First) * Apart;

    /// <summary>What lies around an image: a pixel of zeros.</summary>
    public static float* Zeros => zeros.Data;

    public long Offset(int image, int y, int x) => ((long)image * Pixels + y * width + x) * Stride;

    /// <param name="images">As <see cref="Of"/> gave them.</param>
    public float* PixelOrZeros(float* images, int image, int y, int x) => (uint)y < (uint)height && (uint)x < (uint)width ? images + Offset(image, y, x) : Zeros;
}

/// <summary>What is computed at a time: <paramref name="images"/> of the images that are computed together, from <paramref name="first"/> on.</summary>
/// <param name="pixels">Of the first of them, [3, H, W] as torch has it.</param>
/// <param name="threads">That share the work; one where each takes an image through several steps.</param>
/// <param name="worker">Which of the engine's threads; 0 where they share.</param>
internal readonly unsafe struct Part(float* pixels, int first, int images, int threads, int worker = 0)
{
    public float* Pixels { get; } = pixels;
    public int First => first;
    public int Images => images;
    public int Threads => threads;
    public int Worker => worker;
}

/// <summary>One layer, or a few that are computed together, cut into items that threads take one after the other.</summary>
internal abstract unsafe class VectorStep(Maps output, params Maps?[] inputs) : IDisposable
{
    public Maps Output => output;

    public Maps?[] Inputs => inputs;

    /// <summary>Floats of its own that a thread needs.</summary>
    public virtual long Scratch => 0;

    /// <summary>Floats of its weights.</summary>
    public virtual long Weights => 0;

    public abstract int Items(Part part);

    public abstract void Run(int item, Part part, float* scratch);

    public virtual void Dispose()
    {
    }

    /// <summary>Into how many items to cut <paramref name="rows"/> rows, at most <paramref name="most"/> each, so that each thread has as many.</summary>
    protected static int Cut(int rows, int threads, int most) => (rows + most * threads - 1) / (most * threads) * threads;

    /// <summary>Into how many bands, at most so many, each image is cut: one, where there are images enough, as rows at a band's edge are computed twice.</summary>
    protected static int ImageBands(Part part, int most) => part.Images % part.Threads == 0 || part.Images >= 4 * part.Threads ? 1 : Math.Min(2 * part.Threads, most);

    /// <summary>The rows of an item, from First on: whole blocks, shared out evenly.</summary>
    protected static (int First, int Count) Share(int item, int items, int rows)
    {
        var blocks = (rows + MatrixKernel.Rows - 1) / MatrixKernel.Rows;
        var first = blocks * item / items * MatrixKernel.Rows;
        return (first, Math.Min(rows, blocks * (item + 1) / items * MatrixKernel.Rows) - first);
    }
}

/// <summary>A convolution's numbers, with the activation behind it.</summary>
internal sealed unsafe class ConvolutionWeights : IDisposable
{
    private readonly Tensor values; // [outputs, inputs of a group, kernel, kernel]

    public ConvolutionWeights(Conv2d conv, float low, float high, bool smooth = false) : this(conv, conv.weight!, conv.bias, low, high) => IsSmooth = smooth;

    /// <summary>Of a convolution like this one with other numbers.</summary>
    public ConvolutionWeights(Conv2d conv, Tensor kernels, Tensor? bias, float low = float.NegativeInfinity, float high = float.PositiveInfinity)
    {
        (Low, High) = (low, high);
        using var none = no_grad();
        using var weight = kernels.detach();
        values = weight.contiguous().DetachFromDisposeScope();
        Values = TensorLayout.Pointer(values);
        (Inputs, Outputs, Kernel) = ((int)values.shape[1], (int)values.shape[0], (int)values.shape[2]);
        (Stride, Padding, Dilation) = ((int)conv.stride![0], (int)conv.padding![0], (int)conv.dilation![0]);
        Bias = new Floats(MatrixKernel.Padded(Outputs) + MatrixKernel.Lanes);
        bias?.data<float>().CopyTo(new Span<float>(Bias.Data, Outputs));
    }

    public float Low { get; }
    public float High { get; }

    /// <summary>Whether SiLU follows, and no limits.</summary>
    public bool IsSmooth { get; }

    /// <summary>Of one group.</summary>
    public int Inputs { get; }
    public int Outputs { get; }
    public int Kernel { get; }
    public int Stride { get; }
    public int Padding { get; }
    public int Dilation { get; }
    public Floats Bias { get; }

    /// <summary>SiLU, where it follows, of what was computed.</summary>
    public void Activate(float* x, long count)
    {
        if (IsSmooth)
            SmoothKernel.SiLU(x, count);
    }

    /// <summary>Of a 1x1 convolution, as <see cref="MatrixKernel.At"/> says.</summary>
    public Floats Pack(int columns)
    {
        var packed = new Floats((long)Inputs * columns);
        for (var o = 0; o < Outputs; o++)
            for (var i = 0; i < Inputs; i++)
                packed.Data[MatrixKernel.At(i, o, Inputs, columns)] = Values[o * Inputs + i];
        return packed;
    }

    public float* Values { get; }

    public void Dispose()
    {
        values.Dispose();
        Bias.Dispose();
    }
}

/// <summary>
/// The first convolution, of images as torch has them, [N, 3, H, W]. Some rows of an image are laid out pixel after pixel with a border of zeros; what lies under
/// the window is then a run of each row, and the product of matrices reads it from there.
/// </summary>
internal sealed unsafe class Stem : VectorStep
{
    private const int Colours = 3, MostRows = 8;

    private readonly ConvolutionWeights weights;
    private readonly Floats packed;
    private readonly int height, width, wide, depth; // of the picture, and floats of one of its rows with the border

    public Stem(ConvolutionWeights weights, int height, int width, Maps output) : base(output)
    {
        (this.weights, this.height, this.width) = (weights, height, width);
        (wide, depth) = ((width + 2 * weights.Padding) * Colours, weights.Kernel * weights.Kernel * Colours);
        packed = new Floats((long)depth * output.Stride);
        for (var o = 0; o < weights.Outputs; o++)
            for (var i = 0; i < Colours; i++)
                for (var tap = 0; tap < weights.Kernel * weights.Kernel; tap++)
                    packed.Data[MatrixKernel.At(tap * Colours + i, o, depth, output.Stride)] = weights.Values[(o * Colours + i) * weights.Kernel * weights.Kernel + tap];
    }

    public override long Weights => packed.Count;

    public override long Scratch => (long)wide * ((MostRows - 1) * weights.Stride + weights.Kernel) + MatrixKernel.Rows * weights.Stride * Colours;

    private int Bands => (Output.Height + MostRows - 1) / MostRows;

    public override int Items(Part part) => part.Images * Bands;

    public override void Run(int item, Part part, float* scratch)
    {
        var (image, band) = (item / Bands, item % Bands);
        var (first, end) = (Output.Height * band / Bands, Output.Height * (band + 1) / Bands);
        var top = first * weights.Stride - weights.Padding;
        var to = scratch;
        for (var y = top; y < (end - 1) * weights.Stride - weights.Padding + weights.Kernel; y++, to += wide)
            Lay(part.Pixels + (long)image * Colours * height * width, y, to);
        for (var y = first; y < end; y++)
        {
            var row = Output.Of(part) + Output.Offset(image, y, 0);
            MatrixKernel.Multiply(scratch + (y - first) * weights.Stride * wide, weights.Stride * Colours, Output.Width, packed.Data, depth, Output.Stride, weights.Bias.Data,
                row, Output.Stride, null, weights.Low, weights.High, weights.Kernel, wide);
            weights.Activate(row, Output.Width * Output.Stride);
        }
    }

    public override void Dispose()
    {
        packed.Dispose();
        weights.Dispose();
    }

    private void Lay(float* image, int y, float* to)
    {
        new Span<float>(to, wide).Clear();
        if ((uint)y >= (uint)height)
            return;
        float* red = image + (long)y * width, green = red + (long)height * width, blue = green + (long)height * width;
        to += weights.Padding * Colours;
        for (var x = 0; x < width; x++, to += Colours)
            (to[0], to[1], to[2]) = (red[x], green[x], blue[x]);
    }
}

/// <summary>A convolution as products of matrices: pixels gathered with their neighbours, times weights.</summary>
internal sealed unsafe class Convolution : VectorStep
{
    private readonly Maps input;
    private readonly Maps? add;
    private readonly ConvolutionWeights weights;
    private readonly Floats packed;
    private readonly int depth, distance, most;
    private readonly bool gathers;

    public Convolution(ConvolutionWeights weights, Maps input, Maps output, Maps? add) : base(output, input, add)
    {
        (this.weights, this.input, this.add) = (weights, input, add);
        depth = weights.Kernel * weights.Kernel * input.Channels;
        gathers = weights.Kernel > 1 || weights.Stride > 1 || weights.Padding > 0 || MatrixKernel.Spread(input.Stride) != input.Stride;
        distance = gathers ? MatrixKernel.Spread(depth) : input.Stride;
        most = gathers ? Math.Clamp((1 << 16) / distance / MatrixKernel.Rows, 2, 8) * MatrixKernel.Rows : 7 * MatrixKernel.Rows;
        packed = new Floats((long)depth * output.Stride);
        for (var o = 0; o < weights.Outputs; o++)
            for (var i = 0; i < weights.Inputs; i++)
                for (var tap = 0; tap < weights.Kernel * weights.Kernel; tap++)
                    packed.Data[MatrixKernel.At(tap * input.Channels + i, o, depth, output.Stride)] = weights.Values[((long)o * weights.Inputs + i) * weights.Kernel * weights.Kernel + tap];
    }

    public override long Scratch => gathers ? (long)(most + MatrixKernel.Rows) * distance + MatrixKernel.Lanes : 0;

    public override long Weights => packed.Count;

    public override int Items(Part part) => Cut(part.Images * Output.Pixels, part.Threads, most);

    public override void Run(int item, Part part, float* scratch)
    {
        var (from, count) = Share(item, Items(part), part.Images * Output.Pixels);
        float* source = input.Of(part), to = Output.Of(part), plus = add is null ? null : add.Of(part);
        if (gathers)
            for (var i = 0; i < count; i++)
                Gather(source, from + i, scratch + (nint)i * distance);
        var at = (long)from * Output.Stride;
        MatrixKernel.Multiply(gathers ? scratch : source + (long)from * distance, distance, count, packed.Data, depth, Output.Stride, weights.Bias.Data, to + at, Output.Stride,
            plus == null ? null : plus + at, weights.Low, weights.High);
        weights.Activate(to + at, (long)count * Output.Stride);
    }

    public override void Dispose()
    {
        packed.Dispose();
        weights.Dispose();
    }

    private void Gather(float* source, int pixel, float* to)
    {
        var (image, y, x) = (pixel / Output.Pixels, pixel / Output.Width % Output.Height * weights.Stride, pixel % Output.Width * weights.Stride);
        for (var i = 0; i < weights.Kernel; i++)
            for (var j = 0; j < weights.Kernel; j++, to += input.Channels)
                Copy(input.PixelOrZeros(source, image, y + i * weights.Dilation - weights.Padding, x + j * weights.Dilation - weights.Padding), to, input.Channels);
    }

    /// <summary>Up to 15 floats more than asked for, which the next copy overwrites.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Copy(float* from, float* to, int count)
    {
        for (var i = 0; i < count; i += MatrixKernel.Lanes)
            Vector512.Load(from + i).Store(to + i);
    }
}

/// <summary>
/// A 3x3 convolution in groups of channels, as ResNeXt's (Xie et al. 2017): 16 outputs at a time, each lane of a register with its own group's inputs.
/// </summary>
/// <remarks>
/// A group of 4 channels fills a quarter of a register, so four groups lie in one. Input i of each group is moved to all its lanes (a permutation), and seven
/// neighbouring outputs share what was moved and the weights.
/// </remarks>
internal sealed unsafe class GroupedConvolution : VectorStep
{
    private const int Kernel = 3, Together = 7, MostRows = 14;

    private readonly Maps input;
    private readonly Maps? add;
    private readonly ConvolutionWeights weights;
    private readonly Floats packed; // [blocks of 16 outputs, blocks of 16 inputs, kernel, inputs of a group in that block, kernel, 16]
    private readonly Floats permutations;
    private readonly int group, blocks, inputs, stride, width, plane; // blocks of a group; floats of a row with its border, and of a block's rows

    public GroupedConvolution(ConvolutionWeights weights, Maps input, Maps output, Maps? add) : base(output, input, add)
    {
        (this.weights, this.input, this.add) = (weights, input, add);
        (group, stride) = (weights.Inputs, weights.Stride);
        (blocks, inputs) = (Math.Max(1, group / MatrixKernel.Lanes), Math.Min(group, MatrixKernel.Lanes));
        width = (((output.Width + Together - 1) / Together * Together - 1) * stride + Kernel) * MatrixKernel.Lanes;
        plane = ((MostRows - 1) * stride + Kernel) * width;
        permutations = Permutations(inputs);
        packed = new Floats((long)output.Channels * blocks * Kernel * inputs * Kernel);
        float* at = packed.Data, values = weights.Values;
        for (var o = 0; o < output.Channels; o += MatrixKernel.Lanes)
            for (var first = 0; first < group; first += inputs)
                for (var row = 0; row < Kernel; row++)
                    for (var i = 0; i < inputs; i++)
                        for (var column = 0; column < Kernel; column++)
                            for (var lane = 0; lane < MatrixKernel.Lanes; lane++)
                                *at++ = values[(((o + lane) * group + first + i) * Kernel + row) * Kernel + column];
    }

    public static bool Knows(Conv2d conv) => conv is { kernel_size: [Kernel, Kernel], stride: [1 or 2, _], dilation: [1, _], groups: > 1 } && conv.in_channels == conv.out_channels
        && conv.in_channels % MatrixKernel.Lanes == 0 && conv.in_channels / conv.groups is var group && (group % MatrixKernel.Lanes == 0 || MatrixKernel.Lanes % group == 0);

    public override long Weights => packed.Count;

    public override long Scratch => (long)blocks * plane;

    private int Bands => (Output.Height + MostRows - 1) / MostRows;

    private int Groups => Output.Channels / MatrixKernel.Lanes / blocks; // or fours or twos of them, where they are narrower than a register

    public override int Items(Part part) => part.Images * Groups * Bands;

    public override void Run(int item, Part part, float* scratch)
    {
        var (image, band, first) = (item / Groups / Bands, item / Groups % Bands, item % Groups * blocks); // a band's groups lie side by side
        var (y, end) = (Output.Height * band / Bands, Output.Height * (band + 1) / Bands);
        var top = y * stride - weights.Padding;
        for (var block = 0; block < blocks; block++)
            Lay(input, input.Of(part), image, top, (end - y - 1) * stride + Kernel, -weights.Padding, width / MatrixKernel.Lanes, (first + block) * MatrixKernel.Lanes, scratch + block * plane);
        var plus = add is null ? null : add.Of(part);
        for (; y < end; y++, scratch += stride * width)
            for (var block = first; block < first + blocks; block++)
                for (var x = 0; x < Output.Width; x += Together)
                {
                    var at = Output.Offset(image, y, x) + block * MatrixKernel.Lanes;
                    var count = Math.Min(Together, Output.Width - x);
                    if (stride == 1)
                        Filter<One>(scratch + x * MatrixKernel.Lanes, block, Output.Of(part) + at, plus == null ? null : plus + at, count);
                    else
                        Filter<Two>(scratch + 2 * x * MatrixKernel.Lanes, block, Output.Of(part) + at, plus == null ? null : plus + at, count);
                }
    }

    public override void Dispose()
    {
        foreach (var held in (IDisposable[])[packed, permutations, weights])
            held.Dispose();
    }

    /// <summary>[inputs of a group in a block, 16]: from which lane each lane takes it.</summary>
    public static Floats Permutations(int inputs)
    {
        var result = new Floats(inputs * MatrixKernel.Lanes);
        for (var i = 0; i < result.Count; i++)
            ((int*)result.Data)[i] = i % MatrixKernel.Lanes / inputs * inputs + i / MatrixKernel.Lanes;
        return result;
    }

    /// <summary>16 channels of some rows and columns of pixels, with zeros around the image.</summary>
    /// <param name="images">As <see cref="Maps.Of"/> gave them.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Lay(Maps maps, float* images, int image, int top, int rows, int left, int columns, int channel, float* to)
    {
        var (first, end, apart) = (Math.Max(0, -left), Math.Min(columns, maps.Width - left), (nint)maps.Stride);
        for (var y = top; y < top + rows; y++)
        {
            var inside = (uint)y < (uint)maps.Height;
            var from = images + maps.Offset(image, inside ? y : 0, left + first) + channel;
            for (var x = 0; x < columns; x++, to += MatrixKernel.Lanes)
                if (inside && x >= first && x < end)
                {
                    Sse.Prefetch0(from + 28 * apart); // a line of a cache each, too far apart for the processor to foresee
                    Vector512.Load(from).Store(to);
                    from += apart;
                }
                else
                    Vector512<float>.Zero.Store(to);
        }
    }

    public interface IStride
    {
        static abstract int Pixels { get; }
    }

    public readonly struct One : IStride
    {
        public static int Pixels => 1;
    }

    public readonly struct Two : IStride
    {
        public static int Pixels => 2;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Filter<TStride>(float* from, int block, float* to, float* plus, int count) where TStride : struct, IStride
    {
        var w = packed.Data + (nint)block * blocks * Kernel * inputs * Kernel * MatrixKernel.Lanes;
        var c0 = Vector512.Load(weights.Bias.Data + block * MatrixKernel.Lanes);
        Vector512<float> c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0;
        for (var (other, start) = (0, 0); other < blocks; other++, start += plane)
            for (var row = 0; row < Kernel; row++)
                for (var i = 0; i < inputs; i++, w += Kernel * MatrixKernel.Lanes)
                {
                    var lanes = Vector512.Load((int*)permutations.Data + i * MatrixKernel.Lanes);
                    Vector512<float> w0 = Vector512.Load(w), w1 = Vector512.Load(w + MatrixKernel.Lanes), w2 = Vector512.Load(w + 2 * MatrixKernel.Lanes);
                    var at = from + start + row * width;
                    Vector512<float> x0 = Pixel(at, 0, lanes), x1 = Pixel(at, 1, lanes), x2 = Pixel(at, 2, lanes); // under the window, which then slides
                    c0 = Sum(c0, x0, x1, x2, w0, w1, w2);
                    Slide<TStride>(at, 1, lanes, ref x0, ref x1, ref x2);
                    c1 = Sum(c1, x0, x1, x2, w0, w1, w2);
                    Slide<TStride>(at, 2, lanes, ref x0, ref x1, ref x2);
                    c2 = Sum(c2, x0, x1, x2, w0, w1, w2);
                    Slide<TStride>(at, 3, lanes, ref x0, ref x1, ref x2);
                    c3 = Sum(c3, x0, x1, x2, w0, w1, w2);
                    Slide<TStride>(at, 4, lanes, ref x0, ref x1, ref x2);
                    c4 = Sum(c4, x0, x1, x2, w0, w1, w2);
                    Slide<TStride>(at, 5, lanes, ref x0, ref x1, ref x2);
                    c5 = Sum(c5, x0, x1, x2, w0, w1, w2);
                    Slide<TStride>(at, 6, lanes, ref x0, ref x1, ref x2);
                    c6 = Sum(c6, x0, x1, x2, w0, w1, w2);
                }
        Put(to, plus, 0, count, c0);
        Put(to, plus, 1, count, c1);
        Put(to, plus, 2, count, c2);
        Put(to, plus, 3, count, c3);
        Put(to, plus, 4, count, c4);
        Put(to, plus, 5, count, c5);
        Put(to, plus, 6, count, c6);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Sum(Vector512<float> sum, Vector512<float> x0, Vector512<float> x1, Vector512<float> x2, Vector512<float> w0, Vector512<float> w1, Vector512<float> w2) =>
        Vector512.FusedMultiplyAdd(x2, w2, Vector512.FusedMultiplyAdd(x1, w1, Vector512.FusedMultiplyAdd(x0, w0, sum)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Slide<TStride>(float* at, int output, Vector512<int> lanes, ref Vector512<float> x0, ref Vector512<float> x1, ref Vector512<float> x2) where TStride : struct, IStride
    {
        x0 = TStride.Pixels == 1 ? x1 : x2;
        x1 = TStride.Pixels == 1 ? x2 : Pixel(at, 2 * output + 1, lanes);
        x2 = Pixel(at, TStride.Pixels * output + 2, lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Put(float* to, float* plus, int pixel, int count, Vector512<float> sum)
    {
        if (pixel < count)
            MatrixKernel.Clamp(sum, plus == null ? null : plus + pixel * Output.Stride, Vector512.Create(weights.Low), Vector512.Create(weights.High)).Store(to + pixel * Output.Stride);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Pixel(float* from, int pixel, Vector512<int> lanes) => Vector512.ShuffleNative(Vector512.Load(from + pixel * MatrixKernel.Lanes), lanes); // all are from 0 to 15: no lane has to be checked
}

/// <summary>The largest of the pixels under a window that are in the image.</summary>
internal sealed unsafe class MaxPool(Maps input, Maps output, int kernel, int stride, int padding) : VectorStep(output, input)
{
    public static MaxPool Of(MaxPool2d pool, Maps input)
    {
        var (kernel, padding) = ((int)pool.kernel_size![0], (int)(pool.padding?[0] ?? 0));
        var stride = (int)(pool.stride?[0] ?? kernel);
        return new MaxPool(input, new Maps((input.Height + 2 * padding - kernel) / stride + 1, (input.Width + 2 * padding - kernel) / stride + 1, input.Channels), kernel, stride, padding);
    }

    public override int Items(Part part) => part.Images * Output.Height;

    public override void Run(int item, Part part, float* scratch)
    {
        var (image, y) = (item / Output.Height, item % Output.Height);
        float* source = input.Of(part), to = Output.Of(part);
        var (top, bottom) = (Math.Max(0, y * stride - padding), Math.Min(input.Height, y * stride - padding + kernel));
        for (var x = 0; x < Output.Width; x++)
        {
            var (left, right) = (Math.Max(0, x * stride - padding), Math.Min(input.Width, x * stride - padding + kernel));
            for (var channel = 0; channel < input.Stride; channel += MatrixKernel.Lanes)
            {
                var most = Vector512.Create(float.NegativeInfinity);
                for (var row = top; row < bottom; row++)
                {
                    var at = source + input.Offset(image, row, left) + channel;
                    for (var column = left; column < right; column++, at += input.Stride)
                        most = Vector512.Max(most, Vector512.Load(at));
                }
                most.Store(to + Output.Offset(image, y, x) + channel);
            }
        }
    }
}
