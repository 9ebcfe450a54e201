using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>How a session finds files and assemblies.</summary>
public sealed record SessionOptions
{
    /// <summary>The notebook's folder: what <c>#r</c> and <c>#!import</c> are relative to.</summary>
    public string Folder { get; init; } = Environment.CurrentDirectory;

    /// <summary>
    /// Assemblies that the host has already. An <c>#r</c> whose file name is one of theirs means the host's assembly, wherever the
    /// path points and whether or not a file is there; so <c>notebook run</c> needs nothing published beforehand.
    /// </summary>
    public IReadOnlyList<Assembly> HostAssemblies { get; init; } = [];

    /// <summary>Where restored packages are noted.</summary>
    public string CacheFolder { get; init; } = Path.Combine(
        Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify), "deepfakelab");

    /// <summary>The whole sentence for an <c>#r</c> whose file is absent, given its full path; null for the usual one.</summary>
    public Func<string, string?>? ExplainMissing { get; init; }

    /// <summary>Told each assembly that an <c>#r</c> has loaded.</summary>
    internal Action<Assembly>? Referenced { get; init; }
}

/// <summary>What became of a cell.</summary>
/// <param name="Error">Why it failed; null when it succeeded. It has been shown as an output as well.</param>
public sealed record CellResult(ErrorOutput? Error, TimeSpan Elapsed)
{
    public bool Succeeded => Error is null;
}

/// <summary>Runs the cells of a notebook one after another; what a cell declares or imports is there for the next.</summary>
/// <remarks>
/// Each cell is compiled as a Roslyn script submission on top of the one before. This is done with the compiler itself, not with
/// Roslyn's <c>CSharpScript</c>, because cells are instrumented so that they can be interrupted, and their positions kept.
/// </remarks>
public sealed class CSharpSession : IDisposable
{
    /// <summary>What .NET Interactive imports, so that a notebook that runs there runs here; and its own namespace, which it does not.</summary>
    internal static readonly string[] Imports =
    [
        "System", "System.Text", "System.Collections", "System.Collections.Generic", "System.Threading.Tasks", "System.Linq",
        "DeepfakeLab.Notebooks.NotebookFunctions", "Microsoft.DotNet.Interactive",
    ];

    private readonly SessionOptions options;
    private readonly SessionAssemblies assemblies;
    private readonly List<string> importing = [];
    private CellExecutor executor = new();
    private object?[] submissions = new object?[16];
    private CSharpCompilation? previous;
    private readonly List<string> submitted = [];
    private int compiled;

    public CSharpSession(SessionOptions? options = null)
    {
        this.options = options ?? new SessionOptions();
        assemblies = new SessionAssemblies(this.options);
        ConsoleRouter.Install();
    }

    /// <summary>Runs one cell; its outputs come through <paramref name="output"/>, from any thread but one at a time.</summary>
    /// <param name="code">The cell's text.</param>
    /// <param name="name">What the cell is called in messages, such as "cell 3".</param>
    /// <param name="cancellation">Interrupts the cell: it ends within 2 seconds, and what earlier cells declared stays.</param>
    public async Task<CellResult> RunAsync(string code, string name, Action<CellOutput> output, CancellationToken cancellation = default)
    {
        var clock = Stopwatch.StartNew();
        var context = new CellContext(output, cancellation);
        var outer = CellContext.Current;
        ErrorOutput? error = null;
        CellContext.Current = context;
        try
        {
            await RunSteps(CellParser.Parse(code), name, context, options.Folder);
        }
        catch (CellFailedException e)
        {
            error = e.Error;
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            error = CellErrors.Interrupted(stillRunning: false);
        }
        catch (NotebookException e)
        {
            error = new ErrorOutput(nameof(NotebookException), e.Message, [e.Message]);
        }
        catch (Exception e) // such as the compiler's own, at code nested thousands deep: whatever a cell does, the session goes on
        {
            error = CellErrors.Runtime(e, SourceText.From(code), name);
        }
        finally
        {
            CellContext.Current = outer;
        }
        if (error is not null)
            context.Show(error);
        return new CellResult(error, clock.Elapsed);
    }

