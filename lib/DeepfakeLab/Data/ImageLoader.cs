using TorchSharp;

namespace DeepfakeLab;

/// <summary>Decodes images on all cores into one tensor.</summary>
public static class ImageLoader
{
    /// <summary>Reads and preprocesses images. Reports <see cref="LabProgress"/>; stops at <see cref="LabProgress.Interrupt"/> too.</summary>
    /// <param name="images">N images.</param>
    /// <param name="preprocessing">Must give one size for all of them: an exact resize or a crop.</param>
    /// <param name="cancellation">Stops the work.</param>
    /// <returns>uint8 [N, 3, H, W] on the CPU, in the order given; the caller owns it.</returns>
    /// <exception cref="ImageException">An image cannot be read; the first in the order given is named.</exception>
    public static torch.Tensor Load(IReadOnlyList<FaceImage> images, Preprocessing preprocessing, CancellationToken cancellation = default) =>
        Load([.. images.Select(image => image.Path)], preprocessing, cancellation);

    /// <summary>The same for files that belong to no dataset.</summary>
    public static torch.Tensor Load(IReadOnlyList<string> paths, Preprocessing preprocessing, CancellationToken cancellation = default) =>
        Load(paths, preprocessing, LabProgress.Begin("reading images", paths.Count, "images"), cancellation);

    /// <summary>The same, reporting to a task, or to none: single batches are no work of their own.</summary>
    internal static unsafe torch.Tensor Load(IReadOnlyList<string> paths, Preprocessing preprocessing, ProgressTask? progress, CancellationToken cancellation)
    {
        if (preprocessing.OutputSize is not var (height, width))
            throw new ArgumentException("Images of different shapes fit one tensor only if the preprocessing fixes height and width", nameof(preprocessing));
        LabRuntime.Start();
        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        either.Token.ThrowIfCancellationRequested();
        var tensor = torch.empty([paths.Count, 3, height, width], torch.uint8);
        if (paths.Count == 0)
            return tensor;
        try
        {
            fixed (byte* first = tensor.bytes) // native memory: it stays where it is, so other threads may write to it
            {
                var start = (nint)first;
                var size = 3 * height * width;
                ForEach(paths.Count, either.Token, i =>
                {
                    using var image = preprocessing.Apply(ImageReader.ReadPixels(paths[i]));
                    image.WritePlanes(new Span<byte>((byte*)start + (long)i * size, size));
                    progress?.Advance();
                });
            }
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>Runs <paramref name="work"/> for 0 to <paramref name="count"/> - 1 on all cores; the error of the lowest index is thrown.</summary>
    internal static void ForEach(int count, CancellationToken cancellation, Action<int> work)
    {
        var failed = new System.Collections.Concurrent.ConcurrentDictionary<int, LabException>();
        var options = new ParallelOptions { CancellationToken = cancellation, MaxDegreeOfParallelism = Environment.ProcessorCount };
        try
        {
            Parallel.For(0, count, options, (i, state) =>
            {
                try
                {
                    work(i);
                }
                catch (LabException e)
                {
                    failed[i] = e;
                    state.Break(); // lower indices still run, so that the same error comes out each time
                }
            });
        }
        catch (AggregateException e) // anything else, a full disk for one: as itself, so that callers can catch it by its type
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }
        if (!failed.IsEmpty)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failed.MinBy(f => f.Key).Value);
    }
}
