using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using TorchSharp.Modules;

namespace DeepfakeLab;

/// <summary>
/// A 3x3 convolution of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv:1509.09308). oneDNN and
/// ONNX Runtime compute these directly, at nine tenths of what the processor can multiply, so only fewer multiplications are faster.
/// </summary>
/// <remarks>
/// Each tile of 6x6 input pixels is transformed, each of the 36 places multiplied by its own matrix over the channels, and the sums transformed
/// into 4x4 output pixels. The polynomials are taken at 0, ±2/3, ±3/2 and infinity: at the usual 0, ±1, ±2 rounding errors are twice as large.
/// </remarks>
internal sealed unsafe class Winograd : VectorStep
{
    public const int Side = 6, Places = Side * Side, Tile = 4;

    private const int MostTiles = 4 * MatrixKernel.Rows;
    private const float P = 2f / 3, Q = 3f / 2, PP = P * P, QQ = Q * Q, Sum = PP + QQ;
    private const float ForP = 1 / (2 * PP * (PP - QQ)), ForQ = 1 / (2 * QQ * (QQ - PP)); // by the product of (x - q) over the other points q

    private readonly Maps input;
    private readonly Maps? add;
    private readonly ConvolutionWeights? weights;
    private readonly Floats transformed; // one matrix [input channels, output channels] a place
    private readonly float* bias;
    private readonly float least, most;
    private readonly int across, down, distance;

    public Winograd(ConvolutionWeights weights, Maps input, Maps output, Maps? add)
        : this(Transform(weights.Values, 1, 9, 9 * weights.Inputs, weights.Inputs, weights.Outputs, output.Stride), weights.Bias.Data, input, output, add, weights.Low, weights.High) =>
        this.weights = weights;

    /// <param name="transformed">By <see cref="Transform"/>; becomes this one's own.</param>
    public Winograd(Floats transformed, float* bias, Maps input, Maps output, Maps? add = null, float least = float.NegativeInfinity, float most = float.PositiveInfinity)
        : base(output, input, add)
    {
        this.bias = bias;
        (this.transformed, this.input, this.add, this.least, this.most) = (transformed, input, add, least, most);
        (down, across) = Tiles(output);
        distance = MatrixKernel.Spread(input.Channels);
    }

    public static bool Knows(Conv2d conv) =>
        conv is { kernel_size: [3, 3], stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1, in_channels: >= MatrixKernel.Lanes };

    /// <summary>Whether it multiplies less: not for images of a few pixels.</summary>
    public static bool Pays(Maps output) => Tiles(output) is var (down, across) && down * across * Places < 9 * output.Pixels;

    public static (int Down, int Across) Tiles(Maps output) => ((output.Height + Tile - 1) / Tile, (output.Width + Tile - 1) / Tile);

    public override long Scratch => Places * (Apart(distance) + Apart(Output.Stride) + MatrixKernel.Lanes) + MatrixKernel.Rows * distance;

    public override long Weights => transformed.Count;

    public override int Items(Part part) => Cut(Tiles(part), Math.Max(1, part.Threads / Splits(part)), MostTiles) * Splits(part);

