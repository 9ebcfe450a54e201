using System.Diagnostics;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Cli;

/// <param name="Needed">Whether notebooks cannot run in Jupyter without it.</param>
/// <param name="Text">What was found, or what to do to get it.</param>
internal sealed record Finding(string Subject, bool Found, bool Needed, string Text);

/// <summary>Looks for what Jupyter, VS Code and CUDA need.</summary>
internal static class KernelDoctor
{
    private const string InstallCommand = "dotnet run -c Release --project lib/DeepfakeLab.Cli -- kernel install";

    public static IEnumerable<Finding> Examine(string? prefix)
    {
        var sdk = FirstLine("dotnet", "--version");
        yield return new("SDK", sdk is not null, Needed: false, sdk is not null ? $"dotnet {sdk}" : "only #r \"nuget:\" needs it; install the .NET 10 SDK and put dotnet on the PATH");

        var jupyter = FirstLine("jupyter", "--version");
        yield return new("Jupyter", jupyter is not null, Needed: true, jupyter is not null ? "jupyter is on the PATH"
            : OperatingSystem.IsLinux() ? "apt install jupyter-notebook, or pip install jupyterlab" : "pip install jupyterlab");

        var program = KernelSpec.Program(prefix);
        yield return new("kernel", program is not null, Needed: true, program is not null ? KernelSpec.Folder(prefix) : $"run: {InstallCommand}");
        if (program is not null)
        {
            var found = File.Exists(program);
            yield return new("library", found, Needed: true, found ? Path.GetDirectoryName(program)! : $"{program} is gone; run: {InstallCommand}");
        }

        var (code, extension) = (FirstLine("code", "--version"), Extension());
        yield return new("VS Code", extension is not null, Needed: false, extension is not null ? Path.GetFileName(extension)
            : code is not null ? "run: code --install-extension ms-toolsai.jupyter" : "install VS Code, then: code --install-extension ms-toolsai.jupyter");

        var driver = FirstLine("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader");
        var built = Directory.EnumerateFiles(AppContext.BaseDirectory, "*torch_cuda*", SearchOption.AllDirectories).Any();
        yield return new("CUDA", driver is not null && built, Needed: false,
            driver is null ? "no NVIDIA driver answers (nvidia-smi); models run on the processor"
            : built ? driver : $"{driver}; build with -p:TorchBackend=cuda to use it");
    }

    private static string? Extension()
    {
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        return ((string[])[".vscode", ".vscode-server"]).Select(f => Path.Combine(home, f, "extensions")).Where(Directory.Exists)
            .SelectMany(f => Directory.GetDirectories(f, "ms-toolsai.jupyter-*")).FirstOrDefault();
    }

    /// <summary>The first line that a program prints; null when there is no such program or it fails.</summary>
    private static string? FirstLine(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            var line = process.StandardOutput.ReadLine();
            process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0 ? line ?? "" : null;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null;
        }
    }
}
