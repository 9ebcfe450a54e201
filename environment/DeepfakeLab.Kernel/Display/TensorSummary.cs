using System.Globalization;
using System.Reflection;
using System.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>
/// A tensor as its shape, type, device and a few figures: never its numbers, of which there may be millions.
/// TorchSharp is known by name only, so that the kernel runs without torch.
/// </summary>
internal static class TensorSummary
{
    private const long MostForFigures = 50_000_000, MostValues = 12;

    public static MimeBundle? Describe(object value)
    {
        if (!HtmlTable.IsNamed(value, "TorchSharp.torch+Tensor"))
            return null;
        var type = value.GetType();
        if (Get("IsInvalid") is true)
            return MimeBundle.Of(MimeBundle.Plain, "a tensor that has been disposed of");
        var shape = (long[])Get("shape")!;
        var count = shape.Aggregate(1L, (product, size) => product * size);
        var rows = new List<(string Name, string Value)>
        {
            ("shape", $"[{string.Join(", ", shape)}]"), ("dtype", $"{Get("dtype")}"), ("device", $"{Get("device")}"),
        };
        if (count is > 0 and <= MostForFigures && !$"{Get("dtype")}".Contains("Complex", StringComparison.Ordinal))
            AddFigures(value, type, count, rows);
        var html = new StringBuilder("<table><tbody>");
        foreach (var (name, text) in rows)
            html.Append("<tr><th>").Escaped(name).Append("</th><td>").Escaped(text).Append("</td></tr>");
        return new MimeBundle
        {
            [MimeBundle.Html] = html.Append("</tbody></table>").ToString(),
            [MimeBundle.Plain] = "Tensor " + string.Join(", ", rows.Select(r => $"{r.Name} {r.Value}")),
        };

        object? Get(string name) => type.GetProperty(name)?.GetValue(value);
    }

    private static void AddFigures(object tensor, Type type, long count, List<(string Name, string Value)> rows)
    {
        using var scope = (IDisposable)type.Assembly.GetType("TorchSharp.torch")!.GetMethod("NewDisposeScope", Type.EmptyTypes)!.Invoke(null, null)!;
        var doubles = Call(Call(Call(tensor, "detach"), "cpu"), "double");
        if (count <= MostValues)
        {
            var flat = Call(doubles, "flatten", 0L, -1L);
            rows.Add(("values", string.Join(", ", Enumerable.Range(0, (int)count).Select(i => Number(Item(Call(flat, "select", 0L, (long)i)))))));
            return;
        }
        foreach (var figure in (string[])["min", "mean", "max"])
            rows.Add((figure, Number(Item(Call(doubles, figure)))));

        static string Number(double value) => value.ToString("G5", CultureInfo.InvariantCulture);
    }

    private static double Item(object tensor) =>
        (double)tensor.GetType().GetMethods().First(m => m.Name == "item" && m.IsGenericMethodDefinition).MakeGenericMethod(typeof(double)).Invoke(tensor, null)!;

    /// <summary>Calls the overload whose leading parameters take these arguments and whose others have defaults.</summary>
    private static object Call(object target, string name, params object[] arguments)
    {
        var method = target.GetType().GetMethods(BindingFlags.Instance | BindingFlags.Public)
            .Where(m => m.Name == name && !m.IsGenericMethodDefinition)
            .OrderBy(m => m.GetParameters().Length)
            .First(m => m.GetParameters() is var p && p.Length >= arguments.Length && p.Skip(arguments.Length).All(x => x.IsOptional)
                && arguments.Zip(p).All(x => x.Second.ParameterType == x.First.GetType()));
        var all = arguments.Concat(method.GetParameters().Skip(arguments.Length).Select(p => p.DefaultValue)).ToArray();
        return method.Invoke(target, all)!;
    }
}
