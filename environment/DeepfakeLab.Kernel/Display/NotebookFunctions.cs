using System.Diagnostics.CodeAnalysis;

namespace DeepfakeLab.Notebooks;

/// <summary>What a notebook's cells can call without a <c>using</c>: the names that .NET Interactive gave them.</summary>
public static class NotebookFunctions
{
    /// <summary>Shows a value now, in the middle of a cell, and returns a handle that can replace it later.</summary>
    public static DisplayedValue display(object? value, params string[] mimeTypes) => DisplayedValue.Show(value, mimeTypes);

    /// <inheritdoc cref="display"/>
    public static DisplayedValue Display(this object? value, params string[] mimeTypes) => DisplayedValue.Show(value, mimeTypes);

    /// <summary>Text that is shown as HTML.</summary>
    [SuppressMessage("Naming", "CA1720", Justification = "the name notebooks know")]
    public static HtmlText HTML(string content) => new(content);
}

/// <summary>HTML to be shown as it is.</summary>
public sealed record HtmlText(string Content)
{
    public string ToHtml() => Content;

    public override string ToString() => Content;
}

/// <summary>A value on the page that can be replaced.</summary>
public sealed class DisplayedValue
{
    private readonly CellContext? context;
    private readonly string id = Guid.NewGuid().ToString("N");
    private readonly string[] mimeTypes;

    private DisplayedValue(CellContext? context, string[] mimeTypes) => (this.context, this.mimeTypes) = (context, mimeTypes);

    internal static DisplayedValue Show(object? value, string[] mimeTypes)
    {
        var shown = new DisplayedValue(CellContext.Current, mimeTypes);
        var data = ValueFormatter.Format(value, mimeTypes);
        if (shown.context is { } context)
            context.Show(new DisplayOutput(data, shown.id));
        else
            Console.WriteLine(data.GetValueOrDefault(MimeBundle.Plain)); // called outside any cell
        return shown;
    }

    /// <summary>Shows another value in the place of this one.</summary>
    public void Update(object? value) => context?.Show(new DisplayUpdate(ValueFormatter.Format(value, mimeTypes), id));
}
