using System.CommandLine;
using System.Text.Json;

namespace DeepfakeLab.Cli;

/// <summary><c>data check</c>, <c>data sample</c> and <c>data get</c>: what a folder of faces holds, a folder of painted ones, and the photographs.</summary>
internal static class DataCommand
{
    public static Command Create() => new("data", "Look at a folder of faces, or make one.") { Check(), Sample(), Get(), Crop() };

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

    private static Command Crop()
    {
        var folder = new Argument<DirectoryInfo>("DIR") { Description = "Folder with one sub-folder a class" };
        var output = new Option<DirectoryInfo>("--out") { Description = "A folder that does not exist yet", Required = true };
        var percent = CommonOptions.Count("--keep", "Per cent of the image's shorter side that the crop keeps", 70, 1, 100);
        var strict = CommonOptions.Strict();
        var command = new Command("crop", """
            Cut the surroundings off the faces, at full resolution. The middle is kept: there is no face detector in this program.

            Example:
              deepfakelab data crop data/real_and_fake_face --out faces-cropped --keep 70
            """) { folder, output, percent, strict };
        command.SetAction((parsed, cancellation) =>
        {
            using var progress = TerminalProgress.Show();
            var data = CommonOptions.Open(parsed.GetValue(folder)!.FullName, parsed.GetValue(strict));
            var target = parsed.GetValue(output)!.FullName;
            var count = FaceCrop.Write(data, target, parsed.GetValue(percent) / 100.0, cancellation);
            Console.WriteLine($"crops     {count} in {target} ({FaceCrop.Method})");
            return Task.FromResult(0);
        });
        return command;
    }

    private static Command Get()
    {
        static Option<DirectoryInfo> Output() => new("--out")
        {
            Description = "Where the images shall be",
            DefaultValueFactory = _ => new DirectoryInfo(Path.Combine("data", "real_and_fake_face")),
        };
        var (output, unpacked) = (Output(), Output());
        var kaggle = new Command("kaggle", """
            Download the collection from Kaggle, with the token of KAGGLE_API_TOKEN, of KAGGLE_USERNAME and KAGGLE_KEY or of kaggle.json, else
            anonymously. A download that was cut goes on where it stopped.
            """) { output };
        kaggle.SetAction((parsed, cancellation) =>
        {
            using var progress = TerminalProgress.Show();
            var folder = parsed.GetValue(output)!.FullName;
            var who = Kaggle.Get(folder, cancellation);
            Console.WriteLine($"images      {folder} (asked {who})");
            return Task.FromResult(0);
        });
        var archive = new Argument<FileInfo>("ARCHIVE") { Description = "The zip file, as downloaded in a browser" };
        var file = new Command("file", "Check and unpack an archive that was downloaded by hand.") { archive, unpacked };
        file.SetAction((parsed, cancellation) =>
        {
            using var progress = TerminalProgress.Show();
            var folder = parsed.GetValue(unpacked)!.FullName;
            FaceArchive.Install(parsed.GetValue(archive)!.FullName, folder, cancellation);
            Console.WriteLine($"images      {folder}");
            return Task.FromResult(0);
        });
        return new Command("get", """
            Put CIPLAB's photographs in place: all 2041 of them, checked, or none.

            Examples:
              deepfakelab data get kaggle
              deepfakelab data get file archive.zip --out faces
            """) { kaggle, file };
    }
}