    public override void Run(int item, Part part, float* scratch)
    {
        var splits = Splits(part);
        var (from, count) = Share(item / splits, Items(part) / splits, Tiles(part));
        float* source = input.Of(part), to = Output.Of(part), plus = add is null ? null : add.Of(part);
        var width = Output.Stride / splits; // output channels
        var first = item % splits * width;
        var data = scratch + Places * MatrixKernel.Lanes;
        var sums = data + Places * Apart(distance) + MatrixKernel.Rows * distance;
        var pixels = stackalloc float*[Places];
        for (var tile = 0; tile < count; tile++)
        {
            var (image, y, x) = Place(from + tile);
            for (var i = 0; i < Places; i++)
                pixels[i] = input.PixelOrZeros(source, image, y + i / Side - 1, x + i % Side - 1);
            for (var channel = 0; channel < input.Stride; channel += MatrixKernel.Lanes)
                TransformInput(pixels, channel, scratch, data + tile * distance + channel, Apart(distance));
        }
        for (var place = 0; place < Places; place++)
            MatrixKernel.Multiply(data + place * Apart(distance), distance, count,
                transformed.Data + place * Matrix(input.Channels, Output.Stride) + (long)first * input.Channels, input.Channels, width, Maps.Zeros,
                sums + place * Apart(width), width);
        var (low, high) = (Vector512.Create(least), Vector512.Create(most));
        for (var tile = 0; tile < count; tile++)
        {
            var (image, y, x) = Place(from + tile);
            var (height, length) = (Math.Min(Tile, Output.Height - y), Math.Min(Tile, Output.Width - x));
            for (var channel = 0; channel < width; channel += MatrixKernel.Lanes)
            {
                TransformOutput(sums + tile * width + channel, Apart(width), scratch);
                var shift = Vector512.Load(bias + first + channel);
                for (var row = 0; row < height; row++)
                {
                    var at = Output.Offset(image, y + row, x) + first + channel;
                    for (var column = 0; column < length; column++, at += Output.Stride)
                        MatrixKernel.Clamp(Vector512.Load(scratch + (row * Side + column) * MatrixKernel.Lanes) + shift, plus == null ? null : plus + at, low, high)
                            .Store(to + at);
                }
            }
        }
    }

    public override void Dispose()
    {
        transformed.Dispose();
        weights?.Dispose();
    }

    /// <summary>From one place's matrix to the next; not a multiple of what would put all 36 on the same lines of the first cache.</summary>
    private static nint Apart(int columns) => (nint)MostTiles * columns + MatrixKernel.Lanes;

    private int Tiles(Part part) => part.Images * down * across;

    /// <summary>Into how many parts the output channels go where there are few tiles: each part transforms the input anew.</summary>
    private int Splits(Part part)
    {
        var splits = 1;
        while (part.Threads > 1 && Tiles(part) * splits < MostTiles * part.Threads && Output.Stride % (64 * splits) == 0)
            splits *= 2;
        return splits;
    }

    private (int Image, int Y, int X) Place(int tile) => (tile / (down * across), tile / across % down * Tile, tile % across * Tile);

    /// <summary>Floats from one place's matrix of weights to the next.</summary>
    public static nint Matrix(int depth, int columns) => (nint)depth * columns + MatrixKernel.Lanes;

    /// <summary>G g G^T of each kernel: 36 matrices [depth, columns], as <see cref="MatrixKernel.At"/> says.</summary>
    /// <param name="kernels">The first kernel's first number.</param>
    /// <param name="tap">From one of a kernel's nine numbers to the next; <paramref name="row"/> and <paramref name="column"/>: from a matrix's row or column to the next.</param>
    /// <param name="count">Columns that there are numbers of; the others are zeros.</param>
    public static Floats Transform(float* kernels, nint tap, nint row, nint column, int depth, int count, int columns)
    {
        var result = new Floats(Places * Matrix(depth, columns), zeros: false);
        Team.ForEach(columns / MatrixKernel.Lanes, block =>
        {
            var taps = stackalloc float[9 * MatrixKernel.Lanes];
            var half = stackalloc float[3 * Side * MatrixKernel.Lanes];
            new Span<float>(taps, 9 * MatrixKernel.Lanes).Clear();
            var first = block * MatrixKernel.Lanes;
            for (var i = 0; i < depth; i++)
            {
                for (var lane = 0; lane < Math.Min(MatrixKernel.Lanes, count - first); lane++)
                    for (var t = 0; t < 9; t++)
                        taps[t * MatrixKernel.Lanes + lane] = kernels[i * row + (first + lane) * column + t * tap];
                TransformKernels(taps, half, result.Data + MatrixKernel.At(i, first, depth, columns), Matrix(depth, columns));
            }
        });
        return result;
    }

    /// <summary>G g G^T of 16 kernels.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TransformKernels(float* taps, float* half, float* to, nint next)
    {
        for (var i = 0; i < 3; i++)
            FromThree(Vector512.Load(taps + i * 48), Vector512.Load(taps + i * 48 + 16), Vector512.Load(taps + i * 48 + 32), half + i * Side * MatrixKernel.Lanes, MatrixKernel.Lanes);
        for (var i = 0; i < Side; i++, half += MatrixKernel.Lanes, to += next)
            FromThree(Vector512.Load(half), Vector512.Load(half + 96), Vector512.Load(half + 192), to, Side * next);
    }

