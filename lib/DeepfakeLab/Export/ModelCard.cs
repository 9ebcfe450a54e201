using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>What a user of an exported model must know, in Markdown (Mitchell et al. 2019, arXiv:1810.03993).</summary>
internal static class ModelCard
{
    public const string Licence = "DeepfakeLab's code is MIT; the weights carry the terms of the data and of the pretrained weights that they were made from";

    public static readonly IReadOnlyList<string> Limits =
    [
        "It has seen one collection of one kind of manipulation. On other manipulations, generators, cameras or compression its figures do not hold.",
        "It looks at one face that fills the picture; what it says about anything else is noise, given with the same confidence.",
        "Whether it errs more on some groups of people was not measured, as the data do not say who is in them.",
        "Its probabilities are as trustworthy as the calibration error above says, and not at all elsewhere.",
    ];

    public static readonly IReadOnlyList<string> MustNot =
    [
        "Deciding about a person: accusing, refusing, removing or ranking anyone because of its answer.",
        "Evidence that a picture is real or manipulated, in court, in the press or at work.",
        "Training or choosing manipulations that escape detection.",
    ];

    public const string Painted = "It was trained on painted faces, a sample for trying things out. It knows nothing about photographs.";

    /// <param name="onnx">What the file is, where it is an ONNX file; null for weights.</param>
    public static string Write(SavedRun run, JsonNode record, string file, OnnxOptions? onnx = null)
    {
        var (data, split, test) = (record["data"]!, record["split"]!, record["test"]);
        var sample = data["isSample"]?.GetValue<bool>() == true;
        var card = new StringBuilder();
        void Line(FormattableString text) => card.Append(text.ToString(CultureInfo.InvariantCulture)).Append('\n');
        Line($"# {run.Model.Name}: real or manipulated face");
        Line($"");
        Line($"`{Plain(file)}` tells {string.Join(" and ", run.Classes.Select(Plain))} faces apart; it was written by DeepfakeLab {Text(record["versions"]?["deepfakelab"])}.");
        if (sample)
            Line($"\n**{Painted}**");
        Line($"\n## What goes in and comes out\n");
        Line($"- In: {In(run.Preprocessing, onnx)}");
        var order = $"in the order {string.Join(", ", run.Classes.Select((c, i) => $"{i} = {Plain(c)}"))}";
        Line($"- Out: {Out(onnx)}, {order}{(onnx?.Softmax == true ? "" : "; softmax makes them probabilities")}. Positive is {Plain(run.Classes[run.FakeClass])}.");
        if (onnx?.ClassMaps == true)
            Line($"- Out as well: `maps`, float32 [N, {run.Classes.Count}, h, w]: what each place of the picture adds to each class's logit.");
        if (onnx?.Half == true)
            Line($"- Weights and arithmetic are float16; what goes in and comes out is not.");
        if (run.MirrorScores)
            Line($"- The figures below average the probabilities of an image and of its mirror image; a single pass is a little worse.");
        Line($"\n## How it was made\n");
        Line($"- Network: torchvision's `{run.Model.Name}`, {run.Model.ParameterCount:N0} parameters, with a new head.");
        Line($"- First weights: {Text(record["weights"]?["origin"])}");
        Line($"- Data: {Text(data["origin"])}; {Text(data["images"])} images, {Length(data["leftOut"])} left out as broken; fingerprint `{Text(data["fingerprint"])}`");
        Line($"- Split (seed {Text(split["seed"])}): {Length(split["train"])} training, {Length(split["validation"])} validation, {Length(split["test"])} test images; images of the same photo lie on one side");
        Line($"- Recipe: {string.Join(", ", record["recipe"]!.AsObject().Select(s => $"{s.Key} {Text(s.Value)}"))}");
        Line($"- Seed {Text(record["seed"])}, device {Text(record["device"])}, libtorch {Text(record["versions"]?["libtorch"])}");
        Line($"\n## Figures\n");
        if (test is null)
            Line($"It was not tested: nothing is known about how often it is right.");
        else
            Figures(test, Line);
        Line($"\n## Limits\n");
        foreach (var limit in Limits)
            Line($"- {limit}");
        Line($"\n## What it must not be used for\n");
        foreach (var use in MustNot)
            Line($"- {use}");
        Line($"\nIt is made for teaching. {Licence}.");
        return card.ToString();
    }

