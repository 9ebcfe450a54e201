using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>How training images are varied: each drawn at random for an image, and the same again for the same seed, epoch and image.</summary>
/// <remarks>All of a batch is varied at once, on the device that trains.</remarks>
public sealed record Augmentation
{
    /// <summary>Probability of a mirror image.</summary>
    public double Flip { get; init; } = 0.5;

    /// <summary>Largest shift, as a share of the side. Shifts are whole pixels: the seams of a manipulation are not blurred by resampling.</summary>
    public double Shift { get; init; } = 0.06;

    /// <summary>Probability that an image is rotated and zoomed (which resamples it).</summary>
    public double Resample { get; init; } = 0.5;

    /// <summary>Largest rotation to either side, in degrees.</summary>
    public double Rotation { get; init; } = 10;

    /// <summary>Largest zoom in or out, as a share.</summary>
    public double Zoom { get; init; } = 0.12;

    /// <summary>Largest relative change of brightness.</summary>
    public double Brightness { get; init; } = 0.15;

    /// <summary>Largest relative change of contrast.</summary>
    public double Contrast { get; init; } = 0.15;

    /// <summary>Largest relative change of saturation.</summary>
    public double Saturation { get; init; } = 0.15;

    /// <summary>Probability that a rectangle of 2 to 20 % of the image is greyed out (Zhong et al., "Random Erasing", 2017).</summary>
    public double Erase { get; init; } = 0.3;

    /// <summary>What suits faces: mirror images, small shifts and turns, some colour, a part left out.</summary>
    public static Augmentation Faces { get; } = new();

    /// <summary>Nothing is varied.</summary>
    public static Augmentation None { get; } = new() { Flip = 0, Shift = 0, Resample = 0, Brightness = 0, Contrast = 0, Saturation = 0, Erase = 0 };

    /// <summary>Varies a batch.</summary>
    /// <param name="batch">uint8 [N, 3, H, W].</param>
    /// <param name="seeds">One number an image, from which all that happens to that image is drawn.</param>
    /// <returns>float32 [N, 3, H, W] in 0 to 255, on the device of <paramref name="batch"/>.</returns>
    public Tensor Apply(Tensor batch, IReadOnlyList<ulong> seeds)
    {
        using var scope = NewDisposeScope();
        var draws = seeds.Select(s => new Draw(s, this)).ToArray();
        var images = ShiftAndFlip(batch, draws).to(ScalarType.Float32);
        var resampled = Enumerable.Range(0, draws.Length).Where(i => draws[i].Resampled).Select(i => (long)i).ToArray();
        if (resampled.Length > 0)
        {
            using var rows = tensor(resampled, device: batch.device);
            using var turned = Turn(images.index_select(0, rows), resampled.Select(i => draws[i]).ToArray());
            images.index_copy_(0, rows, turned);
        }
        if (Brightness > 0 || Contrast > 0 || Saturation > 0)
            images = Colour(images, draws);
        if (Erase > 0)
            ErasePart(images, draws);
        return images.MoveToOuterDisposeScope();
    }

    /// <summary>Whole-pixel shifts with the edge repeated, and mirror images, in one gather of rows and one of columns.</summary>
    private static Tensor ShiftAndFlip(Tensor batch, Draw[] draws)
    {
        var (n, height, width) = (draws.Length, (int)batch.shape[2], (int)batch.shape[3]);
        if (draws.All(d => d is { Flipped: false, ShiftX: 0, ShiftY: 0 }))
            return batch;
        var pieces = new Tensor[n];
        using var columns = arange(width, device: batch.device);
        using var rows = arange(height, device: batch.device);
        for (var i = 0; i < n; i++)
        {
            var x = (columns + (long)Math.Round(draws[i].ShiftX * width)).clamp_(0, width - 1);
            if (draws[i].Flipped)
                x = x.flip(0);
            var y = (rows + (long)Math.Round(draws[i].ShiftY * height)).clamp_(0, height - 1);
            pieces[i] = batch[i].index_select(1, y).index_select(2, x);
        }
        return stack(pieces);
    }

    private static Tensor Turn(Tensor images, Draw[] draws)
    {
        // affine_grid maps output to input: a zoom of 1.1 reads from a window 1/1.1 as wide
        var matrices = draws.SelectMany(d =>
        {
            var (sin, cos) = Math.SinCos(d.Angle * Math.PI / 180);
            var s = 1 / d.Zoom;
            return new[] { (float)(cos * s), (float)(-sin * s), 0f, (float)(sin * s), (float)(cos * s), 0f };
        }).ToArray();
        using var theta = tensor(matrices, [draws.Length, 2, 3], device: images.device);
        using var grid = nn.functional.affine_grid(theta, images.shape, align_corners: false);
        return nn.functional.grid_sample(images, grid, GridSampleMode.Bilinear, GridSamplePaddingMode.Reflection, align_corners: false);
    }

    private static Tensor Colour(Tensor images, Draw[] draws)
    {
        Tensor Column(Func<Draw, double> f) => tensor(draws.Select(d => (float)f(d)).ToArray(), [draws.Length, 1, 1, 1], device: images.device);
        images = images.mul_(Column(d => d.Brightness));
        var mean = images.mean([1, 2, 3], keepdim: true);
        images = lerpTo(images, mean, Column(d => d.Contrast));
        using var luma = tensor(new[] { 0.2989f, 0.587f, 0.114f }, [1, 3, 1, 1], device: images.device);
        var grey = (images * luma).sum(1, keepdim: true);
        images = lerpTo(images, grey, Column(d => d.Saturation));
        return images.clamp_(0, 255);

        static Tensor lerpTo(Tensor image, Tensor anchor, Tensor factor) => image.sub_(anchor).mul_(factor).add_(anchor);
    }

    private void ErasePart(Tensor images, Draw[] draws)
    {
        var (height, width) = (images.shape[2], images.shape[3]);
        for (var i = 0; i < draws.Length; i++)
            if (draws[i].Erased is { } part)
                images[i].narrow(1, (long)(part.Y * height), Math.Max(1, (long)(part.H * height)))
                    .narrow(2, (long)(part.X * width), Math.Max(1, (long)(part.W * width))).fill_(124);
    }

    /// <summary>What one image's seed decides.</summary>
    private sealed class Draw
    {
        public readonly bool Flipped, Resampled;
        public readonly double ShiftX, ShiftY, Angle, Zoom, Brightness, Contrast, Saturation;
        public readonly (double X, double Y, double W, double H)? Erased;

        public Draw(ulong seed, Augmentation a)
        {
            var random = new SeededRandom(seed);
            Flipped = random.NextDouble() < a.Flip;
            ShiftX = random.Symmetric(a.Shift);
            ShiftY = random.Symmetric(a.Shift);
            Resampled = random.NextDouble() < a.Resample;
            Angle = random.Symmetric(a.Rotation);
            Zoom = 1 + random.Symmetric(a.Zoom);
            Brightness = 1 + random.Symmetric(a.Brightness);
            Contrast = 1 + random.Symmetric(a.Contrast);
            Saturation = 1 + random.Symmetric(a.Saturation);
            if (random.NextDouble() < a.Erase)
            {
                var area = 0.02 + 0.18 * random.NextDouble();
                var aspect = Math.Exp(random.Symmetric(Math.Log(2)));
                var (w, h) = (Math.Min(0.9, Math.Sqrt(area * aspect)), Math.Min(0.9, Math.Sqrt(area / aspect)));
                Erased = (random.NextDouble() * (1 - w), random.NextDouble() * (1 - h), w, h);
            }
        }
    }
}
