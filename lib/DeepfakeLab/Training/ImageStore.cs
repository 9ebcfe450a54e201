using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Images ready to be batched: decoded and resized once where memory allows, else again for each batch.</summary>
internal sealed class ImageStore : IDisposable
{
    private readonly Preprocessing preprocessing;
    private readonly Tensor? all; // uint8 [N, 3, H, W] on the CPU

    /// <param name="images">The images, in the order in which batches index them.</param>
    /// <param name="preprocessing">How each becomes a tensor.</param>
    /// <param name="memoryLimit">Bytes that decoded images may take; above it they are decoded for each batch.</param>
    public ImageStore(IReadOnlyList<FaceImage> images, Preprocessing preprocessing, CancellationToken cancellation, long memoryLimit = 4L << 30)
    {
        Images = images;
        this.preprocessing = preprocessing;
        if (preprocessing.OutputSize is var (height, width) && images.Count * 3L * height * width <= memoryLimit)
            all = ImageLoader.Load(images, preprocessing, cancellation);
    }

    public IReadOnlyList<FaceImage> Images { get; }

    /// <summary>uint8 [n, 3, H, W], owned by the caller's dispose scope.</summary>
    public Tensor Batch(IReadOnlyList<int> indices, CancellationToken cancellation)
    {
        if (all is null)
            return ImageLoader.Load(indices.Select(i => Images[i]).ToArray(), preprocessing, cancellation);
        using var rows = tensor(indices.Select(i => (long)i).ToArray());
        return all.index_select(0, rows);
    }

    public void Dispose() => all?.Dispose();
}
