using System.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>Reads files from outside without trusting their size, and writes files whole or not at all.</summary>
internal static class BoundedFile
{
    private const long Largest = 256L << 20;

    /// <exception cref="NotebookException">The file is absent, unreadable or absurdly large.</exception>
    public static string ReadText(string path)
    {
        try
        {
            var length = new FileInfo(path).Length;
            return length <= Largest
                ? File.ReadAllText(path)
                : throw new NotebookException($"The file has {length >> 20} MiB, more than a notebook can have", path, "Clear its outputs or name another file");
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new NotebookException("There is no such file", path, "Check the path; it is relative to the folder you are in", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException("The file cannot be read", path, e.Message.TrimEnd('.'), e);
        }
    }

    public static void WriteText(string path, string text)
    {
        var full = Path.GetFullPath(path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        var temporary = $"{full}.{Guid.NewGuid():N}.tmp";
        try
        {
            using (var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None))
            {
                stream.Write(Encoding.UTF8.GetBytes(text));
                stream.Flush(flushToDisk: true);
            }
            File.Move(temporary, full, overwrite: true);
        }
        finally
        {
            File.Delete(temporary); // does nothing once the file has been moved
        }
    }
}
