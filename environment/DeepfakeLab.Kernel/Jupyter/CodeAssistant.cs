using System.Text.Json.Nodes;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Completion;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.Host.Mef;
using Microsoft.CodeAnalysis.QuickInfo;
using Microsoft.CodeAnalysis.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>Completion and inspection by Roslyn's own services, on the cells that have run and the one being written.</summary>
internal sealed class CodeAssistant(CSharpSession session) : IDisposable
{
    private const int MostMatches = 500;
    private AdhocWorkspace? workspace; // made at the first question: it takes a second and 50 MB
    private Project? last;
    private readonly Dictionary<string, MetadataReference> references = [];
    private int known;

    public async Task<JsonObject> CompleteAsync(string code, int cursor)
    {
        var position = ToUtf16(code, cursor);
        var document = Open(code);
        var service = CompletionService.GetService(document);
        var list = service is null ? null : await service.GetCompletionsAsync(document, position);
        var reply = JupyterKernel.Ok();
        var span = list?.Span ?? new TextSpan(position, 0);
        var prefix = code[span.Start..Math.Max(span.Start, Math.Min(position, span.End))];
        var items = (list?.ItemsList ?? [])
            .Where(i => i.FilterText.StartsWith(prefix, StringComparison.OrdinalIgnoreCase))
            .OrderBy(i => i.SortText, StringComparer.OrdinalIgnoreCase).DistinctBy(i => i.DisplayText).Take(MostMatches).ToList();
        reply["matches"] = new JsonArray([.. items.Select(i => (JsonNode)Insertion(i))]);
        reply["cursor_start"] = ToCodePoints(code, span.Start);
        reply["cursor_end"] = ToCodePoints(code, Math.Max(position, span.End));
        reply["metadata"] = new JsonObject
        {
            ["_jupyter_types_experimental"] = new JsonArray([.. items.Select(i => new JsonObject
            {
                ["text"] = Insertion(i), ["type"] = i.Tags.FirstOrDefault()?.ToLowerInvariant() ?? "text",
            })]),
        };
        return reply;
    }

    public async Task<JsonObject> InspectAsync(string code, int cursor)
    {
        var document = Open(code);
        var service = QuickInfoService.GetService(document);
        var position = ToUtf16(code, cursor);
        QuickInfoItem? info = null;
        if (service is not null)
            info = await service.GetQuickInfoAsync(document, position) ?? (position > 0 ? await service.GetQuickInfoAsync(document, position - 1) : null);
        var text = info is null ? "" : string.Join("\n\n", info.Sections.Select(s => s.Text).Where(t => t.Length > 0));
        var reply = JupyterKernel.Ok();
        reply["found"] = text.Length > 0;
        reply["data"] = text.Length > 0 ? new JsonObject { [MimeBundle.Plain] = text } : new JsonObject();
        reply["metadata"] = new JsonObject();
        return reply;
    }

    /// <summary>Whether Enter is to run the code: complete, incomplete (with the next line's indent) or invalid.</summary>
    public static (string State, string? Indent) IsComplete(string code)
    {
        var tree = CSharpSyntaxTree.ParseText(code, CellParser.ScriptOptions);
        if (!SyntaxFactory.IsCompleteSubmission(tree))
        {
            var open = Math.Max(0, code.Count(c => c == '{') - code.Count(c => c == '}'));
            return ("incomplete", new string(' ', 4 * Math.Min(open, 8)));
        }
        var errors = tree.GetDiagnostics().Where(d => d.Severity == DiagnosticSeverity.Error && !code.Contains("#!", StringComparison.Ordinal));
        return (errors.Any() ? "invalid" : "complete", null);
    }

    private static string Insertion(CompletionItem item) => item.Properties.GetValueOrDefault("InsertionText", item.DisplayText);

    private Document Open(string code)
    {
        workspace ??= new AdhocWorkspace(MefHostServices.DefaultHost);
        for (var submissions = session.Submissions; known < submissions.Count; known++)
            last = Add(submissions[known]);
        return Next(code, "current").Documents.Single();
    }

    private Project Add(string code)
    {
        var project = Next(code, $"cell{known}");
        workspace!.TryApplyChanges(project.Solution);
        return workspace.CurrentSolution.GetProject(project.Id)!;
    }

    private Project Next(string code, string name)
    {
        var id = ProjectId.CreateNewId();
        var info = ProjectInfo.Create(id, VersionStamp.Default, name, name, LanguageNames.CSharp, isSubmission: true,
            parseOptions: CellParser.ScriptOptions,
            compilationOptions: new CSharpCompilationOptions(OutputKind.DynamicallyLinkedLibrary, usings: CSharpSession.Imports, allowUnsafe: true),
            metadataReferences: session.References.Select(Again).Distinct(),
            projectReferences: last is null ? [] : [new ProjectReference(last.Id)]);
        return workspace!.CurrentSolution.AddProject(info).AddDocument(DocumentId.CreateNewId(id), name, SourceText.From(code)).GetProject(id)!;
    }

    /// <summary>The same file read once more; the compiler must not meet symbols of this workspace's when it compiles a cell.</summary>
    private MetadataReference Again(MetadataReference reference)
    {
        var path = reference.Display!;
        return references.TryGetValue(path, out var known) ? known : references[path] = MetadataReference.CreateFromFile(path);
    }

    /// <summary>Jupyter counts code points, .NET counts UTF-16 units.</summary>
    private static int ToUtf16(string text, int codePoints)
    {
        var at = 0;
        for (var i = 0; i < codePoints && at < text.Length; i++)
            at += at + 1 < text.Length && char.IsSurrogatePair(text, at) ? 2 : 1;
        return at;
    }

    private static int ToCodePoints(string text, int utf16)
    {
        var count = 0;
        for (var at = 0; at < Math.Min(utf16, text.Length); count++)
            at += at + 1 < text.Length && char.IsSurrogatePair(text, at) ? 2 : 1;
        return count;
    }

    public void Dispose() => workspace?.Dispose();
}
