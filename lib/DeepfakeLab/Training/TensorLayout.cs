using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

internal static class TensorLayout
{
    /// <summary>The same [N, C, H, W] values with the channels next to each other in memory, which convolutions on the CPU prefer.</summary>
    /// <remarks>TorchSharp does not know PyTorch's <c>memory_format=torch.channels_last</c> by name.</remarks>
    public static Tensor ChannelsLast(Tensor images)
    {
        using var scope = NewDisposeScope();
        return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).MoveToOuterDisposeScope();
    }

    /// <summary>Whether the channels of [N, C, H, W] lie next to each other.</summary>
    public static bool IsChannelsLast(Tensor x)
    {
        using var rows = x.permute(0, 2, 3, 1);
        return rows.is_contiguous();
    }

    /// <summary>A copy of numbers in memory of torch's own.</summary>
    /// <remarks><c>torch.tensor</c> leaves them where the array has them, and a matrix product of MKL rounds otherwise where its numbers begin elsewhere in a cache line: no run was the same twice.</remarks>
    public static Tensor Copy(float[] values, ReadOnlySpan<long> shape, bool requiresGrad = false)
    {
        var copy = empty(shape, ScalarType.Float32);
        values.AsSpan().CopyTo(System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(copy.bytes));
        return copy.requires_grad_(requiresGrad);
    }

    /// <summary>Where a dense float32 tensor, or one with its channels last, begins in memory, which stays where it is as long as the tensor lives.</summary>
    public static unsafe float* Pointer(Tensor x)
    {
        using var plain = x.detach();
        using var dense = plain.dim() == 4 && !plain.is_contiguous() ? plain.permute(0, 2, 3, 1) : plain.alias();
        fixed (byte* p = dense.bytes)
            return (float*)p;
    }

    /// <summary>Lays out a model's convolution weights, or back: where images have their channels last, libtorch else does it at each use of a weight.</summary>
    /// <remarks>Values, parameters and optimizers stay; a weight's gradient takes the weight's layout.</remarks>
    public static void Weights(nn.Module model, bool channelsLast)
    {
        using var none = no_grad();
        foreach (var weight in model.modules().OfType<Conv2d>().Select(c => c.weight!).Where(w => w.shape[1] > 1 && w.shape[2] * w.shape[3] > 1))
        {
            using var scope = NewDisposeScope();
            weight.set_(channelsLast ? ChannelsLast(weight.detach()) : weight.detach().contiguous());
        }
    }
}
