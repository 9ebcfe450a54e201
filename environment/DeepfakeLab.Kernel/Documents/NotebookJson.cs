using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Notebooks;

/// <summary>The JSON of nbformat 4.5, read with suspicion and written as Jupyter writes it (one space, lines of text as an array).</summary>
internal static class NotebookJson
{
    private const int MostCells = 10_000;
    private static readonly JsonDocumentOptions strict = new() { MaxDepth = 128 };
    private static readonly JsonWriterOptions layout = new()
    {
        Indented = true,
        IndentSize = 1,
        NewLine = "\n",
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static Notebook Parse(string text, string path)
    {
        try
        {
            var root = JsonNode.Parse(text, documentOptions: strict) as JsonObject ?? throw new FormatException("its top is not an object");
            var version = (int?)root["nbformat"] ?? throw new FormatException("it has no nbformat");
            if (version != 4)
                throw new FormatException($"its nbformat is {version}, not 4");
            if (root["cells"] is not JsonArray cells || cells.Count > MostCells)
                throw new FormatException("it has no list of cells, or too long a one");
            return new Notebook
            {
                Metadata = root["metadata"]?.DeepClone() as JsonObject ?? [],
                Cells = [.. cells.Select((c, i) => ReadCell(c as JsonObject ?? throw new FormatException($"cell {i + 1} is not an object"), i + 1))],
            };
        }
        catch (Exception e) when (e is JsonException or FormatException or InvalidOperationException or OverflowException or ArgumentException)
        {
            throw new NotebookException($"The file is not a notebook that can be read ({e.Message.TrimEnd('.')})", path,
                "Open it in Jupyter or VS Code and save it again, or name another file", e);
        }
    }

    private static NotebookCell ReadCell(JsonObject json, int number)
    {
        var kind = (string?)json["cell_type"] switch
        {
            "code" => CellKind.Code,
            "markdown" => CellKind.Markdown,
            "raw" => CellKind.Raw,
            var other => throw new FormatException($"cell {number} has the unknown type '{other}'"),
        };
        var cell = new NotebookCell(kind, Text(json["source"], number), (string?)json["id"], json["metadata"]?.DeepClone() as JsonObject)
        {
            ExecutionCount = kind == CellKind.Code ? (int?)json["execution_count"] : null,
        };
        foreach (var output in kind == CellKind.Code ? json["outputs"] as JsonArray ?? [] : [])
            cell.Outputs.Add(ReadOutput(output as JsonObject ?? throw new FormatException($"cell {number} has a broken output"), number));
        return cell;
    }

    private static CellOutput ReadOutput(JsonObject json, int number) => (string?)json["output_type"] switch
    {
        "stream" => new StreamOutput((string?)json["name"] ?? "stdout", Text(json["text"], number)),
        "display_data" => new DisplayOutput(ReadBundle(json["data"], number), ""),
        "execute_result" => new ResultOutput(ReadBundle(json["data"], number)),
        "error" => new ErrorOutput((string?)json["ename"] ?? "", (string?)json["evalue"] ?? "",
            [.. (json["traceback"] as JsonArray ?? []).Select(l => l?.ToString() ?? "")]),
        var other => throw new FormatException($"cell {number} has an output of the unknown type '{other}'"),
    };

    private static MimeBundle ReadBundle(JsonNode? json, int number)
    {
        var bundle = new MimeBundle();
        foreach (var (type, content) in json as JsonObject ?? throw new FormatException($"cell {number} has an output without data"))
            bundle[type] = MimeBundle.IsJson(type) ? content?.ToJsonString() ?? "null" : Text(content, number);
        return bundle;
    }

    private static string Text(JsonNode? json, int number) => json switch
    {
        JsonValue value when value.TryGetValue<string>(out var text) => text,
        JsonArray lines => string.Concat(lines.Select(l => (string?)l ?? "")),
        null => "",
        _ => throw new FormatException($"cell {number} holds something else than text"),
    };

    public static string ToText(Notebook notebook)
    {
        var root = new JsonObject
        {
            ["cells"] = new JsonArray([.. notebook.Cells.Select(ToJson)]),
            ["metadata"] = notebook.Metadata.DeepClone(),
            ["nbformat"] = 4,
            ["nbformat_minor"] = 5,
        };
        using var stream = new MemoryStream();
        using (var writer = new Utf8JsonWriter(stream, layout))
            root.WriteTo(writer);
        return Encoding.UTF8.GetString(stream.ToArray()) + "\n";
    }

    private static JsonNode ToJson(NotebookCell cell)
    {
        var json = new JsonObject { ["cell_type"] = cell.Kind.ToString().ToLowerInvariant() };
        if (cell.Kind == CellKind.Code)
            json["execution_count"] = cell.ExecutionCount;
        json["id"] = cell.Id;
        json["metadata"] = cell.Metadata.DeepClone();
        if (cell.Kind == CellKind.Code)
            json["outputs"] = new JsonArray([.. cell.Outputs.Select(o => ToJson(o, cell.ExecutionCount))]);
        json["source"] = Lines(cell.Source);
        return json;
    }

    /// <summary>An output as nbformat and, but for its lines, the Jupyter protocol have it.</summary>
    private static JsonObject ToJson(CellOutput output, int? count) => output switch
    {
        StreamOutput stream => new() { ["name"] = stream.Name, ["output_type"] = "stream", ["text"] = Lines(stream.Text) },
        DisplayOutput display => new() { ["data"] = ToJson(display.Data, asLines: true), ["metadata"] = new JsonObject(), ["output_type"] = "display_data" },
        ResultOutput result => new()
        {
            ["data"] = ToJson(result.Data, asLines: true),
            ["execution_count"] = count,
            ["metadata"] = new JsonObject(),
            ["output_type"] = "execute_result",
        },
        ErrorOutput error => new()
        {
            ["ename"] = error.Name,
            ["evalue"] = error.Message,
            ["output_type"] = "error",
            ["traceback"] = new JsonArray([.. error.Traceback.Select(l => (JsonNode)l)]),
        },
        _ => throw new ArgumentException("an update has no place of its own in a file", nameof(output)),
    };

    public static JsonObject ToJson(MimeBundle bundle, bool asLines = false)
    {
        var json = new JsonObject();
        foreach (var (type, content) in bundle)
        {
            json[type] = MimeBundle.IsJson(type) ? JsonNode.Parse(content, documentOptions: strict)
                : asLines && !type.StartsWith("image/", StringComparison.Ordinal) || type == MimeBundle.Svg && asLines ? Lines(content)
                : content;
        }
        return json;
    }

    /// <summary>What keeps this text from being JSON; null when nothing does.</summary>
    public static string? Fault(string text)
    {
        try
        {
            using var parsed = JsonDocument.Parse(text, strict);
            return null;
        }
        catch (Exception e) when (e is JsonException or ArgumentException)
        {
            return e.Message.TrimEnd('.');
        }
    }

    private static JsonArray Lines(string text)
    {
        var lines = new JsonArray();
        for (var start = 0; start < text.Length;)
        {
            var end = text.IndexOf('\n', start);
            end = end < 0 ? text.Length : end + 1;
            lines.Add((JsonNode)text[start..end]);
            start = end;
        }
        return lines;
    }
}
