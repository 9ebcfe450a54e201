using System.CommandLine;
using System.Text.Json;

namespace DeepfakeLab.Cli;

/// <summary><c>data check</c> and <c>data sample</c>: what a folder of faces holds, and a folder of painted ones.</summary>
internal static class DataCommand
{
    public static Command Create() => new("data", "Look at a folder of faces, or make one.") { Check(), Sample() };

    private static Command Check()
    {
        var folder = new Argument<DirectoryInfo?>("DIR")
        {
            Description = "Folder with one sub-folder a class; without it the same search as for training",
            Arity = ArgumentArity.ZeroOrOne,
        };
        var sheet = new Option<FileInfo?>("--sheet") { Description = "Write a contact sheet to this PNG file" };
        var count = CommonOptions.Count("--sheet-images", "Images on the sheet, spread evenly over the folder", 100, 1, 2000);
        var (json, strict) = (CommonOptions.Json(), CommonOptions.Strict());
        var command = new Command("check", """
            Report counts, sizes, broken and duplicate images, groups of the same photo, and brightness.

            Examples:
              deepfakelab data check data/real_and_fake_face --sheet artifacts/sheet.png
              deepfakelab data check faces --json
            """) { folder, sheet, count, json, strict };
        command.SetAction(parsed =>
        {
            using var progress = TerminalProgress.Show();
            var data = FaceDataset.Open(parsed.GetValue(folder)?.FullName, parsed.GetValue(strict));
            var report = DataReport.From(data);
            Console.WriteLine(parsed.GetValue(json) ? report.ToJson().ToJsonString(new JsonSerializerOptions { WriteIndented = true }) : report.ToString().TrimEnd());
            if (parsed.GetValue(sheet) is not { } file)
                return 0;
            var shown = Math.Min(parsed.GetValue(count), data.Images.Count);
            var images = Enumerable.Range(0, shown).Select(i => data.Images[(int)((long)i * data.Images.Count / shown)]).ToList();
            ContactSheet.Make(images).SavePng(file.FullName);
            (parsed.GetValue(json) ? Console.Error : Console.Out).WriteLine($"sheet       {file.FullName}");
            return 0;
        });
        return command;
    }

    private static Command Sample()
    {
        var output = new Option<DirectoryInfo>("--out") { Description = "A folder that does not exist yet", Required = true };
        var command = new Command("sample", """
            Paint the embedded sample, 600 faces in CIPLAB's layout, into a folder. The masks of what was replaced lie in its .masks.

            Example:
              deepfakelab data sample --out artifacts/painted
            """) { output };
        command.SetAction((parsed, cancellation) =>
        {
            using var progress = TerminalProgress.Show();
            var folder = parsed.GetValue(output)!.FullName;
            FaceDataset.WriteSample(folder, cancellation);
            Console.WriteLine($"sample      {folder}");
            return Task.FromResult(0);
        });
        return command;
    }
}
