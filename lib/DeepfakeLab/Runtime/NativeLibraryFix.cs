using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Runtime.Loader;
using System.Security.Cryptography;
using System.Text;
using TorchSharp;

namespace DeepfakeLab;

/// <summary>
/// Lets TorchSharp 0.107 load on Linux systems whose libstdc++ is older than GCC 13's (Debian 12, Ubuntu 22.04, RHEL 9).
/// </summary>
/// <remarks>
/// <c>libLibTorchSharp.so</c> asks libstdc++ for version GLIBCXX_3.4.32 on account of one symbol,
/// <c>_ZSt21ios_base_library_initv</c>, that no relocation uses. A copy in which that version need is flagged weak loads
/// everywhere. The copy differs in two bytes, lies in the user's cache folder under a name made of its content, and is written
/// only where the file does not load as shipped. See System V ABI, "Symbol Versioning", and glibc's <c>dl-version.c</c>.
/// </remarks>
internal static class NativeLibraryFix
{
    private const string FileName = "libLibTorchSharp.so";
    private const string UnusedVersion = "GLIBCXX_3.4.32";
    private const ushort VersionNeedIsWeak = 2; // VER_FLG_WEAK
    private const int LargestLibrary = 256 << 20;

    /// <summary>
    /// Has the runtime ask us when its own search for LibTorchSharp fails. Where the library loads as shipped, the
    /// search succeeds and this is never called.
    /// </summary>
    public static void Register()
    {
        if (!OperatingSystem.IsLinux())
            return;
        var context = AssemblyLoadContext.GetLoadContext(typeof(torch).Assembly) ?? AssemblyLoadContext.Default;
        context.ResolvingUnmanagedDll += (assembly, name) =>
            assembly == typeof(torch).Assembly && name.Contains("LibTorchSharp", StringComparison.Ordinal) ? LoadFixed() : 0;
    }

    private static readonly Lock gate = new();
    private static nint handle;

    private static nint LoadFixed()
    {
        lock (gate)
        {
            if (handle != 0)
                return handle;
            var shipped = FindShipped();
            if (shipped is null)
                return 0; // TorchSharp's own message, that the package is missing, is the right one here
            var bytes = ReadBounded(shipped);
            if (!TryWeaken(bytes, UnusedVersion))
                return 0;
            // The copy lies apart from its siblings, so they are loaded first; the loader then finds them by their SONAME.
            var folder = Path.GetDirectoryName(shipped)!;
            foreach (var sibling in (string[])["libc10.so", "libtorch_cpu.so", "libtorch_cuda.so", "libtorch.so"])
                if (FindSibling(folder, sibling) is { } path)
                    NativeLibrary.TryLoad(path, out _);
            handle = NativeLibrary.Load(WriteCopy(bytes, CacheFolders()));
            return handle;
        }
    }

    /// <summary>Writes the fixed bytes into the first folder that takes them and returns the copy's path.</summary>
    /// <remarks>An earlier copy is used only if it is whole, byte for byte; two writers at once move the same bytes.</remarks>
    internal static string WriteCopy(byte[] bytes, IEnumerable<string> folders)
    {
        var name = Convert.ToHexStringLower(SHA256.HashData(bytes))[..16];
        var failures = new StringBuilder();
        foreach (var folder in folders)
        {
            var path = Path.Combine(folder, "native", name, FileName);
            try
            {
                if (!(File.Exists(path) && new FileInfo(path).Length == bytes.Length && File.ReadAllBytes(path).AsSpan().SequenceEqual(bytes)))
                    AtomicFile.WriteBytes(path, bytes);
                return path;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                failures.Append(' ').Append(path).Append(" (").Append(e.Message).Append(')');
            }
        }
        throw new RuntimeException("No folder takes the repaired copy of " + FileName, failures.ToString().Trim(),
            "Set DEEPFAKELAB_CACHE to a folder that can be written");
    }

    internal static IEnumerable<string> CacheFolders() => [LabFolders.Cache, Path.Combine(Path.GetTempPath(), "deepfakelab-" + Environment.UserName)];

    /// <summary>The places where .NET itself looks for the file: the native search folders of the host, then the packages.</summary>
    private static string? FindShipped()
    {
        var application = AppContext.BaseDirectory;
        var torchFolder = Path.GetDirectoryName(typeof(torch).Assembly.Location);
        var platform = $"linux-{RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant()}";
        var searched = ((AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string) ?? "").Split(Path.PathSeparator);
        return searched
            .Concat([application, torchFolder ?? application])
            .SelectMany(folder => (string[])[folder, Path.Combine(folder, "runtimes", platform, "native")])
            .Where(folder => folder.Length > 0)
            .Select(folder => Path.Combine(folder, FileName))
            .FirstOrDefault(File.Exists);
    }

