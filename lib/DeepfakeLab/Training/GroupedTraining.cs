using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using TorchSharp;
using TorchSharp.Modules;
using static DeepfakeLab.GroupedConvolution;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A 3x3 convolution in groups of channels in training: forward, and towards its input, by the inference engine's <see cref="GroupedConvolution"/>;
/// towards its weights 16 outputs at a time, each lane of a register with its own group's inputs.
/// </summary>
/// <remarks>All are the same to the bit with any number of threads.</remarks>
internal static unsafe class GroupedTraining
{
    private const int Kernel = 3, Taps = Kernel * Kernel;

    /// <summary>Pixels, 16 channels each, that the first cache holds: of 32 KiB.</summary>
    private const int HeldPixels = 512;

    /// <summary>Channels of the weights' gradient that are computed one after the other, as they lie, and items that it is divided into.</summary>
    private const int SlabChannels = 128, Items = 8;

    /// <summary>Whether it computes this convolution of <paramref name="x"/> [N, C, H, W].</summary>
    public static bool Fits(Conv2d conv, Tensor x) => Vector512.IsHardwareAccelerated && Knows(conv) && conv.stride![0] == conv.stride[1] && conv is { padding: [1, 1], padding_mode: PaddingModes.Zeros }
        && x.dim() == 4 && TensorLayout.IsChannelsLast(x) && conv.in_channels <= Maps.MostChannels && conv.dilation![1] == 1;

    /// <summary>The convolution, with ReLU behind it where <paramref name="relu"/> says so.</summary>
    public static Tensor Forward(Conv2d conv, Tensor x, bool relu) => Convolve(new(conv, relu ? 0 : float.NegativeInfinity, float.PositiveInfinity), x);

    /// <summary>From the gradient of what <see cref="Forward"/> made of <paramref name="x"/> to that of x.</summary>
    /// <remarks>With stride 1 the same convolution, with turned kernels and the channels' parts exchanged.</remarks>
    public static Tensor InputGradient(Conv2d conv, Tensor x, Tensor gradient)
    {
        using var scope = NewDisposeScope();
        var (weight, groups, stride) = (conv.weight!.detach(), conv.groups, conv.stride![0]);
        if (stride > 1)
            return nn.functional.conv_transpose2d(gradient, weight, strides: [stride, stride], padding: [1, 1], groups: groups,
                output_padding: [x.shape[2] - 1 - (gradient.shape[2] - 1) * stride, x.shape[3] - 1 - (gradient.shape[3] - 1) * stride]).MoveToOuterDisposeScope();
        var turned = weight.reshape(groups, -1, weight.shape[1], Kernel, Kernel).transpose(1, 2).flip(3, 4).reshape(weight.shape);
        return Convolve(new(conv, turned, bias: null), gradient).MoveToOuterDisposeScope();
    }

    /// <summary>The weights' gradient, which lies in memory as they do.</summary>
    public static Tensor WeightGradient(Conv2d conv, Tensor x, Tensor gradient)
    {
        using var scope = NewDisposeScope();
        Maps from = WinogradTraining.Over(x), to = WinogradTraining.Over(gradient);
        var (images, group, stride) = ((int)x.shape[0], (int)conv.weight!.shape[1], (int)conv.stride![0]);
        var (blocks, inputs) = (Math.Max(1, group / MatrixKernel.Lanes), Math.Min(group, MatrixKernel.Lanes)); // of a group, and inputs in one of these
        var wide = (to.Width - 1) * stride + Kernel;
        var band = Math.Clamp((HeldPixels - (Kernel - stride) * wide) / (to.Width + stride * wide), 1, to.Height);
        var (plane, around) = (band * to.Width * MatrixKernel.Lanes, ((band - 1) * stride + Kernel) * wide * MatrixKernel.Lanes);
        var units = to.Channels / MatrixKernel.Lanes / blocks; // groups, or fours or twos of them where they are narrower than a register
        var slabs = Math.Max(1, to.Channels / SlabChannels); // of units that lie side by side, and
        var parts = Math.Clamp(Items / slabs, 1, images); // of the images: each of both is an item, and what is added in which order does not depend on the threads
        var size = (nint)blocks * blocks * inputs * Taps * MatrixKernel.Lanes; // of a unit's sums: [outputs, inputs, taps, 16], a block after the other
        using var permutations = Permutations(inputs);
        using var sums = new Floats(parts * units * size);
        Team.ForEach(parts * slabs, item =>
        {
            using Floats gradients = new(blocks * plane, zeros: false), pixels = new(blocks * around, zeros: false);
            var (part, slab) = (item / slabs, item % slabs);
            for (var image = images * part / parts; image < images * (part + 1) / parts; image++)
                for (var y = 0; y < to.Height; y += band)
                    for (var unit = units * slab / slabs; unit < units * (slab + 1) / slabs; unit++)
                        Add(image, y, unit * blocks * MatrixKernel.Lanes, gradients.Data, pixels.Data, sums.Data + (part * units + unit) * size);
        });
        var weights = empty([to.Channels, Kernel, Kernel, group]);
        var numbers = TensorLayout.Pointer(weights);
        Team.ForEach(units, unit =>
        {
            for (var i = 0; i < size; i++)
            {
                var sum = 0f;
                for (var part = 0; part < parts; part++)
                    sum += sums.Data[(part * units + unit) * size + i];
                var (lane, tap, input) = (i % MatrixKernel.Lanes, i / MatrixKernel.Lanes % Taps, i / MatrixKernel.Lanes / Taps);
                numbers[((unit * blocks + input / group) * MatrixKernel.Lanes + lane) * Taps * group + tap * group + input % group] = sum;
            }
        });
        var result = weights.permute(0, 3, 1, 2);
        return (conv.weight!.is_contiguous() ? result.contiguous() : result).MoveToOuterDisposeScope();

        void Add(int image, int y, int channel, float* gradients, float* pixels, float* sum)
        {
            var rows = Math.Min(band, to.Height - y);
            for (var block = 0; block < blocks; block++, channel += MatrixKernel.Lanes)
            {
                Lay(to, to.Data, image, y, rows, 0, to.Width, channel, gradients + block * plane);
                Lay(from, from.Data, image, y * stride - 1, (rows - 1) * stride + Kernel, -1, wide, channel, pixels + block * around);
            }
            for (var output = 0; output < blocks; output++)
                for (var input = 0; input < blocks; input++)
                    for (var i = 0; i < inputs; i++, sum += Taps * MatrixKernel.Lanes)
                    {
                        var lanes = Vector512.Load((int*)permutations.Data + i * MatrixKernel.Lanes);
                        if (stride == 1)
                            Sum<One>(gradients + output * plane, pixels + input * around, rows, to.Width, wide, lanes, sum);
                        else
                            Sum<Two>(gradients + output * plane, pixels + input * around, rows, to.Width, wide, lanes, sum);
                    }
        }
    }

