using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A 1x1 convolution in training as products of matrices [rows, channels], a row for each place of each image, a hundred rows at a time: the norm, the
/// activation and the factors before it are computed as the rows are read, the statistics for the norm behind it as they are written, and on the way
/// back the sums for the norm before it, so that neither what that norm makes nor a pass over it costs memory.
/// </summary>
/// <remarks>Rows are dealt out to threads by their number, and sums added in that order: the same number of threads gives the same bits.</remarks>
internal static unsafe class PointwiseTraining
{
    /// <summary>Floats that the rows taken together may have, in all matrices: what the second cache holds beside the weights.</summary>
    private const int Nearby = 1 << 17;

    /// <summary>Rows taken together at most: as many as are added in float32.</summary>
    private const int MostRows = 8 * MatrixKernel.Rows;

    /// <summary>Weights beyond this many are libtorch's: each thread's sums of their gradient would go through memory again and again.</summary>
    private const int MostWeights = 1 << 19;

    /// <summary>With fewer, most of a block of sums is empty on the way back: libtorch's kernels have narrower ones.</summary>
    private const int FewestOutputs = 24;

    /// <summary>What a convolution reads: rows of numbers, each through factor * activation(scale x + shift) where there is a scale.</summary>
    /// <param name="factors">One for each channel of each image; null for 1.</param>
    public sealed class Input(Tensor x, float[]? scale = null, float[]? shift = null, Tensor? factors = null)
    {
        public Tensor X => x;

        public float* Data { get; } = TensorLayout.Pointer(x);

        public int Channels { get; } = (int)x.shape[1];

        public long ImageRows { get; } = x.shape[2] * x.shape[3];

        public long Rows => x.shape[0] * ImageRows;

        public float[]? Scale => scale;

        public float[]? Shift => shift;

        public float* Factors { get; } = factors is null ? null : TensorLayout.Pointer(factors);
    }

    /// <summary>Puts <paramref name="count"/> rows of a matrix, from <paramref name="row"/> on, at <paramref name="to"/>, <paramref name="distance"/> floats apart.</summary>
    public delegate void Rows(long row, int count, float* to, int distance);

    /// <summary>The rows of a tensor.</summary>
    public static Rows RowsOf(Tensor x)
    {
        var channels = (int)x.shape[1];
        var data = TensorLayout.Pointer(x);
        return (row, count, to, distance) => Copy(data + row * channels, count, channels, to, distance);
    }

    /// <summary>Whether it computes this convolution of <paramref name="x"/> [N, C, H, W].</summary>
    public static bool Fits(Conv2d conv, Tensor x) => Vector512.IsHardwareAccelerated && conv.weight is { } weight && weight.shape is [_, _, 1, 1] && conv.bias is null
        && conv.groups == 1 && conv.stride is [1, 1] && conv.padding is [0, 0] && x.dim() == 4 && TensorLayout.IsChannelsLast(x) && conv.in_channels % 8 == 0
        && conv.out_channels % 8 == 0 && conv.out_channels >= FewestOutputs && Math.Max(conv.in_channels, conv.out_channels) <= Maps.MostChannels && conv.in_channels * conv.out_channels <= MostWeights && x.numel() < int.MaxValue / 4;

