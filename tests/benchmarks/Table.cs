using System.Globalization;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Benchmarks;

/// <summary>Figures as lines of a Markdown table.</summary>
internal static class Table
{
    private static bool headed;

    public static void Print(JsonObject figures)
    {
        if (figures["rows"] is not JsonArray rows)
        {
            Line(figures);
            return;
        }
        Console.WriteLine($"{figures["threads"]} threads, libtorch {figures["libtorch"]}, ONNX Runtime {figures["onnxruntime"]}, Python: {figures["python"]?.ToJsonString()}\n");
        foreach (var row in rows)
            Line(row!.AsObject());
    }

    private static void Line(JsonObject row)
    {
        if (!headed)
            Console.WriteLine("""
                | row | here | plain | best | times plain (asked) | times best (asked) | peak MB: here, plain, best | best is; note |
                |---|---|---|---|---|---|---|---|
                """);
        headed = true;
        var (here, plain, best) = (row["here"]!, row["plain"]!, row["best"]!);
        string Times(JsonNode other, string asked)
        {
            var times = Number(here["median"]) / Number(other["median"]);
            return row["asked"]![asked] is not { } least ? Text($"{times:0.00}") : Text($"{times:0.00} ({Number(least):0.00##}: {(times >= Number(least) ? "met" : "**not met**")})");
        }
        var memory = (Here: Number(here["peakMegabytes"]), Plain: Number(plain["peakMegabytes"]), Best: Number(best["peakMegabytes"]));
        Console.WriteLine(Text($"| {row["name"]}, {row["unit"]} | {Spread(here)} | {Spread(plain)} | {Spread(best)} | {Times(plain, "plain")} | {Times(best, "best")} | ")
            + Text($"{memory.Here:0}, {memory.Plain:0}, {memory.Best:0} ({(memory.Here <= Math.Min(memory.Plain, memory.Best) ? "least" : "**more**")}) | {best["way"]}{(row["note"] is { } note ? "; " + note : "")} |"));

        static string Spread(JsonNode side)
        {
            double[] all = [.. side["all"]!.AsArray().Select(Number)];
            return Text(all.Length == 1 ? $"{all[0]:0.0}" : (FormattableString)$"{Number(side["median"]):0.0} ({all.Min():0.0}-{all.Max():0.0})");
        }
    }

    private static double Number(JsonNode? node) => double.Parse(node!.ToJsonString(), CultureInfo.InvariantCulture); // whole or not, made here or read

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
