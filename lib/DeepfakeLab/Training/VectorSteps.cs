using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
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

    public float* Values => (float*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(values.bytes));

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

/// <summary>
/// A filter of each channel by itself, with the 1x1 convolutions before and behind it: MobileNetV2's inverted residual (Sandler et al. 2018), some rows at
/// a time, so that the activations between, six times as wide, stay in the cache. With squeeze and excitation, as in EfficientNet, the filtered rows of a whole image are kept
/// until their means are known, which only one thread can do.
/// </summary>
internal sealed unsafe class InvertedResidual : VectorStep
{
    private const int HeldFloats = 1 << 17; // of expanded rows: half of a second cache of 1 MiB
    private const int Together = 4; // pixels that are filtered together share the loads of weights
    private const int ScaledTogether = 4 * MatrixKernel.Rows; // pixels that are scaled, then read at once by the convolution behind

    private readonly Maps input;
    private readonly Maps? add;
    private readonly ConvolutionWeights? expand, project;
    private readonly ConvolutionWeights filter;
    private readonly Excitation? excitation;
    private readonly Floats? expanding, projecting;
    private readonly Floats filtering; // [taps, channels]
    private readonly int wide, kernel, stride, stripe; // stripe: output rows at a time

    public InvertedResidual(ConvolutionWeights? expand, ConvolutionWeights filter, Excitation? excitation, ConvolutionWeights? project, Maps input, Maps output, Maps? add) : base(output, input, add)
    {
        (this.expand, this.filter, this.excitation, this.project, this.input, this.add) = (expand, filter, excitation, project, input, add);
        (wide, kernel, stride) = (MatrixKernel.Padded(filter.Outputs), filter.Kernel, filter.Stride);
        stripe = Math.Clamp((HeldFloats / (wide * input.Width) - kernel) / stride + 1, 1, output.Height);
        expanding = expand?.Pack(wide);
        projecting = project?.Pack(output.Stride);
        filtering = new Floats((long)kernel * kernel * wide);
        for (var channel = 0; channel < filter.Outputs; channel++)
            for (var tap = 0; tap < kernel * kernel; tap++)
                filtering.Data[tap * wide + channel] = filter.Values[channel * kernel * kernel + tap];
    }

    private int Held => Math.Min(input.Height, (stripe - 1) * stride + kernel); // expanded rows

    private int Filtered => excitation is null ? stripe : Output.Height; // rows

    public override long Scratch => (long)(Held * input.Width + Filtered * Output.Width + 2 * MatrixKernel.Rows) * wide + (excitation?.Scratch ?? 0);

    public override long Weights => (expanding?.Count ?? 0) + filtering.Count + (projecting?.Count ?? 0) + (excitation?.Weights ?? 0);

    public override int Items(Part part) => part.Images * Bands(part);

    public override void Run(int item, Part part, float* scratch)
    {
        var bands = Bands(part);
        var (image, band) = (item / bands, item % bands);
        var (y, end) = (Output.Height * band / bands, Output.Height * (band + 1) / bands);
        var filtered = scratch + (long)(Held * input.Width + MatrixKernel.Rows) * wide;
        var means = filtered + (long)(Filtered * Output.Width + MatrixKernel.Rows) * wide;
        float* source = input.Of(part) + input.Offset(image, 0, 0), to = Output.Of(part), plus = add is null ? null : add.Of(part);
        var rows = expand is null ? source : scratch;
        var (first, last) = (0, expand is null ? input.Height : 0); // the rows that lie there
        excitation?.Begin(means);
        for (; y < end; y += stripe)
        {
            var count = Math.Min(stripe, end - y);
            if (expand is not null)
            {
                var (from, until) = (Math.Max(0, y * stride - filter.Padding), Math.Min(input.Height, (y + count - 1) * stride - filter.Padding + kernel));
                var kept = Math.Max(0, last - from);
                if (kept > 0)
                    Buffer.MemoryCopy(rows + (long)(from - first) * input.Width * wide, rows, long.MaxValue, (long)kept * input.Width * wide * sizeof(float));
                var added = rows + (long)kept * input.Width * wide;
                var pixels = (until - from - kept) * input.Width;
                MatrixKernel.Multiply(source + input.Offset(0, from + kept, 0), input.Stride, pixels, expanding!.Data, input.Channels, wide, expand.Bias.Data, added, wide, null, expand.Low, expand.High);
                expand.Activate(added, (long)pixels * wide);
                (first, last) = (from, until);
            }
            var at = Output.Offset(image, y, 0);
            var made = excitation is not null ? filtered + (long)y * Output.Width * wide : project is null ? to + at : filtered;
            if (filter.IsSmooth)
                Filter<SmoothKernel.Smooth>(rows, first, last, y, count, made);
            else
                Filter<SmoothKernel.Limited>(rows, first, last, y, count, made);
            if (excitation is not null)
                for (var row = 0; row < count; row++)
                    excitation.Take(made + (long)row * Output.Width * wide, Output.Width, means);
            else if (project is not null)
                Project(filtered, count * Output.Width, to + at, plus == null ? null : plus + at);
        }
        if (excitation is null)
            return;
        var factors = excitation.Factors(means, Output.Pixels);
        for (var pixel = 0; pixel < Output.Pixels; pixel += ScaledTogether)
        {
            var (count, at) = (Math.Min(ScaledTogether, Output.Pixels - pixel), Output.Offset(image, 0, 0) + (long)pixel * Output.Stride);
            var from = filtered + (long)pixel * wide;
            excitation.Scale(from, count, factors);
            Project(from, count, to + at, plus == null ? null : plus + at);
        }
    }

