using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The blocks that several families share, after torchvision's <c>ops.misc</c>; layer numbers give torchvision's state-dict keys.</summary>
internal static class Layers
{
    /// <summary>A batch norm's two constants. torchvision ports TensorFlow's for EfficientNet and MobileNetV3.</summary>
    public sealed record Norm(double Eps = 1e-5, double Momentum = 0.1)
    {
        public static readonly Norm Default = new();

        public BatchNorm2d Over(long channels) => nn.BatchNorm2d(channels, Eps, Momentum);
    }

    public static nn.Module<Tensor, Tensor> ReLU() => nn.ReLU(inplace: true);
    public static nn.Module<Tensor, Tensor> ReLU6() => nn.ReLU6(inplace: true);
    public static nn.Module<Tensor, Tensor> SiLU() => nn.SiLU(inplace: true);
    public static nn.Module<Tensor, Tensor> Hardswish() => nn.Hardswish(inplace: true);

    /// <summary>A convolution without bias that keeps the image's size (divided by the stride).</summary>
    public static Conv2d Conv(long input, long output, long kernel = 3, long stride = 1, long groups = 1) =>
        nn.Conv2d(input, output, kernel, stride, padding: (kernel - 1) / 2, groups: groups, bias: false);

    /// <summary>torchvision's <c>Conv2dNormActivation</c>: convolution "0", batch norm "1", activation "2" (null: none).</summary>
    public static Sequential ConvNormActivation(
        long input, long output, long kernel = 3, long stride = 1, long groups = 1, Norm? norm = null, Func<nn.Module<Tensor, Tensor>>? activation = null)
    {
        var block = nn.Sequential(Conv(input, output, kernel, stride, groups), (norm ?? Norm.Default).Over(output));
        return activation is null ? block : block.append(activation());
    }

    /// <summary>Rounds a channel count to a multiple of 8, never down by more than a tenth; torchvision's <c>_make_divisible</c>.</summary>
    public static int Channels(double count)
    {
        var rounded = Math.Max(8, (int)(count + 4) / 8 * 8);
        return rounded < 0.9 * count ? rounded + 8 : rounded;
    }
}
