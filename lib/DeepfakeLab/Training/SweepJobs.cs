using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace DeepfakeLab;

/// <summary>Writes a sweep's tasks as a job array for Slurm and as an Indexed Job for Kubernetes. Nothing is sent anywhere.</summary>
public static partial class SweepJobs
{
    private static readonly JsonSerializerOptions indented = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Where Slurm puts what tasks print; it must be there before they start.</summary>
    public static string SlurmLogs(SweepFile file) => Path.Combine(file.Out, "slurm");

    /// <summary>A script for sbatch. A task that is killed (too little memory, say) goes back into the queue, where it goes on.</summary>
    /// <param name="file">It, its images and its folder for results must be at the same place on all nodes.</param>
    /// <param name="program">The command that runs this program, where the file names none.</param>
    /// <exception cref="SweepException">A setting makes no sense.</exception>
    public static string Slurm(SweepFile file, IReadOnlyList<string> program)
    {
        var s = file.Slurm;
        Range("cpus", s.Cpus, 1024);
        Range("gpus", s.Gpus, 64);
        Range("parallel", s.Parallel, 10_000);
        Range("retries", s.Retries, 100);
        foreach (var (key, value) in ((string, string?)[])[("partition", s.Partition), ("account", s.Account), ("time", s.Time), ("memory", s.Memory)])
            Require(value is null || Word().IsMatch(value), key, value, "Give it as sbatch takes it, without spaces");
        foreach (var option in s.Options)
            Require(option is not null && Option().IsMatch(option), "options", option, "Give options as sbatch takes them, such as \"--constraint=avx512\"");
        foreach (var line in s.Setup)
            Require(line?.AsSpan().ContainsAny("\n\r\0") == false, "setup", line, "Give each line by itself");
        Require(s.Command is null or { Count: > 0 }, "command", "none", "Give the program and its first arguments, or leave the key out");
        string[] command = [.. s.Command ?? program, "sweep", "run", file.Path, "--out", file.Out, .. file.Data is null ? Array.Empty<string>() : ["--data", file.Data]];
        foreach (var part in command)
            Require(part?.AsSpan().ContainsAny("\n\r\0\"\\") == false, "command", part, "Use a program and folders whose names have no line breaks, quotes or backslashes");

        List<string?> lines =
        [
            "#!/bin/sh",
            $"# {file.Tasks.Count} trainings, by 'deepfakelab sweep slurm'. Submit with 'sbatch'; collect with 'deepfakelab sweep gather'.",
            $"#SBATCH --job-name={Name(file, 60)}",
            $"#SBATCH --array=0-{file.Tasks.Count - 1}{(s.Parallel > 0 ? $"%{s.Parallel}" : "")}",
            $"#SBATCH --output=\"{Path.Combine(SlurmLogs(file).Replace("%", "%%", StringComparison.Ordinal), "%A_%a.log")}\"",
            "#SBATCH --open-mode=append",
            "#SBATCH --requeue",
            "#SBATCH --ntasks=1",
            s.Partition is null ? null : $"#SBATCH --partition={s.Partition}",
            s.Account is null ? null : $"#SBATCH --account={s.Account}",
            s.Time is null ? null : $"#SBATCH --time={s.Time}",
            s.Memory is null ? null : $"#SBATCH --mem={s.Memory}",
            s.Cpus == 0 ? null : $"#SBATCH --cpus-per-task={s.Cpus}",
            s.Gpus == 0 ? null : $"#SBATCH --gres=gpu:{s.Gpus}",
            .. s.Options.Select(o => "#SBATCH " + o),
            "",
            s.Cpus == 0 ? null : $"export DEEPFAKELAB_THREADS={s.Cpus}",
            .. s.Setup,
            string.Join(' ', command.Select(Quote)) + " --task \"$SLURM_ARRAY_TASK_ID\"",
            "code=$?",
            "# killed, not failed: back into the queue, where it goes on from its last checkpoint",
            $"if [ \"$code\" -gt 128 ] && [ \"${{SLURM_RESTART_COUNT:-0}}\" -lt {s.Retries} ]; then",
            // Slurm ends the script as it requeues it; one that ends by itself meanwhile may be counted as finished
            "    scontrol requeue \"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\" && sleep 300",
            "fi",
            "exit \"$code\"",
        ];
        return string.Join('\n', lines.OfType<string>()) + "\n";

        void Require(bool holds, string key, string? value, string remedy) => Check(file, holds, "slurm." + key, value, remedy);
        void Range(string key, int value, int most) => Require(value >= 0 && value <= most, key, value.ToString(CultureInfo.InvariantCulture), $"Use 0 to {most}");
    }

