using System.Security.Cryptography;
using System.Text;

namespace DeepfakeLab;

/// <summary>What one look at an image file found.</summary>
/// <param name="Hash">SHA-256 of the file, hexadecimal; empty where it could not be read.</param>
/// <param name="Problem">Why it is left out; null for a good image.</param>
/// <param name="Thumbnail">RGB, <see cref="ImageIndex.ThumbnailSide"/> pixels a side.</param>
/// <param name="Grey">Grey, <see cref="FineDetail.Side"/> pixels a side.</param>
internal sealed record IndexedImage(
    string Name, long Bytes, long Modified, int Width, int Height, string Hash, string? Problem, byte[] Thumbnail, byte[] Grey);

/// <summary>
/// Looks at every file of a folder once: decodes it whole, hashes it and makes its thumbnail. What was found is kept in the
/// cache, keyed by path, size and time of change, so that a folder opened again is not read again.
/// </summary>
internal static class ImageIndex
{
    private const int Version = 2;
    private const long LargestCache = 1L << 30;

    /// <summary>The side of the square RGB thumbnails.</summary>
    public const int ThumbnailSide = 32;

    public static IReadOnlyList<IndexedImage> Build(string root, IReadOnlyList<string> names)
    {
        var cacheFile = Path.Combine(LabFolders.Cache, "index", Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(root)))[..24] + ".bin");
        var known = Load(cacheFile);
        var images = new IndexedImage[names.Count];
        var unknown = new List<int>();
        for (var i = 0; i < names.Count; i++)
        {
            var file = new FileInfo(Path.Combine(root, names[i]));
            if (known.TryGetValue(names[i], out var image) && image.Bytes == file.Length && image.Modified == file.LastWriteTimeUtc.Ticks)
                images[i] = image;
            else
                unknown.Add(i);
        }
        if (unknown.Count == 0)
            return images;
        var progress = LabProgress.Begin("checking images", unknown.Count, "images");
        ImageLoader.ForEach(unknown.Count, LabProgress.Interrupt, i =>
        {
            images[unknown[i]] = Look(root, names[unknown[i]]);
            progress.Advance();
        });
        Save(cacheFile, images);
        return images;
    }

    private static IndexedImage Look(string root, string name)
    {
        var path = Path.Combine(root, name);
        var file = new FileInfo(path);
        var (length, modified, hash) = (file.Length, file.LastWriteTimeUtc.Ticks, "");
        try
        {
            var bytes = ImageReader.ReadFile(path);
            hash = Convert.ToHexStringLower(SHA256.HashData(bytes));
            using var image = ImageReader.DecodePixels(bytes, path);
            return new IndexedImage(name, length, modified, image.Width, image.Height, hash, null, Small(ThumbnailSide).Pixels, Grey(Small(FineDetail.Side)));

            RgbImage Small(int side)
            {
                using var small = Resampler.Resize(image, side, side, Interpolation.Bilinear);
                return small.ToRgb();
            }
        }
        catch (ImageException e)
        {
            return new IndexedImage(name, length, modified, 0, 0, hash, e.Problem, [], []);
        }
    }

    /// <summary>Rec. 601 luma, as PIL's <c>convert("L")</c>.</summary>
    private static byte[] Grey(RgbImage image) =>
        [.. image.Pixels.Chunk(3).Select(p => (byte)((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16))];

    private static void Save(string cacheFile, IndexedImage[] images)
    {
        try
        {
            AtomicFile.Write(cacheFile, stream =>
            {
                using var writer = new BinaryWriter(stream, Encoding.UTF8, leaveOpen: true);
                writer.Write(Version);
                writer.Write(images.Length);
                foreach (var i in images)
                {
                    writer.Write(i.Name);
                    writer.Write(i.Bytes);
                    writer.Write(i.Modified);
                    writer.Write(i.Width);
                    writer.Write(i.Height);
                    writer.Write(i.Hash);
                    writer.Write(i.Problem ?? "");
                    writer.Write(i.Thumbnail);
                    writer.Write(i.Grey);
                }
            });
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A cache that cannot be written costs time at the next opening, nothing else.
        }
    }

    private static Dictionary<string, IndexedImage> Load(string cacheFile)
    {
        var images = new Dictionary<string, IndexedImage>(StringComparer.Ordinal);
        try
        {
            if (!File.Exists(cacheFile) || new FileInfo(cacheFile).Length > LargestCache)
                return images;
            using var reader = new BinaryReader(new MemoryStream(File.ReadAllBytes(cacheFile)), Encoding.UTF8);
            if (reader.ReadInt32() != Version)
                return images;
            for (var count = reader.ReadInt32(); count > 0; count--)
            {
                var (name, bytes, modified, width, height) = (reader.ReadString(), reader.ReadInt64(), reader.ReadInt64(), reader.ReadInt32(), reader.ReadInt32());
                var (hash, problem) = (reader.ReadString(), reader.ReadString());
                var (thumbnail, grey) = problem.Length == 0 ? (3 * ThumbnailSide * ThumbnailSide, FineDetail.Side * FineDetail.Side) : (0, 0);
                var image = new IndexedImage(name, bytes, modified, width, height, hash, problem.Length == 0 ? null : problem,
                    reader.ReadBytes(thumbnail), reader.ReadBytes(grey));
                if (image.Thumbnail.Length != thumbnail || image.Grey.Length != grey)
                    return [];
                images[name] = image;
            }
            return images;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException or ArgumentException)
        {
            return []; // unreadable or from elsewhere: made anew
        }
    }
}
