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
    private readonly DisposeScope scope = NewDisposeScope();

    /// <summary>Whether a model is run like that: on a processor in float32.</summary>
    public static bool Fits(VisionModel model) => Vector256.IsHardwareAccelerated && model.parameters().First() is { device_type: DeviceType.CPU, dtype: ScalarType.Float32 };

    /// <summary>From images, or what enters the stage <paramref name="from"/>, to the features [N, F] that enter the head.</summary>
    public Tensor Features(VisionModel model, Tensor x, string? from = null)
    {
        if (from == model.Stages[^1])
            return x;
        var maps = Chain(model.Stages.SkipLast(1).SkipWhile(s => from is not null && s != from).SelectMany(model.StageLayers), x);
        return model.Pooled(maps);
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

    private Tensor Chain(IEnumerable<nn.Module> modules, Tensor x, Tensor? shortcut = null, bool endsInReLU = false)
    {
        var layers = Flatten(modules).ToList();
        for (var i = 0; i < layers.Count; i++)
            if (layers[i] is BatchNorm2d norm)
            {
                var sum = i == layers.Count - 1 ? shortcut : null;
                var activation = sum is not null ? endsInReLU ? Layers.ReLU() : null : i + 1 < layers.Count && IsActivation(layers[i + 1]) ? (nn.Module<Tensor, Tensor>)layers[++i] : null;
                x = Norm(norm, activation, x, sum);
            }
            else
                x = layers[i] is Layers.IResidual block ? Residual(block, x) : ((nn.Module<Tensor, Tensor>)layers[i]).call(x);
        return x;
    }

    private Tensor Residual(Layers.IResidual block, Tensor x)
    {
        if (!block.Adds)
            return Chain(block.Branch, x);
        x = Leaf(x);
        var shortcut = Chain(block.Shortcut, x);
        if (Flatten(block.Branch).Last() is BatchNorm2d && block.Drop == 0)
            return Chain(block.Branch, x, shortcut, block.EndsInReLU);
        var y = Layers.StochasticDepth(Chain(block.Branch, x), block.Drop, true) + shortcut;
        return block.EndsInReLU ? y.relu_() : y;
    }

    internal Tensor Norm(BatchNorm2d norm, nn.Module<Tensor, Tensor>? activation, Tensor x, Tensor? shortcut)
    {
        if (!norm.training || norm.weight is null || norm.running_mean is null || x.shape[1] % 8 != 0 || x.numel() > int.MaxValue / 4 || !IsChannelsLast(x) || shortcut is not null && !IsChannelsLast(shortcut))
        {
            var plain = norm.call(x);
            plain = shortcut is null ? plain : plain + shortcut;
            return activation?.call(plain) ?? plain;
        }
        return activation switch
        {
            null => Norm<NormKernels.None>(norm, x, shortcut),
            ReLU => Norm<NormKernels.ReLU>(norm, x, shortcut),
            ReLU6 => Norm<NormKernels.ReLU6>(norm, x, shortcut),
            SiLU => Norm<NormKernels.SiLU>(norm, x, shortcut),
            _ => Norm<NormKernels.Hardswish>(norm, x, shortcut),
        };
    }

    private unsafe Tensor Norm<T>(BatchNorm2d norm, Tensor x, Tensor? shortcut) where T : struct, NormKernels.IActivation
    {
        var (channels, rows) = ((int)x.shape[1], x.numel() / x.shape[1]);
        var (weight, bias) = (Numbers(norm.weight!), Numbers(norm.bias!));
        var (mean, variance) = NormKernels.Statistics(Pointer(x), rows, channels);
        Follow(norm, mean, variance, rows);
        var inverse = Array.ConvertAll(variance, v => 1 / Math.Sqrt(v + norm.eps));
        var scale = new float[channels];
        var shift = new float[channels];
        for (var c = 0; c < channels; c++)
            (scale[c], shift[c]) = ((float)(weight[c] * inverse[c]), (float)(bias[c] - weight[c] * inverse[c] * mean[c]));
        Tensor y;
        using (no_grad())
            y = empty_like(x.detach());
        NormKernels.Apply<T>(Pointer(x), shortcut is null ? null : Pointer(shortcut), Pointer(y), rows, channels, scale, shift);
        if (!x.requires_grad && !norm.weight!.requires_grad && shortcut is not { requires_grad: true })
            return y;
        y.requires_grad = true;
        back.Push(() =>
        {
            if (y.grad is not { } gradient)
                return;
            using var none = no_grad();
            y.grad = null;
            if (!IsChannelsLast(gradient))
                gradient = TensorLayout.ChannelsLast(gradient);
            var floats = Array.ConvertAll(mean, m => (float)m);
            var (sum, withX) = NormKernels.BackwardSums<T>(Pointer(gradient), Pointer(x), shortcut is null ? null : Pointer(y), rows, channels, scale, shift, floats);
            y.Dispose();
            Add(norm.weight!, () => tensor(withX.Zip(inverse, (s, i) => (float)(s * i)).ToArray()));
            Add(norm.bias!, () => tensor(Array.ConvertAll(sum, s => (float)s)));
            if (x.requires_grad)
            {
                var (byX, constant) = (new float[channels], new float[channels]);
                for (var c = 0; c < channels; c++)
                {
                    var slope = weight[c] * inverse[c] * inverse[c] * inverse[c] * withX[c] / rows;
                    (byX[c], constant[c]) = ((float)-slope, (float)(slope * mean[c] - weight[c] * inverse[c] * sum[c] / rows));
                }
                var result = shortcut is { requires_grad: true } ? empty_like(gradient) : gradient;
                NormKernels.Backward<T>(Pointer(gradient), Pointer(x), Pointer(result), shortcut is not null, rows, channels, scale, shift, byX, constant);
                x.backward([result]);
            }
            x.Dispose();
            if (shortcut is not null)
                Add(shortcut, () => gradient);
        });
        return y;
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

    private static float[] Numbers(Tensor vector)
    {
        using var plain = vector.detach();
        return plain.data<float>().ToArray();
    }

    /// <summary>Of memory that stays where it is as long as the tensor lives.</summary>
    private static unsafe float* Pointer(Tensor x)
    {
        using var plain = x.detach();
        using var rows = plain.permute(0, 2, 3, 1);
        fixed (byte* p = rows.bytes)
            return (float*)p;
    }

    private static bool IsChannelsLast(Tensor x)
    {
        using var rows = x.permute(0, 2, 3, 1);
        return rows.is_contiguous();
    }

    private static bool IsActivation(nn.Module module) => module is ReLU or ReLU6 or SiLU or Hardswish;

    private static IEnumerable<nn.Module> Flatten(IEnumerable<nn.Module> modules) => Layers.Flatten(modules).Where(m => m is not Identity);
}
