using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace DeepfakeLab.Tests;

/// <summary>Where the tests find the repository, the shared measuring data and Debian's Python, and what they say when one is absent.</summary>
internal static class TestSupport
{
    public static string Root { get; } = FindRoot();

    /// <summary>
    /// One thread for torch, here and in the processes that tests start, as two lines of tests run beside each other and small tensors gain nothing
    /// from more; and one memory arena, as the command line has it.
    /// </summary>
    [ModuleInitializer]
    internal static void Prepare()
    {
        if (Environment.GetEnvironmentVariable("DEEPFAKELAB_THREADS") is null)
            Environment.SetEnvironmentVariable("DEEPFAKELAB_THREADS", "1");
        Cli.OneArena.Ensure();
    }

    /// <summary>A path under <c>../shared</c>. Where that folder is absent the test is skipped; where it is present it never is.</summary>
    public static string Shared(params string[] parts)
    {
        var folder = Path.GetFullPath(Path.Combine(Root, "..", "shared"));
        if (!Directory.Exists(folder))
            Skip("needs ../shared, the real faces and weights kept beside the checkout");
        return Path.Combine([folder, .. parts]);
    }

    /// <summary>Runs <c>tests/DeepfakeLab.Tests/parity/SCRIPT</c> under the system's Python with these arguments and returns what it prints.</summary>
    /// <param name="modules">The Python modules it needs, such as torch; the test is skipped where one is absent.</param>
    public static string Python(string[] modules, string script, params string[] arguments)
    {
        const string python = "/usr/bin/python3"; // Debian's own, which has Debian's torch; not one of pyenv
        if (!File.Exists(python) || Run(python, ["-c", "import " + string.Join(",", modules)]).Code != 0)
            Skip($"needs Debian's python3 with {string.Join(", ", modules)} (apt install python3-torchvision python3-sklearn)");
        var (code, output, error) = Run(python, [Path.Combine(AppContext.BaseDirectory, "parity", script), .. arguments]);
        return code == 0 ? output : throw new InvalidOperationException($"{script} ended with {code}: {error}");
    }

    /// <summary>Skips a test of what is done to libtorch where GNU/Linux runs it on x64.</summary>
    public static void SkipUnlessGnuLinuxX64() =>
        Assert.SkipUnless(OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64 && !RuntimeInformation.RuntimeIdentifier.Contains("musl", StringComparison.Ordinal), "It is for GNU/Linux on x64");

    /// <summary>Skips the running test; in CI, where everything is installed, a skip is a failure.</summary>
    public static void Skip(string reason)
    {
        Assert.False(Environment.GetEnvironmentVariable("CI") == "true", "skipped in CI: " + reason);
        Assert.Skip(reason);
    }

    /// <summary>
    /// Whether the running test has a process to itself, for what can only be measured there. In the process of all tests it starts that
    /// one, asserts that the test passes in it, and returns false.
    /// </summary>
    /// <param name="settings">Further environment variables of that process, such as .NET's memory settings.</param>
    public static bool Alone(params (string Name, string Value)[] settings)
    {
        const string alone = "DEEPFAKELAB_TEST_ALONE";
        if (Environment.GetEnvironmentVariable(alone) == "1")
            return true;
        var method = TestContext.Current.TestMethod!;
        var (code, output, error) = Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Tests.dll"), "-noColor", "-method", $"{method.TestClass.TestClassName}.{method.MethodName}"],
            settings.Append((Name: alone, Value: "1")).ToDictionary(s => s.Name, s => s.Value));
        Assert.True(code == 0, output + error);
        Assert.Contains("Total: 1, Errors: 0, Failed: 0, Skipped: 0", output); // it did run
        return false;
    }

    /// <summary>A new empty folder that is deleted with the returned object.</summary>
    public static TemporaryFolder Folder() => new();

    public static (int Code, string Output, string Error) Run(string file, IEnumerable<string> arguments, IDictionary<string, string>? environment = null)
    {
        var start = new ProcessStartInfo(file, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = Root };
        foreach (var (key, value) in environment ?? new Dictionary<string, string>())
            start.Environment[key] = value;
        using var process = Process.Start(start)!;
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, error.Result);
    }

    private static string FindRoot()
    {
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "DeepfakeLab.slnx")))
            folder = folder.Parent;
        return folder?.FullName ?? throw new DirectoryNotFoundException("the tests must run inside the repository");
    }
}

internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("deepfakelab-test-").FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