    /// <summary>The convolution, and the mean and (biased) variance of each of its channels.</summary>
    public static (Tensor Y, double[] Mean, double[] Variance) Forward<T>(Conv2d conv, Input input) where T : struct, NormKernels.IActivation
    {
        var (inputs, outputs) = (input.Channels, (int)conv.out_channels);
        var (width, distance) = (MatrixKernel.Padded(outputs), MatrixKernel.Spread(inputs));
        using var weights = Pack(conv, transposed: true);
        using var y = empty([input.X.shape[0], input.X.shape[2], input.X.shape[3], outputs]); // its numbers live as long as what is returned
        var to = TensorLayout.Pointer(y);
        var most = RowsTogether(inputs + width);
        var past = NormKernels.IsBeyondCache(to, input.Rows * outputs);
        var inPlace = input.Scale is null && MatrixKernel.Spread(inputs) == MatrixKernel.Padded(inputs);
        var origin = new float[outputs]; // the first row: numbers are counted from there, so that their squares do not drown the variance
        var all = new double[LabRuntime.Threads][];
        using (var first = new Floats(MatrixKernel.Rows * (distance + width)))
        {
            Read<T>(input, 0, 1, first.Data, distance);
            var results = first.Data + MatrixKernel.Rows * distance;
            MatrixKernel.Multiply(first.Data, distance, 1, weights.Data, inputs, width, Maps.Zeros, results, width);
            new Span<float>(results, outputs).CopyTo(origin);
        }
        NormKernels.Ranges(input.Rows, (thread, from, until) =>
        {
            var sums = all[thread] = new double[2 * outputs];
            using Floats left = new((long)(most + MatrixKernel.Rows) * distance, zeros: false), results = new((long)most * width, zeros: false), partial = new(2 * outputs);
            fixed (float* o = origin)
                for (var row = from; row < until; row += most)
                {
                    var count = (int)Math.Min(most, until - row);
                    var direct = inPlace && count % MatrixKernel.Rows == 0; // else it would read behind the last row
                    if (!direct)
                        Read<T>(input, row, count, left.Data, distance);
                    MatrixKernel.Multiply(direct ? input.Data + row * inputs : left.Data, direct ? inputs : distance, count, weights.Data, inputs, width, Maps.Zeros, results.Data, width);
                    Write(results.Data, width, to + row * outputs, count, outputs, o, partial.Data, past);
                    NormKernels.Take(partial.Data, sums);
                }
        });
        var (mean, variance) = NormKernels.Moments(NormKernels.Join(all, outputs), input.Rows, origin);
        return (y.permute(0, 3, 1, 2), mean, variance);
    }

    /// <summary>The way back.</summary>
    /// <param name="gradient">Of what <see cref="Forward"/> made: puts some rows of it where they are wanted.</param>
    /// <param name="mean">Of each channel of the input, for the sums below; null where none are wanted.</param>
    /// <param name="learns">Whether the weights' gradient is wanted; else it is null.</param>
    /// <param name="result">Where the gradient of what was read goes, or with <paramref name="mean"/> that gradient times the activation's slope; null for nowhere.</param>
    /// <returns>The weights' gradient [outputs, inputs], and over all rows the sums a channel of what went to <paramref name="result"/> and of that times x - mean.</returns>
    public static (Tensor? Weights, double[] Sum, double[] WithX) Backward<T>(Conv2d conv, Input input, Rows gradient, float[]? mean, bool learns, Tensor? result)
        where T : struct, NormKernels.IActivation
    {
        var (inputs, outputs) = (input.Channels, (int)conv.out_channels);
        var (width, distance) = (MatrixKernel.Padded(inputs), MatrixKernel.Spread(outputs));
        using var weights = result is null ? null : Pack(conv, transposed: false);
        var to = result is null ? null : TensorLayout.Pointer(result);
        var past = to is not null && NormKernels.IsBeyondCache(to, input.Rows * inputs);
        var most = RowsTogether(2 * width + outputs);
        var own = new Floats?[LabRuntime.Threads];
        var all = new double[LabRuntime.Threads][];
        NormKernels.Ranges(input.Rows, (thread, from, until) =>
        {
            var sums = all[thread] = new double[2 * inputs];
            using Floats right = new((long)(most + MatrixKernel.Rows) * distance, zeros: false), packed = new((long)most * width + 2 * MatrixKernel.Lanes, zeros: false),
                results = new((long)most * width, zeros: false), partial = new(2 * inputs);
            own[thread] = learns && from < until ? new Floats((long)outputs * width, zeros: false) : null;
            fixed (float* k = input.Scale, b = input.Shift, m = mean)
                for (var row = from; row < until; row += most)
                {
                    var count = (int)Math.Min(most, until - row);
                    gradient(row, count, right.Data, distance);
                    if (weights is not null)
                        MatrixKernel.Multiply(right.Data, distance, count, weights.Data, outputs, width, Maps.Zeros, results.Data, width);
                    Back<T>(input, row, count, k, b, m, input.Factors, learns ? packed.Data : null, weights is null ? null : results.Data, width, weights is null ? null : to + row * inputs, past, partial.Data);
                    if (mean is not null)
                        NormKernels.Take(partial.Data, sums);
                    if (own[thread] is { } sum)
                        MatrixKernel.Multiply(right.Data, 1, outputs, packed.Data, count, width, Maps.Zeros, sum.Data, width, row > from ? sum.Data : null, runs: count, apart: distance);
                }
        });
        var (first, second) = NormKernels.Join(all, inputs);
        return (learns ? Sum(own, outputs, inputs, width) : null, first, second);
    }