    private static string? FindSibling(string folder, string file)
    {
        var searched = ((AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string) ?? "").Split(Path.PathSeparator);
        return searched.Prepend(folder).Where(f => f.Length > 0).Select(f => Path.Combine(f, file)).FirstOrDefault(File.Exists);
    }

    private static byte[] ReadBounded(string path) =>
        new FileInfo(path).Length <= LargestLibrary
            ? File.ReadAllBytes(path)
            : throw new RuntimeException("The native library is larger than any that TorchSharp ships", path, "Restore the TorchSharp package again");

    /// <summary>Flags as weak the need for <paramref name="version"/> in a 64-bit little-endian ELF file.</summary>
    /// <returns>Whether anything was changed. A file that is not such an ELF file is left as it is.</returns>
    internal static bool TryWeaken(Span<byte> elf, string version)
    {
        if (!IsElf(elf))
            return false;
        try
        {
            var segments = Segments(elf);
            var dynamic = segments.First(s => s.Type == 2);
            long strings = 0, needs = 0, count = 0;
            for (var at = dynamic.Offset; at < dynamic.Offset + dynamic.Size; at += 16)
            {
                var (tag, value) = (I64(elf, at), I64(elf, at + 8));
                if (tag == 5) strings = value;               // DT_STRTAB
                else if (tag == 0x6ffffffe) needs = value;   // DT_VERNEED
                else if (tag == 0x6fffffff) count = value;   // DT_VERNEEDNUM
            }
            if (needs == 0)
                return false;
            var (textAt, needAt, changed) = (ToOffset(segments, strings), ToOffset(segments, needs), false);
            for (; count > 0; count--)
            {
                var auxiliaries = U16(elf, needAt + 2);
                var at = needAt + U32(elf, needAt + 8);
                for (var i = 0; i < auxiliaries; i++)
                {
                    if (Text(elf, textAt + U32(elf, at + 8)) == version)
                    {
                        BinaryPrimitives.WriteUInt16LittleEndian(elf[(int)(at + 4)..], (ushort)(U16(elf, at + 4) | VersionNeedIsWeak));
                        changed = true;
                    }
                    at += U32(elf, at + 12);
                }
                needAt += U32(elf, needAt + 12);
            }
            return changed;
        }
        catch (Exception e) when (e is ArgumentOutOfRangeException or OverflowException or InvalidOperationException)
        {
            return false; // a truncated or foreign file
        }
    }

    /// <summary>Whether it begins as a 64-bit little-endian ELF file does.</summary>
    internal static bool IsElf(ReadOnlySpan<byte> file) => file.Length >= 64 && file[..6].SequenceEqual("\u007fELF\u0002\u0001"u8);

    private readonly record struct Segment(uint Type, long Offset, long Address, long Size);

    private static List<Segment> Segments(ReadOnlySpan<byte> elf)
    {
        var (table, size, count) = (I64(elf, 32), U16(elf, 54), U16(elf, 56));
        var segments = new List<Segment>(count);
        for (var i = 0; i < count; i++)
        {
            var at = table + i * size;
            segments.Add(new Segment(U32(elf, at), I64(elf, at + 8), I64(elf, at + 16), I64(elf, at + 32)));
        }
        return segments;
    }

    private static long ToOffset(List<Segment> segments, long address)
    {
        var load = segments.First(s => s.Type == 1 && address >= s.Address && address < s.Address + s.Size);
        return address - load.Address + load.Offset;
    }

    private static ushort U16(ReadOnlySpan<byte> b, long at) => BinaryPrimitives.ReadUInt16LittleEndian(b.Slice(checked((int)at), 2));

    private static uint U32(ReadOnlySpan<byte> b, long at) => BinaryPrimitives.ReadUInt32LittleEndian(b.Slice(checked((int)at), 4));

    private static long I64(ReadOnlySpan<byte> b, long at) => BinaryPrimitives.ReadInt64LittleEndian(b.Slice(checked((int)at), 8));

    private static string Text(ReadOnlySpan<byte> b, long at)
    {
        var rest = b[checked((int)at)..];
        return Encoding.ASCII.GetString(rest[..rest.IndexOf((byte)0)]);
    }
}
