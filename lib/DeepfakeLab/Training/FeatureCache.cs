using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Tensors that were computed once, kept in files that are mapped into memory: what the frozen layers made of images.</summary>
/// <remarks>
/// A file's name is the hash of everything that its content depends on, so a changed input asks for another file, and its shape. It is
/// written under a temporary name and moved into place when it is whole, so a killed writer leaves no false entry.
/// </remarks>
public sealed class FeatureCache
{
    private readonly string folder;
    private readonly long limit;

    /// <param name="folder">Created when something is first kept.</param>
    /// <param name="limit">Bytes that all files together may take; beyond it the ones used longest ago go. A new file is kept whatever its size.</param>
    public FeatureCache(string folder, long limit)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(limit);
        (this.folder, this.limit) = (folder, limit);
    }

    /// <summary>In <see cref="LabFolders.Cache"/>, at most 8 GiB.</summary>
    public static FeatureCache Default => new(Path.Combine(LabFolders.Cache, "features"), 8L << 30);

    /// <summary>How many tensors were computed, rather than found, through this object.</summary>
    public int Computed { get; private set; }

    /// <summary>The tensor of this key: mapped from its file, or computed part by part, written, and mapped.</summary>
    /// <param name="key">Names everything that the content depends on.</param>
    /// <param name="rows">The tensor's first dimension, at least 1.</param>
    /// <param name="compute">Gives some rows, float32 on the CPU, from an index on; at least one, all of the same shape, in its own dispose scope.</param>
    /// <returns>float32 [rows, ...] on the CPU, not in memory until it is read; the caller owns it.</returns>
    internal Tensor Get(string key, int rows, Func<int, Tensor> compute)
    {
        var hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(key)));
        var file = Find(hash);
        if (file is null)
        {
            file = Write(hash, rows, compute);
            Computed++;
            Evict(file);
        }
        else
            Touch(file);
        var shape = Shape(file)!;
        using var flat = from_file(file, shared: false, size: shape.Aggregate(1L, (a, b) => a * b), dtype: ScalarType.Float32);
        return flat.view(shape).DetachFromDisposeScope();
    }

    private string? Find(string hash) => Directory.Exists(folder)
        ? Directory.EnumerateFiles(folder, hash + "-*.f32").FirstOrDefault(f => Shape(f) is { } shape && new FileInfo(f).Length == 4 * shape.Aggregate(1L, (a, b) => a * b))
        : null;

    private string Write(string hash, int rows, Func<int, Tensor> compute)
    {
        Directory.CreateDirectory(folder);
        var temporary = Path.Combine(folder, $"{hash}.{Guid.NewGuid():N}.tmp");
        try
        {
            long[] shape = [];
            using (var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None))
            {
                for (var at = 0; at < rows;)
                {
                    using var scope = NewDisposeScope();
                    var part = compute(at).contiguous(); // a view with the channels last is written in the order of its dimensions
                    stream.Write(part.bytes);
                    (shape, at) = (part.shape, at + (int)part.shape[0]);
                }
                stream.Flush(flushToDisk: true);
            }
            shape[0] = rows;
            var file = Path.Combine(folder, $"{hash}-{string.Join('x', shape.Select(s => s.ToString(CultureInfo.InvariantCulture)))}.f32");
            File.Move(temporary, file, overwrite: true);
            return file;
        }
        finally
        {
            File.Delete(temporary); // does nothing once the file has been moved
        }
    }

    private static long[]? Shape(string file)
    {
        var sizes = Path.GetFileNameWithoutExtension(file).Split('-')[^1].Split('x');
        var shape = new long[sizes.Length];
        for (var i = 0; i < sizes.Length; i++)
            if (!long.TryParse(sizes[i], NumberStyles.None, CultureInfo.InvariantCulture, out shape[i]) || shape[i] is < 1 or > int.MaxValue)
                return null;
        return shape;
    }

    private static void Touch(string file)
    {
        try
        {
            File.SetLastWriteTimeUtc(file, DateTime.UtcNow); // when it was used last; access times are often off
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // a cache that may only be read serves as well
        }
    }

    private void Evict(string kept)
    {
        var files = new DirectoryInfo(folder).GetFiles().OrderByDescending(f => f.LastWriteTimeUtc).ToList();
        var total = new FileInfo(kept).Length;
        foreach (var file in files.Where(f => f.FullName != Path.GetFullPath(kept)))
        {
            var left = file.Extension == ".tmp"; // of a writer that is at work, or of one that was killed
            total += left ? 0 : file.Length;
            if (left ? file.LastWriteTimeUtc > DateTime.UtcNow.AddDays(-1) : total <= limit)
                continue;
            total -= left ? 0 : file.Length;
            try
            {
                file.Delete();
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Windows does not delete a file that another process has mapped; the next writer tries again
            }
        }
    }
}
