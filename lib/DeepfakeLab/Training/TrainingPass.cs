using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// One way of a batch through a model in training, and back, with each batch norm, its activation and the sum behind it computed as one
/// (<see cref="NormKernels"/>). What a norm makes is not kept: the way back computes it again from what went in.
/// </summary>
/// <remarks>
/// libtorch's autograd knows nothing of these: it sees the network in pieces, each from one of them to the next, and <see cref="Backward"/> goes
/// through the pieces from the last to the first. TorchSharp's own autograd functions would do, were it not that they hold a copy of each output.
/// Hooks on the norms, activations and blocks that are computed as one are not called.
/// </remarks>
internal sealed class TrainingPass : IDisposable
{
    /// <summary>What goes back through one piece's end: the gradient of what is left of it, to whatever is before it.</summary>
    private readonly Stack<Action> back = new();

    /// <summary>Of what 1x1 and depthwise convolutions made: how to read their gradient, where a norm behind has left it to be computed as it is read.</summary>
    private readonly Dictionary<Tensor, PointwiseTraining.Rows?> unfinished = new(ReferenceEqualityComparer.Instance);
    private readonly DisposeScope scope = NewDisposeScope();

    /// <summary>Whether a model is run like that: on a processor in float32.</summary>
    public static bool Fits(VisionModel model) => Vector256.IsHardwareAccelerated && model.parameters().First() is { device_type: DeviceType.CPU, dtype: ScalarType.Float32 };

    /// <summary>From images, or what enters the stage <paramref name="from"/>, to the features [N, F] that enter the head.</summary>
    public Tensor Features(VisionModel model, Tensor x, string? from = null)
    {
        if (from == model.Stages[^1])
            return x;
        var maps = Chain(model.Stages.SkipLast(1).SkipWhile(s => from is not null && s != from).SelectMany(model.StageLayers), x, pools: model.PooledSide == 1 && !model.FlattensMaps);
        return maps.dim() == 2 ? maps : model.Pooled(maps);
    }

    /// <summary>As <c>loss.backward()</c>. Once.</summary>
    public void Backward(Tensor loss)
    {
        loss.backward();
        while (back.TryPop(out var step))
        {
            using var own = NewDisposeScope();
            step();
        }
    }

    public void Dispose() => scope.Dispose();

    /// <param name="drop">Probability that the branch of an image is dropped.</param>
    /// <param name="pools">Whether the maps' means [N, C] are wanted and not the maps, where a norm ends the chain; other ends give maps still.</param>
    internal Tensor Chain(IEnumerable<nn.Module> modules, Tensor x, Tensor? shortcut = null, bool endsInReLU = false, double drop = 0, bool pools = false)
    {
        var layers = Flatten(modules).ToList();
        (double[] Mean, double[] Variance)? statistics = null; // of x, where a convolution has counted them
        for (var i = 0; i < layers.Count; i++)
        {
            var known = statistics;
            statistics = null;
            if (layers[i] is BatchNorm2d norm)
            {
                var sum = i == layers.Count - 1 ? shortcut : null;
                var activation = sum is not null ? endsInReLU ? Layers.ReLU() : null : i + 1 < layers.Count && IsActivation(layers[i + 1]) ? (nn.Module<Tensor, Tensor>)layers[++i] : null;
                var excitation = i + 1 < layers.Count ? layers[i + 1] as Layers.SqueezeExcitation : null;
                i += excitation is null ? 0 : 1;
                var next = i + 1 < layers.Count && layers[i + 1] is Conv2d point && (PointwiseTraining.Fits(point, x) || excitation is null && DepthwiseKernel.ShapeOf(point, x) is not null) ? point : null;
                i += next is null ? 0 : 1;
                (x, statistics) = Norm(norm, activation, x, sum, excitation, sum is null ? 0 : drop, pools && i == layers.Count - 1, known, next);
            }
            else if (layers[i] is Conv2d point && PointwiseTraining.Fits(point, x))
                (x, statistics) = Pointwise<NormKernels.None>(point, new(x));
            else if (layers[i] is Conv2d conv && DepthwiseKernel.ShapeOf(conv, x) is { } shape && TensorLayout.IsChannelsLast(x))
                x = Depthwise(conv, x, shape);
            else if (layers[i] is Conv2d full && (WinogradTraining.Fits(full, x) || GroupedTraining.Fits(full, x)))
            {
                var relu = i + 1 < layers.Count && layers[i + 1] is ReLU;
                i += relu ? 1 : 0;
                x = Convolve(full, x, relu);
            }
            else
                x = layers[i] is Layers.IResidual block ? Residual(block, x) : ((nn.Module<Tensor, Tensor>)layers[i]).call(x);
        }
        return x;
    }

