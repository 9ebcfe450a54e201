using System.Runtime.InteropServices;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Cli;

/// <summary>The folder that notebooks load the library from: a copy of this program, with the native libraries beside the others.</summary>
/// <remarks>
/// It is copied rather than built again: what runs now is what the notebooks get. The flat layout is the one whose native libraries
/// load in any host, also one that knows no package cache; the list of dependencies, which says otherwise, is left out.
/// </remarks>
internal static partial class LibraryFolder
{
    public const string ProgramFile = "DeepfakeLab.Cli.dll";
    private const long LinkFrom = 4 << 20; // large native files come from packages and never change in place

    /// <summary><c>artifacts/lib</c> of the checkout that the current folder or this program is in.</summary>
    public static string Default()
    {
        foreach (var start in (string[])[Environment.CurrentDirectory, AppContext.BaseDirectory])
            for (var folder = new DirectoryInfo(start); folder is not null; folder = folder.Parent)
                if (File.Exists(Path.Combine(folder.FullName, "DeepfakeLab.slnx")))
                    return Path.Combine(folder.FullName, "artifacts", "lib");
        throw new NotebookException("This folder is in no checkout of the project", Environment.CurrentDirectory, "Go there, or name the folder with --lib");
    }

    /// <summary>The dotnet that runs this program.</summary>
    public static string Dotnet()
    {
        var runtime = RuntimeEnvironment.GetRuntimeDirectory(); // DOTNET/shared/Microsoft.NETCore.App/VERSION/
        var dotnet = Path.GetFullPath(Path.Combine(runtime, "..", "..", "..", OperatingSystem.IsWindows() ? "dotnet.exe" : "dotnet"));
        return File.Exists(dotnet) ? dotnet : "dotnet";
    }

    public static void Publish(string target)
    {
        var source = AppContext.BaseDirectory;
        if (Path.TrimEndingDirectorySeparator(Path.GetFullPath(source)) == Path.TrimEndingDirectorySeparator(target))
            return; // this program was started from there
        Directory.CreateDirectory(target);
        var platform = RuntimeInformation.RuntimeIdentifier;
        // Of the platforms' folders the more special comes last, and wins: linux-x64 over linux over unix.
        string[] platforms = OperatingSystem.IsWindows() ? ["win", platform] : OperatingSystem.IsMacOS() ? ["unix", "osx", platform] : ["unix", "linux", platform];
        var files = Directory.GetFiles(source).Where(f => !f.EndsWith(".deps.json", StringComparison.Ordinal))
            .Concat(platforms.Select(p => Path.Combine(source, "runtimes", p)).Where(Directory.Exists)
                .SelectMany(f => Directory.GetFiles(f, "*", SearchOption.AllDirectories)));
        foreach (var file in files)
            Place(file, Path.Combine(target, Path.GetFileName(file)));
    }

    private static void Place(string file, string target)
    {
        var (from, to) = (new FileInfo(file), new FileInfo(target));
        if (to.Exists && to.Length == from.Length && to.LastWriteTimeUtc == from.LastWriteTimeUtc)
            return;
        var temporary = $"{target}.{Guid.NewGuid():N}.tmp";
        try
        {
            if (from.Length < LinkFrom || !TryLink(file, temporary))
                File.Copy(file, temporary);
            File.Move(temporary, target, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException("The library could not be published", target, $"Stop the kernels that run and try again ({e.Message.TrimEnd('.')})", e);
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    /// <summary>libtorch is half a gigabyte; where the disk allows, one copy serves.</summary>
    private static bool TryLink(string file, string link) =>
        OperatingSystem.IsWindows() ? CreateHardLinkW(link, file, 0) : HardLink(file, link) == 0;

    [LibraryImport("libc", EntryPoint = "link", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int HardLink(string existing, string link);

    [LibraryImport("kernel32", StringMarshalling = StringMarshalling.Utf16)]
    [return: MarshalAs(UnmanagedType.Bool)]
    private static partial bool CreateHardLinkW(string link, string existing, nint security);
}