    private static Tensor Convolve(ConvolutionWeights weights, Tensor x)
    {
        var input = WinogradTraining.Over(x);
        var (height, width) = ((input.Height - 1) / weights.Stride + 1, (input.Width - 1) / weights.Stride + 1);
        using var y = empty([x.shape[0], height, width, weights.Outputs]);
        using var step = new GroupedConvolution(weights, input, new Maps(height, width, weights.Outputs) { Data = TensorLayout.Pointer(y) }, add: null);
        WinogradTraining.Run(step, (int)x.shape[0]);
        return y.permute(0, 3, 1, 2);
    }

    /// <summary>To each of a kernel's nine places: the gradients, times one input of each lane's group as it lies under that place.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sum<TStride>(float* g, float* x, int rows, int columns, nint wide, Vector512<int> lanes, float* sums) where TStride : struct, IStride
    {
        Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default, s4 = default, s5 = default, s6 = default, s7 = default, s8 = default;
        for (var row = 0; row < rows; row++, x += TStride.Pixels * wide * MatrixKernel.Lanes)
        {
            float* above = x, amid = x + wide * MatrixKernel.Lanes, below = amid + wide * MatrixKernel.Lanes;
            Vector512<float> a0 = Pixel(above, 0, lanes), a1 = Pixel(above, 1, lanes);
            Vector512<float> b0 = Pixel(amid, 0, lanes), b1 = Pixel(amid, 1, lanes);
            Vector512<float> c0 = Pixel(below, 0, lanes), c1 = Pixel(below, 1, lanes);
            for (var column = 0; column < columns; column++, g += MatrixKernel.Lanes, above += TStride.Pixels * MatrixKernel.Lanes, amid += TStride.Pixels * MatrixKernel.Lanes, below += TStride.Pixels * MatrixKernel.Lanes)
            {
                var behind = Vector512.Load(g);
                Vector512<float> a2 = Pixel(above, 2, lanes), b2 = Pixel(amid, 2, lanes), c2 = Pixel(below, 2, lanes);
                if (TStride.Pixels == 2)
                    (a1, b1, c1) = (Pixel(above, 1, lanes), Pixel(amid, 1, lanes), Pixel(below, 1, lanes));
                s0 = Vector512.FusedMultiplyAdd(a0, behind, s0);
                s1 = Vector512.FusedMultiplyAdd(a1, behind, s1);
                s2 = Vector512.FusedMultiplyAdd(a2, behind, s2);
                s3 = Vector512.FusedMultiplyAdd(b0, behind, s3);
                s4 = Vector512.FusedMultiplyAdd(b1, behind, s4);
                s5 = Vector512.FusedMultiplyAdd(b2, behind, s5);
                s6 = Vector512.FusedMultiplyAdd(c0, behind, s6);
                s7 = Vector512.FusedMultiplyAdd(c1, behind, s7);
                s8 = Vector512.FusedMultiplyAdd(c2, behind, s8);
                (a0, b0, c0) = TStride.Pixels == 1 ? (a1, b1, c1) : (a2, b2, c2);
                if (TStride.Pixels == 1)
                    (a1, b1, c1) = (a2, b2, c2);
            }
        }
        Put(0, s0);
        Put(1, s1);
        Put(2, s2);
        Put(3, s3);
        Put(4, s4);
        Put(5, s5);
        Put(6, s6);
        Put(7, s7);
        Put(8, s8);

        void Put(int tap, Vector512<float> sum) => (Vector512.Load(sums + tap * MatrixKernel.Lanes) + sum).Store(sums + tap * MatrixKernel.Lanes);
    }
}