    private Tensor Residual(Layers.IResidual block, Tensor x)
    {
        if (!block.Adds)
            return Chain(block.Branch, x);
        x = Leaf(x);
        var shortcut = Chain(block.Shortcut, x);
        if (Flatten(block.Branch).Last() is BatchNorm2d && (block.Drop == 0 || !block.EndsInReLU))
            return Chain(block.Branch, x, shortcut, block.EndsInReLU, block.Drop);
        var y = Layers.StochasticDepth(Chain(block.Branch, x), block.Drop, true) + shortcut;
        return block.EndsInReLU ? y.relu_() : y;
    }

    internal Tensor Norm(BatchNorm2d norm, nn.Module<Tensor, Tensor>? activation, Tensor x, Tensor? shortcut, Layers.SqueezeExcitation? excitation = null, double drop = 0, bool pools = false) =>
        Norm(norm, activation, x, shortcut, excitation, drop, pools, null, null).Y;

    /// <param name="statistics">Of x, if they are known.</param>
    /// <param name="next">A 1x1 or depthwise convolution that follows and takes what the norm makes, without a shortcut; null for none. The statistics returned are of its output.</param>
    private (Tensor Y, (double[] Mean, double[] Variance)? Statistics) Norm(BatchNorm2d norm, nn.Module<Tensor, Tensor>? activation, Tensor x, Tensor? shortcut,
        Layers.SqueezeExcitation? excitation, double drop, bool pools, (double[] Mean, double[] Variance)? statistics, Conv2d? next)
    {
        if (!norm.training || norm.weight is null || norm.running_mean is null || x.shape[1] % 8 != 0 || x.numel() > int.MaxValue / 4 || !TensorLayout.IsChannelsLast(x) || shortcut is not null && !TensorLayout.IsChannelsLast(shortcut))
        {
            var plain = Layers.StochasticDepth(norm.call(x), drop, true);
            plain = shortcut is null ? plain : plain + shortcut;
            plain = activation?.call(plain) ?? plain;
            plain = excitation?.call(plain) ?? plain;
            return (next?.call(plain) ?? plain, null);
        }
        return activation switch
        {
            null => Norm<NormKernels.None>(norm, x, shortcut, excitation, drop, pools, statistics, next),
            ReLU => Norm<NormKernels.ReLU>(norm, x, shortcut, excitation, drop, pools, statistics, next),
            ReLU6 => Norm<NormKernels.ReLU6>(norm, x, shortcut, excitation, drop, pools, statistics, next),
            SiLU => Norm<NormKernels.SiLU>(norm, x, shortcut, excitation, drop, pools, statistics, next),
            _ => Norm<NormKernels.Hardswish>(norm, x, shortcut, excitation, drop, pools, statistics, next),
        };
    }

    private (Tensor Y, (double[] Mean, double[] Variance)? Statistics) Norm<T>(BatchNorm2d norm, Tensor x, Tensor? shortcut, Layers.SqueezeExcitation? excitation, double drop, bool pools,
        (double[] Mean, double[] Variance)? statistics, Conv2d? next) where T : struct, NormKernels.IActivation
    {
        var batch = new Normalised(norm, x, statistics);
        if (next is not null)
            return DepthwiseKernel.ShapeOf(next, x) is { } shape ? Depthwise<T>(next, shape, batch, x) : Pointwise<T>(next, batch, x, excitation);
        return (excitation is not null || drop > 0 ? Scaled<T>(batch, x, shortcut, excitation, drop) : pools ? Pooled<T>(batch, x) : Norm<T>(batch, x, shortcut), null);
    }

