using System.Diagnostics;
using System.Reflection;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Text;

namespace DeepfakeLab.Notebooks;

internal sealed class CellFailedException(ErrorOutput error) : Exception(error.Message)
{
    public ErrorOutput Error { get; } = error;
}

/// <summary>Puts what went wrong in a cell into words, with the place in the notebook's code.</summary>
internal static class CellErrors
{
    private const int MostDiagnostics = 10, MostFrames = 12;

    public static ErrorOutput Interrupted(bool stillRunning) => Error("Interrupted", stillRunning
        ? "The cell was interrupted, but something in it does not stop and goes on in the background. Restart the kernel to end it."
        : "The cell was interrupted; what earlier cells declared is still there.");

    public static ErrorOutput Directive(string cell, int line, string message) =>
        Error("DirectiveError", $"{cell}, line {line + 1}: {message}");

    private static ErrorOutput Error(string name, string message) => new(name, message, [message]);

    /// <exception cref="CellFailedException">There is an error among the diagnostics.</exception>
    public static void ThrowIfAny(IEnumerable<Diagnostic> diagnostics, string cell, SourceText source, InstrumentedCode? instrumented)
    {
        var errors = diagnostics.Where(d => d.Severity == DiagnosticSeverity.Error).ToList();
        if (errors.Count == 0)
            return;
        var lines = new List<string>();
        foreach (var error in errors.Take(MostDiagnostics))
        {
            var at = instrumented is null || !error.Location.IsInSource
                ? error.Location.GetLineSpan().StartLinePosition
                : instrumented.ToOriginal(error.Location.SourceSpan.Start);
            lines.Add($"{cell}, line {at.Line + 1}, column {at.Character + 1}: error {error.Id}: {error.GetMessage()}{Hint(error)}");
            if (error.Location.IsInSource && at.Line < source.Lines.Count && source.Lines[at.Line].ToString() is { Length: > 0 and <= 200 } text)
            {
                lines.Add("    " + text.Replace('\t', ' '));
                lines.Add("    " + new string(' ', Math.Min(at.Character, text.Length)) + "^");
            }
        }
        if (errors.Count > MostDiagnostics)
            lines.Add($"and {errors.Count - MostDiagnostics} more errors");
        throw new CellFailedException(new ErrorOutput("CompilationError", lines[0], lines));
    }

    /// <summary>The remedy for errors whose cause, in a notebook, is mostly the same.</summary>
    private static string Hint(Diagnostic error) => error.Id switch
    {
        "CS0103" or "CS0841" => " (has the cell that declares it been run?)",
        "CS0246" or "CS0234" => " (is the using or the #r missing, or has the cell that holds it not been run?)",
        _ => "",
    };

    public static ErrorOutput Runtime(Exception error, SourceText source, string cell)
    {
        while (error is TargetInvocationException or AggregateException { InnerExceptions.Count: 1 } && error.InnerException is { } inner)
            error = inner;
        var name = error.GetType().Name;
        List<string> lines = [$"{name}: {error.Message}"];
        for (var cause = error.InnerException; cause is not null && lines.Count < 4; cause = cause.InnerException)
            lines.Add($"  caused by {cause.GetType().Name}: {FirstLine(cause.Message)}");
        foreach (var frame in Frames(error))
        {
            if (frame.GetFileName() is { } file && IsCell(frame))
            {
                var line = frame.GetFileLineNumber();
                var text = file == cell && line >= 1 && line <= source.Lines.Count ? ": " + source.Lines[line - 1].ToString().Trim() : "";
                lines.Add($"  in {file}, line {line}{text}");
            }
            else if (Describe(frame.GetMethod()) is { } method)
            {
                lines.Add("  at " + method);
            }
        }
        return new ErrorOutput(name, error.Message, lines);
    }

    /// <summary>From where it was thrown down to the cell's own code; below that there is only this kernel.</summary>
    private static IEnumerable<StackFrame> Frames(Exception error)
    {
        var frames = new StackTrace(error, fNeedFileInfo: true).GetFrames();
        var last = Array.FindLastIndex(frames, IsCell);
        var shown = frames.Take(last + 1).ToList();
        return shown.Count <= MostFrames ? shown : shown.Take(MostFrames / 2).Concat(shown.TakeLast(MostFrames / 2));
    }

    private static bool IsCell(StackFrame frame) =>
        frame.GetMethod()?.Module.Assembly.GetName().Name?.StartsWith(SessionAssemblies.CellPrefix, StringComparison.Ordinal) == true
        && frame.GetFileLineNumber() > 0;

    /// <summary>Type and method as C# writes them; null for the compiler's and the runtime's plumbing.</summary>
    private static string? Describe(MethodBase? method)
    {
        if (method?.DeclaringType is not { } type || type.Name.StartsWith('<') || type.Namespace?.StartsWith("System.Runtime", StringComparison.Ordinal) == true)
            return null;
        return $"{type.FullName?.Replace('+', '.')}.{method.Name}({string.Join(", ", method.GetParameters().Select(p => p.ParameterType.Name))})";
    }

    private static string FirstLine(string text) => text.Split('\n')[0].TrimEnd();
}
