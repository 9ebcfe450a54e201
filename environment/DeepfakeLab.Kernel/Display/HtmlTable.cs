using System.Collections;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>Sequences, dictionaries, data frames and plain objects as HTML tables.</summary>
internal static class HtmlTable
{
    private const int MostRows = 25, MostColumns = 20, MostText = 200;

    /// <summary>The table; null for a value that reads better as text.</summary>
    public static string? Describe(object value) => value switch
    {
        _ when IsNamed(value, "Microsoft.Data.Analysis.DataFrame") => DataFrame(value),
        IDictionary map => Table(["key", "value"], Entries(map).Select(e => (IReadOnlyList<object?>)[e.Key, e.Value]), map.Count),
        IEnumerable sequence => Sequence(sequence),
        _ when Columns(value.GetType()) is { Count: > 0 } columns && (value.GetType().IsAnonymous() || !IsTextual(value.GetType())) =>
            Table(["", "value"], columns.Select(c => (IReadOnlyList<object?>)[c.Name, Get(c, value)]), columns.Count),
        _ => null,
    };

    /// <summary>A dictionary's entries; its plain enumerator gives pairs of another type.</summary>
    internal static IEnumerable<DictionaryEntry> Entries(IDictionary map)
    {
        for (var entries = map.GetEnumerator(); entries.MoveNext();)
            yield return entries.Entry;
    }

    private static string Sequence(IEnumerable sequence)
    {
        var rows = new List<object?>();
        foreach (var row in sequence)
        {
            rows.Add(row);
            if (rows.Count > MostRows)
                break;
        }
        var total = sequence is ICollection { Count: var count } ? count : rows.Count <= MostRows ? rows.Count : -1;
        var types = rows.Select(r => r?.GetType()).Distinct().ToList();
        if (types is [{ } type] && !IsSimple(type) && Columns(type) is { Count: > 0 } columns)
            return Table([.. columns.Select(c => c.Name)], rows.Select(r => (IReadOnlyList<object?>)[.. columns.Select(c => Get(c, r!))]), total);
        return Table(["index", "value"], rows.Select((r, i) => (IReadOnlyList<object?>)[i, r]), total);
    }

    private static string DataFrame(object frame)
    {
        var columns = ((IEnumerable)frame.GetType().GetProperty("Columns")!.GetValue(frame)!).Cast<object>().ToList();
        var names = columns.Select(c => (string)c.GetType().GetProperty("Name")!.GetValue(c)!).ToList();
        var count = columns.Count == 0 ? 0 : (long)columns[0].GetType().GetProperty("Length")!.GetValue(columns[0])!;
        var rows = columns.Select(c => ((IEnumerable)c).Cast<object?>().Take(MostRows + 1).ToList()).ToList();
        return Table(names, Enumerable.Range(0, (int)Math.Min(count, MostRows + 1)).Select(i => (IReadOnlyList<object?>)[.. rows.Select(r => r[i])]), count);
    }

    private static string Table(IReadOnlyList<string> headings, IEnumerable<IReadOnlyList<object?>> rows, long total)
    {
        var html = new StringBuilder("<table><thead><tr>");
        foreach (var heading in headings.Take(MostColumns))
            html.Append("<th>").Escaped(heading).Append("</th>");
        html.Append("</tr></thead><tbody>");
        var shown = 0;
        var more = false;
        foreach (var row in rows)
        {
            if (shown == MostRows)
            {
                more = true;
                break;
            }
            shown++;
            html.Append("<tr>");
            foreach (var cell in row.Take(MostColumns))
                html.Append(cell is IFormattable and not Enum ? "<td style=\"text-align:right\">" : "<td>").Escaped(Short(ValueFormatter.PlainText(cell, 1))).Append("</td>");
            html.Append("</tr>");
        }
        html.Append("</tbody></table>");
        if (more)
            html.Append("<p>").Escaped(total >= 0 ? $"{shown} of {total} rows" : $"the first {shown} rows").Append("</p>");
        return html.ToString();
    }

    private static string Short(string text) => text.Length <= MostText ? text : text[..MostText] + "...";

    internal static List<PropertyInfo> Columns(Type type) =>
        [.. type.GetProperties(BindingFlags.Instance | BindingFlags.Public)
            .Where(p => p.CanRead && p.GetIndexParameters().Length == 0 && !p.PropertyType.IsByRefLike && !p.PropertyType.IsPointer && p.Name != "EqualityContract")
            .Take(MostColumns)];

    /// <summary>A property's value; its error's message where reading it fails, so that one property does not hide the others.</summary>
    internal static object? Get(PropertyInfo property, object owner)
    {
        try
        {
            return property.GetValue(owner, BindingFlags.DoNotWrapExceptions, null, null, null);
        }
        catch (Exception e) when (CellContext.Current?.Cancellation.IsCancellationRequested is not true) // an interrupt ends the whole display
        {
            return $"({e.GetType().Name}: {e.Message})";
        }
    }

    /// <summary>A type's name as C# writes it.</summary>
    internal static string TypeName(Type type) => type.IsAnonymous() ? ""
        : type.IsGenericType ? $"{type.Name.Split('`')[0]}<{string.Join(", ", type.GetGenericArguments().Select(TypeName))}>"
        : type.Name;

    internal static bool IsNamed(object value, string fullName)
    {
        for (var type = value.GetType(); type is not null; type = type.BaseType)
            if (type.FullName == fullName)
                return true;
        return false;
    }

    private static bool IsSimple(Type type) => type.IsPrimitive || type.IsEnum || type == typeof(string) || typeof(IFormattable).IsAssignableFrom(type)
        || typeof(ITuple).IsAssignableFrom(type) || typeof(IEnumerable).IsAssignableFrom(type);

    /// <summary>Whether a type says itself how it reads as text. A record's generated text is no such saying.</summary>
    private static bool IsTextual(Type type) =>
        type.GetMethod("ToString", Type.EmptyTypes) is { } method && method.DeclaringType != typeof(object) && method.DeclaringType != typeof(ValueType)
        && method.GetCustomAttribute<CompilerGeneratedAttribute>() is null;

    private static bool IsAnonymous(this Type type) => type.Name.StartsWith("<>f__AnonymousType", StringComparison.Ordinal);
}
