using SkiaSharp;

namespace DeepfakeLab;

/// <summary>An image in memory: 8-bit RGB, rows from top to bottom, no padding.</summary>
public sealed class RgbImage
{
    /// <param name="width">Pixels a row, at least 1.</param>
    /// <param name="height">Rows, at least 1.</param>
    /// <param name="pixels"><c>height * width * 3</c> bytes, [H, W, 3]; kept, not copied.</param>
    public RgbImage(int width, int height, byte[] pixels)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        if (pixels.LongLength != 3L * width * height)
            throw new ArgumentException($"{width}x{height} RGB needs {3L * width * height} bytes, not {pixels.LongLength}", nameof(pixels));
        (Width, Height, Pixels) = (width, height, pixels);
    }

    /// <summary>A black image.</summary>
    public RgbImage(int width, int height) : this(width, height, new byte[checked(3 * width * height)]) { }

    public int Width { get; }

    public int Height { get; }

    /// <summary>[H, W, 3].</summary>
    public byte[] Pixels { get; }

    /// <summary>The image as a PNG file.</summary>
    public byte[] ToPng() => Encode(SKEncodedImageFormat.Png, 100);

    /// <summary>Writes the image as a PNG file, whole or not at all.</summary>
    public void SavePng(string path) => AtomicFile.WriteBytes(path, ToPng());

    /// <summary>The image as a baseline JPEG file.</summary>
    /// <param name="quality">1 to 100.</param>
    public byte[] ToJpeg(int quality = 90) => Encode(SKEncodedImageFormat.Jpeg, quality);

    private unsafe byte[] Encode(SKEncodedImageFormat format, int quality)
    {
        using var buffer = PixelBuffer.From(this);
        fixed (byte* p = buffer.Pixels)
        {
            using var map = new SKPixmap(new SKImageInfo(Width, Height, SKColorType.Rgba8888, SKAlphaType.Opaque), (nint)p);
            using var data = map.Encode(format, quality) ?? throw new InvalidOperationException($"Skia does not write {format}");
            return data.ToArray();
        }
    }
}
