using System.Runtime.CompilerServices;
using TorchSharp;

namespace DeepfakeLab;

/// <summary>From an image to a model's input: torchvision's <c>Resize</c>, <c>CenterCrop</c>, <c>ToTensor</c>, <c>Normalize</c>, bit for bit.</summary>
/// <param name="Resize">Height and width, both exact; or one number for the shorter side, the longer one in proportion; null to leave the size.</param>
/// <param name="CenterCrop">Height and width cut from the middle (black where the image is smaller); null to keep all.</param>
public sealed record Preprocessing(Preprocessing.Size? Resize, Preprocessing.Size? CenterCrop = null)
{
    /// <summary>A height and a width in pixels. With <paramref name="Width"/> 0 it means the shorter side.</summary>
    public sealed record Size(int Height, int Width);

    /// <summary>The filter that <see cref="Resize"/> uses, widened when it shrinks (antialiasing).</summary>
    public Interpolation Interpolation { get; init; } = Interpolation.Bilinear;

    /// <summary>Subtracted from each channel (RGB, scale 0 to 1). ImageNet's by default.</summary>
    public IReadOnlyList<float> Mean { get; init; } = [0.485f, 0.456f, 0.406f];

    /// <summary>What each channel is divided by after that. ImageNet's by default.</summary>
    public IReadOnlyList<float> Std { get; init; } = [0.229f, 0.224f, 0.225f];

    /// <summary>torchvision's classification recipe: shorter side 256, then the middle 224x224.</summary>
    public static Preprocessing ImageNet { get; } = new(new Size(256, 0), new Size(224, 224));

    /// <summary>The whole image made <paramref name="size"/> x <paramref name="size"/>, whatever its shape.</summary>
    public static Preprocessing Square(int size)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1);
        return new(new Size(size, size));
    }

    /// <summary>Height and width of what comes out; null where it depends on the image.</summary>
    public (int Height, int Width)? OutputSize =>
        CenterCrop is { } crop ? (crop.Height, crop.Width) : Resize is { Width: > 0 } exact ? (exact.Height, exact.Width) : null;

    /// <summary>Resizes and crops.</summary>
    public RgbImage Apply(RgbImage image)
    {
        if (Resize is null && CenterCrop is null)
            return image;
        using var result = Apply(PixelBuffer.From(image));
        return result.ToRgb();
    }

    /// <summary>The same; takes the image over and gives another, or itself.</summary>
    internal PixelBuffer Apply(PixelBuffer image)
    {
        if (Resize is { } size)
        {
            var (height, width) = size.Width > 0 ? (size.Height, size.Width)
                : image.Width <= image.Height ? ((int)((long)size.Height * image.Height / image.Width), size.Height)
                : (size.Height, (int)((long)size.Height * image.Width / image.Height));
            image = Instead(image, height, width, () => Resampler.Resize(image, width, height, Interpolation));
        }
        return CenterCrop is { } crop ? Instead(image, crop.Height, crop.Width, () => Crop(image, crop.Height, crop.Width)) : image;

        static PixelBuffer Instead(PixelBuffer image, int height, int width, Func<PixelBuffer> make)
        {
            if (image.Width == width && image.Height == height)
                return image;
            using (image)
                return make();
        }
    }

    /// <summary>The image as a uint8 tensor [3, H, W] on the CPU; the caller owns it.</summary>
    public static torch.Tensor ToTensor(RgbImage image)
    {
        LabRuntime.Start();
        var tensor = torch.empty([3, image.Height, image.Width], torch.uint8);
        using var pixels = PixelBuffer.From(image);
        pixels.WritePlanes(tensor.bytes);
        return tensor;
    }

    /// <summary>One image as a model's input: float32 [1, 3, H, W], normalized, on <see cref="LabRuntime.Device"/>; the caller owns it.</summary>
    public torch.Tensor ToBatch(RgbImage image)
    {
        using var scope = torch.NewDisposeScope();
        return Normalize(ToTensor(Apply(image)).unsqueeze(0).to(LabRuntime.Device)).MoveToOuterDisposeScope();
    }

    /// <summary>uint8 [N, 3, H, W] (or [3, H, W]) to float32 of the same shape on the same device, scaled to 0..1 and normalized.</summary>
    public torch.Tensor Normalize(torch.Tensor images)
    {
        using var scope = torch.NewDisposeScope();
        if (images.device_type == DeviceType.CPU && images.dtype == torch.uint8 && images.shape is [.., 3, _, _] && images.numel() > 3 * Levels && images.is_contiguous())
            return LookUp(images, Normalize(torch.arange(Levels, torch.uint8).expand(3, 1, Levels))).MoveToOuterDisposeScope();
        var mean = torch.tensor(Mean.ToArray(), device: images.device).view(3, 1, 1);
        var std = torch.tensor(Std.ToArray(), device: images.device).view(3, 1, 1);
        return images.to(torch.float32).div_(255).sub_(mean).div_(std).MoveToOuterDisposeScope();
    }

    private const int Levels = 256;

    /// <summary>Each byte's number in its channel's row of <paramref name="table"/>: one pass over memory where the arithmetic takes four.</summary>
    private static unsafe torch.Tensor LookUp(torch.Tensor images, torch.Tensor table)
    {
        var result = torch.empty(images.shape, torch.float32);
        var plane = (int)(images.shape[^1] * images.shape[^2]);
        fixed (byte* from = images.bytes, to = result.bytes, levels = table.bytes) // torch's memory, which stays where it is
        {
            var (bytes, floats, rows) = ((nint)from, (nint)to, (nint)levels);
            Team.ForEach((int)(images.numel() / plane), i => LookUp((byte*)bytes + (nint)i * plane, (float*)floats + (nint)i * plane, plane, (float*)rows + i % 3 * Levels));
        }
        return result;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void LookUp(byte* from, float* to, int count, float* levels)
    {
        for (var i = 0; i < count; i++)
            to[i] = levels[from[i]];
    }

    /// <summary>torchvision's center_crop: the offset rounds half to even, and what lies outside the image is black.</summary>
    private static PixelBuffer Crop(PixelBuffer image, int height, int width)
    {
        var cropped = new PixelBuffer(width, height);
        cropped.Pixels.Clear();
        int top = Offset(image.Height, height), left = Offset(image.Width, width);
        int firstX = Math.Max(0, -left), lastX = Math.Min(width, image.Width - left);
        for (var y = Math.Max(0, -top); y < Math.Min(height, image.Height - top); y++)
            image.Row(y + top).Slice(4 * (firstX + left), 4 * (lastX - firstX)).CopyTo(cropped.Row(y)[(4 * firstX)..]);
        return cropped;

        static int Offset(int have, int want) =>
            have < want ? -((want - have) / 2) : (int)Math.Round((have - want) / 2.0, MidpointRounding.ToEven);
    }
}
