using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Cli;

/// <summary><c>sweep</c>: many trainings from one file, here or on other machines.</summary>
internal static class SweepCommand
{
    private static readonly JsonSerializerOptions indented = new() { WriteIndented = true };

    public static Command Create() => new("sweep", """
        Train every combination of the recipes, models, seeds and folds that a file names: here, as a Slurm job array, or as a Kubernetes
        Indexed Job. Each training can be stopped and run again anywhere: what is done stays, what was begun goes on.

        A sweep file is JSON, in which comments are allowed:
          {
            "data": "faces",                              // as train's --data; paths are relative to this file
            "models": ["mobilenet_v2", "resnet18"],
            "recipes": [{ "name": "full" }, { "name": "short", "base": "full", "epochs": 4 }],
            "seeds": [1, 2, 3], "folds": 5, "size": 224, "weights": "imagenet",
            "out": "results",
            "slurm": { "cpus": 8, "memory": "16G", "time": "04:00:00" },
            "kubernetes": { "image": "registry/deepfakelab:1", "cpu": "8", "outClaim": "results", "dataClaim": "faces" }
          }

        Examples:
          deepfakelab sweep list sweep.json
          deepfakelab sweep run sweep.json
          deepfakelab sweep run sweep.json --task 3
          deepfakelab sweep slurm sweep.json > sweep.sh && sbatch sweep.sh
          deepfakelab sweep kubernetes sweep.json | kubectl apply -f -
          deepfakelab sweep gather sweep.json --format csv
        """)
    { List(), Run(), Slurm(), Kubernetes(), Gather() };

    /// <summary>What every one of them reads, and what may lie elsewhere on another machine.</summary>
    private sealed class Source
    {
        private readonly Argument<FileInfo> file = new("FILE") { Description = "The sweep file; 'deepfakelab sweep --help' shows one" };
        private readonly Option<DirectoryInfo?> data = new("--data") { Description = "Take the images from here, not from where the file says" };
        private readonly Option<DirectoryInfo?> output = new("--out") { Description = "Results are here, not where the file says" };

        public void AddTo(Command command)
        {
            command.Add(file);
            command.Add(data);
            command.Add(output);
        }

        public SweepFile Read(ParseResult parsed) =>
            SweepFile.Read(parsed.GetValue(file)!.FullName, parsed.GetValue(data)?.FullName, parsed.GetValue(output)?.FullName);
    }

    private static Command Make(string name, string description, out Source source, params Option[] options)
    {
        var command = new Command(name, description);
        (source = new Source()).AddTo(command);
        foreach (var option in options)
            command.Add(option);
        return command;
    }

    private static Command List()
    {
        var json = CommonOptions.Json();
        var command = Make("list", "The tasks: number, name, and how far each is", out var source, json);
        command.SetAction(parsed =>
        {
            var tasks = SweepTable.Status(source.Read(parsed));
            if (parsed.GetValue(json))
                Console.WriteLine(new JsonArray([.. tasks.Select(t => new JsonObject
                {
                    ["index"] = t.Task.Index, ["id"] = t.Task.Id, ["recipe"] = t.Task.Recipe.Name, ["model"] = t.Task.Model, ["seed"] = t.Task.Seed, ["fold"] = t.Task.Fold,
                    ["state"] = t.State.ToString().ToLowerInvariant(), ["reason"] = t.Reason,
                })]).ToJsonString(indented));
            else
                foreach (var (task, _, reason) in tasks)
                    Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{task.Index,5}  {task.Id}  {reason}"));
        });
        return command;
    }

    private static Command Run()
    {
        var tasks = new Option<string[]>("--task") { Description = "Only these, by number or name", AllowMultipleArgumentsPerToken = true };
        var command = Make("run", "Train here, one task after the other; exit code 1 where one has no result then", out var source, tasks);
        command.SetAction((parsed, cancellation) =>
        {
            var file = source.Read(parsed);
            var chosen = parsed.GetValue(tasks) is { Length: > 0 } some ? [.. some.Select(file.Find).Distinct()] : file.Tasks;
            using var progress = TerminalProgress.Show();
            var missing = Sweep.Run(file, chosen, Console.WriteLine, cancellation);
            if (missing > 0)
                Console.Error.WriteLine($"{missing} of {chosen.Count} tasks have no result.");
            return Task.FromResult(missing > 0 ? 1 : 0);
        });
        return command;
    }

    private static Command Slurm()
    {
        var command = Make("slurm", "Print a script for sbatch: a job array with a task each", out var source);
        command.SetAction(parsed =>
        {
            var file = source.Read(parsed);
            var script = SweepJobs.Slurm(file, ThisProgram());
            Directory.CreateDirectory(SweepJobs.SlurmLogs(file));
            Console.Write(script);
        });
        return command;
    }

    private static Command Kubernetes()
    {
        var command = Make("kubernetes", "Print an Indexed Job with a pod a task, and the ConfigMap with the file, for kubectl", out var source);
        command.SetAction(parsed => Console.Write(SweepJobs.Kubernetes(source.Read(parsed))));
        return command;
    }

    private static Command Gather()
    {
        var format = new Option<string>("--format") { Description = "text, csv or json", DefaultValueFactory = _ => "text" };
        format.AcceptOnlyFromAmong("text", "csv", "json");
        var command = Make("gather", "Print the table of all results; what is missing is named, and the exit code is then 1", out var source, format);
        command.SetAction(parsed =>
        {
            var table = SweepTable.Gather(source.Read(parsed));
            var form = parsed.GetValue(format);
            Console.Write(form switch { "csv" => table.ToCsv(), "json" => table.ToJson().ToJsonString(indented) + "\n", _ => table.ToText() });
            if (form == "csv") // its lines have no room for what is wrong
            {
                foreach (var warning in table.Warnings)
                    Console.Error.WriteLine("warning   " + warning);
                foreach (var gap in table.Missing)
                    Console.Error.WriteLine($"missing   [{gap.Task.Index}] {gap.Task.Id}: {gap.Reason}");
            }
            return table.IsComplete ? 0 : 1;
        });
        return command;
    }

    /// <summary>The command that this process was started with.</summary>
    private static string[] ThisProgram()
    {
        var (process, library) = (Environment.ProcessPath!, typeof(SweepCommand).Assembly.Location);
        return Path.GetFileNameWithoutExtension(process).Equals("dotnet", StringComparison.OrdinalIgnoreCase) ? [process, library] : [process];
    }
}
