using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Images ready to be batched: decoded and resized once, at the first batch, where memory allows, else again for each batch, ahead of time on other threads.</summary>
/// <remarks>A GPU holds them itself where they are few; else batches lie in memory that it reads while it computes (pinned).</remarks>
internal sealed class ImageStore : IDisposable
{
    /// <summary>Bytes that decoded images may take unless another limit is given.</summary>
    public const long DefaultMemory = 4L << 30;

    /// <summary>Bytes of decoded images up to which a GPU holds them.</summary>
    private const long DeviceMemory = 1L << 30;

    private readonly Preprocessing preprocessing;
    private readonly Lazy<Tensor?> all; // uint8 [N, 3, H, W]; null where it would take too much
    private (int[] Indices, Task<Tensor> Batch)? ahead;

    /// <param name="images">The images, in the order in which batches index them.</param>
    /// <param name="preprocessing">How each becomes a tensor.</param>
    /// <param name="memoryLimit">Bytes that decoded images may take; above it they are decoded for each batch.</param>
    public ImageStore(IReadOnlyList<FaceImage> images, Preprocessing preprocessing, CancellationToken cancellation, long memoryLimit = DefaultMemory)
    {
        Images = images;
        this.preprocessing = preprocessing;
        all = new(() =>
        {
            if (preprocessing.OutputSize is not var (height, width) || images.Count * 3L * height * width > memoryLimit)
                return null;
            var pixels = ImageLoader.Load(images, preprocessing, cancellation).DetachFromDisposeScope();
            return LabRuntime.Device.type != DeviceType.CPU && pixels.numel() <= DeviceMemory ? pixels.to(LabRuntime.Device, disposeAfter: true).DetachFromDisposeScope() : pixels;
        });
    }

    public IReadOnlyList<FaceImage> Images { get; }

    /// <summary>uint8 [n, 3, H, W] on the device, owned by the caller's dispose scope.</summary>
    public Tensor Batch(IReadOnlyList<int> indices, CancellationToken cancellation)
    {
        if (all.Value is { } held)
        {
            using var rows = tensor(indices.Select(i => (long)i).ToArray(), device: held.device);
            return held.index_select(0, rows).to(LabRuntime.Device);
        }
        if (ahead is var (expected, batch) && expected.AsSpan().SequenceEqual([.. indices]))
        {
            ahead = null;
            using var decoded = batch.GetAwaiter().GetResult(); // made on another thread, where no dispose scope of ours holds it
            return decoded.alias().to(LabRuntime.Device, non_blocking: true);
        }
        return Decode([.. indices], cancellation).to(LabRuntime.Device);
    }

    /// <summary>Begins to decode a batch that will be asked for next, while the last one is learned from.</summary>
    public void Prepare(int[] indices, CancellationToken cancellation)
    {
        if (all.Value is not null)
            return;
        Forget();
        ahead = (indices, Task.Run(() => Decode(indices, cancellation), CancellationToken.None));
    }

    public void Dispose()
    {
        Forget();
        if (all.IsValueCreated)
            all.Value?.Dispose();
    }

    private Tensor Decode(int[] indices, CancellationToken cancellation)
    {
        var pixels = ImageLoader.Load([.. indices.Select(i => Images[i].Path)], preprocessing, null, cancellation);
        if (LabRuntime.Device.type != DeviceType.CUDA)
            return pixels;
        using (pixels)
            return pixels.pin_memory();
    }

    /// <summary>Lets go of a batch that nobody asked for; its error, if it had one, is nobody's either.</summary>
    private void Forget()
    {
        ahead?.Batch.ContinueWith(batch =>
        {
            if (batch.IsCompletedSuccessfully)
                batch.Result.Dispose();
            else
                _ = batch.Exception;
        }, TaskScheduler.Default);
        ahead = null;
    }
}