    /// <summary>A ConfigMap with the sweep file and an Indexed Job with a pod a task, as JSON, which kubectl takes as it takes YAML.</summary>
    /// <exception cref="SweepException">A setting makes no sense.</exception>
    public static string Kubernetes(SweepFile file)
    {
        var k = file.Kubernetes;
        Require(k.Image is { } image && Word().IsMatch(image), "image", k.Image, "Name the container image that holds the program");
        Require(k.OutClaim is { } claim && Subdomain().IsMatch(claim), "outClaim", k.OutClaim, "Name the PersistentVolumeClaim that takes results, ReadWriteMany where pods run on several nodes");
        Require(k.DataClaim is null ? file.Data is null : Subdomain().IsMatch(k.DataClaim), "dataClaim", k.DataClaim, "Name the PersistentVolumeClaim with the images, as the sweep names a folder of images");
        Require(k.Namespace is null || Label().IsMatch(k.Namespace), "namespace", k.Namespace, "Use lower-case letters, digits and '-'");
        Require(k.Name is null || (Label().IsMatch(k.Name) && k.Name.Length <= 50), "name", k.Name, "Use 50 lower-case letters, digits and '-' at most");
        Require(k.Cpu is null || Quantity().IsMatch(k.Cpu), "cpu", k.Cpu, "Give a quantity such as \"4\" or \"500m\"");
        Require(k.Memory is null || Quantity().IsMatch(k.Memory), "memory", k.Memory, "Give a quantity such as \"8Gi\"");
        Require(k.Command is { Count: > 0 } && k.Command.All(c => c is { Length: > 0 }), "command", "none", "Give the program and its first arguments");
        Range("parallel", k.Parallel, 1, 10_000);
        Range("retries", k.Retries, 0, 100);
        Range("gpus", k.Gpus, 0, 64);
        foreach (var (variable, value) in k.Env)
            Require(Variable().IsMatch(variable) && variable != "SWEEP_TASK" && value is not null, "env", variable, "Use names of environment variables, and texts as values");
        Check(file, !file.IsWeightsFile || file.Weights.StartsWith('/'), "weights", file.Weights, "Give the path that the file has in the container, such as /data/weights.safetensors");
        var bytes = Encoding.UTF8.GetByteCount(file.Text);
        Require(bytes < 900_000, "file", $"{bytes} bytes", "Use a shorter sweep file: a ConfigMap holds a megabyte");

        var name = k.Name ?? Name(file, 50);
        var resources = new JsonObject();
        if (k.Cpu is not null)
            resources["cpu"] = k.Cpu;
        if (k.Memory is not null)
            resources["memory"] = k.Memory;
        if (k.Gpus > 0)
            resources["nvidia.com/gpu"] = k.Gpus.ToString(CultureInfo.InvariantCulture);
        var env = k.Env.OrderBy(e => e.Key, StringComparer.Ordinal).Select(e => new JsonObject { ["name"] = e.Key, ["value"] = e.Value }).ToList();
        if (k.Cpu is { } cpu && int.TryParse(cpu, NumberStyles.None, CultureInfo.InvariantCulture, out _) && !k.Env.ContainsKey("DEEPFAKELAB_THREADS"))
            env.Add(new JsonObject { ["name"] = "DEEPFAKELAB_THREADS", ["value"] = cpu });
        env.Add(new JsonObject
        {
            ["name"] = "SWEEP_TASK",
            ["valueFrom"] = new JsonObject { ["fieldRef"] = new JsonObject { ["fieldPath"] = "metadata.annotations['batch.kubernetes.io/job-completion-index']" } },
        });
        List<(string Name, string Path, JsonObject Source)> volumes =
        [
            ("sweep", "/sweep", new() { ["configMap"] = new JsonObject { ["name"] = name } }),
            ("out", "/out", new() { ["persistentVolumeClaim"] = new JsonObject { ["claimName"] = k.OutClaim } }),
        ];
        if (k.DataClaim is not null)
            volumes.Add(("data", "/data", new() { ["persistentVolumeClaim"] = new JsonObject { ["claimName"] = k.DataClaim, ["readOnly"] = true } }));
        string[] arguments = ["sweep", "run", "/sweep/sweep.json", "--task", "$(SWEEP_TASK)", "--out", "/out", .. k.DataClaim is null ? Array.Empty<string>() : ["--data", "/data"]];
        var container = new JsonObject
        {
            ["name"] = "train",
            ["image"] = k.Image,
            ["command"] = Texts(k.Command),
            ["args"] = Texts(arguments),
            ["env"] = new JsonArray([.. env]),
            ["volumeMounts"] = new JsonArray([.. volumes.Select(v =>
            {
                var mount = new JsonObject { ["name"] = v.Name, ["mountPath"] = v.Path };
                if (v.Name != "out")
                    mount["readOnly"] = true;
                return mount;
            })]),
        };
        if (resources.Count > 0)
            container["resources"] = new JsonObject { ["requests"] = resources, ["limits"] = resources.DeepClone() };
        var job = new JsonObject
        {
            ["apiVersion"] = "batch/v1",
            ["kind"] = "Job",
            ["metadata"] = Metadata(),
            ["spec"] = new JsonObject
            {
                ["completionMode"] = "Indexed",
                ["completions"] = file.Tasks.Count,
                ["parallelism"] = Math.Min(k.Parallel, file.Tasks.Count),
                ["backoffLimitPerIndex"] = k.Retries,
                ["template"] = new JsonObject
                {
                    ["metadata"] = new JsonObject { ["labels"] = new JsonObject { ["app.kubernetes.io/name"] = "deepfakelab-sweep" } },
                    ["spec"] = new JsonObject
                    {
                        ["restartPolicy"] = "Never",
                        ["containers"] = new JsonArray(container),
                        ["volumes"] = new JsonArray([.. volumes.Select(v =>
                        {
                            v.Source["name"] = v.Name;
                            return v.Source;
                        })]),
                    },
                },
            },
        };
        var map = new JsonObject { ["apiVersion"] = "v1", ["kind"] = "ConfigMap", ["metadata"] = Metadata(), ["data"] = new JsonObject { ["sweep.json"] = file.Text } };
        return new JsonObject { ["apiVersion"] = "v1", ["kind"] = "List", ["items"] = new JsonArray(map, job) }.ToJsonString(indented) + "\n";

        JsonObject Metadata()
        {
            var metadata = new JsonObject { ["name"] = name };
            if (k.Namespace is not null)
                metadata["namespace"] = k.Namespace;
            return metadata;
        }
        void Require(bool holds, string key, string? value, string remedy) => Check(file, holds, "kubernetes." + key, value, remedy);
        void Range(string key, int value, int least, int most) => Require(value >= least && value <= most, key, value.ToString(CultureInfo.InvariantCulture), $"Use {least} to {most}");
    }

