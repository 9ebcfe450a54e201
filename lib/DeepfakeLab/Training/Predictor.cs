using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Runs a trained model on images, in eval mode and without gradients.</summary>
public static class Predictor
{
    /// <summary>Images at a time. A processor keeps what it computes of 16 closer (MobileNetV2: 108 images a second, 70 with 64), and can be interrupted sooner.</summary>
    private const int BatchSize = 64, BatchSizeOnProcessor = 16;

    /// <summary>How probable the model holds each class for each image.</summary>
    /// <param name="model">A model with one output a class.</param>
    /// <param name="images">The images, N of them.</param>
    /// <param name="preprocessing">As in training.</param>
    /// <param name="mirrorScores">Average the probabilities of an image and its mirror image.</param>
    /// <param name="cancellation">Stops the work at the next batch.</param>
    /// <param name="trainingMode">A mistake to be measured; see <see cref="Recipe.ScoreInTrainingMode"/>. The model's statistics change under it.</param>
    /// <returns>N rows of as many probabilities as there are classes.</returns>
    public static double[][] Probabilities(
        VisionModel model, IReadOnlyList<FaceImage> images, Preprocessing preprocessing, bool mirrorScores, CancellationToken cancellation = default,
        bool trainingMode = false)
    {
        using var linked = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        using var store = new ImageStore(images, preprocessing, linked.Token);
        return Probabilities(model.to(LabRuntime.Device), store, preprocessing, mirrorScores, linked.Token, trainingMode);
    }

    /// <summary>Scores images for an <see cref="EvaluationReport"/>: is it a fake, and how probable does the model hold that.</summary>
    public static IReadOnlyList<Prediction> Predict(
        VisionModel model, IReadOnlyList<FaceImage> images, Preprocessing preprocessing, int fakeClass, bool mirrorScores, CancellationToken cancellation = default,
        bool trainingMode = false) =>
        Predictions(Probabilities(model, images, preprocessing, mirrorScores, cancellation, trainingMode), images, fakeClass);

    private static Prediction[] Predictions(double[][] probabilities, IReadOnlyList<FaceImage> images, int fakeClass) =>
        [.. probabilities.Zip(images, (p, image) => new Prediction(image, image.Label == fakeClass, p[fakeClass]))];

    /// <summary>The mean over an ensemble's members of how probable each holds each class for each image.</summary>
    /// <inheritdoc cref="Probabilities(VisionModel, IReadOnlyList{FaceImage}, Preprocessing, bool, CancellationToken, bool)"/>
    public static double[][] Probabilities(
        IReadOnlyList<VisionModel> models, IReadOnlyList<FaceImage> images, Preprocessing preprocessing, bool mirrorScores, CancellationToken cancellation = default)
    {
        using var linked = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        using var store = new ImageStore(images, preprocessing, linked.Token);
        double[][][] each = [.. models.Select(m => Probabilities(m.to(LabRuntime.Device), store, preprocessing, mirrorScores, linked.Token))];
        return [.. images.Select((_, i) => each[0][i].Select((_, k) => each.Average(p => p[i][k])).ToArray())];
    }

    /// <summary>Scores images by an ensemble's mean for an <see cref="EvaluationReport"/>.</summary>
    public static IReadOnlyList<Prediction> Predict(
        IReadOnlyList<VisionModel> models, IReadOnlyList<FaceImage> images, Preprocessing preprocessing, int fakeClass, bool mirrorScores, CancellationToken cancellation = default) =>
        Predictions(Probabilities(models, images, preprocessing, mirrorScores, cancellation), images, fakeClass);

    internal static double[][] Probabilities(
        VisionModel model, ImageStore images, Preprocessing preprocessing, bool mirrorScores, CancellationToken cancellation, bool trainingMode = false)
    {
        using var scope = NewDisposeScope();
        var p = Run(model, images, preprocessing, mirror: false, Softmax, "scoring images", cancellation, trainingMode);
        if (mirrorScores)
            p = (p + Run(model, images, preprocessing, mirror: true, Softmax, "scoring mirror images", cancellation, trainingMode)) / 2;
        return Rows(p);

        Tensor Softmax(Tensor x) => model.call(x).to(ScalarType.Float64).softmax(1);
    }

    /// <summary>What <paramref name="function"/> gives for all images, batch after batch. The result belongs to the caller's scope.</summary>
    internal static Tensor Run(
        VisionModel model, ImageStore images, Preprocessing preprocessing, bool mirror, Func<Tensor, Tensor> function, string task, CancellationToken cancellation,
        bool trainingMode = false) =>
        InMode(model, trainingMode, () =>
        {
            var results = new List<Tensor>();
            var progress = LabProgress.Begin(task, images.Images.Count, "images");
            var batches = Batches(images.Images.Count, trainingMode).ToList();
            foreach (var (from, count) in batches)
            {
                cancellation.ThrowIfCancellationRequested();
                using var batch = NewDisposeScope();
                var pixels = images.Batch([.. Enumerable.Range(from, count)], cancellation);
                if (batches.Find(b => b.From == from + count) is { Count: > 0 } next)
                    images.Prepare([.. Enumerable.Range(next.From, next.Count)], cancellation); // decoded while this one is computed
                var input = preprocessing.Normalize(pixels);
                results.Add(function(TensorLayout.ChannelsLast(mirror ? input.flip(3) : input)).MoveToOuterDisposeScope());
                progress.Advance(count);
            }
            return cat(results);
        });

    /// <summary>Without gradients and in eval mode, or, to repeat a mistake, in training mode with dropout that repeats. The result belongs to the caller's scope.</summary>
    internal static Tensor InMode(VisionModel model, bool trainingMode, Func<Tensor> work)
    {
        using var scope = NewDisposeScope();
        using var none = inference_mode();
        model.train(trainingMode);
        if (trainingMode)
            LabRuntime.Seed(0);
        return work().MoveToOuterDisposeScope();
    }

    /// <summary>Where batches begin and how long they are. In training mode none has one image alone: batch norm has no variance over one.</summary>
    internal static IEnumerable<(int From, int Count)> Batches(int images, bool trainingMode)
    {
        var most = trainingMode || LabRuntime.Device.type != DeviceType.CPU ? BatchSize : BatchSizeOnProcessor;
        for (var from = 0; from < images;)
        {
            var count = Math.Min(most, images - from);
            if (trainingMode && images - from - count == 1)
                count++;
            yield return (from, count);
            from += count;
        }
    }

    /// <summary>A [N, K] tensor as N arrays.</summary>
    internal static double[][] Rows(Tensor matrix)
    {
        using var doubles = matrix.to(ScalarType.Float64).cpu().contiguous();
        return [.. doubles.data<double>().ToArray().Chunk((int)matrix.shape[1])];
    }

    /// <summary>Mean cross entropy in nats, accuracy of the most probable class, and AUC (for two classes; else NaN).</summary>
    internal static (double Loss, double Accuracy, double Auc) Figures(double[][] probabilities, long[] labels)
    {
        var loss = probabilities.Select((p, i) => -Math.Log(Math.Max(p[labels[i]], 1e-12))).Average();
        var accuracy = probabilities.Select((p, i) => p.Index().MaxBy(e => e.Item).Index == labels[i] ? 1.0 : 0.0).Average();
        var auc = probabilities[0].Length == 2
            ? Metrics.Auc(Array.ConvertAll(labels, l => l == 1), Array.ConvertAll(probabilities, p => p[1])) : double.NaN;
        return (loss, accuracy, auc);
    }
}
