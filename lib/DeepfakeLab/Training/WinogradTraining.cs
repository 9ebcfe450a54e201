using System.Runtime.Intrinsics;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A 3x3 convolution in training by <see cref="Winograd"/>, forward and back: towards its input it is the same convolution, with turned kernels and
/// the channels' parts exchanged; towards its weights F(3x3, 4x4), where a tile of 4x4 gradients is the kernel. A quarter of the multiplications each.
/// </summary>
/// <remarks>All are the same to the bit with any number of threads.</remarks>
internal static unsafe class WinogradTraining
{
    /// <summary>Floats that the transformed tiles of the images taken together may have, for the weights' gradient: as the last cache holds.</summary>
    private const long PartFloats = 2 << 20;

    private const int RowsOfItem = 8 * MatrixKernel.Rows;

    /// <summary>Whether it computes this convolution of <paramref name="x"/> [N, C, H, W].</summary>
    public static bool Fits(Conv2d conv, Tensor x) => Vector512.IsHardwareAccelerated && Winograd.Knows(conv) && x.dim() == 4 && TensorLayout.IsChannelsLast(x) && conv.padding_mode == TorchSharp.PaddingModes.Zeros
        && conv.in_channels % MatrixKernel.Lanes == 0 && conv.out_channels % MatrixKernel.Lanes == 0 && Math.Max(conv.in_channels, conv.out_channels) <= Maps.MostChannels
        && Winograd.Pays(new Maps((int)x.shape[2], (int)x.shape[3], 0));

    /// <summary>The convolution, with ReLU behind it where <paramref name="relu"/> says so.</summary>
    public static Tensor Forward(Conv2d conv, Tensor x, bool relu)
    {
        using var scope = NewDisposeScope();
        var weight = TensorLayout.ChannelsLast(conv.weight!.detach());
        var (outputs, inputs) = ((int)conv.out_channels, (int)conv.in_channels);
        using var transformed = Winograd.Transform(TensorLayout.Pointer(weight), inputs, 1, 9 * inputs, inputs, outputs, outputs);
        var bias = conv.bias is { } shift ? TensorLayout.Pointer(shift) : Maps.Zeros;
        return Convolve(transformed, bias, x, outputs, relu ? 0 : float.NegativeInfinity).MoveToOuterDisposeScope();
    }

    /// <summary>From the gradient of what <see cref="Forward"/> made to that of its input.</summary>
    public static Tensor InputGradient(Conv2d conv, Tensor gradient)
    {
        using var scope = NewDisposeScope();
        var weight = TensorLayout.ChannelsLast(conv.weight!.detach());
        var (outputs, inputs) = ((int)conv.out_channels, (int)conv.in_channels);
        using var transformed = Winograd.Transform(TensorLayout.Pointer(weight) + 8 * inputs, -inputs, 9 * inputs, 1, outputs, inputs, inputs);
        return Convolve(transformed, Maps.Zeros, gradient, inputs, float.NegativeInfinity).MoveToOuterDisposeScope();
    }