    private static void Check(SweepFile file, bool holds, string key, string? value, string remedy)
    {
        if (!holds)
            throw new SweepException($"The sweep file's {key} makes no sense", $"{value ?? "none"} in {file.Path}", remedy);
    }

    private static JsonArray Texts(IEnumerable<string> texts) => [.. texts.Select(t => (JsonNode)t)];

    /// <summary>The file's name as a DNS label, which a Slurm job's name may be too.</summary>
    private static string Name(SweepFile file, int longest)
    {
        var name = NotLabel().Replace(Path.GetFileNameWithoutExtension(file.Path).ToLowerInvariant(), "-").Trim('-');
        name = name[..Math.Min(name.Length, longest)].Trim('-');
        return name.Length == 0 ? "sweep" : name;
    }

    private static string Quote(string text) => "'" + text.Replace("'", "'\\''", StringComparison.Ordinal) + "'";

    [GeneratedRegex(@"^[A-Za-z0-9][A-Za-z0-9_.,:/@+=-]*\z", RegexOptions.CultureInvariant)]
    private static partial Regex Word();

    [GeneratedRegex(@"^--[a-z][a-z-]*(=[^\s""'\\]+)?\z", RegexOptions.CultureInvariant)]
    private static partial Regex Option();

    [GeneratedRegex(@"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z", RegexOptions.CultureInvariant)]
    private static partial Regex Label();

    [GeneratedRegex(@"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\z", RegexOptions.CultureInvariant)]
    private static partial Regex Subdomain();

    [GeneratedRegex(@"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?\z", RegexOptions.CultureInvariant)]
    private static partial Regex Quantity();

    [GeneratedRegex(@"^[A-Za-z_][A-Za-z0-9_]*\z", RegexOptions.CultureInvariant)]
    private static partial Regex Variable();

    [GeneratedRegex("[^a-z0-9]+", RegexOptions.CultureInvariant)]
    private static partial Regex NotLabel();
}
