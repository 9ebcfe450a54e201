using System.CommandLine;
using System.Globalization;

namespace DeepfakeLab.Cli;

/// <summary><c>pretrain</c>: makes the weights that are embedded in the library; data/README.md says with which settings.</summary>
internal static class PretrainCommand
{
    public static Command Create()
    {
        var model = new Option<string>("--model") { Description = "torchvision's name of the model", DefaultValueFactory = _ => "mobilenet_v2" };
        var images = CommonOptions.Count("--images", "Faces to paint", 40_000, 64, 10_000_000);
        var size = CommonOptions.Count("--size", "Pixels a side", 128, 32, 512);
        var eightBits = new Option<bool>("--eight-bits") { Description = "Half the file, each channel in steps of a 127th of its largest weight" };
        var seed = new Option<long>("--seed") { Description = "Decides faces and first weights", DefaultValueFactory = _ => 1 };
        var output = new Option<FileInfo>("--out") { Description = "The safetensors file", Required = true };
        var command = new Command("pretrain", """
            Train a model from nothing on painted faces (what they show, never whether they are fake) and keep it in half precision or eight bits.

            Examples:
              deepfakelab pretrain --out data/weights/mobilenet_v2-painted-faces.safetensors
              deepfakelab pretrain --model mnasnet0_75 --eight-bits --out data/weights/mnasnet0_75-painted-faces.safetensors
            """) { model, images, size, seed, eightBits, output };
        command.SetAction((parsed, cancellation) =>
        {
            using var progress = TerminalProgress.Show();
            foreach (var (attribute, classes, accuracy) in PaintedPretraining.Run(
                parsed.GetValue(model)!, parsed.GetValue(images), parsed.GetValue(size), 3e-3, parsed.GetValue(seed), parsed.GetValue(output)!.FullName,
                parsed.GetValue(eightBits), cancellation))
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{attribute,-12} {accuracy:0.000} of unseen painted faces (chance is at least {1.0 / classes:0.000})"));
            return Task.FromResult(0);
        });
        return command;
    }
}