    private static int RowsTogether(int floats) => Math.Clamp(Nearby / floats / MatrixKernel.Rows * MatrixKernel.Rows, 2 * MatrixKernel.Rows, MostRows);

    /// <summary>The weights [outputs, inputs], or transposed, as <see cref="MatrixKernel.At"/> says.</summary>
    private static Floats Pack(Conv2d conv, bool transposed)
    {
        var (inputs, outputs) = ((int)conv.in_channels, (int)conv.out_channels);
        var data = TensorLayout.Pointer(conv.weight!);
        var (depth, columns) = transposed ? (inputs, outputs) : (outputs, inputs);
        var width = MatrixKernel.Padded(columns);
        var packed = new Floats((long)depth * width + 4 * MatrixKernel.Lanes, zeros: width != columns);
        NormKernels.Ranges(width / MatrixKernel.Lanes, (_, from, until) =>
        {
            for (var first = (int)from * MatrixKernel.Lanes; first < Math.Min(columns, until * MatrixKernel.Lanes); first += MatrixKernel.Lanes)
                for (var row = 0; row < depth; row++)
                {
                    var to = packed.Data + MatrixKernel.At(row, first, depth, width);
                    var some = Math.Min(columns - first, MatrixKernel.Lanes);
                    if (!transposed)
                        new Span<float>(data + (nint)row * inputs + first, some).CopyTo(new Span<float>(to, some));
                    else
                        for (var column = first; column < first + some; column++)
                            *to++ = data[(nint)column * inputs + row];
                }
        });
        return packed;
    }

    /// <summary>The threads' sums as one tensor [outputs, inputs]; frees them.</summary>
    private static Tensor Sum(Floats?[] parts, int outputs, int inputs, int width)
    {
        var sum = empty([outputs, inputs]);
        var to = TensorLayout.Pointer(sum);
        var sources = parts.OfType<Floats>().ToArray();
        NormKernels.Ranges(outputs, (_, from, until) =>
        {
            for (var row = from; row < until; row++)
                for (var c = 0; c < inputs; c += Eight.Count)
                {
                    var total = default(Eight);
                    foreach (var part in sources)
                        total += Eight.Load(part.Data + row * width + c);
                    total.Store(to + row * inputs + c);
                }
        });
        Array.ForEach(sources, s => s.Dispose());
        return sum;
    }

    /// <summary>Rows that lie next to each other, to where they are <paramref name="distance"/> floats apart.</summary>
    private static void Copy(float* from, int rows, int channels, float* to, int distance)
    {
        for (var row = 0; row < rows; row++, from += channels, to += distance)
            new Span<float>(from, channels).CopyTo(new Span<float>(to, channels));
    }

    private static void Read<T>(Input input, long row, int rows, float* to, int distance) where T : struct, NormKernels.IActivation
    {
        var from = input.Data + row * input.Channels;
        if (input.Scale is null)
            Copy(from, rows, input.Channels, to, distance);
        else
            fixed (float* k = input.Scale, b = input.Shift)
                Read<T>(from, rows, input.Channels, k, b, input.Factors, row, input.ImageRows, to, distance);
    }

    private static void Read<T>(float* x, int rows, int channels, float* k, float* b, float* f, long first, long imageRows, float* to, int distance) where T : struct, NormKernels.IActivation
    {
        if (Sixteen.Fits(channels))
            Read<T, Sixteen>(x, rows, channels, k, b, f, first, imageRows, to, distance);
        else
            Read<T, Eight>(x, rows, channels, k, b, f, first, imageRows, to, distance);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Read<T, V>(float* x, int rows, int channels, float* k, float* b, float* f, long first, long imageRows, float* to, int distance)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        for (var row = 0; row < rows; row++, x += channels, to += distance)
        {
            var factors = f is null ? null : f + (first + row) / imageRows * channels;
            for (var c = 0; c < channels; c += V.Count)
            {
                var value = T.Value(V.FusedMultiplyAdd(V.Load(x + c), V.Load(k + c), V.Load(b + c)));
                (factors is null ? value : value * V.Load(factors + c)).Store(to + c);
            }
        }
    }

