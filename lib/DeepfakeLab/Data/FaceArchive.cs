using System.IO.Compression;
using System.Text.RegularExpressions;

namespace DeepfakeLab;

/// <summary>Puts CIPLAB's images in place from Kaggle's zip archive, which is taken as hostile until it has proved otherwise.</summary>
public static partial class FaceArchive
{
    private const int MostEntries = 20_000, DirectoryBits = 0xF000, SymbolicLink = 0xA000;
    private const long MostBytes = 4L << 30;

    /// <summary>How many images of each kind the collection has.</summary>
    private static readonly (string Kind, int Count)[] complete = [("real", 1081), ("easy", 240), ("mid", 480), ("hard", 240)];

    /// <summary>Checks and unpacks an archive: nothing appears at <paramref name="folder"/> unless all 2041 images are there and can be decoded.</summary>
    /// <param name="archive">The zip file; it may hold the images under any folder, or twice, as Kaggle's does.</param>
    /// <param name="folder">Where <c>training_real</c> and <c>training_fake</c> shall be; must not exist or be empty.</param>
    /// <exception cref="DataException">The archive is damaged, incomplete or dangerous, or the folder is taken.</exception>
    public static void Install(string archive, string folder, CancellationToken cancellation = default)
    {
        folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        CheckFree(folder);
        var temporary = $"{folder}.{Guid.NewGuid():N}.tmp";
        try
        {
            try
            {
                Directory.CreateDirectory(Path.GetDirectoryName(folder)!);
                using var zip = ZipFile.OpenRead(archive);
                Unpack(Images(zip, archive), temporary, archive, cancellation);
            }
            catch (Exception e) when (e is InvalidDataException or EndOfStreamException or NotSupportedException)
            {
                throw new DataException("The archive is damaged or no zip file", archive, "Remove it and download it again", e);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new DataException($"The archive cannot be unpacked ({e.Message.TrimEnd('.')})", archive, "Check that it exists and that the disk has room", e);
            }
            var files = Directory.GetFiles(temporary, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal).ToList();
            var progress = LabProgress.Begin("checking images", files.Count, "images");
            ImageLoader.ForEach(files.Count, cancellation, i =>
            {
                ImageReader.Read(files[i]);
                progress.Advance();
            });
            CheckFree(folder);
            if (Directory.Exists(folder))
                Directory.Delete(folder); // empty
            Directory.Move(temporary, folder);
        }
        finally
        {
            if (Directory.Exists(temporary))
                Directory.Delete(temporary, recursive: true);
        }
    }

    internal static void CheckFree(string folder)
    {
        if (File.Exists(folder) || Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).Any())
            throw new DataException("The place for the images is taken", folder, "Remove it, or give another with --out");
    }

    /// <summary>The images of the first folder of the archive that has them all.</summary>
    private static List<(ZipArchiveEntry Entry, string Folder, string Name)> Images(ZipArchive zip, string archive)
    {
        if (zip.Entries.Count > MostEntries)
            throw Dangerous($"it has {zip.Entries.Count} entries", archive);
        foreach (var entry in zip.Entries)
        {
            var name = entry.FullName;
            if (name.Split('/', '\\').Contains("..") || name.StartsWith('/') || name.StartsWith('\\') || name.Contains(':') || name.Contains('\0'))
                throw Dangerous($"an entry wants to lie outside: {name}", archive);
            if (((entry.ExternalAttributes >> 16) & DirectoryBits) == SymbolicLink)
                throw Dangerous($"an entry is a link: {name}", archive);
        }
        if (zip.Entries.Sum(e => (decimal)e.Length) > MostBytes)
            throw Dangerous($"unpacked it has more than {MostBytes >> 30} GiB", archive);
        var roots = zip.Entries.Select(e => (Entry: e, Match: ImageName().Match(e.FullName))).Where(e => e.Match.Success)
            .GroupBy(e => e.Match.Groups["root"].Value)
            .Select(g => g.Select(e => (e.Entry, e.Match.Groups["folder"].Value, e.Match.Groups["name"].Value)).DistinctBy(e => e.Item3).ToList())
            .OrderByDescending(g => g.Count).ToList();
        var images = roots.FirstOrDefault() ?? [];
        var counts = complete.Select(c => (c.Kind, c.Count, Found: images.Count(i => i.Item3.StartsWith(c.Kind + "_", StringComparison.Ordinal)))).ToList();
        if (counts.Any(c => c.Found != c.Count))
            throw new DataException($"The archive is not CIPLAB's: it has {string.Join(", ", counts.Select(c => $"{c.Found} {c.Kind} images of {c.Count}"))}", archive,
                "Download it again from kaggle.com/datasets/ciplab/real-and-fake-face-detection");
        return images;
    }

    private static void Unpack(List<(ZipArchiveEntry Entry, string Folder, string Name)> images, string target, string archive, CancellationToken cancellation)
    {
        var progress = LabProgress.Begin("unpacking", images.Count, "images");
        var buffer = new byte[1 << 16];
        foreach (var (entry, folder, name) in images)
        {
            cancellation.ThrowIfCancellationRequested();
            Directory.CreateDirectory(Path.Combine(target, folder));
            using var from = entry.Open();
            using var to = new FileStream(Path.Combine(target, folder, name), FileMode.CreateNew);
            for (int count; (count = from.Read(buffer)) > 0; to.Write(buffer, 0, count))
                if (to.Length + count > ImageReader.LargestFile) // whatever the entry claims
                    throw Dangerous($"{name} unpacks to more than {ImageReader.LargestFile >> 20} MiB", archive);
            progress.Advance();
        }
    }

    private static DataException Dangerous(string what, string archive) => new($"The archive is refused: {what}", archive, "Download it again from a source you trust");

    [GeneratedRegex(@"^(?<root>(.*/)?)((?<folder>training_real)/(?<name>real_\d{5}\.jpg)|(?<folder>training_fake)/(?<name>(easy|mid|hard)_\d{1,5}_[01]{4}\.jpg))$", RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture)]
    private static partial Regex ImageName();
}
