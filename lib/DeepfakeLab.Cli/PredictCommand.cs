using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Cli;

/// <summary><c>predict</c>: a finished run on single pictures.</summary>
internal static class PredictCommand
{
    public static Command Create()
    {
        var (run, json) = (CommonOptions.RunDirectory(), CommonOptions.Json());
        var images = new Argument<string[]>("IMAGE") { Description = "Image files", Arity = ArgumentArity.OneOrMore };
        var command = new Command("predict", """
            Say for each picture how probable a trained model holds it to be a fake. A picture that cannot be read is reported and the
            others go on; the exit code is then 1.

            Examples:
              deepfakelab predict --run artifacts/run portrait.jpg
              deepfakelab predict --run artifacts/run --json a.jpg b.png
            """) { run, images, json };
        command.SetAction((parsed, cancellation) => Task.FromResult(Run(
            parsed.GetValue(run)!.FullName, parsed.GetValue(images)!, parsed.GetValue(json), cancellation)));
        return command;
    }

    private static int Run(string run, string[] images, bool asJson, CancellationToken cancellation)
    {
        var saved = RunFolder.Open(run);
        using var model = saved.Model;
        var failed = 0;
        foreach (var image in images)
        {
            try
            {
                var face = new FaceImage(image, Path.GetFullPath(image), 0, null, FaceParts.None, 0);
                var p = Predictor.Probabilities(model, [face], saved.Preprocessing, saved.MirrorScores, cancellation)[0];
                var label = saved.Classes[p.Index().MaxBy(e => e.Item).Index];
                Console.WriteLine(asJson
                    ? new JsonObject { ["image"] = image, ["label"] = label, ["fakeProbability"] = p[saved.FakeClass] }.ToJsonString(JsonSerializerOptions.Default)
                    : string.Create(CultureInfo.InvariantCulture, $"{image}: {label} (probability of a fake {p[saved.FakeClass]:0.000})"));
            }
            catch (ImageException e)
            {
                failed++;
                if (asJson)
                    Console.WriteLine(new JsonObject { ["image"] = image, ["error"] = e.Message }.ToJsonString(JsonSerializerOptions.Default));
                else
                    Console.Error.WriteLine(e.Message);
            }
        }
        return failed == 0 ? 0 : 1;
    }
}
