using System.Buffers;
using System.Runtime.Intrinsics;

namespace DeepfakeLab;

/// <summary>
/// An image on its way to a model: four bytes a pixel, red, green, blue and one that means nothing, as Skia decodes and <see cref="Resampler"/> reads them. The memory is used
/// again: images of a dataset are of one size, and a megabyte for each would have the garbage collector at work all the time.
/// </summary>
internal sealed class PixelBuffer : IDisposable
{
    /// <summary>Bytes behind the last pixel that may be read.</summary>
    private const int Behind = 32;

    private byte[]? bytes;

    public PixelBuffer(int width, int height)
    {
        (Width, Height) = (width, height);
        bytes = ArrayPool<byte>.Shared.Rent(checked(4 * width * height + Behind));
    }

    public int Width { get; }

    public int Height { get; }

    /// <summary>[H, W, 4].</summary>
    public Span<byte> Pixels => (bytes ?? throw new ObjectDisposedException(nameof(PixelBuffer))).AsSpan(0, 4 * Width * Height);

    public Span<byte> Row(int y) => Pixels.Slice(4 * y * Width, 4 * Width);

    public static PixelBuffer From(RgbImage image)
    {
        var buffer = new PixelBuffer(image.Width, image.Height);
        var to = buffer.Pixels;
        ReadOnlySpan<byte> from = image.Pixels;
        for (int at = 0, read = 0; read < from.Length; at += 4, read += 3)
            (to[at], to[at + 1], to[at + 2], to[at + 3]) = (from[read], from[read + 1], from[read + 2], 255);
        return buffer;
    }

    public unsafe RgbImage ToRgb()
    {
        var image = new RgbImage(Width, Height, GC.AllocateUninitializedArray<byte>(3 * Width * Height));
        var colours = Vector128.Create((byte)0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 255, 255, 255, 255);
        fixed (byte* pixels = Pixels, rgb = image.Pixels)
        {
            byte* from = pixels, to = rgb;
            for (var end = rgb + image.Pixels.Length - 16; to <= end; from += 16, to += 12)
                Vector128.Shuffle(Vector128.Load(from), colours).Store(to); // four pixels, and four bytes that the next ones are written over
            for (var end = rgb + image.Pixels.Length; to < end; from += 4, to += 3)
                (to[0], to[1], to[2]) = (from[0], from[1], from[2]);
        }
        return image;
    }

    /// <summary>Writes [3, H, W] bytes.</summary>
    public void WritePlanes(Span<byte> planes)
    {
        var plane = Width * Height;
        Span<byte> red = planes[..plane], green = planes.Slice(plane, plane), blue = planes.Slice(2 * plane, plane);
        ReadOnlySpan<byte> pixels = Pixels;
        for (int i = 0, from = 0; i < plane; i++, from += 4)
            (red[i], green[i], blue[i]) = (pixels[from], pixels[from + 1], pixels[from + 2]);
    }

    public void Dispose()
    {
        if (bytes is { } held)
            ArrayPool<byte>.Shared.Return(held);
        bytes = null;
    }
}
