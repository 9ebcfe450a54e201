namespace DeepfakeLab;

/// <summary>Says to a notebook how a type is shown. .NET Interactive looks for an attribute of this name, whoever declares it.</summary>
/// <remarks>So the library needs no notebook package. Verso and this project's own kernel go by the method <c>ToHtml</c> itself.</remarks>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct)]
internal sealed class TypeFormatterSourceAttribute(Type formatterSourceType) : Attribute
{
    public Type FormatterSourceType { get; } = formatterSourceType;

    public string[] PreferredMimeTypes { get; set; } = ["text/html"];
}

/// <summary>The formatter of every type that has <c>string ToHtml()</c>.</summary>
internal sealed class HtmlFormatterSource
{
    public IEnumerable<object> CreateTypeFormatters() => [new HtmlFormatter()];

    /// <summary>What .NET Interactive calls, by these names.</summary>
    public sealed class HtmlFormatter
    {
        public string MimeType => "text/html";

        public bool Format(object instance, TextWriter writer)
        {
            if (instance.GetType().GetMethod("ToHtml", Type.EmptyTypes)?.Invoke(instance, null) is not string html)
                return false;
            writer.Write(html);
            return true;
        }
    }
}
