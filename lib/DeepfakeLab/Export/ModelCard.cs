using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>What a user of an exported model must know, in Markdown (Mitchell et al. 2019, arXiv:1810.03993).</summary>
internal static class ModelCard
{
    public const string Licence = "DeepfakeLab's code is MIT; the weights carry the terms of the data and of the pretrained weights that they were made from";

    public static string Write(SavedRun run, JsonNode record, string file)
    {
        var (data, split, test) = (record["data"]!, record["split"]!, record["test"]);
        var sample = data["isSample"]?.GetValue<bool>() == true;
        var card = new StringBuilder();
        void Line(FormattableString text) => card.Append(text.ToString(CultureInfo.InvariantCulture)).Append('\n');
        Line($"# {run.Model.Name}: real or manipulated face");
        Line($"");
        Line($"`{Plain(file)}` tells {string.Join(" and ", run.Classes.Select(Plain))} faces apart; it was written by DeepfakeLab {Text(record["versions"]?["deepfakelab"])}.");
        if (sample)
            Line($"\n**It was trained on painted faces, a sample for trying things out. It knows nothing about photographs.**");
        Line($"\n## What goes in and comes out\n");
        Line($"- In: {Steps(run.Preprocessing)}");
        Line($"- Out: one logit a class, in the order {string.Join(", ", run.Classes.Select((c, i) => $"{i} = {Plain(c)}"))}; softmax makes them probabilities. Positive is {Plain(run.Classes[run.FakeClass])}.");
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
        Line($"- It has seen one collection of one kind of manipulation. On other manipulations, generators, cameras or compression its figures do not hold.");
        Line($"- It looks at one face that fills the picture; what it says about anything else is noise, given with the same confidence.");
        Line($"- Whether it errs more on some groups of people was not measured, as the data do not say who is in them.");
        Line($"- Its probabilities are as trustworthy as the calibration error above says, and not at all elsewhere.");
        Line($"\n## What it must not be used for\n");
        Line($"- Deciding about a person: accusing, refusing, removing or ranking anyone because of its answer.");
        Line($"- Evidence that a picture is real or manipulated, in court, in the press or at work.");
        Line($"- Training or choosing manipulations that escape detection.");
        Line($"\nIt is made for teaching. {Licence}.");
        return card.ToString();
    }

    private static void Figures(JsonNode test, Action<FormattableString> line)
    {
        line($"On {Text(test["n"])} test images that it was neither trained on nor chosen by; 95 % bootstrap intervals over groups of the same photo.\n");
        line($"| figure | value | interval |\n|---|---|---|");
        foreach (var (name, interval) in test["intervals"]!.AsObject())
            line($"| {name} | {Figure(test[name])} | {(interval is JsonArray { Count: 2 } ends ? $"{Figure(ends[0])} to {Figure(ends[1])}" : "")} |");
        foreach (var (name, slice) in test["byDifficulty"]!.AsObject())
            line($"| recall of {name} fakes ({Text(slice!["n"])}) | {Figure(slice["recall"])} | {Figure(slice["intervals"]?["recall"]?[0])} to {Figure(slice["intervals"]?["recall"]?[1])} |");
    }

    private static string Steps(Preprocessing p)
    {
        static string Numbers(IEnumerable<float> values) => string.Join(", ", values.Select(v => v.ToString(CultureInfo.InvariantCulture)));
        string?[] steps =
        [
            "RGB image",
            p.Resize is { } r ? string.Create(CultureInfo.InvariantCulture, $"resized ({p.Interpolation.ToString().ToLowerInvariant()}, antialiased) to {(r.Width > 0 ? $"{r.Height}x{r.Width}" : $"{r.Height} on its shorter side")}") : null,
            p.CenterCrop is { } c ? string.Create(CultureInfo.InvariantCulture, $"its middle {c.Height}x{c.Width}") : null,
            $"scaled to 0..1, minus ({Numbers(p.Mean)}), divided by ({Numbers(p.Std)})",
            "as [N, 3, H, W]",
        ];
        return string.Join("; ", steps.OfType<string>());
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
