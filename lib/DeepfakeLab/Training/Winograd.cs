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
    private const int Side = 6, Places = Side * Side, Tile = 4, MostTiles = 4 * MatrixKernel.Rows;
    private const float P = 2f / 3, Q = 3f / 2, PP = P * P, QQ = Q * Q, Sum = PP + QQ;

    private readonly Maps input;
    private readonly Maps? add;
    private readonly ConvolutionWeights weights;
    private readonly Floats transformed; // one matrix [input channels, output channels] a place
    private readonly int across, down, distance;

    public Winograd(ConvolutionWeights weights, Maps input, Maps output, Maps? add) : base(output, input, add)
    {
        (this.weights, this.input, this.add) = (weights, input, add);
        (across, down) = ((output.Width + Tile - 1) / Tile, (output.Height + Tile - 1) / Tile);
        distance = MatrixKernel.Spread(input.Channels);
        transformed = Transform(weights, output.Stride);
    }

    public static bool Knows(Conv2d conv) =>
        conv is { kernel_size: [3, 3], stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1, in_channels: >= MatrixKernel.Lanes };

    /// <summary>Whether it multiplies less: not for images of a few pixels.</summary>
    public static bool Pays(Maps output) => (output.Height + Tile - 1) / Tile * ((output.Width + Tile - 1) / Tile) * Places < 9 * output.Pixels;

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
                transformed.Data + (long)place * input.Channels * Output.Stride + (long)first * input.Channels, input.Channels, width, Maps.Zeros,
                sums + place * Apart(width), width);
        var (low, high) = (Vector512.Create(weights.Low), Vector512.Create(weights.High));
        for (var tile = 0; tile < count; tile++)
        {
            var (image, y, x) = Place(from + tile);
            var (height, length) = (Math.Min(Tile, Output.Height - y), Math.Min(Tile, Output.Width - x));
            for (var channel = 0; channel < width; channel += MatrixKernel.Lanes)
            {
                TransformOutput(sums + tile * width + channel, Apart(width), scratch);
                var bias = Vector512.Load(weights.Bias.Data + first + channel);
                for (var row = 0; row < height; row++)
                {
                    var at = Output.Offset(image, y + row, x) + first + channel;
                    for (var column = 0; column < length; column++, at += Output.Stride)
                        MatrixKernel.Clamp(Vector512.Load(scratch + (row * Side + column) * MatrixKernel.Lanes) + bias, plus == null ? null : plus + at, low, high)
                            .Store(to + at);
                }
            }
        }
    }

    public override void Dispose()
    {
        transformed.Dispose();
        weights.Dispose();
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

    /// <summary>G g G^T of each kernel, in double precision.</summary>
    private static Floats Transform(ConvolutionWeights weights, int columns)
    {
        double[] points = [0, 2 / 3.0, -2 / 3.0, 1.5, -1.5];
        var matrix = new double[Side, 3];
        for (var i = 0; i < points.Length; i++)
            for (var j = 0; j < 3; j++)
                matrix[i, j] = Math.Pow(points[i], j) / points.Where(q => q != points[i]).Aggregate(1.0, (product, q) => product * (points[i] - q));
        matrix[5, 2] = 1;
        var depth = weights.Inputs;
        var result = new Floats((long)Places * depth * columns);
        Parallel.For(0, weights.Outputs, output =>
        {
            var half = stackalloc double[Side * 3];
            for (var channel = 0; channel < depth; channel++)
            {
                var kernel = weights.Values + ((long)output * depth + channel) * 9;
                for (var i = 0; i < Side; i++)
                    for (var j = 0; j < 3; j++)
                    {
                        half[i * 3 + j] = 0;
                        for (var k = 0; k < 3; k++)
                            half[i * 3 + j] += matrix[i, k] * kernel[k * 3 + j];
                    }
                for (var i = 0; i < Places; i++)
                {
                    var sum = 0.0;
                    for (var k = 0; k < 3; k++)
                        sum += half[i / Side * 3 + k] * matrix[i % Side, k];
                    result.Data[(long)i * depth * columns + MatrixKernel.At(channel, output, depth, columns)] = (float)sum;
                }
            }
        });
        return result;
    }

    /// <summary>B^T d B of one tile and 16 channels.</summary>
    /// <param name="half">Room for a tile.</param>
    /// <param name="to">Where the first place goes, the others <paramref name="next"/> floats apart.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TransformInput(float** pixels, int channel, float* half, float* to, nint next)
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
}