    private unsafe Tensor Norm<T>(Normalised batch, Tensor x, Tensor? shortcut) where T : struct, NormKernels.IActivation
    {
        var (rows, channels, scale, shift) = (batch.Images * batch.Rows, batch.Channels, batch.Scale, batch.Shift);
        var y = Like(x);
        NormKernels.Apply<T>(TensorLayout.Pointer(x), shortcut is null ? null : TensorLayout.Pointer(shortcut), TensorLayout.Pointer(y), rows, channels, scale, shift);
        if (!x.requires_grad && !batch.Learns && shortcut is not { requires_grad: true })
            return y;
        GoBack(y, x, shortcut, gradient =>
        {
            var (sum, withX) = NormKernels.BackwardSums<T>(TensorLayout.Pointer(gradient), TensorLayout.Pointer(x), shortcut is null ? null : TensorLayout.Pointer(y), rows, channels, scale, shift, batch.Origin);
            y.Dispose();
            var (byX, constant) = batch.Learn(sum, withX);
            if (!x.requires_grad)
                return;
            Finish<T>(batch, x, gradient, masked: shortcut is not null, isOurs: shortcut is not { requires_grad: true }, byX, constant);
        });
        return y;
    }

    /// <summary>The gradient before a norm, to whatever made <paramref name="x"/>: at once, or where a convolution of ours did, as that reads it.</summary>
    /// <param name="masked">Whether <paramref name="gradient"/> has gone through the activation.</param>
    /// <param name="isOurs">Whether <paramref name="gradient"/> may be written over.</param>
    private unsafe void Finish<T>(Normalised batch, Tensor x, Tensor gradient, bool masked, bool isOurs, float[] byX, float[] constant) where T : struct, NormKernels.IActivation
    {
        var (channels, scale, shift) = (batch.Channels, batch.Scale, batch.Shift);
        if (unfinished.ContainsKey(x))
        {
            float* g = TensorLayout.Pointer(gradient), v = TensorLayout.Pointer(x); // which live as long as x, whose gradient it becomes
            unfinished[x] = (row, count, to, distance) =>
            {
                fixed (float* k = scale, b = shift, f = byX, o = constant)
                    NormKernels.Backward<T>(g + row * channels, v + row * channels, to, distance, masked, count, channels, k, b, f, o);
            };
            Send(gradient, x);
            return;
        }
        var result = isOurs ? gradient : empty_like(gradient);
        NormKernels.Backward<T>(TensorLayout.Pointer(gradient), TensorLayout.Pointer(x), TensorLayout.Pointer(result), masked, batch.Images * batch.Rows, channels, scale, shift, byX, constant);
        Send(result, x);
    }

    /// <summary>With a factor for each channel of each image: what squeeze and excitation makes of their means, or whether the branch is kept.</summary>
    private unsafe Tensor Scaled<T>(Normalised batch, Tensor x, Tensor? shortcut, Layers.SqueezeExcitation? excitation, double drop) where T : struct, NormKernels.IActivation
    {
        var (images, rows, channels, scale, shift) = (batch.Images, batch.Rows, batch.Channels, batch.Scale, batch.Shift);
        var learns = x.requires_grad || batch.Learns || excitation is not null && excitation.parameters().Any(p => p.requires_grad);
        var (means, scales) = excitation is null ? (null, Layers.Kept(x, drop).expand(images, channels, 1, 1).contiguous()) : Excite<T>(excitation, batch, x, learns);
        var factors = TensorLayout.Pointer(scales); // which live as long as the pass
        var y = Like(x);
        ScaledKernels.Apply<T>(TensorLayout.Pointer(x), shortcut is null ? null : TensorLayout.Pointer(shortcut), TensorLayout.Pointer(y), images, rows, channels, scale, shift, factors);
        if (!learns && shortcut is not { requires_grad: true })
            return y;
        GoBack(y, x, shortcut, gradient =>
        {
            y.Dispose();
            BackScaled<T>(batch, x, gradient, means, scales, shortcut is { requires_grad: true } ? null : gradient);
        });
        return y;
    }

