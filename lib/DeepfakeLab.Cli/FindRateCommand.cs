using System.CommandLine;
using System.Globalization;
using System.Text.Json;

namespace DeepfakeLab.Cli;

/// <summary><c>lr-find</c>: a short training at a growing rate, and the rate that its losses suggest.</summary>
internal static class FindRateCommand
{
    public static Command Create()
    {
        var (model, data, weights, size, from, json) = (TrainCommand.Model(), CommonOptions.Data(), TrainCommand.Weights(), TrainCommand.Size(), TrainCommand.From(), CommonOptions.Json());
        var batch = CommonOptions.Count("--batch", "Images a step", new Recipe().BatchSize, 2, 4096);
        var steps = CommonOptions.Count("--steps", "Batches to learn from", 100, 10, 10_000);
        var command = new Command("lr-find", """
            Find a learning rate for train: a short training at a rate that grows (Smith 2017), after a new head was trained.

            Example:
              deepfakelab lr-find --data faces --weights imagenet --from features.14
            """) { model, data, weights, size, from, batch, steps, json };
        command.SetAction((parsed, cancellation) =>
        {
            var asJson = parsed.GetValue(json);
            using var progress = TerminalProgress.Show();
            var dataset = CommonOptions.Open(parsed.GetValue(data)?.FullName, strict: false, asJson ? Console.Error : Console.Out);
            LabRuntime.Seed(42);
            using var network = Models.Create(parsed.GetValue(model)!, Weights.Parse(parsed.GetValue(weights)!)).WithHead(dataset.Classes.Count);
            var curve = Trainer.FindLearningRate(
                network, dataset.Split(test: 0.2, validation: 0.08), TrainCommand.Choose(null, parsed.GetValue(from)) with { BatchSize = parsed.GetValue(batch) },
                new FitOptions { Preprocessing = Preprocessing.Square(parsed.GetValue(size)) }, parsed.GetValue(steps), cancellation: cancellation);
            if (asJson)
                Console.WriteLine(JsonSerializer.Serialize(new { suggestion = curve.Suggestion, points = curve.Points.Select(p => new { rate = p.Rate, loss = p.Loss, smoothed = p.Smoothed }) }));
            else
            {
                foreach (var point in curve.Points.Where((_, i) => i % Math.Max(1, curve.Points.Count / 20) == 0))
                    Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{point.Rate:0.0e+0}  loss {point.Loss:0.000}  smoothed {point.Smoothed:0.000}"));
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"suggested {curve.Suggestion:0.0e+0}, where the loss falls most steeply"));
            }
            return Task.FromResult(0);
        });
        return command;
    }
}