    public override void Dispose()
    {
        foreach (var held in (IDisposable?[])[expand, filter, excitation, project, expanding, filtering, projecting])
            held?.Dispose();
    }

    /// <summary>Into how many bands each image is cut: one, where there are images enough, as rows at a band's edge are expanded twice.</summary>
    private int Bands(Part part) =>
        excitation is not null || part.Images % part.Threads == 0 || part.Images >= 4 * part.Threads ? 1 : Math.Min(2 * part.Threads, (Output.Height + stripe - 1) / stripe);

    private void Project(float* from, int pixels, float* to, float* plus) =>
        MatrixKernel.Multiply(from, wide, pixels, projecting!.Data, filter.Outputs, Output.Stride, project!.Bias.Data, to, Output.Stride, plus, project.Low, project.High);

    /// <param name="rows">Input rows from <paramref name="first"/> until <paramref name="last"/>; all around them counts as zeros.</param>
    private void Filter<T>(float* rows, int first, int last, int y, int count, float* to) where T : struct, SmoothKernel.IActivation
    {
        for (var end = y + count; y < end; y++)
        {
            var top = y * stride - filter.Padding;
            var (above, below) = (Math.Max(0, first - top), Math.Min(kernel, last - top)); // the window's rows that are in the image
            for (var (x, together) = (0, 0); x < Output.Width; x += together, to += together * wide)
            {
                var left = x * stride - filter.Padding;
                together = left >= 0 && x + Together <= Output.Width && left + (Together - 1) * stride + kernel <= input.Width ? Together : 1;
                var from = rows + ((long)(top + above - first) * input.Width + left) * wide;
                if (together == 1)
                    FilterPixel<T>(from, above, below, Math.Max(0, -left), Math.Min(kernel, input.Width - left), to);
                else
                    FilterPixels<T>(from, above, below, to);
            }
        }
    }

