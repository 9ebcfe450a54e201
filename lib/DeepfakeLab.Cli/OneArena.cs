using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;

namespace DeepfakeLab.Cli;

/// <summary>Has the GNU C library keep one memory arena for all threads. Does nothing where that library is not.</summary>
/// <remarks>
/// .NET's threads get arenas of their own there, in pieces of 64 MB at most; a larger tensor is mapped anew each time, whatever the settings of
/// <see cref="LabRuntime"/> say, and its page faults took 29 % of a training's processor time (224 pixels, batch 16). The number of arenas is read when a process
/// starts, so the process starts itself once more with the variable set: the same process id, arguments and streams, about a twentieth of a second.
/// </remarks>
internal static partial class OneArena
{
    private const string Variable = "MALLOC_ARENA_MAX";

    public static void Ensure()
    {
        if (!OperatingSystem.IsLinux() || Debugger.IsAttached || Environment.ProcessPath is not { } program
            || Environment.GetEnvironmentVariable(Variable) is not null || Environment.GetEnvironmentVariable("GLIBC_TUNABLES") is not null)
            return;
        try
        {
            var arguments = File.ReadAllText("/proc/self/cmdline", Encoding.UTF8).Split('\0')[..^1];
            if (setenv(Variable, "1", 0) == 0)
                _ = execv(program, [.. arguments, null]); // returns only where it fails: then as it is
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or EntryPointNotFoundException or DllNotFoundException)
        {
            // no /proc, or another C library: slower, nothing else
        }
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int execv(string path, string?[] arguments);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);
}
