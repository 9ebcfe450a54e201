using System.CommandLine;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Cli;

/// <summary>The command line: parses, calls the library, prints. Exit code 0 done, 1 the run failed, 2 bad usage.</summary>
public static class Program
{
    public static async Task<int> Main(string[] args)
    {
        OneArena.Ensure();
        var root = new RootCommand("Transfer learning on real and manipulated faces.")
        {
            TrainCommand.Create(),
            FindRateCommand.Create(),
            EvaluateCommand.Create(),
            PredictCommand.Create(),
            ExportCommand.Create(),
            SweepCommand.Create(),
            PretrainCommand.Create(),
            DataCommand.Create(),
            NotebookCommand.Create(),
            KernelCommand.Create(),
            ModelsCommand.Create(),
            CommonOptions.Progress,
        };
        var parsed = root.Parse(args);
        if (parsed.Errors.Count > 0)
        {
            foreach (var error in parsed.Errors)
                await Console.Error.WriteLineAsync(error.Message);
            await Console.Error.WriteLineAsync($"See: deepfakelab {string.Join(' ', parsed.CommandResult.Command.Name)} --help");
            return 2;
        }
        TerminalProgress.Mode = parsed.GetValue(CommonOptions.Progress);
        try
        {
            return await parsed.InvokeAsync(new InvocationConfiguration
            {
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = TimeSpan.FromSeconds(60), // what a stopped training may take to test and write its best model
            });
        }
        catch (Exception e) when (e is LabException or NotebookException)
        {
            await Console.Error.WriteLineAsync(e.Message);
            return 1;
        }
        catch (OperationCanceledException)
        {
            await Console.Error.WriteLineAsync("Stopped.");
            return 1;
        }
    }
}
