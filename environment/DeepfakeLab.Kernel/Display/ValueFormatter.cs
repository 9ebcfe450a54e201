using System.Collections;
using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Reflection;
using System.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>Makes of a value what a front end can show. Types of other libraries are known by name or by the methods they have.</summary>
/// <remarks>
/// In this order: tensors and images as bytes; .NET Interactive's <c>TypeFormatterSourceAttribute</c>, found by its name; methods <c>ToMimeBundle()</c>,
/// <c>ToPlotlyJson()</c>, <c>ToHtml()</c>, <c>ToSvg()</c>, <c>ToPng()</c>; data frames and sequences as tables; plain text.
/// </remarks>
public static class ValueFormatter
{
    private static readonly ConcurrentDictionary<Type, List<Func<object, MimeBundle, bool>>> known = new();

    /// <summary>The value in every form it has; only these forms where <paramref name="mimeTypes"/> are given.</summary>
    /// <remarks>This runs the value's own code, so it throws whatever that throws.</remarks>
    /// <exception cref="NotebookException">The value offers JSON that is none.</exception>
    public static MimeBundle Format(object? value, IReadOnlyList<string>? mimeTypes = null)
    {
        var bundle = FormatAll(value);
        if (mimeTypes is { Count: > 0 })
        {
            foreach (var other in bundle.Keys.Except(mimeTypes).ToList())
                bundle.Remove(other);
            if (bundle.Count == 0)
                bundle[mimeTypes[0]] = PlainText(value); // display("<b>x</b>", "text/html")
        }
        foreach (var (mimeType, content) in bundle)
            if (MimeBundle.IsJson(mimeType) && NotebookJson.Fault(content) is { } fault)
                throw new NotebookException($"What a {HtmlTable.TypeName(value?.GetType() ?? typeof(object))} offers as {mimeType} is not JSON",
                    fault, "Let it return JSON text, or show the value as another type, such as display(x, \"text/plain\")");
        return bundle;
    }

    private static MimeBundle FormatAll(object? value)
    {
        switch (value)
        {
            case null:
                return MimeBundle.Of(MimeBundle.Plain, "null");
            case MimeBundle ready:
                return ready;
            case string or char or bool:
                return MimeBundle.Of(MimeBundle.Plain, PlainText(value));
            case byte[] bytes when ImageType(bytes) is { } image:
                return MimeBundle.Of(image, Convert.ToBase64String(bytes));
        }
        if (TensorSummary.Describe(value) is { } tensor)
            return tensor; // before TorchSharp's own formatter, which prints the numbers
        var bundle = new MimeBundle();
        foreach (var format in known.GetOrAdd(value.GetType(), Formatters))
            if (format(value, bundle))
                break;
        if (bundle.Count == 0 && value is not IFormattable && HtmlTable.Describe(value) is { } table)
            bundle[MimeBundle.Html] = table;
        if (!bundle.ContainsKey(MimeBundle.Plain))
            bundle[MimeBundle.Plain] = PlainText(value);
        return bundle;
    }

    /// <summary>One line or a few: numbers in the invariant culture, sequences in brackets with at most 20 of their values.</summary>
    internal static string PlainText(object? value, int depth = 0)
    {
        switch (value)
        {
            case null:
                return "null";
            case string text:
                return text;
            case IFormattable number:
                return number.ToString(null, CultureInfo.InvariantCulture);
            case IDictionary map when depth < 3:
                return "{ " + Join(HtmlTable.Entries(map).Select(e => $"{PlainText(e.Key, depth + 1)}: {PlainText(e.Value, depth + 1)}")) + " }";
            case IEnumerable sequence when depth < 3 && !OverridesToString(value.GetType()):
                return "[ " + Join(sequence.Cast<object?>().Select(v => PlainText(v, depth + 1))) + " ]";
        }
        if (!OverridesToString(value.GetType()) && depth == 0 && HtmlTable.Columns(value.GetType()) is { Count: > 0 } columns)
            return $"{HtmlTable.TypeName(value.GetType())} {{ {string.Join(", ", columns.Select(c => $"{c.Name} = {PlainText(HtmlTable.Get(c, value), 2)}"))} }}";
        return value.ToString() ?? "";
    }

    private static string Join(IEnumerable<string> values)
    {
        const int most = 20;
        var shown = values.Take(most + 1).ToList();
        return string.Join(", ", shown.Take(most)) + (shown.Count > most ? ", ..." : "");
    }