    /// <summary>The means [N, C] of what the norm makes, and the factors that squeeze and excitation make of them.</summary>
    private static unsafe (Tensor Means, Tensor Scales) Excite<T>(Layers.SqueezeExcitation excitation, Normalised batch, Tensor x, bool learns) where T : struct, NormKernels.IActivation
    {
        var means = Means<T>(batch, x).requires_grad_(learns);
        return (means, excitation.Steps.Aggregate(means, (m, step) => step is Conv2d full ? nn.functional.linear(m, full.weight!.flatten(1), full.bias) : ((nn.Module<Tensor, Tensor>)step).call(m)));
    }

    /// <summary>The means [N, C] over the places of the images of what the norm makes.</summary>
    private static unsafe Tensor Means<T>(Normalised batch, Tensor x) where T : struct, NormKernels.IActivation
    {
        var means = empty([batch.Images, batch.Channels]);
        ScaledKernels.Means<T>(TensorLayout.Pointer(x), batch.Images, batch.Rows, batch.Channels, batch.Scale, batch.Shift, TensorLayout.Pointer(means));
        return means;
    }

    private static unsafe void BackScaled<T>(Normalised batch, Tensor x, Tensor gradient, Tensor? means, Tensor scales, Tensor? over) where T : struct, NormKernels.IActivation
    {
        var sums = BackwardSums<T>(batch, x, gradient);
        if (means is not null)
            scales.backward([sums.select(1, 0).contiguous()]);
        Back<T>(batch, x, gradient, sums, scales, means is null ? zeros_like(scales) : means.grad! / batch.Rows, over);
    }

    /// <summary>As <see cref="ScaledKernels.BackwardSums"/>: [N, kinds, C].</summary>
    private static unsafe Tensor BackwardSums<T>(Normalised batch, Tensor x, Tensor gradient) where T : struct, NormKernels.IActivation
    {
        var sums = empty([batch.Images, ScaledKernels.BackwardKinds, batch.Channels]);
        ScaledKernels.BackwardSums<T>(TensorLayout.Pointer(gradient), TensorLayout.Pointer(x), batch.Images, batch.Rows, batch.Channels, batch.Scale, batch.Shift, batch.Origin, TensorLayout.Pointer(sums));
        return sums;
    }

    /// <summary>The means [N, C] over the places of the images: the maps themselves nobody else wants.</summary>
    private unsafe Tensor Pooled<T>(Normalised batch, Tensor x) where T : struct, NormKernels.IActivation
    {
        var means = Means<T>(batch, x);
        if (!x.requires_grad && !batch.Learns)
            return means;
        GoBack(means, x, null, gradient => Back<T>(batch, x, x, BackwardSums<T>(batch, x, x), zeros_like(gradient), gradient / batch.Rows, null)); // what is multiplied by 0 can be anything
        return means;
    }

    /// <summary>From the sums over each image to the gradients of the norm's parameters and of x.</summary>
    /// <param name="over">What the gradient of x may be written over; null for nothing.</param>
    private static unsafe void Back<T>(Normalised batch, Tensor x, Tensor gradient, Tensor sums, Tensor scales, Tensor added, Tensor? over) where T : struct, NormKernels.IActivation
    {
        var channels = batch.Channels;
        float* factors = TensorLayout.Pointer(scales), offsets = TensorLayout.Pointer(added);
        var (sum, withX) = ScaledKernels.Join(TensorLayout.Pointer(sums), batch.Images, channels, factors, offsets);
        var (byX, constant) = batch.Learn(sum, withX);
        if (!x.requires_grad)
            return;
        var result = over ?? Like(x);
        ScaledKernels.Backward<T>(TensorLayout.Pointer(gradient), TensorLayout.Pointer(x), TensorLayout.Pointer(result), batch.Images, batch.Rows, channels, batch.Scale, batch.Shift, factors, offsets, byX, constant);
        Send(result, x);
    }

