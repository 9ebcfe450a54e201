using System.Text.RegularExpressions;

namespace DeepfakeLab.Notebooks;

/// <summary>
/// What a notebook must hold to so that the same file runs here, in .NET Interactive and, but for the path of the library, in Verso;
/// and what keeps it readable. The reasons are in environment/README.md.
/// </summary>
public static partial class NotebookRules
{
    /// <summary>More than fit on a screen beside their output belong to the library.</summary>
    public const int MostLines = 15;

    /// <summary>What the notebook breaks, one sentence each; empty when it holds to all rules.</summary>
    public static IEnumerable<string> Violations(Notebook notebook)
    {
        if ((string?)notebook.Metadata["kernelspec"]?["name"] != KernelSpec.Name)
            yield return $"metadata.kernelspec.name is not {KernelSpec.Name}";
        if ((string?)notebook.Metadata["language_info"]?["name"] != "polyglot-notebook")
            yield return "metadata.language_info.name is not polyglot-notebook";
        if (notebook.Cells is not [{ Kind: CellKind.Markdown }, ..])
            yield return "the first cell is not prose";
        if (notebook.Cells.Select(c => c.Id).Distinct().Count() != notebook.Cells.Count)
            yield return "two cells have the same id";
        var code = string.Join('\n', notebook.Cells.Where(c => c.Kind == CellKind.Code).Select(c => c.Source));
        if (code.Contains("using TorchSharp", StringComparison.Ordinal) && !code.Contains("/TorchSharp.dll\"", StringComparison.Ordinal))
            yield return "uses TorchSharp without an #r of its own; what the library brings along has no names in .NET Interactive";
        var number = 0;
        foreach (var cell in notebook.Cells.Where(c => c.Kind == CellKind.Code))
            foreach (var broken in Violations(cell, ++number))
                yield return $"code cell {number} {broken}";
    }

    private static IEnumerable<string> Violations(NotebookCell cell, int number)
    {
        if ((string?)cell.Metadata["dotnet_interactive"]?["language"] != "csharp" || (string?)cell.Metadata["polyglot_notebook"]?["kernelName"] != "csharp")
            yield return "does not say its language in dotnet_interactive.language and polyglot_notebook.kernelName";
        var lines = cell.Source.TrimEnd().Split('\n');
        if (lines.Length > MostLines)
            yield return $"has {lines.Length} lines, more than {MostLines}";
        foreach (var line in lines.Select(l => l.Trim()))
        {
            if (line.StartsWith("#r ", StringComparison.Ordinal) && number > 1)
                yield return $"references a library, which the first code cell does: {line}";
            if (line.StartsWith("#r ", StringComparison.Ordinal) && !Reference().IsMatch(line))
                yield return $"has an #r that is neither relative with forward slashes nor a package with its version: {line}";
            if (line.StartsWith("#!import", StringComparison.Ordinal) ? line.Contains('"') : line.StartsWith("#!", StringComparison.Ordinal))
                yield return $"has a directive that Verso does not know: {line}";
            if (line.StartsWith("#load", StringComparison.Ordinal))
                yield return "uses #load; #!import is known everywhere";
        }
        if (LostUpdate().IsMatch(cell.Source))
            yield return "calls display() or HTML(): .NET Interactive loses display's updates, Verso has neither; end the cell in the value; curves have LiveCurves.InNotebook()";
        if (cell.Source.Contains("KernelInvocationContext", StringComparison.Ordinal))
            yield return "names KernelInvocationContext, which .NET Interactive knows only by a using that Verso does not; curves have LiveCurves.InNotebook()";
        if (Path().IsMatch(cell.Source))
            yield return "names a path of one machine";
        if (cell.Outputs.Any(o => Path().IsMatch(Text(o))))
            yield return "shows a path of one machine in its output";
    }

    private static string Text(CellOutput output) => output switch
    {
        StreamOutput stream => stream.Text,
        DisplayOutput display => Text(display.Data),
        ResultOutput result => Text(result.Data),
        ErrorOutput error => string.Join('\n', error.Traceback),
        _ => "",
    };

    private static string Text(MimeBundle data) =>
        string.Join('\n', data.Where(d => !d.Key.StartsWith("image/", StringComparison.Ordinal) || d.Key == MimeBundle.Svg).Select(d => d.Value));

    [GeneratedRegex("""^#r "(\.{1,2}/[^"\\]+\.dll|nuget: ?[\w.-]+, ?[\w.-]+)"$""")]
    private static partial Regex Reference();

    [GeneratedRegex(@"(?<![\w.])(display|HTML)\s*\(")]
    private static partial Regex LostUpdate();

    [GeneratedRegex(@"(?<![\w/.])(/home/|/Users/|/root/|/tmp/|/work/|/workspaces/|[A-Za-z]:\\)\S")]
    private static partial Regex Path();
}
