using System.CommandLine;
using System.Globalization;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Cli;

/// <summary><c>notebook run | check | clean | html</c>: notebooks without any notebook program.</summary>
internal static class NotebookCommand
{
    public static Command Create() => new("notebook", """
        Runs notebooks and makes pages of them, without Jupyter.

        Examples:
          deepfakelab notebook run notebooks/mobilenet.ipynb
          deepfakelab notebook check notebooks
          deepfakelab notebook clean notebooks
        """)
    {
        Run(), Check(), Clean(), Html(),
    };

    private static Argument<string[]> Files() => new("FILE")
    {
        Description = "Notebooks (.ipynb), or folders of them.",
        Arity = ArgumentArity.OneOrMore,
    };

    private static Option<string> Out() => new("--out")
    {
        Description = "The folder to write to.",
        DefaultValueFactory = _ => "artifacts",
        HelpName = "DIR",
    };

    private static Command Run()
    {
        var (files, output) = (Files(), Out());
        var command = new Command("run", """
            Runs all cells and writes the executed notebook and a self-contained HTML page.

            Examples:
              deepfakelab notebook run notebooks/mobilenet.ipynb
              deepfakelab notebook run notebooks --out build/pages
            """) { files, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            var folder = Path.GetFullPath(parsed.GetValue(output)!);
            var (passed, terminal) = (true, Console.Error);
            foreach (var file in Expand(parsed.GetValue(files)!))
            {
                var notebook = Notebook.Read(file);
                passed &= await Execute(notebook, file, terminal, cancellation);
                var copy = Path.Combine(folder, Path.GetFileName(file));
                if (Path.GetFullPath(copy) == file)
                    throw new NotebookException("The executed copy would replace the notebook itself", file, "Name another folder with --out");
                notebook.Write(copy);
                var page = WritePage(notebook, file, folder);
                Console.WriteLine($"{Relative(copy)}\n{Relative(page)}");
                cancellation.ThrowIfCancellationRequested();
            }
            return passed ? 0 : 1;
        });
        return command;
    }

    private static Command Check()
    {
        var files = Files();
        var command = new Command("check", """
            Runs all cells and writes nothing: every cell must pass, except those tagged raises-exception, which must fail;
            a cell tagged assert must end in the value true.

            Examples:
              deepfakelab notebook check notebooks
            """) { files };
        command.SetAction(async (parsed, cancellation) =>
        {
            var (passed, terminal) = (true, Console.Error);
            foreach (var file in Expand(parsed.GetValue(files)!))
            {
                var one = await Execute(Notebook.Read(file), file, terminal, cancellation);
                Console.WriteLine($"{(one ? "passed" : "FAILED")} {Relative(file)}");
                passed &= one;
                cancellation.ThrowIfCancellationRequested();
            }
            return passed ? 0 : 1;
        });
        return command;
    }

    private static Command Clean()
    {
        var files = Files();
        var command = new Command("clean", """
            Removes outputs and execution counts, in place.

            Examples:
              deepfakelab notebook clean notebooks
            """) { files };
        command.SetAction(parsed =>
        {
            foreach (var file in Expand(parsed.GetValue(files)!))
            {
                var notebook = Notebook.Read(file);
                notebook.Clean();
                notebook.Write(file);
                Console.WriteLine(Relative(file));
            }
        });
        return command;
    }

    private static Command Html()
    {
        var (files, output) = (Files(), Out());
        var command = new Command("html", """
            Makes a self-contained HTML page of a notebook as it is, without running it.

            Examples:
              deepfakelab notebook html artifacts/mobilenet.ipynb
            """) { files, output };
        command.SetAction(parsed =>
        {
            foreach (var file in Expand(parsed.GetValue(files)!))
                Console.WriteLine(Relative(WritePage(Notebook.Read(file), file, Path.GetFullPath(parsed.GetValue(output)!))));
        });
        return command;
    }

    private static List<string> Expand(string[] names)
    {
        var files = new List<string>();
        foreach (var name in names)
        {
            if (!Directory.Exists(name))
                files.Add(Path.GetFullPath(name));
            else if (Directory.GetFiles(name, "*.ipynb").Order(StringComparer.Ordinal).ToList() is { Count: > 0 } found)
                files.AddRange(found.Select(Path.GetFullPath));
            else
                throw new NotebookException("The folder holds no notebook", name, "Name a .ipynb file or another folder");
        }
        return files;
    }

    /// <summary>Runs a notebook as Jupyter would, in its own folder, and says on the terminal how far it is.</summary>
    /// <param name="terminal">Standard error as it was before the first notebook: a session's own hands what a cell's thread writes to that cell.</param>
    private static async Task<bool> Execute(Notebook notebook, string file, TextWriter terminal, CancellationToken cancellation)
    {
        var options = new SessionOptions
        {
            Folder = Path.GetDirectoryName(file)!,
            HostAssemblies = [typeof(LabException).Assembly],
            CacheFolder = LabFolders.Cache,
        };
        var before = Environment.CurrentDirectory;
        NotebookFailure? failure;
        using (var progress = TerminalProgress.Show(terminal))
        {
            progress.WriteLine(Relative(file));
            Environment.CurrentDirectory = options.Folder;
            try
            {
                failure = await NotebookRunner.RunAsync(notebook, options, e => Tell(progress, e), cancellation);
            }
            finally
            {
                Environment.CurrentDirectory = before;
            }
        }
        if (failure is not null)
            await Console.Error.WriteLineAsync($"{Relative(file)}: cell {failure.CellNumber} failed:\n{string.Join('\n', failure.Error.Traceback)}");
        return failure is null;
    }

    private static void Tell(TerminalProgress progress, NotebookEvent happened)
    {
        switch (happened)
        {
            case NotebookEvent.Started started:
                progress.Status($"cell {started.Number} of {started.Count}");
                break;
            case NotebookEvent.Finished finished:
                var mark = finished.Result.Succeeded ? "ok    " : finished.Cell.Tags.Contains("raises-exception") ? "raised" : "failed";
                var seconds = finished.Result.Elapsed.TotalSeconds.ToString("0.0", CultureInfo.InvariantCulture);
                progress.WriteLine($"  {mark} cell {finished.Number,2} {seconds,7} s  {FirstLine(finished.Cell.Source)}");
                break;
        }
    }

    private static string FirstLine(string source)
    {
        var line = source.Split('\n').FirstOrDefault(l => l.Trim().Length > 0)?.Trim() ?? "";
        return line.Length <= 60 ? line : line[..59] + "…";
    }

    private static string WritePage(Notebook notebook, string file, string folder)
    {
        var page = Path.Combine(folder, Path.ChangeExtension(Path.GetFileName(file), ".html"));
        notebook.WritePage(page, Path.GetDirectoryName(file)!);
        return page;
    }

    private static string Relative(string path)
    {
        var relative = Path.GetRelativePath(Environment.CurrentDirectory, path);
        return relative.StartsWith("..", StringComparison.Ordinal) ? path : relative;
    }
}
