using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>What a dataset consists of and what is wrong with it, in figures.</summary>
public sealed class DataReport
{
    private DataReport() { }

    /// <summary>A class and how bright its images are (mean of the thumbnails' pixels, 0 to 255, and the spread between images).</summary>
    public sealed record ClassFigures(string Name, int Images, double Brightness, double BrightnessSpread);

    public required FaceDataset Data { get; init; }

    public required IReadOnlyList<ClassFigures> Classes { get; init; }

    /// <summary>Images of each difficulty, and how many of them have each part replaced.</summary>
    public required IReadOnlyDictionary<Difficulty, int> ByDifficulty { get; init; }
    public required IReadOnlyDictionary<FaceParts, int> ByPart { get; init; }

    /// <summary>Width and height, and how many images have them; the most frequent first.</summary>
    public required IReadOnlyList<(int Width, int Height, int Images)> Sizes { get; init; }

    /// <summary>Files with the same content, byte for byte.</summary>
    public required IReadOnlyList<IReadOnlyList<string>> Duplicates { get; init; }

    /// <summary>Images that show the same photo.</summary>
    public required IReadOnlyList<IReadOnlyList<string>> SamePhoto { get; init; }

    /// <summary>Looks through an open dataset. Reads no file again.</summary>
    public static DataReport From(FaceDataset data)
    {
        var brightness = data.Index.Select(i => i.Thumbnail.Average(p => (double)p)).ToList();
        return new DataReport
        {
            Data = data,
            Classes = [.. data.Classes.Select((name, label) =>
            {
                var of = brightness.Where((_, i) => data.Images[i].Label == label).ToList();
                var mean = of.Average();
                return new ClassFigures(name, of.Count, mean, Math.Sqrt(of.Average(b => (b - mean) * (b - mean))));
            })],
            ByDifficulty = data.Images.Where(i => i.Difficulty is not null).GroupBy(i => i.Difficulty!.Value).OrderBy(g => g.Key).ToDictionary(g => g.Key, g => g.Count()),
            ByPart = ((FaceParts[])[FaceParts.LeftEye, FaceParts.RightEye, FaceParts.Nose, FaceParts.Mouth])
                .ToDictionary(p => p, p => data.Images.Count(i => i.Replaced.HasFlag(p))),
            Sizes = [.. data.Index.GroupBy(i => (i.Width, i.Height)).Select(g => (g.Key.Width, g.Key.Height, g.Count()))
                .OrderByDescending(s => s.Item3).ThenBy(s => s.Width).ThenBy(s => s.Height)],
            Duplicates = Groups(data.Index.GroupBy(i => i.Hash).Select(g => g.Select(i => i.Name))),
            SamePhoto = Groups(data.Images.GroupBy(i => i.Group).Select(g => g.Select(i => i.Name))),
        };

        static IReadOnlyList<IReadOnlyList<string>> Groups(IEnumerable<IEnumerable<string>> groups) =>
            [.. groups.Select(g => (IReadOnlyList<string>)[.. g.Order(StringComparer.Ordinal)]).Where(g => g.Count > 1).OrderBy(g => g[0], StringComparer.Ordinal)];
    }

    /// <summary>Keys data, origin, sample, fingerprint, images, classes, difficulty, parts, sizes, problems, duplicates, samePhoto.</summary>
    public JsonObject ToJson() => new()
    {
        ["data"] = Data.Root,
        ["origin"] = Data.Origin,
        ["sample"] = Data.IsSample,
        ["fingerprint"] = Data.Fingerprint,
        ["images"] = Data.Images.Count,
        ["classes"] = Array(Classes.Select(c => new JsonObject
        {
            ["name"] = c.Name,
            ["images"] = c.Images,
            ["brightness"] = Math.Round(c.Brightness, 2),
            ["brightnessSpread"] = Math.Round(c.BrightnessSpread, 2),
        })),
        ["difficulty"] = new JsonObject(ByDifficulty.Select(d => KeyValuePair.Create(d.Key.ToString().ToLowerInvariant(), (JsonNode?)d.Value))),
        ["parts"] = new JsonObject(ByPart.Select(p => KeyValuePair.Create(JsonName(p.Key), (JsonNode?)p.Value))),
        ["sizes"] = Array(Sizes.Select(s => new JsonObject { ["width"] = s.Width, ["height"] = s.Height, ["images"] = s.Images })),
        ["problems"] = Array(Data.Problems.Select(p => new JsonObject { ["name"] = p.Name, ["problem"] = p.Problem })),
        ["duplicates"] = Lists(Duplicates),
        ["samePhoto"] = Lists(SamePhoto),
    };

    /// <summary>The report as lines for a terminal.</summary>
    public override string ToString()
    {
        var text = new StringBuilder();
        text.AppendLine(CultureInfo.InvariantCulture, $"folder      {Data.Root}");
        text.AppendLine(CultureInfo.InvariantCulture, $"images      {Data.Images.Count}{(Data.IsSample ? " (the painted sample, not photographs)" : "")}");
        foreach (var c in Classes)
            text.AppendLine(CultureInfo.InvariantCulture, $"  {c.Name,-9} {c.Images} images, brightness {c.Brightness:0.0} ± {c.BrightnessSpread:0.0} of 255");
        if (ByDifficulty.Count > 0)
            text.AppendLine(CultureInfo.InvariantCulture, $"difficulty  {string.Join(", ", ByDifficulty.Select(d => $"{d.Key.ToString().ToLowerInvariant()} {d.Value}"))}")
                .AppendLine(CultureInfo.InvariantCulture, $"replaced    {string.Join(", ", ByPart.Select(p => $"{JsonName(p.Key)} {p.Value}"))}");
        text.AppendLine(CultureInfo.InvariantCulture, $"sizes       {string.Join(", ", Sizes.Take(4).Select(s => $"{s.Width}x{s.Height} ({s.Images})"))}{(Sizes.Count > 4 ? $" and {Sizes.Count - 4} more" : "")}");
        Show("problems", Data.Problems.Select(p => p.ToString()));
        Show("duplicates", Duplicates.Select(d => string.Join(" = ", d)));
        Show("same photo", SamePhoto.Select(d => string.Join(", ", d)));
        return text.ToString();

        void Show(string title, IEnumerable<string> lines)
        {
            var all = lines.ToList();
            text.AppendLine(CultureInfo.InvariantCulture, $"{title,-11} {(all.Count == 0 ? "none" : all.Count)}");
            foreach (var line in all)
                text.AppendLine("  " + line);
        }
    }

    private static string JsonName(FaceParts part) => char.ToLowerInvariant(part.ToString()[0]) + part.ToString()[1..];

    private static JsonArray Array(IEnumerable<JsonNode> nodes) => new([.. nodes]);

    private static JsonArray Lists(IReadOnlyList<IReadOnlyList<string>> lists) => Array(lists.Select(l => Array(l.Select(n => (JsonNode)n))));
}