    /// <summary>B^T d B of one tile and 16 channels.</summary>
    /// <param name="half">Room for a tile.</param>
    /// <param name="to">Where the first place goes, the others <paramref name="next"/> floats apart.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void TransformInput(float** pixels, int channel, float* half, float* to, nint next)
    {
        for (var i = 0; i < Side; i++, pixels += Side)
            ToPoints(Vector512.Load(pixels[0] + channel), Vector512.Load(pixels[1] + channel), Vector512.Load(pixels[2] + channel), Vector512.Load(pixels[3] + channel),
                Vector512.Load(pixels[4] + channel), Vector512.Load(pixels[5] + channel), half + i * Side * MatrixKernel.Lanes, MatrixKernel.Lanes);
        for (var i = 0; i < Side; i++, half += MatrixKernel.Lanes, to += next)
            ToPoints(Vector512.Load(half), Vector512.Load(half + 96), Vector512.Load(half + 192), Vector512.Load(half + 288), Vector512.Load(half + 384), Vector512.Load(half + 480), to, Side * next);
    }

    /// <summary>A^T m A of one tile and 16 channels: four rows of six, of which four count.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TransformOutput(float* sums, nint next, float* to)
    {
        for (var i = 0; i < Side; i++, sums += next)
            FromPoints(Vector512.Load(sums), Vector512.Load(sums + 6 * next), Vector512.Load(sums + 12 * next), Vector512.Load(sums + 18 * next), Vector512.Load(sums + 24 * next),
                Vector512.Load(sums + 30 * next), to + i * MatrixKernel.Lanes, Side * MatrixKernel.Lanes);
        for (var i = 0; i < Tile; i++, to += Side * MatrixKernel.Lanes)
            FromPoints(Vector512.Load(to), Vector512.Load(to + 16), Vector512.Load(to + 32), Vector512.Load(to + 48), Vector512.Load(to + 64), Vector512.Load(to + 80), to, MatrixKernel.Lanes);
    }

    /// <summary>G g G^T of a tile of 4x4 gradients and 16 channels.</summary>
    /// <param name="half">Room for a tile.</param>
    /// <param name="to">Where the first place goes, the others <paramref name="next"/> floats apart.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void TransformGradient(float** pixels, int channel, float* half, float* to, nint next)
    {
        for (var i = 0; i < Tile; i++, pixels += Tile)
            FromFour(Vector512.Load(pixels[0] + channel), Vector512.Load(pixels[1] + channel), Vector512.Load(pixels[2] + channel), Vector512.Load(pixels[3] + channel),
                half + i * Side * MatrixKernel.Lanes, MatrixKernel.Lanes);
        for (var i = 0; i < Side; i++, half += MatrixKernel.Lanes, to += next)
            FromFour(Vector512.Load(half), Vector512.Load(half + 96), Vector512.Load(half + 192), Vector512.Load(half + 288), to, Side * next);
    }

    /// <summary>A^T m A, of which there are 3x3, for 16 input channels of one output channel.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void TransformWeights(float* sums, nint next, float* half, float* to, nint tap)
    {
        for (var i = 0; i < Side; i++, sums += next)
            ToThree(Vector512.Load(sums), Vector512.Load(sums + 6 * next), Vector512.Load(sums + 12 * next), Vector512.Load(sums + 18 * next), Vector512.Load(sums + 24 * next),
                Vector512.Load(sums + 30 * next), half + i * MatrixKernel.Lanes, Side * MatrixKernel.Lanes);
        for (var i = 0; i < 3; i++, half += Side * MatrixKernel.Lanes, to += 3 * tap)
            ToThree(Vector512.Load(half), Vector512.Load(half + 16), Vector512.Load(half + 32), Vector512.Load(half + 48), Vector512.Load(half + 64), Vector512.Load(half + 80), to, tap);
    }

