using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Where in an image a model sees what it answers.</summary>
/// <remarks>
/// All methods take normalised images [N, 3, H, W] (<see cref="Preprocessing.Normalize"/>) and the index of the logit to explain
/// (<see cref="FaceDataset.FakeClass"/> for "why fake?"), run in eval mode and leave the model's mode as it was. Heat maps come back as
/// N arrays [h, w] from 0 to 1, on the CPU; <see cref="Charts.HeatOverlay"/> lays them over the image.
/// What gradients are taken of is the logit, or, with <c>against</c>, the logit minus another one. Of two classes only that difference
/// decides the answer, so "why fake?" is asked as fake against real.
/// </remarks>
public static class Explain
{
    /// <summary>Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): feature maps weighted by their mean gradient.</summary>
    /// <param name="layer">A stage, or a module's state-dict path; the last stage with feature maps when not given.</param>
    /// <param name="against">The logit that is subtracted, if any.</param>
    /// <exception cref="ModelException">There is no such layer, or it gives no feature maps.</exception>
    public static IReadOnlyList<float[,]> GradCam(VisionModel model, Tensor images, int target, string? layer = null, int? against = null) =>
        Cam(model, images, Score(target, against), layer, (_, gradients) => gradients.mean([2, 3], keepdim: true));

    /// <summary>Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063): gradients weighted so that several places can count.</summary>
    /// <inheritdoc cref="GradCam"/>
    public static IReadOnlyList<float[,]> GradCamPlusPlus(VisionModel model, Tensor images, int target, string? layer = null, int? against = null) =>
        Cam(model, images, Score(target, against), layer, (activations, gradients) =>
        {
            // equation 19 for an exponential score, g² / (2g² + ΣA·g³), with g² cancelled; only rising gradients count
            var alpha = (activations.sum([2, 3], keepdim: true) * gradients + 2).reciprocal();
            return (alpha * gradients.relu()).sum([2, 3], keepdim: true);
        });