    /// <summary>Makes <paramref name="y"/> the beginning of another piece, and <paramref name="step"/> what brings its gradient to <paramref name="x"/>.</summary>
    private void GoBack(Tensor y, Tensor x, Tensor? shortcut, Action<Tensor> step)
    {
        y.requires_grad = true;
        back.Push(() =>
        {
            if (y.grad is not { } gradient)
                return;
            using var none = no_grad();
            y.grad = null;
            if (gradient.dim() == 4 && !TensorLayout.IsChannelsLast(gradient))
                gradient = TensorLayout.ChannelsLast(gradient);
            step(gradient);
            if (!x.is_leaf) // else the piece that begins there wants its gradient
                x.Dispose();
            if (shortcut is not null)
                Add(shortcut, () => gradient);
        });
    }

    /// <summary>A depthwise convolution, with a way back that is faster than libtorch's.</summary>
    internal unsafe Tensor Depthwise(Conv2d conv, Tensor x, DepthwiseKernel.Shape shape)
    {
        Tensor y;
        using (no_grad())
            y = conv.call(x);
        if (!x.requires_grad && !conv.weight!.requires_grad)
            return y;
        GoBack(y, x, null, gradient =>
        {
            y.Dispose();
            var result = x.requires_grad ? Like(x) : null;
            var (filters, _, _) = DepthwiseKernel.Backward<NormKernels.None>(PointwiseTraining.RowsOf(gradient), TensorLayout.Pointer(x), result is null ? null : TensorLayout.Pointer(result),
                Numbers(conv.weight!), conv.weight!.requires_grad, null, shape);
            Add(conv.weight!, () => TensorLayout.Copy(filters, conv.weight!.shape));
            if (result is not null)
                Send(result, x);
        });
        return y;
    }

    /// <summary>A norm and its activation, and the depthwise convolution behind them, whose input is never written; the statistics of what it makes.</summary>
    private unsafe (Tensor Y, (double[] Mean, double[] Variance)? Statistics) Depthwise<T>(Conv2d conv, DepthwiseKernel.Shape shape, Normalised batch, Tensor x) where T : struct, NormKernels.IActivation
    {
        var learns = x.requires_grad || batch.Learns;
        using var rows = empty([shape.Images, shape.OutHeight, shape.OutWidth, shape.Channels]); // whose numbers live as long as y
        var y = rows.permute(0, 3, 1, 2);
        var statistics = DepthwiseKernel.Forward<T>(TensorLayout.Pointer(x), TensorLayout.Pointer(y), Numbers(conv.weight!), batch.Scale, batch.Shift, shape);
        if (learns || conv.weight!.requires_grad)
        {
            unfinished[y] = null;
            GoBack(y, x, null, gradient =>
            {
                var result = learns ? Like(x) : null;
                var (filters, sum, withX) = DepthwiseKernel.Backward<T>(unfinished[y] ?? PointwiseTraining.RowsOf(gradient), TensorLayout.Pointer(x), result is null ? null : TensorLayout.Pointer(result),
                    Numbers(conv.weight!), conv.weight!.requires_grad, (batch.Scale, batch.Shift, batch.Origin), shape);
                Forget(y);
                Add(conv.weight!, () => TensorLayout.Copy(filters, conv.weight!.shape));
                if (result is null)
                    return;
                var (byX, constant) = batch.Learn(sum, withX);
                if (x.requires_grad)
                    Finish<T>(batch, x, result, masked: true, isOurs: true, byX, constant);
            });
        }
        return (y, statistics);
    }

    /// <summary>A 1x1 convolution, and the statistics of what it makes.</summary>
    internal (Tensor Y, (double[] Mean, double[] Variance)? Statistics) Pointwise<T>(Conv2d conv, PointwiseTraining.Input input) where T : struct, NormKernels.IActivation
    {
        var (y, mean, variance) = PointwiseTraining.Forward<T>(conv, input);
        var x = input.X;
        if (x.requires_grad || conv.weight!.requires_grad)
        {
            unfinished[y] = null;
            GoBack(y, x, null, gradient =>
            {
                var result = x.requires_grad ? Like(x) : null;
                Learn(conv, PointwiseTraining.Backward<T>(conv, input, unfinished[y] ?? PointwiseTraining.RowsOf(gradient), null, conv.weight!.requires_grad, result).Weights);
                Forget(y);
                if (result is not null)
                    Send(result, x);
            });
        }
        return (y, (mean, variance));
    }