    /// <summary>B^T d: row of point p has the coefficients of the product of (x - q) over the other points q; P Q = 1.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void ToPoints(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d, Vector512<float> e, Vector512<float> f, float* to, nint next)
    {
        var (evenP, oddP) = (Vector512.FusedMultiplyAdd(c, Vector512.Create(-QQ), e), Vector512.FusedMultiplyAdd(b, Vector512.Create(-Q), d * P));
        var (evenQ, oddQ) = (Vector512.FusedMultiplyAdd(c, Vector512.Create(-PP), e), Vector512.FusedMultiplyAdd(b, Vector512.Create(-P), d * Q));
        (Vector512.FusedMultiplyAdd(c, Vector512.Create(-Sum), e) + a).Store(to);
        (evenP + oddP).Store(to + next);
        (evenP - oddP).Store(to + 2 * next);
        (evenQ + oddQ).Store(to + 3 * next);
        (evenQ - oddQ).Store(to + 4 * next);
        (Vector512.FusedMultiplyAdd(d, Vector512.Create(-Sum), f) + b).Store(to + 5 * next);
    }

    /// <summary>A^T m: row i holds the points' powers of i, and infinity's 1 in the last.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FromPoints(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d, Vector512<float> e, Vector512<float> f, float* to, nint next)
    {
        var (evenP, oddP, evenQ, oddQ) = (b + c, b - c, d + e, d - e);
        (a + evenP + evenQ).Store(to);
        Vector512.FusedMultiplyAdd(oddP, Vector512.Create(P), oddQ * Q).Store(to + next);
        Vector512.FusedMultiplyAdd(evenP, Vector512.Create(PP), evenQ * QQ).Store(to + 2 * next);
        (Vector512.FusedMultiplyAdd(oddP, Vector512.Create(P * PP), oddQ * (Q * QQ)) + f).Store(to + 3 * next);
    }

    /// <summary>A^T m for a kernel of three.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void ToThree(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d, Vector512<float> e, Vector512<float> f, float* to, nint next)
    {
        var (evenP, oddP, evenQ, oddQ) = (b + c, b - c, d + e, d - e);
        (a + evenP + evenQ).Store(to);
        Vector512.FusedMultiplyAdd(oddP, Vector512.Create(P), oddQ * Q).Store(to + next);
        (Vector512.FusedMultiplyAdd(evenP, Vector512.Create(PP), evenQ * QQ) + f).Store(to + 2 * next);
    }

    /// <summary>G g of four gradients, as <see cref="FromThree"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FromFour(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d, float* to, nint next)
    {
        var (evenP, oddP) = (Vector512.FusedMultiplyAdd(c, Vector512.Create(PP * ForP), a * ForP), Vector512.FusedMultiplyAdd(d, Vector512.Create(P * PP * ForP), b * (P * ForP)));
        var (evenQ, oddQ) = (Vector512.FusedMultiplyAdd(c, Vector512.Create(QQ * ForQ), a * ForQ), Vector512.FusedMultiplyAdd(d, Vector512.Create(Q * QQ * ForQ), b * (Q * ForQ)));
        a.Store(to);
        (evenP + oddP).Store(to + next);
        (evenP - oddP).Store(to + 2 * next);
        (evenQ + oddQ).Store(to + 3 * next);
        (evenQ - oddQ).Store(to + 4 * next);
        d.Store(to + 5 * next);
    }

    /// <summary>G g: row of point p has its powers, by the product of p - q over the other points q.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FromThree(Vector512<float> a, Vector512<float> b, Vector512<float> c, float* to, nint next)
    {
        var (evenP, oddP) = (Vector512.FusedMultiplyAdd(c, Vector512.Create(PP * ForP), a * ForP), b * (P * ForP));
        var (evenQ, oddQ) = (Vector512.FusedMultiplyAdd(c, Vector512.Create(QQ * ForQ), a * ForQ), b * (Q * ForQ));
        a.Store(to);
        (evenP + oddP).Store(to + next);
        (evenP - oddP).Store(to + 2 * next);
        (evenQ + oddQ).Store(to + 3 * next);
        (evenQ - oddQ).Store(to + 4 * next);
        c.Store(to + 5 * next);
    }
}