    /// <summary>From results to where they stay, adding them and their squares up, counted from an origin.</summary>
    private static void Write(float* results, int width, float* to, int rows, int channels, float* origin, float* sums, bool past)
    {
        if (Sixteen.Fits(channels))
            Write<Sixteen>(results, width, to, rows, channels, origin, sums, past);
        else
            Write<Eight>(results, width, to, rows, channels, origin, sums, past);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Write<V>(float* results, int width, float* to, int rows, int channels, float* origin, float* sums, bool past) where V : struct, ILanes<V>
    {
        const int few = 4;
        for (var first = 0; first < rows; first += few)
        {
            var last = Math.Min(rows, first + few);
            for (var c = 0; c < channels; c += V.Count)
            {
                var (o, sum, squares) = (V.Load(origin + c), default(V), default(V));
                for (var row = first; row < last; row++)
                {
                    var y = V.Load(results + row * width + c);
                    if (past)
                        y.StorePast(to + (nint)row * channels + c);
                    else
                        y.Store(to + (nint)row * channels + c);
                    var d = y - o;
                    sum += d;
                    squares = V.FusedMultiplyAdd(d, d, squares);
                }
                (V.Load(sums + c) + sum).Store(sums + c);
                (V.Load(sums + channels + c) + squares).Store(sums + channels + c);
            }
        }
    }

    /// <summary>The rows that were read once more, as the right matrix of the weights' gradient; their gradient, and its sums.</summary>
    private static void Back<T>(Input input, long at, int rows, float* k, float* b, float* m, float* f, float* packed, float* results, int width, float* to, bool past, float* sums) where T : struct, NormKernels.IActivation
    {
        if (Sixteen.Fits(input.Channels))
            Back<T, Sixteen>(input, at, rows, k, b, m, f, packed, results, width, to, past, sums);
        else
            Back<T, Eight>(input, at, rows, k, b, m, f, packed, results, width, to, past, sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Back<T, V>(Input input, long at, int rows, float* k, float* b, float* m, float* f, float* packed, float* results, int width, float* to, bool past, float* sums)
        where T : struct, NormKernels.IActivation where V : struct, ILanes<V>
    {
        const int few = 4;
        var (channels, imageRows) = (input.Channels, input.ImageRows);
        var x = input.Data + at * channels;
        var factors = stackalloc float*[few];
        for (var first = 0; first < rows; first += few)
        {
            var last = Math.Min(rows, first + few);
            for (var row = first; f is not null && row < last; row++)
                factors[row - first] = f + (at + row) / imageRows * channels;
            for (var c = 0; c < channels; c += V.Count)
            {
                var panel = c & -2 * MatrixKernel.Lanes;
                var wide = Math.Min(2 * MatrixKernel.Lanes, width - panel);
                var column = packed + (nint)panel * rows + (c - panel);
                var (vk, vb, mean) = k is null ? default : (V.Load(k + c), V.Load(b + c), m is null ? default : V.Load(m + c));
                var (sum, withX) = (default(V), default(V));
                for (var row = first; row < last; row++)
                {
                    var v = V.Load(x + (nint)row * channels + c);
                    var (value, slope) = k is null ? (v, V.Create(1)) : T.Both(V.FusedMultiplyAdd(v, vk, vb));
                    if (packed is not null)
                        (f is null ? value : value * V.Load(factors[row - first] + c)).Store(column + row * wide);
                    if (results is null)
                        continue;
                    var g = V.Load(results + row * width + c);
                    if (m is not null)
                    {
                        g *= slope;
                        sum += g;
                        withX = V.FusedMultiplyAdd(g, v - mean, withX);
                    }
                    if (past)
                        g.StorePast(to + (nint)row * channels + c);
                    else
                        g.Store(to + (nint)row * channels + c);
                }
                if (m is null)
                    continue;
                (V.Load(sums + c) + sum).Store(sums + c);
                (V.Load(sums + channels + c) + withX).Store(sums + channels + c);
            }
        }
    }
}
