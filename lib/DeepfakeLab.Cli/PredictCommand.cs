using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Cli;

/// <summary><c>predict</c>: a finished run on pictures from anywhere.</summary>
internal static class PredictCommand
{
    public static Command Create()
    {
        var (run, json) = (CommonOptions.RunDirectory(), CommonOptions.Json());
        json.Description = "Print one JSON object a line; the same as --format json";
        var format = new Option<string?>("--format") { Description = "How answers are printed: text, csv or json (one object a line)" };
        format.AcceptOnlyFromAmong("text", "csv", "json");
        var images = new Argument<string[]>("IMAGE")
        {
            Description = "Files, folders, patterns such as \"faces/**/*.jpg\", http(s) addresses, or - for a list of them on standard input",
            Arity = ArgumentArity.OneOrMore,
        };
        var command = new Command("predict", """
            Say for each picture how probable a trained model holds it to be a fake. Answers come as soon as they are there. A picture that
            cannot be read is reported and the others go on; the exit code is then 1.

            Examples:
              deepfakelab predict --run artifacts/run portrait.jpg
              deepfakelab predict --run artifacts/run --json a.jpg b.png
              find faces -name "*.jpg" | deepfakelab predict --run artifacts/run --format csv -
            """) { run, images, json, format };
        command.Validators.Add(result =>
        {
            if (result.GetValue(json) && result.GetValue(format) is { } other && other != "json")
                result.AddError($"Use --json or --format {other}, not both.");
        });
        command.SetAction((parsed, cancellation) => Task.FromResult(Run(parsed.GetValue(run)!.FullName, parsed.GetValue(images)!,
            parsed.GetValue(json) ? "json" : parsed.GetValue(format) ?? "text", cancellation)));
        return command;
    }

    private static int Run(string run, string[] images, string format, CancellationToken cancellation)
    {
        using var saved = RunFolder.Open(run);
        if (format == "csv")
            Console.WriteLine("image,label,fake_probability,error");
        var (failed, answers) = (false, 0);
        foreach (var answer in PictureStream.Predict(saved, images.SelectMany(Arguments).SelectMany(PictureStream.Expand), cancellation))
        {
            failed |= answer.Error is not null;
            answers++;
            if (answer.Error is not null && format == "text")
                Console.Error.WriteLine(answer.Error);
            else
                Console.WriteLine(Line(saved, answer, format));
        }
        if (answers == 0)
            Console.Error.WriteLine("No picture was named on standard input. Give one file or address a line.");
        return failed || answers == 0 ? 1 : 0;
    }

    private static string Line(SavedRun run, PictureAnswer answer, string format)
    {
        var label = answer.Probabilities is { } p ? run.Classes[p.Index().MaxBy(e => e.Item).Index] : null;
        var fake = answer.Probabilities?[run.FakeClass];
        return format switch
        {
            "csv" => string.Join(',', Quoted(answer.Picture), Quoted(label), fake?.ToString("0.000000", CultureInfo.InvariantCulture), Quoted(answer.Error)),
            "json" when answer.Error is not null => new JsonObject { ["image"] = answer.Picture, ["error"] = answer.Error }.ToJsonString(JsonSerializerOptions.Default),
            "json" => new JsonObject { ["image"] = answer.Picture, ["label"] = label, ["fakeProbability"] = fake }.ToJsonString(JsonSerializerOptions.Default),
            _ => string.Create(CultureInfo.InvariantCulture, $"{answer.Picture}: {label} (probability of a fake {fake:0.000})"),
        };
    }

    /// <summary>A field as RFC 4180 has it.</summary>
    private static string Quoted(string? field) =>
        field is null ? "" : field.AsSpan().IndexOfAny("\",\r\n") < 0 ? field : $"\"{field.Replace("\"", "\"\"", StringComparison.Ordinal)}\"";

    private static IEnumerable<string> Arguments(string argument)
    {
        if (argument != "-")
            return [argument];
        return Lines();

        static IEnumerable<string> Lines()
        {
            while (Console.In.ReadLine() is { } line)
                if (line.Length > 0)
                    yield return line;
        }
    }
}
