using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The blocks that several families share, after torchvision's <c>ops.misc</c>; layer numbers give torchvision's state-dict keys.</summary>
internal static class Layers
{
    /// <summary>A batch norm's two constants (torchvision ports TensorFlow's for EfficientNet and MobileNetV3), or another normalisation.</summary>
    public sealed record Norm(double Eps = 1e-5, double Momentum = 0.1, Func<long, nn.Module<Tensor, Tensor>>? Layer = null)
    {
        public static readonly Norm Default = new();

        public nn.Module<Tensor, Tensor> Over(long channels) => Layer?.Invoke(channels) ?? nn.BatchNorm2d(channels, Eps, Momentum);
    }

    public static nn.Module<Tensor, Tensor> ReLU() => nn.ReLU(inplace: true);
    public static nn.Module<Tensor, Tensor> ReLU6() => nn.ReLU6(inplace: true);
    public static nn.Module<Tensor, Tensor> SiLU() => nn.SiLU(inplace: true);
    public static nn.Module<Tensor, Tensor> Hardswish() => nn.Hardswish(inplace: true);

    /// <summary>A convolution without bias that keeps the image's size (divided by the stride).</summary>
    public static Conv2d Conv(long input, long output, long kernel = 3, long stride = 1, long groups = 1, long dilation = 1) =>
        nn.Conv2d(input, output, kernel, stride, padding: (kernel - 1) / 2 * dilation, dilation: dilation, groups: groups, bias: false);

    /// <summary>torchvision's <c>Conv2dNormActivation</c>: convolution "0", batch norm "1", activation "2" (null: none).</summary>
    public static Sequential ConvNormActivation(
        long input, long output, long kernel = 3, long stride = 1, long groups = 1, Norm? norm = null,
        Func<nn.Module<Tensor, Tensor>>? activation = null, long dilation = 1)
    {
        var block = nn.Sequential(Conv(input, output, kernel, stride, groups, dilation), (norm ?? Norm.Default).Over(output));
        return activation is null ? block : block.append(activation());
    }

    /// <summary>What a block with a way around it is made of, for code that reads a model instead of running it.</summary>
    public interface IResidual
    {
        IReadOnlyList<nn.Module> Branch { get; }

        /// <summary>Whether the input is added to the branch, through <see cref="Shortcut"/>.</summary>
        bool Adds { get; }

        IReadOnlyList<nn.Module> Shortcut => [];

        /// <summary>Probability that training drops the branch of an image (<see cref="StochasticDepth"/>).</summary>
        double Drop => 0;

        /// <summary>Whether a ReLU follows the sum.</summary>
        bool EndsInReLU => false;
    }

    /// <summary>The layers in their order, those of sequences one by one, for code that reads a model instead of running it.</summary>
    public static IEnumerable<nn.Module> Flatten(IEnumerable<nn.Module> modules) =>
        modules.SelectMany(m => m is Sequential sequence ? Flatten(sequence.named_children().Select(c => c.module)) : [m]);

    /// <summary>Squeeze and excitation (Hu et al. 2017, arXiv:1709.01507): each channel scaled by what all channels' means say.</summary>
    public sealed class SqueezeExcitation : nn.Module<Tensor, Tensor>
    {
        private readonly Conv2d fc1, fc2;
        private readonly nn.Module<Tensor, Tensor> activation, scale_activation;

        public SqueezeExcitation(long channels, long squeezed, nn.Module<Tensor, Tensor> activation, nn.Module<Tensor, Tensor> scale)
            : base(nameof(SqueezeExcitation))
        {
            (fc1, fc2) = (nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1));
            (this.activation, scale_activation) = (activation, scale);
            RegisterComponents();
        }

        /// <summary>From the channels' means to their scales.</summary>
        public IReadOnlyList<nn.Module> Steps => [fc1, activation, fc2, scale_activation];

        public override Tensor forward(Tensor x)
        {
            using var scope = NewDisposeScope();
            var scale = scale_activation.call(fc2.call(activation.call(fc1.call(x.mean([2, 3], keepdim: true)))));
            return (scale * x).MoveToOuterDisposeScope();
        }
    }

    /// <summary>In training, drops the whole branch of some images (Huang et al. 2016, arXiv:1603.09382); torchvision's "row" mode.</summary>
    public static Tensor StochasticDepth(Tensor branch, double drop, bool training)
    {
        if (!training || drop == 0)
            return branch;
        using var kept = Kept(branch, drop);
        return branch * kept;
    }

    /// <summary>What <see cref="StochasticDepth"/> multiplies each image's branch by: [N, 1, 1, 1], 0 or 1 / (1 - drop).</summary>
    public static Tensor Kept(Tensor branch, double drop)
    {
        var kept = empty([branch.shape[0], 1, 1, 1], branch.dtype, branch.device).bernoulli_(1 - drop);
        return drop < 1 ? kept.div_(1 - drop) : kept;
    }

    /// <summary>Rounds a channel count to a multiple of 8 (or another), never down by more than a tenth; torchvision's <c>_make_divisible</c>.</summary>
    public static int Channels(double count, int divisor = 8)
    {
        var rounded = Math.Max(divisor, (int)(count + divisor / 2.0) / divisor * divisor);
        return rounded < 0.9 * count ? rounded + divisor : rounded;
    }
}
