namespace DeepfakeLab.Notebooks;

/// <summary>One thing that a running cell shows.</summary>
public abstract record CellOutput;

/// <summary>Text written to a standard stream, as it comes.</summary>
/// <param name="Name"><c>stdout</c> or <c>stderr</c>.</param>
public sealed record StreamOutput(string Name, string Text) : CellOutput;

/// <summary>A value shown with <c>display</c>.</summary>
/// <param name="DisplayId">The name under which it can be updated.</param>
public sealed record DisplayOutput(MimeBundle Data, string DisplayId) : CellOutput;

/// <summary>A new content for every display that has this id.</summary>
public sealed record DisplayUpdate(MimeBundle Data, string DisplayId) : CellOutput;

/// <summary>The value of the cell's last expression.</summary>
public sealed record ResultOutput(MimeBundle Data) : CellOutput;

/// <summary>Why the cell failed.</summary>
/// <param name="Name">The exception's type, <c>CompilationError</c> or <c>Interrupted</c>.</param>
/// <param name="Message">One readable sentence or a few.</param>
/// <param name="Traceback">Lines for a person: the message, then the places in the notebook's code.</param>
public sealed record ErrorOutput(string Name, string Message, IReadOnlyList<string> Traceback) : CellOutput;

/// <summary>One value in several forms: MIME type to text. Images are base64; types ending in <c>json</c> hold JSON text.</summary>
public sealed class MimeBundle : Dictionary<string, string>
{
    public const string Plain = "text/plain", Html = "text/html", Markdown = "text/markdown", Png = "image/png", Jpeg = "image/jpeg",
        Svg = "image/svg+xml", Plotly = "application/vnd.plotly.v1+json";

    public MimeBundle() : base(StringComparer.Ordinal)
    {
    }

    /// <summary>A bundle of one form.</summary>
    public static MimeBundle Of(string mimeType, string content) => new() { [mimeType] = content };

    internal static bool IsJson(string mimeType) =>
        mimeType.EndsWith("+json", StringComparison.Ordinal) || mimeType == "application/json";
}
