using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Benchmarks;

/// <summary><c>kernel</c>: how long the C# kernel takes to answer its first cell and a trivial one, and what it holds, beside the targets.</summary>
internal static class KernelStart
{
    private static readonly (string Name, string Key, double Scale, double Target, string Unit)[] rows =
    [
        ("from starting the kernel to its first cell's answer", "first", 1, 3, "s"),
        ("a trivial cell after warm-up, median of 30", "trivial", 1000, 100, "ms"),
        ("a trivial cell after warm-up, slowest of 30", "slowest", 1000, 100, "ms"),
        ("memory held then, torch not loaded", "memory", 1, 300, "MB"),
    ];

    public static Command Create()
    {
        var rounds = new Option<int>("--rounds") { Description = "Kernels that are started, one after another", DefaultValueFactory = _ => 7 };
        var prefix = new Option<string?>("--prefix") { Description = "Where kernel install --prefix put the kernel", HelpName = "DIR" };
        var command = new Command("kernel", "Start-up of the installed kernel, through Debian's jupyter_client. Leave the machine alone meanwhile.") { rounds, prefix };
        command.SetAction(parsed => Measure(parsed.GetValue(rounds), parsed.GetValue(prefix)));
        return command;
    }

    private static int Measure(int rounds, string? prefix)
    {
        var start = new ProcessStartInfo("/usr/bin/python3", [Path.Combine(AppContext.BaseDirectory, "kernel_side.py"), $"{rounds}"]) { RedirectStandardOutput = true };
        if (prefix is not null)
            start.Environment["JUPYTER_PATH"] = Path.GetFullPath(Path.Combine(prefix, "share", "jupyter"));
        Console.WriteLine($"load {Program.Load()}, {Environment.ProcessorCount} processors, {rounds} kernels");
        using var python = Process.Start(start)!;
        var measured = new List<JsonNode>();
        while (python.StandardOutput.ReadLine() is { } line)
            measured.Add(JsonNode.Parse(line)!);
        python.WaitForExit();
        if (python.ExitCode != 0 || measured.Count == 0)
            throw new InvalidOperationException("the Python side ended; its error is above. Is the kernel installed (kernel install), and python3-jupyter-client?");
        var met = true;
        Console.WriteLine($"{"median (least-most)",-56} {"measured",-24} target");
        foreach (var (name, key, scale, target, unit) in rows)
        {
            double[] values = [.. measured.Select(m => m[key]!.GetValue<double>() * scale).Order()];
            var median = values[values.Length / 2];
            met &= median < target;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name,-56} {$"{median:0.##} {unit} ({values[0]:0.##}-{values[^1]:0.##})",-24} under {target} {unit}{(median < target ? "" : "   MISSED")}"));
        }
        return met ? 0 : 1;
    }
}