    public static string Tested(JsonNode test) =>
        $"On {Text(test["n"])} test images that it was neither trained on nor chosen by; 95 % bootstrap intervals over groups of the same photo.";

    /// <summary>Name, value and interval of each figure, and of the recall of each kind of fake.</summary>
    public static IEnumerable<(string Name, string Value, string Interval)> Rows(JsonNode test)
    {
        foreach (var (name, interval) in test["intervals"]!.AsObject())
            yield return (name, Figure(test[name]), Ends(interval));
        foreach (var (name, slice) in test["byDifficulty"]!.AsObject())
            yield return ($"recall of {name} fakes ({Text(slice!["n"])})", Figure(slice["recall"]), Ends(slice["intervals"]?["recall"]));

        static string Ends(JsonNode? interval) => interval is JsonArray { Count: 2 } ends ? $"{Figure(ends[0])} to {Figure(ends[1])}" : "";
    }

    private static void Figures(JsonNode test, Action<FormattableString> line)
    {
        line($"{Tested(test)}\n");
        line($"| figure | value | interval |\n|---|---|---|");
        foreach (var (name, value, interval) in Rows(test))
            line($"| {name} | {value} | {interval} |");
    }

    private static string In(Preprocessing p, OnnxOptions? onnx)
    {
        if (onnx is null)
            return $"{Steps(p)}; as float32 [N, 3, H, W]";
        var (height, width) = p.OutputSize!.Value; // else it would not have been exported
        FormattableString text = (onnx.Preprocess, p) switch
        {
            (false, _) => $"`image`, float32 [N, 3, {height}, {width}]: {Steps(p)}",
            (_, { Resize.Width: > 0, CenterCrop: null }) => $"`image`, uint8 [N, H, W, 3], RGB bytes of any size. The model itself does the rest: {Steps(p)}",
            _ => $"`image`, uint8 [N, {height}, {width}, 3], RGB bytes of that size. To be done before: {Sizing(p)}. The model itself does the rest: {Scaling(p)}",
        };
        return text.ToString(CultureInfo.InvariantCulture);
    }

    private static string Out(OnnxOptions? onnx) => onnx switch
    {
        null => "one logit a class",
        { Softmax: true } => "`probabilities`, float32, one a class",
        _ => "`logits`, float32, one a class",
    };

    private static string Steps(Preprocessing p) => string.Join("; ", ((string[])["RGB image", Sizing(p), Scaling(p)]).Where(s => s.Length > 0));

    private static string Sizing(Preprocessing p)
    {
        string?[] steps =
        [
            p.Resize is { } r ? string.Create(CultureInfo.InvariantCulture, $"resized ({p.Interpolation.ToString().ToLowerInvariant()}, antialiased) to {(r.Width > 0 ? $"{r.Height}x{r.Width}" : $"{r.Height} on its shorter side")}") : null,
            p.CenterCrop is { } c ? string.Create(CultureInfo.InvariantCulture, $"its middle {c.Height}x{c.Width}") : null,
        ];
        return string.Join("; ", steps.OfType<string>());
    }

    private static string Scaling(Preprocessing p)
    {
        static string Numbers(IEnumerable<float> values) => string.Join(", ", values.Select(v => v.ToString(CultureInfo.InvariantCulture)));
        return $"scaled to 0..1, minus ({Numbers(p.Mean)}), divided by ({Numbers(p.Std)})";
    }

    private static string Figure(JsonNode? value) => value is null ? "not defined" : value.GetValue<double>().ToString("0.000", CultureInfo.InvariantCulture);

    private static int Length(JsonNode? names) => (names as JsonArray)?.Count ?? 0;

    /// <summary>A value as text that cannot be taken for Markdown: run.json may come from elsewhere.</summary>
    public static string Text(JsonNode? value) => value is null ? "unknown" : Plain(value.ToString());

    private static string Plain(string text)
    {
        var plain = new StringBuilder();
        foreach (var c in text)
            plain.Append(char.IsControl(c) ? ' ' : c is '|' or '<' or '>' or '`' or '[' or ']' ? '_' : c);
        return plain.ToString();
    }
}
