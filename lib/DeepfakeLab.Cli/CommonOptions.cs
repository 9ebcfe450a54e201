using System.CommandLine;
using System.Globalization;

namespace DeepfakeLab.Cli;

/// <summary>What several commands share: options, opening the data, printing figures.</summary>
internal static class CommonOptions
{
    /// <summary>One option for all commands.</summary>
    public static Option<ProgressMode> Progress { get; } = new("--progress")
    {
        Description = "On standard error: a bar on a terminal and lines elsewhere (auto), bar, lines, json (one object a line, for programs) or silent",
        HelpName = "auto|bar|lines|json|silent",
        DefaultValueFactory = _ => ProgressMode.Auto,
        Recursive = true,
    };

    public static Option<DirectoryInfo?> Data() => new("--data")
    {
        Description = "Folder with one sub-folder a class; without it DEEPFAKELAB_DATA, data/real_and_fake_face or the painted sample",
    };

    public static Option<bool> Strict() => new("--strict") { Description = "Stop at the first broken image instead of leaving it out" };

    public static Option<bool> Json() => new("--json") { Description = "Print JSON" };

    public static Option<DirectoryInfo> RunDirectory() => new("--run") { Description = "The --out folder of a finished training", Required = true };

    public static Option<int> Count(string name, string description, int value, int least, int most)
    {
        var option = new Option<int>(name) { Description = $"{description} ({least} to {most})", DefaultValueFactory = _ => value };
        option.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: var text }] && !(int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var n) && n >= least && n <= most))
                result.AddError($"{name} must be a whole number from {least} to {most}, not {text}.");
        });
        return option;
    }

    /// <summary>Opens the data and says which it is and what was left out.</summary>
    public static FaceDataset Open(string? path, bool strict, TextWriter? output = null)
    {
        output ??= Console.Out;
        var dataset = FaceDataset.Open(path, strict);
        output.WriteLine($"data      {dataset}");
        if (dataset.IsSample)
            output.WriteLine("          These are painted faces, a sample: figures on them say nothing about photographs.");
        foreach (var problem in dataset.Problems)
            output.WriteLine($"left out  {problem}");
        return dataset;
    }

    public static void Print(EvaluationReport report)
    {
        Console.WriteLine($"test      {report.N} images{(report.IsSample ? " of the painted sample" : "")}; fake is positive; 95 % bootstrap intervals");
        foreach (var (name, estimate) in ((string, Estimate)[])[("accuracy", report.Accuracy), ("precision", report.Precision), ("recall", report.Recall), ("F1", report.F1), ("AUC", report.Auc)])
            Console.WriteLine($"  {name,-12} {estimate}");
        foreach (var slice in report.ByDifficulty)
            Console.WriteLine($"  {slice.Name,-12} recall {slice.Recall}, AUC {slice.Auc}, {slice.N} fakes");
        var c = report.Confusion;
        Console.WriteLine($"  confusion    fake called fake {c.TruePositives}, fake called real {c.FalseNegatives}, real called fake {c.FalsePositives}, real called real {c.TrueNegatives}");
    }
}