    private async Task RunSteps(List<CellStep> steps, string name, CellContext context, string folder)
    {
        var clock = Stopwatch.StartNew();
        foreach (var step in steps)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            switch (step)
            {
                case CellStep.Code code:
                    await RunCode(code.Text, name, context);
                    break;
                case CellStep.Reference reference:
                    await At(name, step.Line, () => assemblies.AddAsync(reference.Target, folder, context.Cancellation));
                    break;
                case CellStep.Import import:
                    await Import(import, name, context, folder);
                    break;
                case CellStep.Show show:
                    context.Show(new DisplayOutput(MimeBundle.Of(show.MimeType, show.Text), Guid.NewGuid().ToString("N")));
                    break;
                case CellStep.Unknown unknown:
                    throw new CellFailedException(CellErrors.Directive(name, unknown.Line,
                        $"this kernel knows no '{unknown.Text.Split(' ')[0]}'; it knows #!csharp, #!markdown, #!html, #!import, #!time, #r and #load"));
            }
        }
        if (steps.Any(s => s is CellStep.Time))
            context.Show(new DisplayOutput(MimeBundle.Of(MimeBundle.Plain, $"Wall time: {Duration(clock.Elapsed)}"), Guid.NewGuid().ToString("N")));
    }

    private static string Duration(TimeSpan time) => time.TotalSeconds < 1
        ? time.TotalMilliseconds.ToString("0.0 ms", CultureInfo.InvariantCulture)
        : time.TotalSeconds.ToString("0.00 s", CultureInfo.InvariantCulture);

    private async Task Import(CellStep.Import import, string name, CellContext context, string folder)
    {
        var path = Path.GetFullPath(import.Path, folder);
        if (importing.Contains(path) || importing.Count >= 32)
            throw new CellFailedException(CellErrors.Directive(name, import.Line, $"{import.Path} imports itself"));
        importing.Add(path);
        try
        {
            var file = Path.GetFileName(path);
            var folderOfFile = Path.GetDirectoryName(path)!;
            if (path.EndsWith(".ipynb", StringComparison.OrdinalIgnoreCase))
            {
                Notebook? notebook = null;
                await At(name, import.Line, () =>
                {
                    notebook = Notebook.Read(path);
                    return Task.CompletedTask;
                });
                var number = 0;
                foreach (var cell in notebook!.Cells.Where(c => c.Kind == CellKind.Code))
                    await RunSteps(CellParser.Parse(cell.Source), $"{file} cell {++number}", context, folderOfFile);
                return;
            }
            string? code = null;
            await At(name, import.Line, () =>
            {
                code = BoundedFile.ReadText(path);
                return Task.CompletedTask;
            });
            await RunSteps(CellParser.Parse(code!), file, context, folderOfFile);
        }
        finally
        {
            importing.Remove(path);
        }
    }

    /// <summary>Turns an error about a file that a directive names into one about the directive's line.</summary>
    private static async Task At(string name, int line, Func<Task> action)
    {
        try
        {
            await action();
        }
        catch (Exception e) when (e is NotebookException or IOException or UnauthorizedAccessException or BadImageFormatException)
        {
            throw new CellFailedException(CellErrors.Directive(name, line, e.Message));
        }
    }

    private async Task RunCode(string code, string name, CellContext context)
    {
        var source = SourceText.From(code, Encoding.UTF8);
        var original = CSharpSyntaxTree.ParseText(source, CellParser.ScriptOptions, name);
        CellErrors.ThrowIfAny(original.GetDiagnostics(), name, source, null);
        var instrumented = CellInterrupt.Instrument(source, await original.GetRootAsync(context.Cancellation),
            new Lazy<SemanticModel>(() => Compile(original).GetSemanticModel(original)));
        var compilation = Compile(CSharpSyntaxTree.ParseText(instrumented.Text, CellParser.ScriptOptions, name, context.Cancellation));

        using var pe = new MemoryStream();
        using var pdb = new MemoryStream();
        var emitted = compilation.Emit(pe, pdb, cancellationToken: context.Cancellation);
        CellErrors.ThrowIfAny(emitted.Diagnostics, name, source, instrumented);

        if (pe.Length == 0)
        {
            previous = compilation; // only usings: nothing to run, but the next cell builds on them
            submitted.Add(code);
            return;
        }
        pe.Position = pdb.Position = 0;
        var assembly = assemblies.Load(pe, pdb);
        var entry = compilation.GetEntryPoint(context.Cancellation)!;
        var factory = assembly.GetType(entry.ContainingType.MetadataName, throwOnError: true)!
            .GetMethod(entry.MetadataName, BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)!
            .CreateDelegate<Func<object?[], Task<object>>>();
        if (submissions.Length < compiled + 3)
            Array.Resize(ref submissions, submissions.Length * 2);
        var states = submissions;
        var shows = EndsInExpression(original);

        // The value is made ready for showing there as well: that may run code of the cell, which may fail, wait or never end.
        var outcome = await executor.RunAsync(async () =>
        {
            var value = await factory(states);
            return shows ? ValueFormatter.Format(value) : null;
        }, context);
        if (outcome.Abandoned)
        {
            executor = new CellExecutor(); // the old thread is still busy; what the cell declared goes with it
            throw new CellFailedException(CellErrors.Interrupted(stillRunning: true));
        }
        previous = compilation; // also after a failure: what the cell declared before it stays
        compiled++;
        submitted.Add(code);
        if (outcome.Error is OperationCanceledException or ThreadInterruptedException && context.Cancellation.IsCancellationRequested)
            throw new CellFailedException(CellErrors.Interrupted(stillRunning: false));
        if (outcome.Error is { } error)
            throw new CellFailedException(CellErrors.Runtime(error, source, name));
        if (outcome.Result is { } result)
            context.Show(new ResultOutput(result));
    }

    private CSharpCompilation Compile(SyntaxTree tree) => CSharpCompilation.CreateScriptCompilation(
        $"cell{Interlocked.Increment(ref compilations)}",
        tree,
        assemblies.References,
        new CSharpCompilationOptions(OutputKind.DynamicallyLinkedLibrary, usings: Imports, optimizationLevel: OptimizationLevel.Release,
            allowUnsafe: true, metadataReferenceResolver: assemblies.Resolver, assemblyIdentityComparer: DesktopAssemblyIdentityComparer.Default),
        previous,
        typeof(object));

    private static int compilations;

    /// <summary>The code of every cell that has run, and what cells may refer to: what completion builds on.</summary>
    internal IReadOnlyList<string> Submissions => submitted;

    internal IReadOnlyList<MetadataReference> References => assemblies.References;

    internal static bool EndsInExpression(SyntaxTree tree) =>
        tree.GetRoot() is CompilationUnitSyntax { Members: [.., GlobalStatementSyntax { Statement: ExpressionStatementSyntax { SemicolonToken.IsMissing: true } }] };

    public void Dispose()
    {
        executor.Dispose();
        assemblies.Dispose();
    }
}
