using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace DeepfakeLab;

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

    private int Bands(Part part) => excitation is not null ? 1 : ImageBands(part, (Output.Height + stripe - 1) / stripe);

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
            NormKernels.Sigmoid(Sixteen.Load(factors + channel)).Store(factors + channel);
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