    private static bool OverridesToString(Type type) =>
        type.GetMethod(nameof(ToString), Type.EmptyTypes)?.DeclaringType is { } declaring && declaring != typeof(object) && declaring != typeof(ValueType);

    private static string? ImageType(byte[] bytes) =>
        bytes is [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A, ..] ? MimeBundle.Png
        : bytes is [0xFF, 0xD8, 0xFF, ..] ? MimeBundle.Jpeg
        : null;

    /// <summary>What a type offers, found once; each says whether nothing more is to be asked.</summary>
    private static List<Func<object, MimeBundle, bool>> Formatters(Type type)
    {
        var formatters = new List<Func<object, MimeBundle, bool>>();
        formatters.AddRange(FromAttribute(type));
        if (Method(type, "ToMimeBundle", typeof(IEnumerable<KeyValuePair<string, string>>)) is { } bundle)
            formatters.Add((value, into) =>
            {
                foreach (var (mimeType, content) in (IEnumerable<KeyValuePair<string, string>>)Call(bundle, value)!)
                    into[mimeType] = content;
                return true;
            });
        foreach (var (name, returns, mimeType) in (ReadOnlySpan<(string, Type, string)>)
            [("ToPlotlyJson", typeof(object), MimeBundle.Plotly), ("ToHtml", typeof(string), MimeBundle.Html), ("ToPng", typeof(byte[]), MimeBundle.Png)])
            if (Method(type, name, returns) is { } method)
                formatters.Add((value, into) =>
                {
                    if (Call(method, value) is { } made) // null: this value has no such form
                        into[mimeType] = made is byte[] bytes ? Convert.ToBase64String(bytes) : $"{made}";
                    return false;
                });
        if (formatters.Count == 0 && Method(type, "ToSvg", typeof(string)) is { } svg)
            formatters.Add((value, into) =>
            {
                if (Call(svg, value) is string text)
                    into[MimeBundle.Svg] = text;
                return true;
            });
        return formatters;
    }

    /// <summary>The formatters that a type's TypeFormatterSource makes: objects with a MimeType and a Format(object, TextWriter).</summary>
    private static IEnumerable<Func<object, MimeBundle, bool>> FromAttribute(Type type)
    {
        foreach (var attribute in type.GetCustomAttributes(inherit: true).Where(a => a.GetType().Name == "TypeFormatterSourceAttribute"))
        {
            if (attribute.GetType().GetProperty("FormatterSourceType")?.GetValue(attribute) is not Type sourceType)
                continue;
            var source = Activator.CreateInstance(sourceType, nonPublic: true);
            var create = sourceType.GetMethod("CreateTypeFormatters", BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic, Type.EmptyTypes);
            foreach (var formatter in create?.Invoke(source, null) as IEnumerable ?? Array.Empty<object>())
            {
                var format = formatter.GetType().GetMethods()
                    .FirstOrDefault(m => m.Name == "Format" && m.GetParameters() is [_, { ParameterType: var writer }] && writer == typeof(TextWriter));
                if (formatter.GetType().GetProperty("MimeType")?.GetValue(formatter) is not string mimeType || format is null)
                    continue;
                yield return (value, into) =>
                {
                    using var writer = new StringWriter(CultureInfo.InvariantCulture);
                    if (Call(format, formatter, value, writer) is not false)
                        into[mimeType] = writer.ToString();
                    return false;
                };
            }
        }
    }

    /// <summary>The public method of this name that can be called without arguments.</summary>
    private static MethodInfo? Method(Type type, string name, Type returns) =>
        type.GetMethods(BindingFlags.Instance | BindingFlags.Public).FirstOrDefault(m =>
            m.Name == name && !m.IsGenericMethodDefinition && m.ReturnType.IsAssignableTo(returns) && m.GetParameters().All(p => p.IsOptional));

    private static object? Call(MethodInfo method, object target, params object?[] arguments) =>
        method.Invoke(target, BindingFlags.DoNotWrapExceptions, null, [.. arguments, .. method.GetParameters().Skip(arguments.Length).Select(p => p.DefaultValue)], CultureInfo.InvariantCulture);

    internal static StringBuilder Escaped(this StringBuilder html, string text) => html.Append(WebUtility.HtmlEncode(text));
}
