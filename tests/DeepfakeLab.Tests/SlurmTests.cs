using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.RegularExpressions;

namespace DeepfakeLab.Tests;

/// <summary>A sweep through Slurm's own daemons, of one node, which the test starts and stops.</summary>
public sealed class SlurmTests : IDisposable
{
    private readonly TemporaryFolder folder = TestSupport.Folder();
    private readonly List<Process> daemons = [];
    private readonly Dictionary<string, string> environment = [];

    public void Dispose()
    {
        if (daemons.Count > 0)
        {
            Slurm("scancel", "--full", "--user=root");
            Until(() => Slurm("squeue", "--noheader") == "", TimeSpan.FromSeconds(20), fail: false);
        }
        foreach (var daemon in Enumerable.Reverse(daemons))
        {
            daemon.Kill();
            daemon.WaitForExit();
            daemon.Dispose();
        }
        folder.Dispose();
    }

    [Fact]
    public void A_task_that_is_killed_midway_is_requeued_goes_on_and_the_table_is_that_of_a_run_without_Slurm()
    {
        StartSlurm();
        TrainingTests.PaintImages(folder["images"], 30);
        File.WriteAllText(folder["tiny.json"], """
            { "data": "images", "models": ["mobilenet_v2"], "seeds": [1, 2], "size": 64, "weights": "none", "out": "by slurm", "slurm": { "cpus": 1, "time": "10" },
              "recipes": [{ "name": "short", "base": "full", "headEpochs": 1, "epochs": 5, "batchSize": 8 }] }
            """);
        File.WriteAllText(folder["tiny.sh"], Lab(0, "sweep", "slurm", folder["tiny.json"]));
        Assert.Contains("missing   [1]", Lab(1, "sweep", "gather", folder["tiny.json"]), StringComparison.Ordinal);
        var job = Slurm("sbatch", "--parsable", folder["tiny.sh"]);
        Assert.NotNull(job);

        var task = Path.Combine(folder["by slurm"], "tasks", "mobilenet_v2-short-s1-f1");
        Until(() => Directory.Exists(task) && Directory.GetFiles(task, "checkpoint-*.safetensors").Length > 0, TimeSpan.FromSeconds(90));
        var killed = Process.GetProcessById(PidOf("--task", "0"));
        killed.Kill();
        Assert.False(File.Exists(Path.Combine(task, "result.json")));

        Until(() => Slurm("squeue", "--noheader", "--format=%T", $"--jobs={job}_0") == "PENDING", TimeSpan.FromSeconds(30)); // its script put it back
        Thread.Sleep(2000); // slurmd counts in seconds, and takes no job back in the second in which it ended it ("credential revoked")
        Slurm("scontrol", "update", $"JobId={job}_0", "StartTime=now"); // else Slurm lets it rest for two minutes
        Until(() => Slurm("squeue", "--noheader") == "", TimeSpan.FromSeconds(90));

        var log = File.ReadAllText(Path.Combine(folder["by slurm"], "slurm", $"{job}_0.log"));
        Assert.True(Regex.IsMatch(log, "mobilenet_v2-short-s1-f1: goes on after epoch [1-5]"), log);
        Assert.Equal(2, log.Split(": begins").Length - 1);
        Assert.DoesNotContain("goes on", File.ReadAllText(Path.Combine(folder["by slurm"], "slurm", $"{job}_1.log")), StringComparison.Ordinal);
        var table = Lab(0, "sweep", "gather", folder["tiny.json"], "--format", "json");
        Assert.Contains("\"complete\": true", table, StringComparison.Ordinal);

        Lab(0, "sweep", "run", folder["tiny.json"], "--out", folder["here"]);
        Assert.Equal(Lab(0, "sweep", "gather", folder["tiny.json"], "--out", folder["here"], "--format", "json"), table);
    }