    /// <summary>One at an edge: three times sixteen channels together, so that a sum need not wait for itself.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    private void FilterPixel<T>(float* from, int above, int below, int before, int behind, float* to) where T : struct, SmoothKernel.IActivation
    {
        float* weights = filtering.Data, bias = filter.Bias.Data;
        var (low, high) = (Vector512.Create(filter.Low), Vector512.Create(filter.High));
        nint channels = wide, channel = 0, line = (nint)(input.Width - behind + before) * wide, skipped = (nint)(kernel - behind + before) * wide;
        from += before * channels;
        weights += (above * kernel + before) * channels;
        for (; channel + 3 * MatrixKernel.Lanes <= channels; channel += 3 * MatrixKernel.Lanes)
        {
            Vector512<float> a = Vector512.Load(bias + channel), b = Vector512.Load(bias + channel + MatrixKernel.Lanes), c = Vector512.Load(bias + channel + 2 * MatrixKernel.Lanes);
            float* pixel = from + channel, weight = weights + channel;
            for (var row = above; row < below; row++, pixel += line, weight += skipped)
                for (var column = before; column < behind; column++, pixel += channels, weight += channels)
                {
                    a = Vector512.FusedMultiplyAdd(Vector512.Load(pixel), Vector512.Load(weight), a);
                    b = Vector512.FusedMultiplyAdd(Vector512.Load(pixel + MatrixKernel.Lanes), Vector512.Load(weight + MatrixKernel.Lanes), b);
                    c = Vector512.FusedMultiplyAdd(Vector512.Load(pixel + 2 * MatrixKernel.Lanes), Vector512.Load(weight + 2 * MatrixKernel.Lanes), c);
                }
            T.Of(a, low, high).Store(to + channel);
            T.Of(b, low, high).Store(to + channel + MatrixKernel.Lanes);
            T.Of(c, low, high).Store(to + channel + 2 * MatrixKernel.Lanes);
        }
        for (; channel < channels; channel += MatrixKernel.Lanes)
        {
            var sum = Vector512.Load(bias + channel);
            float* pixel = from + channel, weight = weights + channel;
            for (var row = above; row < below; row++, pixel += line, weight += skipped)
                for (var column = before; column < behind; column++, pixel += channels, weight += channels)
                    sum = Vector512.FusedMultiplyAdd(Vector512.Load(pixel), Vector512.Load(weight), sum);
            T.Of(sum, low, high).Store(to + channel);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void FilterPixels<T>(float* from, int above, int below, float* to) where T : struct, SmoothKernel.IActivation
    {
        float* weights = filtering.Data + above * kernel * wide, bias = filter.Bias.Data;
        var (low, high) = (Vector512.Create(filter.Low), Vector512.Create(filter.High));
        nint channels = wide, next = stride * wide, line = (nint)(input.Width - kernel) * wide;
        for (nint channel = 0; channel < channels; channel += MatrixKernel.Lanes)
        {
            var a = Vector512.Load(bias + channel);
            Vector512<float> b = a, c = a, d = a;
            float* pixel = from + channel, weight = weights + channel;
            for (var row = above; row < below; row++, pixel += line)
                for (var column = 0; column < kernel; column++, pixel += channels, weight += channels)
                {
                    var w = Vector512.Load(weight);
                    a = Vector512.FusedMultiplyAdd(Vector512.Load(pixel), w, a);
                    b = Vector512.FusedMultiplyAdd(Vector512.Load(pixel + next), w, b);
                    c = Vector512.FusedMultiplyAdd(Vector512.Load(pixel + 2 * next), w, c);
                    d = Vector512.FusedMultiplyAdd(Vector512.Load(pixel + 3 * next), w, d);
                }
            T.Of(a, low, high).Store(to + channel);
            T.Of(b, low, high).Store(to + channel + channels);
            T.Of(c, low, high).Store(to + channel + 2 * channels);
            T.Of(d, low, high).Store(to + channel + 3 * channels);
        }
    }
}

/// <summary>Squeeze and excitation (Hu et al. 2017): from the sums of an image's channels to their factors.</summary>
internal sealed unsafe class Excitation : IDisposable
{
    private readonly ConvolutionWeights squeeze, excite;
    private readonly Floats squeezing, exciting;
    private readonly int wide, narrow;

    /// <param name="squeeze">A 1x1 convolution with SiLU behind it.</param>
    /// <param name="excite">One with a sigmoid behind it.</param>
    public Excitation(ConvolutionWeights squeeze, ConvolutionWeights excite)
    {
        (this.squeeze, this.excite) = (squeeze, excite);
        (wide, narrow) = (MatrixKernel.Padded(excite.Outputs), MatrixKernel.Padded(squeeze.Outputs));
        (squeezing, exciting) = (squeeze.Pack(narrow), excite.Pack(wide));
    }

    /// <summary>Floats that are needed from the sums on: those, what is squeezed, the factors.</summary>
    public long Scratch => 2 * wide + narrow;

    public long Weights => squeezing.Count + exciting.Count;

    public void Begin(float* sums) => new Span<float>(sums, wide).Clear();

    /// <summary>Adds a row of pixels to the sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    public void Take(float* row, int pixels, float* sums)
    {
        nint distance = wide;
        for (nint channel = 0; channel < distance; channel += MatrixKernel.Lanes)
        {
            Vector512<float> a = Vector512<float>.Zero, b = a;
            var at = row + channel;
            var left = pixels;
            for (; left > 1; left -= 2, at += 2 * distance)
                (a, b) = (a + Vector512.Load(at), b + Vector512.Load(at + distance));
            if (left > 0)
                a += Vector512.Load(at);
            (Vector512.Load(sums + channel) + (a + b)).Store(sums + channel);
        }
    }

    public float* Factors(float* sums, int pixels)
    {
        float* squeezed = sums + wide, factors = squeezed + narrow;
        for (var channel = 0; channel < wide; channel++)
            sums[channel] /= pixels;
        MatrixKernel.Multiply(sums, 0, 1, squeezing.Data, squeeze.Inputs, narrow, squeeze.Bias.Data, squeezed, narrow); // the rows behind the first are the first again
        squeeze.Activate(squeezed, narrow);
        MatrixKernel.Multiply(squeezed, 0, 1, exciting.Data, excite.Inputs, wide, excite.Bias.Data, factors, wide);
        for (var channel = 0; channel < wide; channel += MatrixKernel.Lanes)
            SmoothKernel.Sigmoid(Vector512.Load(factors + channel)).Store(factors + channel);
        return factors;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    public void Scale(float* x, int pixels, float* factors)
    {
        for (; pixels > 0; pixels--, x += wide)
            for (var channel = 0; channel < wide; channel += MatrixKernel.Lanes)
                (Vector512.Load(x + channel) * Vector512.Load(factors + channel)).Store(x + channel);
    }

    public void Dispose()
    {
        foreach (var held in (IDisposable[])[squeeze, excite, squeezing, exciting])
            held.Dispose();
    }
}

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
