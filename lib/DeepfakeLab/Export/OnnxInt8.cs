using System.Globalization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>A quantized export and what it cost.</summary>
/// <param name="Card">The model card's path.</param>
/// <param name="Calibration">Images whose activations gave the ranges.</param>
/// <param name="Before">The model in float32 on images it has not seen.</param>
/// <param name="After">The file, run by ONNX Runtime, on the same images.</param>
public sealed record Int8Export(string Card, int Calibration, EvaluationReport Before, EvaluationReport After);

/// <summary>
/// Models in 8 bits for ONNX Runtime: weights of convolutions and linear layers as int8 with a step for each output channel, what they take as
/// uint8 with one step, between QuantizeLinear and DequantizeLinear nodes, as ONNX Runtime's own static quantization writes it (QDQ).
/// </summary>
/// <remarks>ONNX Runtime's quantizer is a Python package and not needed: ranges are measured by ONNX Runtime itself on training images.</remarks>
public static class OnnxInt8
{
    private const int MostCalibration = 128;

    /// <summary>Writes a run's model in 8 bits, its batch norms folded, and tests it before and after.</summary>
    /// <param name="run">The folder of a finished run.</param>
    /// <param name="data">Images: those that the run was trained on give the ranges, those that it has not seen the figures.</param>
    /// <exception cref="ExportException">Nothing was seen, or all, or the options contradict 8 bits.</exception>
    public static Int8Export Write(string run, string path, FaceDataset data, OnnxOptions? options = null, CancellationToken cancellation = default)
    {
        options = (options ?? new OnnxOptions()) with { FoldBatchNorm = true };
        if (options.Half)
            throw new ExportException("A model is in 16 or in 8 bits, not in both", path, "Choose one of them");
        Int8Export? result = null;
        ModelExport.With(run, (saved, record) =>
        {
            var unseen = RunFolder.Unseen(saved, data);
            FaceImage[] seen = [.. data.Images.Except(unseen).OrderBy(i => i.Name, StringComparer.Ordinal)];
            if (seen.Length == 0 || unseen.Count == 0)
                throw new ExportException(seen.Length == 0 ? "None of the images is one that the run was trained on" : "The run has seen every image", data.Root,
                    "Give the folder that it was trained on: its training images tell the ranges, its test images what 8 bits cost");
            seen = [.. Enumerable.Range(0, Math.Min(MostCalibration, seen.Length)).Select(i => seen[(int)((long)i * seen.Length / Math.Min(MostCalibration, seen.Length))])];
            var metadata = ModelExport.Metadata(saved, record);
            metadata["quantization"] = $"int8, ranges of {seen.Length} training images";
            var ranges = Ranges(saved, options, seen, cancellation);
            OnnxExport.Write(path, saved.Model, saved.Preprocessing, saved.Classes, options with { Ranges = ranges }, metadata);
            var before = EvaluationReport.From(Predictor.Predict(saved.Model, unseen, saved.Preprocessing, saved.FakeClass, saved.MirrorScores, cancellation), isSample: data.IsSample);
            var after = EvaluationReport.From(Test(path, saved, options, unseen, cancellation), isSample: data.IsSample);
            var card = path + ".md";
            AtomicFile.WriteText(card, ModelCard.Write(saved, record, Path.GetFileName(path), options) + string.Create(CultureInfo.InvariantCulture, $"""

                ## In 8 bits

                Weights and activations are rounded to 8 bits; the ranges come from {seen.Length} training images. On the {unseen.Count} images of the given folder that
                it had not seen: accuracy {before.Accuracy} before and {after.Accuracy} after, AUC {before.Auc} before and {after.Auc} after.

                """));
            result = new Int8Export(card, seen.Length, before, after);
        });
        return result!;
    }

    /// <summary>What the tensors range over when the same graph runs in float32 on some images.</summary>
    private static Dictionary<string, (float Low, float High)> Ranges(SavedRun saved, OnnxOptions options, FaceImage[] images, CancellationToken cancellation)
    {
        var folder = Directory.CreateTempSubdirectory("deepfakelab-int8-").FullName;
        try
        {
            var (file, observed) = (Path.Combine(folder, "observed.onnx"), new HashSet<string>());
            OnnxExport.Write(file, saved.Model, saved.Preprocessing, options: options with { Observed = observed });
            using var session = new InferenceSession(file);
            var ranges = new Dictionary<string, (float Low, float High)>();
            var progress = LabProgress.Begin("ranges of activations", images.Length, "images");
            foreach (var image in images)
            {
                cancellation.ThrowIfCancellationRequested();
                using var results = session.Run([Input(saved, options, ImageReader.Read(image.Path), mirror: false)], observed);
                foreach (var result in results)
                {
                    float[] values = [.. result.AsEnumerable<float>()];
                    var (low, high) = (values.Min(), values.Max());
                    ranges[result.Name] = ranges.TryGetValue(result.Name, out var known) ? (Math.Min(known.Low, low), Math.Max(known.High, high)) : (low, high);
                }
                progress.Advance();
            }
            return ranges;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static List<Prediction> Test(string path, SavedRun saved, OnnxOptions options, IReadOnlyList<FaceImage> images, CancellationToken cancellation)
    {
        using var session = new InferenceSession(path);
        var predictions = new List<Prediction>();
        var progress = LabProgress.Begin("scoring images in 8 bits", images.Count, "images");
        foreach (var image in images)
        {
            cancellation.ThrowIfCancellationRequested();
            var picture = ImageReader.Read(image.Path);
            var p = Answer(picture, mirror: false);
            predictions.Add(new Prediction(image, image.Label == saved.FakeClass, saved.MirrorScores ? (p + Answer(picture, mirror: true)) / 2 : p));
            progress.Advance();
        }
        return predictions;

        double Answer(RgbImage picture, bool mirror)
        {
            using var results = session.Run([Input(saved, options, picture, mirror)]);
            double[] values = [.. results[0].AsEnumerable<float>()];
            return options.Softmax ? Math.Clamp(values[saved.FakeClass], 0, 1) : Math.Exp(values[saved.FakeClass] - values.Max()) / values.Sum(v => Math.Exp(v - values.Max()));
        }
    }

    /// <summary>One image as the graph takes it.</summary>
    private static NamedOnnxValue Input(SavedRun saved, OnnxOptions options, RgbImage picture, bool mirror)
    {
        using var scope = NewDisposeScope();
        if (options.Preprocess)
        {
            picture = saved.Preprocessing is { Resize.Width: > 0, CenterCrop: null } ? picture : saved.Preprocessing.Apply(picture); // else the graph takes the final size
            var pixels = tensor(picture.Pixels, [1, picture.Height, picture.Width, 3]);
            return NamedOnnxValue.CreateFromTensor("image", new DenseTensor<byte>((mirror ? pixels.flip(2) : pixels).contiguous().data<byte>().ToArray(), [1, picture.Height, picture.Width, 3]));
        }
        var x = saved.Preprocessing.ToBatch(picture).cpu();
        return NamedOnnxValue.CreateFromTensor("image", new DenseTensor<float>((mirror ? x.flip(3) : x).contiguous().data<float>().ToArray(), [.. x.shape.Select(n => (int)n)]));
    }
}