    private void StartSlurm()
    {
        if (!OperatingSystem.IsLinux() || Environment.UserName != "root" || !new[] { "munged", "slurmctld", "slurmd" }.All(d => File.Exists("/usr/sbin/" + d)))
            TestSupport.Skip("needs root and Debian's slurm-wlm, whose daemons it starts (apt install slurm-wlm)");
        var (host, socket) = (Environment.MachineName.Split('.')[0], folder["munge.socket"]);
        File.WriteAllBytes(folder["munge.key"], RandomNumberGenerator.GetBytes(128));
        if (!OperatingSystem.IsWindows())
        {
            File.SetUnixFileMode(folder["munge.key"], UnixFileMode.UserRead | UnixFileMode.UserWrite);
            File.SetUnixFileMode(folder.Path, (UnixFileMode)0b111_101_101);
        }
        Directory.CreateDirectory(folder["state"]);
        Directory.CreateDirectory(folder["spool"]);
        File.WriteAllText(folder["slurm.conf"], $"""
            ClusterName=deepfakelab
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={FreePort()}
            SlurmdPort={FreePort()}
            SlurmUser=root
            SlurmdUser=root
            AuthType=auth/munge
            AuthInfo=socket={socket}
            CredType=cred/munge
            StateSaveLocation={folder["state"]}
            SlurmdSpoolDir={folder["spool"]}
            SlurmctldPidFile={folder["slurmctld.pid"]}
            SlurmdPidFile={folder["slurmd.pid"]}
            SlurmctldLogFile={folder["slurmctld.log"]}
            SlurmdLogFile={folder["slurmd.log"]}
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            JobAcctGatherType=jobacct_gather/none
            AccountingStorageType=accounting_storage/none
            MpiDefault=none
            ReturnToService=2
            JobRequeue=1
            NodeName={host} NodeAddr=127.0.0.1 CPUs={Environment.ProcessorCount} State=UNKNOWN
            PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP

            """);
        environment["SLURM_CONF"] = folder["slurm.conf"];
        Start("munged", "--force", "--foreground", $"--socket={socket}", $"--key-file={folder["munge.key"]}", $"--log-file={folder["munged.log"]}",
            $"--pid-file={folder["munged.pid"]}", $"--seed-file={folder["munge.seed"]}");
        Until(() => File.Exists(socket), TimeSpan.FromSeconds(10));
        Start("slurmctld", "-D");
        Start("slurmd", "-D");
        Until(() => Slurm("sinfo", "--noheader", "--format=%T") == "idle", TimeSpan.FromSeconds(30));
    }

    private void Start(string daemon, params string[] arguments)
    {
        var start = new ProcessStartInfo("/usr/sbin/" + daemon, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var (key, value) in environment)
            start.Environment[key] = value;
        var process = Process.Start(start)!;
        process.OutputDataReceived += (_, _) => { };
        process.ErrorDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        daemons.Add(process);
    }

    /// <summary>The process of this sweep's program with these last arguments.</summary>
    private int PidOf(params string[] last) => (
        from directory in Directory.GetDirectories("/proc")
        where int.TryParse(Path.GetFileName(directory), out _)
        let command = Command(directory)
        where command.Contains(folder["tiny.json"]) && command.TakeLast(last.Length).SequenceEqual(last)
        select int.Parse(Path.GetFileName(directory), System.Globalization.CultureInfo.InvariantCulture)).Single();

    private static string[] Command(string directory)
    {
        try
        {
            return File.ReadAllText(Path.Combine(directory, "cmdline")).TrimEnd('\0').Split('\0');
        }
        catch (IOException) // it ended meanwhile
        {
            return [];
        }
    }

    /// <summary>What one of Slurm's commands prints; null where it fails.</summary>
    private string? Slurm(string command, params string[] arguments) => TestSupport.Run(command, arguments, environment) is { Code: 0, Output: var output } ? output.Trim() : null;

    private static string Lab(int expected, params string[] arguments)
    {
        // as many threads as Slurm's tasks have: sums in another order end in other bits
        var (code, output, error) = TestSupport.Run("dotnet", [typeof(Cli.Program).Assembly.Location, .. arguments], new Dictionary<string, string> { ["DEEPFAKELAB_THREADS"] = "1" });
        Assert.True(code == expected, error + output);
        return output;
    }

    private void Until(Func<bool> holds, TimeSpan longest, bool fail = true)
    {
        for (var clock = Stopwatch.StartNew(); !holds(); Thread.Sleep(20))
            if (clock.Elapsed > longest)
            {
                if (fail)
                    Assert.Fail("waited too long. " + string.Join("\n", Directory.GetFiles(folder.Path, "*.log").Concat(
                        Directory.Exists(Path.Combine(folder["by slurm"], "slurm")) ? Directory.GetFiles(Path.Combine(folder["by slurm"], "slurm")) : []).Select(f => f + ":\n" + File.ReadAllText(f))));
                return;
            }
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
