using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace DeepfakeLab.Notebooks;

/// <summary>One step of a cell. <paramref name="Line"/> counts from 0, in the cell.</summary>
internal abstract record CellStep(int Line)
{
    /// <summary>C#; everything before it in the cell is blanked out, so that positions are the cell's own.</summary>
    public sealed record Code(string Text, int Line) : CellStep(Line);

    /// <summary><c>#r "path"</c>, <c>#r "nuget: Name, Version"</c>.</summary>
    public sealed record Reference(string Target, int Line) : CellStep(Line);

    /// <summary><c>#!import path</c> or <c>#load "path"</c>.</summary>
    public sealed record Import(string Path, int Line) : CellStep(Line);

    /// <summary><c>#!markdown</c> or <c>#!html</c>: text to be shown.</summary>
    public sealed record Show(string MimeType, string Text, int Line) : CellStep(Line);

    /// <summary><c>#!time</c>: says at the end how long the cell took.</summary>
    public sealed record Time(int Line) : CellStep(Line);

    public sealed record Unknown(string Text, int Line) : CellStep(Line);
}

/// <summary>Splits a cell into steps at its directives. C# decides what is a directive, so one inside a string is none.</summary>
internal static class CellParser
{
    public static readonly CSharpParseOptions ScriptOptions =
        new(LanguageVersion.Latest, DocumentationMode.Parse, SourceCodeKind.Script);

    public static List<CellStep> Parse(string cell)
    {
        var steps = new List<CellStep>();
        var lines = cell.ReplaceLineEndings("\n").Split('\n');
        var language = "csharp";
        var start = 0;
        for (var i = 0; i <= lines.Length; i++)
        {
            var next = i < lines.Length ? LanguageOf(lines[i]) : "";
            if (next is null)
                continue;
            var part = lines[start..i];
            if (language == "csharp")
                AddCode(steps, lines, start, i);
            else if (part.Any(l => l.Trim().Length > 0))
                steps.Add(new CellStep.Show(language == "html" ? MimeBundle.Html : MimeBundle.Markdown, string.Join('\n', part).Trim('\n'), start));
            (language, start) = (next, i + 1);
        }
        return steps;
    }

    private static string? LanguageOf(string line) => line.TrimEnd() switch
    {
        "#!csharp" or "#!c#" or "#!C#" => "csharp",
        "#!markdown" => "markdown",
        "#!html" => "html",
        _ => null,
    };

    /// <summary>Adds lines [from, to) as code, cut where an import stands between statements.</summary>
    private static void AddCode(List<CellStep> steps, string[] lines, int from, int to)
    {
        var code = lines.Select((line, i) => i >= from && i < to ? line : "").ToArray();
        var pending = from;
        foreach (var (step, remove) in Directives(string.Join('\n', code)))
        {
            if (remove)
                code[step.Line] = "";
            if (step is CellStep.Import)
            {
                AddText(step.Line);
                pending = step.Line + 1;
            }
            steps.Add(step);
        }
        AddText(to);

        void AddText(int end)
        {
            if (!code[pending..end].Any(l => l.Trim().Length > 0))
                return;
            var text = string.Join('\n', code.Select((line, i) => i >= pending && i < end ? line : ""));
            steps.Add(new CellStep.Code(text, pending));
        }
    }

    private static IEnumerable<(CellStep Step, bool Remove)> Directives(string code)
    {
        if (!code.Contains('#'))
            yield break;
        var tree = CSharpSyntaxTree.ParseText(code, ScriptOptions);
        for (DirectiveTriviaSyntax? directive = tree.GetCompilationUnitRoot().GetFirstDirective(); directive is not null; directive = directive.GetNextDirective())
        {
            var line = tree.GetText().Lines.IndexOf(directive.SpanStart);
            var text = tree.GetText().Lines[line].ToString().Trim();
            switch (directive)
            {
                case ReferenceDirectiveTriviaSyntax reference:
                    yield return (new CellStep.Reference(reference.File.ValueText, line), true);
                    break;
                case LoadDirectiveTriviaSyntax load:
                    yield return (new CellStep.Import(load.File.ValueText, line), true);
                    break;
                case BadDirectiveTriviaSyntax or ShebangDirectiveTriviaSyntax when text.StartsWith("#!import", StringComparison.Ordinal):
                    yield return (new CellStep.Import(text["#!import".Length..].Trim().Trim('"'), line), true);
                    break;
                case BadDirectiveTriviaSyntax or ShebangDirectiveTriviaSyntax when text == "#!time":
                    yield return (new CellStep.Time(line), true);
                    break;
                case BadDirectiveTriviaSyntax or ShebangDirectiveTriviaSyntax when text.StartsWith("#!", StringComparison.Ordinal):
                    yield return (new CellStep.Unknown(text, line), true);
                    break;
            }
        }
    }
}