    /// <summary>
    /// The deepest stage whose maps can point at something so small: a cell of them covers at most <paramref name="smallest"/> of the image's
    /// side. With 5 cells across, no cell lies on an eye; see <see cref="Localisation.SmallestPart"/>. The first stage where all are coarser.
    /// </summary>
    /// <param name="size">Pixels a side of the model's input.</param>
    public static string LayerFor(VisionModel model, int size, double smallest)
    {
        using var images = zeros(1, 3, size, size);
        return Evaluated(model, images, x =>
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            var cells = LayerProbe.CellsOf(model, x);
            return model.Stages.LastOrDefault(stage => cells.TryGetValue(stage, out var across) && across * smallest >= 1) ?? model.Stages[0];
        });
    }

    /// <summary>How much the target's probability falls when a grey square (the mean colour) hides a place (Zeiler and Fergus 2014).</summary>
    /// <param name="square">Side of the square in pixels.</param>
    /// <param name="stride">Pixels from one square to the next; the map has one cell a square.</param>
    public static IReadOnlyList<float[,]> Occlusion(VisionModel model, Tensor images, int target, int square = 32, int stride = 16)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(square, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(stride, 1);
        int rows = Steps(images.shape[2], square, stride), columns = Steps(images.shape[3], square, stride);
        var progress = LabProgress.Begin("occlusion", images.shape[0], "images");
        return Evaluated(model, images, x =>
        {
            using var frozen = no_grad();
            var maps = new List<float[,]>();
            for (long n = 0; n < x.shape[0]; n++)
            {
                using var scope = NewDisposeScope();
                var image = x[n].unsqueeze(0);
                var whole = Probability(model, image, target).item<float>();
                var drops = new float[rows, columns];
                for (var row = 0; row < rows; row++)
                {
                    LabProgress.Interrupt.ThrowIfCancellationRequested();
                    using var rowScope = NewDisposeScope();
                    var hidden = image.expand(columns, -1, -1, -1).contiguous(); // a row of squares is one batch
                    for (var column = 0; column < columns; column++)
                        hidden[column].narrow(1, row * stride, square).narrow(2, column * stride, square).zero_();
                    var left = Probability(model, hidden, target).cpu().data<float>().ToArray();
                    for (var column = 0; column < columns; column++)
                        drops[row, column] = Math.Max(0, whole - left[column]);
                }
                maps.Add(Scale(drops));
                progress.Advance();
            }
            return maps;
        });

        static int Steps(long size, int square, int stride) => size < square
            ? throw new ModelException("The square is larger than the image", $"{square} of {size}", "Use a smaller square") : (int)(size - square) / stride + 1;
    }

    /// <summary>
    /// Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from the mean colour to the image: how much each pixel adds to
    /// the target's logit. They sum up to what the logit gains on the way, but for the error of so many steps.
    /// </summary>
    /// <param name="steps">Points on the way, by the midpoint rule.</param>
    /// <param name="against">The logit that is subtracted, if any.</param>
    /// <returns>[N, 3, H, W] on the CPU; the caller owns it.</returns>
    public static Tensor IntegratedGradients(VisionModel model, Tensor images, int target, int steps = 32, int? against = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        var score = Score(target, against);
        return Evaluated(model, images, x =>
        {
            using var scope = NewDisposeScope();
            using var gradients = enable_grad();
            var sum = zeros_like(x);
            for (var step = 0; step < steps; step++)
            {
                LabProgress.Interrupt.ThrowIfCancellationRequested();
                using var stepScope = NewDisposeScope();
                var at = (x * ((step + 0.5) / steps)).detach().requires_grad_();
                sum.add_(autograd.grad([score(model.call(at)).sum()], [at])[0]);
            }
            return (sum / steps * x).cpu().MoveToOuterDisposeScope();
        });
    }

    /// <summary>Attributions [N, 3, H, W] as heat maps: their sizes summed over the colours, softened over 7x7 pixels.</summary>
    public static IReadOnlyList<float[,]> ToHeat(Tensor attributions)
    {
        using var scope = NewDisposeScope();
        return Unstack(nn.functional.avg_pool2d(attributions.abs().sum(1, keepdim: true), 7, stride: 1, padding: 3).squeeze(1));
    }

    private static IReadOnlyList<float[,]> Cam(VisionModel model, Tensor images, Func<Tensor, Tensor> score, string? layer, Func<Tensor, Tensor, Tensor> weigh) =>
        Evaluated(model, images, x =>
        {
            using var scope = NewDisposeScope();
            var (activations, gradients) = LayerProbe.Run(model, x, layer ?? LayerProbe.DefaultLayer(model), score);
            return Unstack((weigh(activations, gradients) * activations).sum(1).relu());
        });

    private static Func<Tensor, Tensor> Score(int target, int? against) =>
        logits => against is { } other ? logits.select(1, target) - logits.select(1, other) : logits.select(1, target);

    /// <summary>Runs in eval mode on the model's device, and puts the mode back.</summary>
    private static T Evaluated<T>(VisionModel model, Tensor images, Func<Tensor, T> work)
    {
        var training = model.training;
        model.eval();
        try
        {
            var own = model.parameters().First();
            using var detached = images.detach();
            using var moved = detached.to(own.dtype, own.device, copy: true);
            return work(moved);
        }
        finally
        {
            model.train(training);
        }
    }

    private static Tensor Probability(VisionModel model, Tensor images, int target) => model.call(images).softmax(1).select(1, target);

    /// <summary>[N, h, w] as N arrays, each divided by its highest value.</summary>
    private static float[][,] Unstack(Tensor maps)
    {
        using var onCpu = maps.detach().to(float32).cpu().contiguous();
        var (n, h, w) = ((int)onCpu.shape[0], (int)onCpu.shape[1], (int)onCpu.shape[2]);
        var values = onCpu.data<float>().ToArray();
        return [.. Enumerable.Range(0, n).Select(i =>
        {
            var map = new float[h, w];
            Buffer.BlockCopy(values, i * h * w * sizeof(float), map, 0, h * w * sizeof(float));
            return Scale(map);
        })];
    }

    private static float[,] Scale(float[,] map)
    {
        var highest = map.Cast<float>().Max();
        if (highest > 0)
        {
            for (var y = 0; y < map.GetLength(0); y++)
            {
                for (var x = 0; x < map.GetLength(1); x++)
                    map[y, x] /= highest;
            }
        }
        return map;
    }
}