    /// <summary>A norm and what belongs to it, and the 1x1 convolution behind it, whose input is never written.</summary>
    private unsafe (Tensor Y, (double[] Mean, double[] Variance)? Statistics) Pointwise<T>(Conv2d conv, Normalised batch, Tensor x, Layers.SqueezeExcitation? excitation)
        where T : struct, NormKernels.IActivation
    {
        var learns = x.requires_grad || batch.Learns || excitation is not null && excitation.parameters().Any(p => p.requires_grad);
        var (means, scales) = excitation is null ? default : Excite<T>(excitation, batch, x, learns);
        var input = new PointwiseTraining.Input(x, batch.Scale, batch.Shift, scales);
        var (y, mean, variance) = PointwiseTraining.Forward<T>(conv, input);
        if (learns || conv.weight!.requires_grad)
        {
            unfinished[y] = null;
            GoBack(y, x, null, gradient =>
            {
                var result = learns ? Like(x) : null;
                var (weights, sum, withX) = PointwiseTraining.Backward<T>(conv, input, unfinished[y] ?? PointwiseTraining.RowsOf(gradient), excitation is null ? batch.Origin : null, conv.weight!.requires_grad, result);
                Forget(y);
                Learn(conv, weights);
                if (result is null)
                    return;
                if (scales is not null)
                {
                    BackScaled<T>(batch, x, result, means, scales, result);
                    return;
                }
                var (byX, constant) = batch.Learn(sum, withX);
                if (x.requires_grad)
                    Finish<T>(batch, x, result, masked: true, isOurs: true, byX, constant);
            });
        }
        return (y, (mean, variance));
    }

    private void Forget(Tensor y)
    {
        unfinished.Remove(y);
        y.Dispose();
    }

    private static void Learn(Conv2d conv, Tensor? weights)
    {
        if (weights is not null)
            Add(conv.weight!, () => weights.view(conv.weight!.shape));
    }

    /// <summary>A convolution by <see cref="WinogradTraining"/> or <see cref="GroupedTraining"/>, with ReLU behind it where <paramref name="relu"/> says so.</summary>
    internal Tensor Convolve(Conv2d conv, Tensor x, bool relu)
    {
        var grouped = conv.groups > 1;
        var y = grouped ? GroupedTraining.Forward(conv, x, relu) : WinogradTraining.Forward(conv, x, relu);
        if (!x.requires_grad && !conv.parameters().Any(p => p.requires_grad))
            return y;
        GoBack(y, x, null, gradient =>
        {
            if (relu)
                gradient.mul_(y.gt(0));
            y.Dispose();
            if (conv.bias is { } bias)
                Add(bias, () => gradient.sum([0, 2, 3]));
            Add(conv.weight!, () => grouped ? GroupedTraining.WeightGradient(conv, x, gradient) : WinogradTraining.WeightGradient(conv, x, gradient));
            if (x.requires_grad)
                Send(grouped ? GroupedTraining.InputGradient(conv, x, gradient) : WinogradTraining.InputGradient(conv, gradient), x);
        });
        return y;
    }

    /// <summary>A norm on one batch: with the batch's statistics it is scale x + shift.</summary>
    private sealed class Normalised
    {
        private readonly BatchNorm2d norm;
        private readonly float[] weight;
        private readonly double[] mean, inverse;

        public unsafe Normalised(BatchNorm2d norm, Tensor x, (double[] Mean, double[] Variance)? statistics = null)
        {
            this.norm = norm;
            (Images, Channels, Rows) = ((int)x.shape[0], (int)x.shape[1], x.shape[2] * x.shape[3]);
            weight = Numbers(norm.weight!);
            var bias = Numbers(norm.bias!);
            (mean, var variance) = statistics ?? NormKernels.Statistics(TensorLayout.Pointer(x), Images * Rows, Channels);
            Follow(norm, mean, variance, Images * Rows);
            inverse = Array.ConvertAll(variance, v => 1 / Math.Sqrt(v + norm.eps));
            (Scale, Shift) = (new float[Channels], new float[Channels]);
            for (var c = 0; c < Channels; c++)
                (Scale[c], Shift[c]) = ((float)(weight[c] * inverse[c]), (float)(bias[c] - weight[c] * inverse[c] * mean[c]));
        }

