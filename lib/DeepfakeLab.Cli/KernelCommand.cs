using System.CommandLine;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Cli;

/// <summary><c>kernel install | uninstall | doctor</c>: the C# kernel for Jupyter and VS Code.</summary>
internal static class KernelCommand
{
    public static Command Create() => new("kernel", """
        The C# kernel for Jupyter and VS Code.

        Examples:
          deepfakelab kernel install
          deepfakelab kernel doctor
        """)
    {
        Install(), Uninstall(), Doctor(), Start(),
    };

    private static Option<bool> User() => new("--user") { Description = "For this user (the default)." };

    private static Option<string?> Prefix() => new("--prefix")
    {
        Description = "For the installation in this folder: the kernel goes to DIR/share/jupyter/kernels/.net-csharp.",
        HelpName = "DIR",
    };

    private static Command Install()
    {
        var (user, prefix) = (User(), Prefix());
        var library = new Option<string?>("--lib")
        {
            Description = "Where to publish the library and the kernel; notebooks expect artifacts/lib beside their folder.",
            HelpName = "DIR",
        };
        var force = new Option<bool>("--force") { Description = "Replace another program's kernel of the name .net-csharp." };
        var command = new Command("install", """
            Publishes the library to where the notebooks' #r looks for it, and enters the kernel in Jupyter's list.

            Examples:
              deepfakelab kernel install
              deepfakelab kernel install --prefix /opt/jupyter
            """) { user, prefix, library, force };
        command.Validators.Add(result =>
        {
            if (result.GetValue(user) && result.GetValue(prefix) is not null)
                result.AddError("Use --user or --prefix, not both.");
        });
        command.SetAction(parsed =>
        {
            var folder = Path.GetFullPath(parsed.GetValue(library) ?? LibraryFolder.Default());
            LibraryFolder.Publish(folder);
            Console.WriteLine($"library  {folder}");
            string[] start = [LibraryFolder.Dotnet(), Path.Combine(folder, LibraryFolder.ProgramFile), "kernel", "start"];
            Console.WriteLine($"kernel   {KernelSpec.Install(parsed.GetValue(prefix), start, parsed.GetValue(force))}");
        });
        return command;
    }

    private static Command Uninstall()
    {
        var (user, prefix) = (User(), Prefix());
        var command = new Command("uninstall", """
            Takes the kernel off Jupyter's list.

            Examples:
              deepfakelab kernel uninstall
            """) { user, prefix };
        command.SetAction(parsed => Console.WriteLine(KernelSpec.Uninstall(parsed.GetValue(prefix)) ? "The kernel is off the list." : "It was not on the list."));
        return command;
    }

    private static Command Doctor()
    {
        var prefix = Prefix();
        var command = new Command("doctor", """
            Says what is missing for Jupyter, VS Code and CUDA, and how to get it. Exit code 1 when notebooks cannot be run in Jupyter.

            Examples:
              deepfakelab kernel doctor
            """) { prefix };
        command.SetAction(parsed =>
        {
            var findings = KernelDoctor.Examine(parsed.GetValue(prefix)).ToList();
            foreach (var finding in findings)
                Console.WriteLine($"{(finding.Found ? "ok      " : finding.Needed ? "MISSING " : "without ")} {finding.Subject}: {finding.Text}");
            return findings.Any(f => f is { Needed: true, Found: false }) ? 1 : 0;
        });
        return command;
    }

    private static Command Start()
    {
        var file = new Option<string>("--connection-file") { Required = true };
        var remote = new Option<bool>("--allow-remote");
        var command = new Command("start", "Runs the kernel; Jupyter calls this.") { file, remote };
        command.Hidden = true;
        command.SetAction(async (parsed, _) =>
        {
            var options = new SessionOptions
            {
                CacheFolder = LabFolders.Cache,
                ExplainMissing = path => Path.GetFileName(path) is "DeepfakeLab.dll" or "TorchSharp.dll"
                    ? "Run in the project's folder: dotnet run -c Release --project lib/DeepfakeLab.Cli -- kernel install" : null,
            };
            await JupyterKernel.RunAsync(parsed.GetValue(file)!, options, parsed.GetValue(remote));
            return 0;
        });
        return command;
    }
}
