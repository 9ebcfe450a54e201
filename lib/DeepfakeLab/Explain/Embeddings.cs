using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Feature vectors of images: what the model's head sees. Near each other means alike to the model.</summary>
public static class Embeddings
{
    /// <summary>Feature vectors [N, F] float32 on the CPU of uint8 images [N, 3, H, W], computed in batches; the caller owns them.</summary>
    public static Tensor Of(VisionModel model, Tensor images, Preprocessing preprocessing, int batch = 32)
    {
        var training = model.training;
        model.eval();
        try
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            var device = model.parameters().First().device;
            var progress = LabProgress.Begin("features", images.shape[0], "images");
            var parts = new List<Tensor>();
            for (long start = 0; start < images.shape[0]; start += batch)
            {
                LabProgress.Interrupt.ThrowIfCancellationRequested();
                using var inner = NewDisposeScope();
                var few = images.narrow(0, start, Math.Min(batch, images.shape[0] - start)).to(device);
                parts.Add(model.Features(preprocessing.Normalize(few)).to(float32).cpu().MoveToOuterDisposeScope());
                progress.Advance(few.shape[0]);
            }
            return cat(parts).MoveToOuterDisposeScope();
        }
        finally
        {
            model.train(training);
        }
    }

    /// <summary>Principal components: the directions of greatest variance, by singular values; signs as in scikit-learn's <c>PCA</c>.</summary>
    /// <param name="features">[N, F].</param>
    /// <returns>[N, <paramref name="dimensions"/>].</returns>
    public static double[,] Pca(Tensor features, int dimensions = 2)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var x = features.to(float64).cpu();
        var (u, s, _) = linalg.svd(x - x.mean([0], keepdim: true), fullMatrices: false);
        u = u.narrow(1, 0, dimensions);
        // each direction points to where its largest coordinate is positive
        var signs = u.gather(0, u.abs().argmax(0, keepdim: true)).sign();
        return ToArray(u * signs * s.narrow(0, 0, dimensions));
    }

    /// <summary>
    /// t-SNE (van der Maaten and Hinton 2008): a plane in which neighbours stay neighbours; distances between far groups mean nothing.
    /// Ours because no package at hand has it: exact, O(N²), for a few thousand images. Starts from PCA, so a result repeats.
    /// </summary>
    /// <param name="features">[N, F].</param>
    /// <param name="perplexity">About how many neighbours each point has; must be below N / 3.</param>
    public static double[,] Tsne(Tensor features, double perplexity = 30, int iterations = 500)
    {
        var n = features.shape[0];
        if (perplexity is not > 1 || perplexity >= n / 3.0)
            throw new EvaluationException("The perplexity must be above 1 and below a third of the images", $"{perplexity} for {n} images", "Use a smaller perplexity or more images");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var start = tensor(Pca(features)).reshape(n, 2);
        var y = start / start.select(1, 0).std() * 1e-4;
        var p = Affinities(features.to(float64).cpu(), perplexity).clamp_min(1e-12);
        Tensor velocity = zeros_like(y), gains = ones_like(y);
        var rate = Math.Max(n / 12.0 / 4, 50); // scikit-learn's "auto"
        var progress = LabProgress.Begin("t-SNE", iterations, "steps");
        for (var i = 0; i < iterations; i++)
        {
            LabProgress.Interrupt.ThrowIfCancellationRequested();
            using var step = NewDisposeScope();
            var early = i < iterations / 4;
            var closeness = (SquaredDistances(y) + 1).reciprocal();
            closeness.diagonal().fill_(0);
            var q = (closeness / closeness.sum()).clamp_min(1e-12);
            var pull = (p * (early ? 12 : 1) - q) * closeness;
            var gradient = (pull.sum(1, keepdim: true) * y - pull.matmul(y)) * 4;
            gains.copy_(where(velocity.sign().eq(gradient.sign()), gains * 0.8, gains + 0.2).clamp_min(0.01));
            velocity.mul_(early ? 0.5 : 0.8).sub_(gradient * gains * rate);
            y.add_(velocity);
            y.sub_(y.mean([0], keepdim: true));
            progress.Advance();
        }
        return ToArray(y);
    }

    /// <summary>For each query the training images most alike, by the cosine of their feature vectors, the nearest first.</summary>
    /// <param name="queries">[Q, F].</param>
    /// <param name="training">[N, F].</param>
    /// <returns>Q lists of indices into the training images, with their cosines.</returns>
    public static IReadOnlyList<IReadOnlyList<(int Index, double Similarity)>> Nearest(Tensor queries, Tensor training, int count = 5)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var cosine = nn.functional.normalize(queries.to(float64).cpu(), dim: 1).matmul(nn.functional.normalize(training.to(float64).cpu(), dim: 1).t());
        var (values, indices) = cosine.topk((int)Math.Min(count, training.shape[0]), 1);
        return [.. Enumerable.Range(0, (int)queries.shape[0]).Select(q => (IReadOnlyList<(int, double)>)
            [.. indices[q].data<long>().ToArray().Select(i => (int)i).Zip(values[q].data<double>().ToArray())])];
    }

    /// <summary>Joint probabilities [N, N] that points are neighbours: a Gaussian around each, as wide as the perplexity asks.</summary>
    private static Tensor Affinities(Tensor x, double perplexity)
    {
        var n = x.shape[0];
        var distances = SquaredDistances(x);
        distances.diagonal().fill_(double.PositiveInfinity);
        distances = distances / distances.amin([1]).mean(); // a common scale, for numbers that exp can take
        Tensor low = zeros([n, 1], float64), high = full([n, 1], double.PositiveInfinity, float64), beta = ones([n, 1], float64), p = zeros(n, n, float64);
        for (var i = 0; i < 64; i++)
        {
            p = (-(distances - distances.amin([1], keepdim: true)) * beta).softmax(1);
            var entropy = -(p * p.clamp_min(1e-300).log()).sum(1, keepdim: true);
            var tooWide = entropy > Math.Log(perplexity);
            low = where(tooWide, beta, low);
            high = where(tooWide, high, beta);
            beta = where(high.isinf(), beta * 2, (low + high) / 2);
        }
        return (p + p.t()) / (2 * n);
    }

    private static Tensor SquaredDistances(Tensor x)
    {
        var squares = (x * x).sum(1, keepdim: true);
        return (squares + squares.t() - x.matmul(x.t()) * 2).clamp_min(0);
    }

    private static double[,] ToArray(Tensor x)
    {
        using var whole = x.contiguous();
        var result = new double[x.shape[0], x.shape[1]];
        Buffer.BlockCopy(whole.data<double>().ToArray(), 0, result, 0, result.Length * sizeof(double));
        return result;
    }
}
