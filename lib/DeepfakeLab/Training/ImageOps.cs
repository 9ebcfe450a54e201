using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Changes of image batches, each image with parameters of its own; values as <c>torchvision.transforms.functional</c> gives for tensors.</summary>
/// <remarks>Images are float32 [N, 3, H, W] in 0 to 255 unless said otherwise, on any device. The result belongs to the caller's scope.</remarks>
internal static class ImageOps
{
    /// <summary>What an affine change reads for an output pixel, in pixels from the middle: x' = a x + b y + c, y' = d x + e y + f.</summary>
    /// <remarks>torchvision's <c>_get_inverse_affine_matrix</c>: turned by <paramref name="angle"/> (degrees, clockwise), sheared, scaled, then shifted.</remarks>
    public static double[] InverseAffine(double angle, double shiftX, double shiftY, double scale, double shearX, double shearY)
    {
        var (turn, sx, sy) = (double.DegreesToRadians(angle), double.DegreesToRadians(shearX), double.DegreesToRadians(shearY));
        var a = Math.Cos(turn - sy) / Math.Cos(sy);
        var b = -Math.Cos(turn - sy) * Math.Tan(sx) / Math.Cos(sy) - Math.Sin(turn);
        var c = Math.Sin(turn - sy) / Math.Cos(sy);
        var d = -Math.Sin(turn - sy) * Math.Tan(sx) / Math.Cos(sy) + Math.Cos(turn);
        double[] m = [d / scale, -b / scale, 0, -c / scale, a / scale, 0];
        (m[2], m[5]) = (-m[0] * shiftX - m[1] * shiftY, -m[3] * shiftX - m[4] * shiftY);
        return m;
    }

    /// <summary><c>affine</c>, bilinear.</summary>
    /// <param name="matrices">One an image, from <see cref="InverseAffine"/>.</param>
    /// <param name="padding">What lies outside; torchvision's is zeros.</param>
    public static Tensor Affine(Tensor images, IReadOnlyList<double[]> matrices, GridSamplePaddingMode padding = GridSamplePaddingMode.Zeros)
    {
        var (h, w) = ((double)images.shape[2], (double)images.shape[3]);
        // affine_grid counts from -1 to 1 along each side
        var values = matrices.SelectMany(m => (float[])[(float)m[0], (float)(m[1] * h / w), (float)(m[2] * 2 / w), (float)(m[3] * w / h), (float)m[4], (float)(m[5] * 2 / h)]).ToArray();
        using var own = TensorLayout.Copy(values, [matrices.Count, 2, 3]);
        using var theta = own.to(images.device);
        using var grid = nn.functional.affine_grid(theta, images.shape, align_corners: false);
        return nn.functional.grid_sample(images, grid, GridSampleMode.Bilinear, padding, align_corners: false);
    }

    /// <summary><c>resized_crop</c> to the image's own size, bilinear.</summary>
    public static Tensor ResizedCrop(Tensor images, IReadOnlyList<(int Top, int Left, int Height, int Width)> parts)
    {
        using var scope = NewDisposeScope();
        var (h, w) = (images.shape[2], images.shape[3]);
        return cat(parts.Select((p, i) => nn.functional.interpolate(
            images.narrow(0, i, 1).narrow(2, p.Top, p.Height).narrow(3, p.Left, p.Width), [h, w], mode: InterpolationMode.Bilinear, align_corners: false)).ToList())
            .MoveToOuterDisposeScope();
    }

    /// <summary><c>adjust_hue</c>: the hue turned by a share of the circle, -0.5 to 0.5.</summary>
    public static Tensor Hue(Tensor images, IReadOnlyList<double> shares)
    {
        using var scope = NewDisposeScope();
        var rgb = images / 255;
        var channels = rgb.unbind(1);
        var (r, g, b) = (channels[0], channels[1], channels[2]);
        var (value, range) = (rgb.amax([1]), rgb.amax([1]) - rgb.amin([1]));
        var grey = range.eq(0);
        var saturation = range / value.masked_fill(grey, 1);
        var divisor = range.masked_fill(grey, 1);
        var sector = where(value.eq(r), (g - b) / divisor, where(value.eq(g), 2 + (b - r) / divisor, 4 + (r - g) / divisor));
        using var turn = tensor(shares.Select(s => (float)s).ToArray(), [shares.Count, 1, 1], device: images.device);
        var hue = (sector / 6 + 1).fmod(1) + turn;
        hue -= hue.floor();
        return stack(new[] { 5, 3, 1 }.Select(n =>
        {
            // a colour falls from its full value over one sector, stays low for two and rises again over one
            var k = (n + hue * 6).fmod(6);
            return value - value * saturation * minimum(k, 4 - k).clamp(0, 1);
        }), 1).mul_(255).MoveToOuterDisposeScope();
    }