    /// <summary>The weights' gradient, which lies in memory as they do.</summary>
    public static Tensor WeightGradient(Conv2d conv, Tensor x, Tensor gradient)
    {
        using var scope = NewDisposeScope();
        var (outputs, inputs, images) = ((int)conv.out_channels, (int)conv.in_channels, (int)x.shape[0]);
        Maps from = Over(x), to = Over(gradient);
        var (down, across) = Winograd.Tiles(to);
        var part = (int)Math.Clamp(PartFloats / ((long)Winograd.Places * down * across * (inputs + outputs)), 1, images);
        var most = part * down * across;
        var distance = MatrixKernel.Spread(outputs);
        nint left = (nint)most * distance + MatrixKernel.Lanes, right = Winograd.Matrix(most, inputs), sum = (nint)outputs * inputs + MatrixKernel.Lanes;
        using Floats gradients = new(Winograd.Places * left, zeros: false), pixels = new(Winograd.Places * right, zeros: false), sums = new(Winograd.Places * sum, zeros: false);
        for (var first = 0; first < images; first += part)
        {
            var (begin, tiles) = (first * down * across, Math.Min(part, images - first) * down * across);
            var adds = first > 0;
            Team.ForEach(tiles, tile =>
            {
                var near = stackalloc float*[Winograd.Places];
                var half = stackalloc float[Winograd.Places * MatrixKernel.Lanes];
                var (image, y, column) = ((begin + tile) / (down * across), tile / across % down * Winograd.Tile, tile % across * Winograd.Tile);
                for (var i = 0; i < Winograd.Places; i++)
                    near[i] = from.PixelOrZeros(from.Data, image, y + i / Winograd.Side - 1, column + i % Winograd.Side - 1);
                for (var channel = 0; channel < inputs; channel += MatrixKernel.Lanes)
                    Winograd.TransformInput(near, channel, half, pixels.Data + MatrixKernel.At(tile, channel, tiles, inputs), right);
                for (var i = 0; i < Winograd.Tile * Winograd.Tile; i++)
                    near[i] = to.PixelOrZeros(to.Data, image, y + i / Winograd.Tile, column + i % Winograd.Tile);
                for (var channel = 0; channel < outputs; channel += MatrixKernel.Lanes)
                    Winograd.TransformGradient(near, channel, half, gradients.Data + (nint)tile * distance + channel, left);
            });
            var blocks = (outputs + RowsOfItem - 1) / RowsOfItem;
            Team.ForEach(Winograd.Places * blocks, item =>
            {
                var (place, row) = (item / blocks, item % blocks * RowsOfItem);
                var result = sums.Data + place * sum + (nint)row * inputs;
                MatrixKernel.Multiply(gradients.Data + place * left + row, 1, Math.Min(RowsOfItem, outputs - row), pixels.Data + place * right, tiles, inputs, Maps.Zeros, result, inputs,
                    adds ? result : null, runs: tiles, apart: distance);
            });
        }
        var weights = empty([outputs, 3, 3, inputs]);
        var numbers = TensorLayout.Pointer(weights);
        Team.ForEach(outputs, output =>
        {
            var half = stackalloc float[Winograd.Places * MatrixKernel.Lanes];
            for (var channel = 0; channel < inputs; channel += MatrixKernel.Lanes)
                Winograd.TransformWeights(sums.Data + (nint)output * inputs + channel, sum, half, numbers + (nint)output * 9 * inputs + channel, inputs);
        });
        var result = weights.permute(0, 3, 1, 2);
        return (conv.weight!.is_contiguous() ? result.contiguous() : result).MoveToOuterDisposeScope();
    }

    private static Tensor Convolve(Floats transformed, float* bias, Tensor x, int channels, float least)
    {
        var y = empty([x.shape[0], x.shape[2], x.shape[3], channels]);
        var input = Over(x);
        Run(new Winograd(transformed, bias, input, new Maps(input.Height, input.Width, channels) { Data = TensorLayout.Pointer(y) }, least: least), (int)x.shape[0]);
        return y.permute(0, 3, 1, 2);
    }

    /// <summary>A step of the inference engine's, on as many images.</summary>
    public static void Run(VectorStep step, int images)
    {
        var part = new Part(null, 0, images, LabRuntime.Threads);
        var scratch = new ThreadLocal<Floats>(() => new Floats(step.Scratch, zeros: false), trackAllValues: true);
        Team.ForEach(step.Items(part), item => step.Run(item, part, scratch.Value!.Data));
        foreach (var own in scratch.Values)
            own.Dispose();
        scratch.Dispose();
    }

    public static Maps Over(Tensor x) => new((int)x.shape[2], (int)x.shape[3], (int)x.shape[1]) { Data = TensorLayout.Pointer(x) };
}
