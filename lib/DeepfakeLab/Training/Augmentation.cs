using System.Globalization;
using System.Reflection;
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

    /// <summary>Smallest share of the image's area that a random part of it has (aspect 3:4 to 4:3), which is then enlarged to the whole; 0 crops nothing.</summary>
    public double Crop { get; init; }

    /// <summary>Largest shear to either side in degrees, of the images that <see cref="Resample"/> draws.</summary>
    public double Shear { get; init; }

    /// <summary>Largest turn of the hue, as a share of the circle, up to 0.5.</summary>
    public double Hue { get; init; }

    /// <summary>Probability that each channel is stretched to the full range.</summary>
    public double AutoContrast { get; init; }

    /// <summary>Probability that each channel's levels are made equally frequent.</summary>
    public double Equalize { get; init; }

    /// <summary>Probability of a Gaussian blur, of 0.1 to <see cref="BlurSigma"/> pixels.</summary>
    public double Blur { get; init; }

    /// <summary>Largest standard deviation of the blur, in pixels.</summary>
    public double BlurSigma { get; init; } = 1.5;

    /// <summary>Probability that the image is compressed as JPEG and read again, at a quality of <see cref="JpegQuality"/> to 95.</summary>
    public double Jpeg { get; init; }

    /// <summary>Lowest JPEG quality.</summary>
    public int JpegQuality { get; init; } = 50;

    /// <summary>Side of a square that is greyed out somewhere, as a share of the image's (DeVries and Taylor, "Cutout", 2017); 0 for none.</summary>
    public double Cutout { get; init; }

    /// <summary>What suits faces: mirror images, small shifts and turns, some colour, a part left out.</summary>
    public static Augmentation Faces { get; } = new();

    /// <summary>Nothing is varied.</summary>
    public static Augmentation None { get; } = new() { Flip = 0, Shift = 0, Resample = 0, Brightness = 0, Contrast = 0, Saturation = 0, Erase = 0 };

    /// <summary>What the original study varied: mirror images, rotations by up to 20 degrees, autocontrast, equalisation.</summary>
    public static Augmentation Study { get; } = None with { Flip = 0.5, Resample = 0.5, Rotation = 20, Zoom = 0, AutoContrast = 0.5, Equalize = 0.5 };

    /// <summary>Throws for the first setting that makes no sense.</summary>
    /// <exception cref="TrainingException">A value lies outside what its name allows.</exception>
    public void Check()
    {
        foreach (var property in typeof(Augmentation).GetProperties(BindingFlags.Public | BindingFlags.Instance))
        {
            var value = Convert.ToDouble(property.GetValue(this), CultureInfo.InvariantCulture);
            var most = property.Name switch
            {
                nameof(Rotation) => 180,
                nameof(Shear) => 60,
                nameof(BlurSigma) => 10,
                nameof(JpegQuality) => 95,
                nameof(Hue) => 0.5,
                nameof(Zoom) => 0.9,
                _ => 1,
            };
            var least = property.Name switch { nameof(BlurSigma) => 0.1, nameof(JpegQuality) => 1, _ => 0.0 };
            if (!(value >= least && value <= most))
                throw new TrainingException($"The augmentation's {property.Name} makes no sense", value.ToString(CultureInfo.InvariantCulture),
                    FormattableString.Invariant($"Use {least} to {most}"));
        }
    }

    /// <summary>Varies a batch.</summary>
    /// <param name="batch">uint8 [N, 3, H, W].</param>
    /// <param name="seeds">One number an image, from which all that happens to that image is drawn.</param>
    /// <returns>float32 [N, 3, H, W] in 0 to 255, on the device of <paramref name="batch"/>.</returns>
    public Tensor Apply(Tensor batch, IReadOnlyList<ulong> seeds)
    {
        using var scope = NewDisposeScope();
        var draws = seeds.Select(s => new Draw(s, this)).ToArray();
        var images = ShiftAndFlip(batch, draws).to(ScalarType.Float32);
        var (height, width) = ((int)batch.shape[2], (int)batch.shape[3]);
        Change(images, draws, d => d.Cropped is not null, (some, drawn) => ImageOps.ResizedCrop(some, [.. drawn.Select(d => d.CropIn(height, width))]));
        Change(images, draws, d => d.Resampled, Turn);
        if (Brightness > 0 || Contrast > 0 || Saturation > 0)
            images = Colour(images, draws);
        Change(images, draws, d => d.Hue != 0, (some, drawn) => ImageOps.Hue(some, [.. drawn.Select(d => d.Hue)]));
        Change(images, draws, d => d.AutoContrasted, (some, _) => ImageOps.AutoContrast(some));
        Change(images, draws, d => d.Equalized, (some, _) => ImageOps.Equalize(some.round().to(ScalarType.Byte)));
        Change(images, draws, d => d.Blur > 0, (some, drawn) => ImageOps.Blur(some, BlurKernel(height, width), [.. drawn.Select(d => d.Blur)]));
        Change(images, draws, d => d.Quality > 0, (some, drawn) => ImageOps.Jpeg(some.round().clamp_(0, 255).to(ScalarType.Byte), [.. drawn.Select(d => d.Quality)]));
        if (Erase > 0 || Cutout > 0)
            EraseParts(images, draws);
        return images.MoveToOuterDisposeScope();
    }

    /// <summary>Whether <see cref="Apply"/> mirrors the image that has this seed.</summary>
    internal bool Mirrors(ulong seed) => new Draw(seed, this).Flipped;

    /// <summary>Changes those images of a batch, in place, whose draw says so.</summary>
    private static void Change(Tensor images, Draw[] draws, Predicate<Draw> chosen, Func<Tensor, Draw[], Tensor> change)
    {
        var which = Enumerable.Range(0, draws.Length).Where(i => chosen(draws[i])).Select(i => (long)i).ToArray();
        if (which.Length == 0)
            return;
        using var scope = NewDisposeScope();
        var rows = tensor(which, device: images.device);
        var changed = change(images.index_select(0, rows), which.Select(i => draws[i]).ToArray());
        images.index_copy_(0, rows, changed.to(ScalarType.Float32));
    }

    /// <summary>Wide enough for three standard deviations to either side, as far as the image allows.</summary>
    private int BlurKernel(int height, int width) => 2 * Math.Min((int)Math.Ceiling(3 * BlurSigma), (Math.Min(height, width) - 1) / 2) + 1;

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
        if (draws.Any(d => d.Shear != 0))
            return ImageOps.Affine(images, [.. draws.Select(d => ImageOps.InverseAffine(d.Angle, 0, 0, d.Zoom, d.Shear, 0))], GridSamplePaddingMode.Reflection);
        // affine_grid maps output to input: a zoom of 1.1 reads from a window 1/1.1 as wide
        var matrices = draws.SelectMany(d =>
        {
            var (sin, cos) = Math.SinCos(d.Angle * Math.PI / 180);
            var s = 1 / d.Zoom;
            return new[] { (float)(cos * s), (float)(-sin * s), 0f, (float)(sin * s), (float)(cos * s), 0f };
        }).ToArray();
        using var own = TensorLayout.Copy(matrices, [draws.Length, 2, 3]);
        using var theta = own.to(images.device);
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

    private static void EraseParts(Tensor images, Draw[] draws)
    {
        var (height, width) = (images.shape[2], images.shape[3]);
        for (var i = 0; i < draws.Length; i++)
        {
            if (draws[i].Erased is { } part)
                images[i].narrow(1, (long)(part.Y * height), Math.Max(1, (long)(part.H * height)))
                    .narrow(2, (long)(part.X * width), Math.Max(1, (long)(part.W * width))).fill_(Grey);
            if (draws[i].CutOut is { } square) // around a centre anywhere, so that a part of it may lie outside
            {
                var (top, left) = (Math.Max(0, (long)(square.Top * height)), Math.Max(0, (long)(square.Left * width)));
                var (bottom, right) = (Math.Min(height, (long)((square.Top + square.Side) * height)), Math.Min(width, (long)((square.Left + square.Side) * width)));
                if (bottom > top && right > left)
                    images[i].narrow(1, top, bottom - top).narrow(2, left, right - left).fill_(Grey);
            }
        }
    }

    private const int Grey = 124;

    /// <summary>What one image's seed decides.</summary>
    private sealed class Draw
    {
        public readonly bool Flipped, Resampled;
        public readonly double ShiftX, ShiftY, Angle, Zoom, Brightness, Contrast, Saturation;
        public readonly (double X, double Y, double W, double H)? Erased;
        public readonly bool AutoContrasted, Equalized;
        public readonly double Shear, Hue, Blur;
        public readonly int Quality;
        public readonly (double Area, double Aspect, double Y, double X)? Cropped;
        public readonly (double Top, double Left, double Side)? CutOut;

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

            // What came later draws from a sequence of its own, so that recipes without it keep their results.
            random = new SeededRandom(SeededRandom.Combine((long)seed, 1));
            Shear = random.Symmetric(a.Shear);
            Hue = random.Symmetric(a.Hue);
            AutoContrasted = random.NextDouble() < a.AutoContrast;
            Equalized = random.NextDouble() < a.Equalize;
            var (blurs, blur) = (random.NextDouble() < a.Blur, 0.1 + (a.BlurSigma - 0.1) * random.NextDouble());
            Blur = blurs ? blur : 0;
            var (compresses, quality) = (random.NextDouble() < a.Jpeg, a.JpegQuality + random.Next(96 - a.JpegQuality));
            Quality = compresses ? quality : 0;
            var crop = (a.Crop + (1 - a.Crop) * random.NextDouble(), Math.Exp(random.Symmetric(Math.Log(4.0 / 3))), random.NextDouble(), random.NextDouble());
            Cropped = a.Crop > 0 ? crop : null;
            var (y, x) = (random.NextDouble(), random.NextDouble());
            CutOut = a.Cutout > 0 ? (y - a.Cutout / 2, x - a.Cutout / 2, a.Cutout) : null;
        }

        /// <summary>The part that is enlarged, in whole pixels.</summary>
        public (int Top, int Left, int Height, int Width) CropIn(int height, int width)
        {
            var (area, aspect, y, x) = Cropped!.Value;
            var w = Math.Clamp((int)Math.Round(width * Math.Sqrt(area * aspect)), 1, width);
            var h = Math.Clamp((int)Math.Round(height * Math.Sqrt(area / aspect)), 1, height);
            return ((int)(y * (height - h + 1)), (int)(x * (width - w + 1)), h, w);
        }
    }
}