    /// <summary><c>autocontrast</c>: each channel stretched to 0 to 255.</summary>
    public static Tensor AutoContrast(Tensor images)
    {
        using var scope = NewDisposeScope();
        var (low, high) = (images.amin([2, 3], keepdim: true), images.amax([2, 3], keepdim: true));
        var flat = low.eq(high);
        return images.sub(low.masked_fill(flat, 0)).mul_((255 / (high - low)).masked_fill(flat, 1)).clamp_(0, 255).MoveToOuterDisposeScope();
    }

    /// <summary><c>equalize</c>: each channel's levels spread so that they are equally frequent.</summary>
    /// <param name="images">uint8 [N, 3, H, W].</param>
    /// <returns>uint8 of the same shape.</returns>
    public static Tensor Equalize(Tensor images)
    {
        using var scope = NewDisposeScope();
        var (planes, size) = (images.shape[0] * images.shape[1], images.shape[2] * images.shape[3]);
        var levels = images.reshape(planes, size).to(ScalarType.Int64);
        var histogram = zeros([planes, 256], ScalarType.Int64, images.device).scatter_add_(1, levels, ones_like(levels));
        // torchvision leaves the brightest level that occurs out of the sum that it shares out
        var step = (size - histogram.gather(1, levels.amax([1], keepdim: true))).div(255, RoundingMode.floor);
        var full = (histogram.cumsum(1) + step.div(2, RoundingMode.floor)).div(step.clamp(min: 1), RoundingMode.floor);
        var table = cat([zeros([planes, 1], ScalarType.Int64, images.device), full.narrow(1, 0, 255)], 1).clamp(0, 255);
        var result = where(step.eq(0), levels, table.gather(1, levels));
        return result.to(ScalarType.Byte).reshape(images.shape).MoveToOuterDisposeScope();
    }

    /// <summary><c>gaussian_blur</c>, the edge mirrored.</summary>
    /// <param name="kernel">Pixels a side, odd; the image must be larger than half of it.</param>
    public static Tensor Blur(Tensor images, int kernel, IReadOnlyList<double> sigmas)
    {
        using var scope = NewDisposeScope();
        var (n, c, h, w) = (images.shape[0], images.shape[1], images.shape[2], images.shape[3]);
        var weights = sigmas.SelectMany(sigma =>
        {
            var one = Enumerable.Range(0, kernel).Select(i => Math.Exp(-0.5 * Math.Pow((i - (kernel - 1) / 2.0) / sigma, 2))).ToArray();
            return Enumerable.Repeat(one.Select(x => (float)(x / one.Sum())), (int)c).SelectMany(x => x);
        }).ToArray();
        var across = tensor(weights, [n * c, 1, 1, kernel], device: images.device);
        long half = kernel / 2;
        var padded = nn.functional.pad(images.reshape(1, n * c, h, w), [half, half, half, half], PaddingModes.Reflect);
        var blurred = nn.functional.conv2d(nn.functional.conv2d(padded, across, groups: n * c), across.transpose(2, 3), groups: n * c);
        return blurred.reshape(images.shape).MoveToOuterDisposeScope();
    }

    /// <summary>What a JPEG file of the image would show. Done on the CPU, on all cores.</summary>
    /// <param name="images">uint8 [N, 3, H, W].</param>
    /// <param name="qualities">1 to 100 each.</param>
    /// <returns>uint8 of the same shape, on the same device.</returns>
    public static unsafe Tensor Jpeg(Tensor images, IReadOnlyList<int> qualities)
    {
        using var scope = NewDisposeScope();
        var result = images.cpu().contiguous().clone();
        var (height, width) = ((int)images.shape[2], (int)images.shape[3]);
        var plane = height * width;
        fixed (byte* first = result.bytes)
        {
            var start = (nint)first; // native memory, which stays where it is
            Parallel.For(0, qualities.Count, i =>
            {
                var planes = new Span<byte>((byte*)start + (long)i * 3 * plane, 3 * plane);
                var image = new RgbImage(width, height);
                for (var p = 0; p < plane; p++)
                    for (var channel = 0; channel < 3; channel++)
                        image.Pixels[3 * p + channel] = planes[channel * plane + p];
                using var decoded = ImageReader.DecodePixels(image.ToJpeg(qualities[i]), "a JPEG of our own");
                decoded.WritePlanes(planes);
            });
        }
        return result.to(images.device).MoveToOuterDisposeScope();
    }
}
