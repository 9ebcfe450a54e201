using System.Text.Json.Nodes;

namespace DeepfakeLab.Notebooks;

public enum CellKind
{
    Code,
    Markdown,
    Raw,
}

/// <summary>One cell of a notebook.</summary>
public sealed class NotebookCell(CellKind kind, string source, string? id = null, JsonObject? metadata = null)
{
    public string Id { get; } = id ?? Guid.NewGuid().ToString("N")[..8];

    public CellKind Kind { get; } = kind;

    public string Source { get; } = source;

    public JsonObject Metadata { get; } = metadata ?? [];

    public List<CellOutput> Outputs { get; } = [];

    public int? ExecutionCount { get; set; }

    /// <summary>The tags that a person gave the cell: <c>raises-exception</c> (it is to fail), <c>assert</c> (its value is to be true).</summary>
    public IEnumerable<string> Tags => (Metadata["tags"] as JsonArray ?? []).OfType<JsonValue>().Select(v => v.ToString());
}

/// <summary>A notebook file in format 4: cells, their outputs, and metadata that is kept as it was.</summary>
public sealed class Notebook
{
    public List<NotebookCell> Cells { get; init; } = [];

    public JsonObject Metadata { get; init; } = [];

    /// <summary>The text of the first heading; null when there is none.</summary>
    public string? Title => Cells.Where(c => c.Kind == CellKind.Markdown)
        .SelectMany(c => c.Source.Split('\n'))
        .FirstOrDefault(l => l.StartsWith("# ", StringComparison.Ordinal))?[2..].Trim();

    /// <exception cref="NotebookException">The file is absent, too large, or no notebook of format 4.</exception>
    public static Notebook Read(string path) => NotebookJson.Parse(BoundedFile.ReadText(path), path);

    /// <summary>Writes the file whole or not at all.</summary>
    public void Write(string path) => BoundedFile.WriteText(path, NotebookJson.ToText(this));

    /// <summary>Writes the page of <see cref="HtmlPage"/>, whole or not at all.</summary>
    public void WritePage(string path, string folder) =>
        BoundedFile.WriteText(path, HtmlPage.Render(this, folder, Path.GetFileNameWithoutExtension(path)));

    /// <summary>Removes what running the notebook added.</summary>
    public void Clean()
    {
        foreach (var cell in Cells)
        {
            cell.Outputs.Clear();
            cell.ExecutionCount = null;
        }
    }
}
