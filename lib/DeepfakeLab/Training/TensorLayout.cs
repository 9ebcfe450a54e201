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
}
