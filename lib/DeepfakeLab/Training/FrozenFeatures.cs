using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What the layers before the cut make of the images: of varied copies of the training images, and of the validation images.</summary>
internal sealed class FrozenFeatures : IDisposable
{
    private const int BatchSize = 32;

    private readonly VisionModel model;
    private readonly Recipe recipe;
    private readonly long seed;
    private readonly int trainImages;
    private readonly Tensor train; // [copies * N, ...], copy after copy
    private readonly Tensor validation;
    private readonly Tensor? mirrored;

    public FrozenFeatures(
        VisionModel model, Recipe recipe, long seed, Preprocessing preprocessing, ImageStore training, ImageStore validation, CancellationToken cancellation,
        FeatureCache? cache = null)
    {
        (this.model, this.recipe, this.seed, trainImages) = (model, recipe, seed, training.Images.Count);
        cache ??= FeatureCache.Default;
        using var prefix = new FrozenPrefix(model, recipe.Cut!, recipe.FeaturePrecision == Precision.BFloat16 ? ScalarType.BFloat16 : ScalarType.Float32);
        var key = string.Join('\n', "5", prefix.Engine, model.Name, prefix.WeightsHash, recipe.Cut, JsonSerializer.Serialize(preprocessing));
        train = cache.Get($"{key}\n{Content(training)}\n{recipe.Augmentation} {seed} {recipe.FeatureCopies}", recipe.FeatureCopies * trainImages, Compute(
            "features of varied training images", recipe.FeatureCopies * trainImages, training, (pixels, rows) => recipe.Augmentation.Apply(
                pixels, [.. rows.Select(row => SeededRandom.Combine(seed, row / trainImages + 1, row % trainImages))])));
        var held = key + "\n" + Content(validation);
        this.validation = cache.Get(held + "\nplain", validation.Images.Count, Compute("features of the validation images", validation.Images.Count, validation, (p, _) => p));
        if (recipe.MirrorScores)
            mirrored = cache.Get(held + "\nmirrored", validation.Images.Count, Compute("features of the validation images mirrored", validation.Images.Count, validation, (p, _) => p.flip(3)));

        Func<int, Tensor> Compute(string task, int rows, ImageStore images, Func<Tensor, int[], Tensor> vary)
        {
            var progress = LabProgress.Begin($"{task} ({prefix.Engine})", rows, "images");
            return at =>
            {
                cancellation.ThrowIfCancellationRequested();
                var batch = Enumerable.Range(at, Math.Min(BatchSize, rows - at)).ToArray();
                var pixels = images.Batch([.. batch.Select(row => row % images.Images.Count)], cancellation);
                if (at + batch.Length < rows)
                    images.Prepare([.. Enumerable.Range(at + batch.Length, Math.Min(BatchSize, rows - at - batch.Length)).Select(row => row % images.Images.Count)], cancellation);
                var result = prefix.Run(preprocessing.Normalize(vary(pixels, batch)));
                progress.Advance(batch.Length);
                return result.cpu();
            };
        }
    }

    public void Dispose()
    {
        train.Dispose();
        validation.Dispose();
        mirrored?.Dispose();
    }

    /// <summary>One copy's features of each image, on the device; which copy is drawn for (seed, epoch, image).</summary>
    public Tensor Batch(int[] indices, int epoch)
    {
        using var rows = tensor(indices.Select(i => (long)(SeededRandom.Combine(seed, 6, epoch, i) % (ulong)recipe.FeatureCopies) * trainImages + i).ToArray());
        return train.index_select(0, rows).to(LabRuntime.Device);
    }

    /// <summary>Class probabilities of the validation images.</summary>
    public double[][] Score(bool mirrorScores, bool trainingMode)
    {
        using var scope = NewDisposeScope();
        var p = Predictor.InMode(model, trainingMode, () => Probabilities(validation, trainingMode));
        if (mirrorScores)
            p = (p + Predictor.InMode(model, trainingMode, () => Probabilities(mirrored!, trainingMode))) / 2;
        return Predictor.Rows(p);
    }

    private Tensor Probabilities(Tensor features, bool trainingMode)
    {
        var results = new List<Tensor>();
        foreach (var (from, count) in Predictor.Batches((int)features.shape[0], trainingMode))
        {
            using var batch = NewDisposeScope();
            var input = features.narrow(0, from, count).to(LabRuntime.Device);
            results.Add(model.ForwardFrom(input.dim() == 4 ? TensorLayout.ChannelsLast(input) : input, recipe.Cut!).to(ScalarType.Float64).softmax(1).MoveToOuterDisposeScope());
        }
        return cat(results);
    }

    /// <summary>A hash over the files of the images: the same wherever they lie.</summary>
    private static string Content(ImageStore images)
    {
        var hashes = new string[images.Images.Count];
        ImageLoader.ForEach(hashes.Length, CancellationToken.None, i => hashes[i] = ImageReader.Hash(images.Images[i].Path));
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(string.Join('\n', hashes))));
    }
}