        public int Images { get; }

        public int Channels { get; }

        /// <summary>Places in an image.</summary>
        public long Rows { get; }

        public float[] Scale { get; }

        public float[] Shift { get; }

        public float[] Origin => Array.ConvertAll(mean, m => (float)m);

        public bool Learns => norm.weight!.requires_grad;

        /// <summary>Adds the gradients of the norm's parameters. Returns how x adds to its own gradient: byX x + constant.</summary>
        /// <param name="sum">Of the gradient behind the norm, over all rows.</param>
        /// <param name="withX">Of the gradient times x - mean.</param>
        public (float[] ByX, float[] Constant) Learn(double[] sum, double[] withX)
        {
            var (rows, byX, constant, byWeight, byBias) = (Images * Rows, new float[Channels], new float[Channels], new float[Channels], new float[Channels]);
            for (var c = 0; c < Channels; c++)
            {
                var slope = weight[c] * inverse[c] * inverse[c] * inverse[c] * withX[c] / rows;
                (byX[c], constant[c]) = ((float)-slope, (float)(slope * mean[c] - weight[c] * inverse[c] * sum[c] / rows));
                (byWeight[c], byBias[c]) = ((float)(withX[c] * inverse[c]), (float)sum[c]);
            }
            Add(norm.weight!, () => TensorLayout.Copy(byWeight, [Channels]));
            Add(norm.bias!, () => TensorLayout.Copy(byBias, [Channels]));
            return (byX, constant);
        }
    }

    private static Tensor Like(Tensor x)
    {
        using var none = no_grad();
        using var plain = x.detach(); // which would else hold the numbers as long as the pass lives
        return empty_like(plain);
    }

    /// <summary>The same numbers as the beginning of another piece: what is used twice would be gone back through twice.</summary>
    private Tensor Leaf(Tensor x)
    {
        if (!x.requires_grad || x.is_leaf)
            return x;
        var y = x.detach();
        y.requires_grad = true;
        back.Push(() =>
        {
            if (y.grad is { } gradient)
                x.backward([gradient]);
            y.Dispose();
        });
        return y;
    }

    /// <summary>Hands a gradient to libtorch where its layers made <paramref name="to"/>, else to the piece of ours that did.</summary>
    private static void Send(Tensor gradient, Tensor to)
    {
        if (to.is_leaf)
            Add(to, () => gradient);
        else
            to.backward([gradient]);
    }

    private static void Add(Tensor to, Func<Tensor> gradient)
    {
        if (!to.requires_grad)
            return;
        to.grad = to.grad is { } before ? before.add_(gradient()) : gradient();
    }

    /// <summary>Moves the running statistics as PyTorch does; the running variance is the unbiased one.</summary>
    private static void Follow(BatchNorm2d norm, double[] mean, double[] variance, long rows)
    {
        using var none = no_grad();
        norm.num_batches_tracked!.add_(1);
        var share = norm.momentum ?? 1.0 / norm.num_batches_tracked.item<long>();
        var means = MemoryMarshal.Cast<byte, float>(norm.running_mean!.bytes);
        var variances = MemoryMarshal.Cast<byte, float>(norm.running_var!.bytes);
        for (var c = 0; c < mean.Length; c++)
        {
            means[c] = (float)((1 - share) * means[c] + share * mean[c]);
            variances[c] = (float)((1 - share) * variances[c] + share * variance[c] * rows / Math.Max(1, rows - 1));
        }
    }

    private static float[] Numbers(Tensor parameter)
    {
        using var plain = parameter.detach();
        using var dense = plain.contiguous();
        return MemoryMarshal.Cast<byte, float>(dense.bytes).ToArray();
    }

    private static bool IsActivation(nn.Module module) => module is ReLU or ReLU6 or SiLU or Hardswish;

    private static IEnumerable<nn.Module> Flatten(IEnumerable<nn.Module> modules) => Layers.Flatten(modules).Where(m => m is not Identity);
}
