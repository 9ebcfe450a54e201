using System.Security.Cryptography;
using SkiaSharp;

namespace DeepfakeLab;

/// <summary>Reads image files into RGB pixels, the same ones that PIL's <c>Image.open(path).convert("RGB")</c> gives.</summary>
/// <remarks>
/// JPEG (baseline, progressive, grey, CMYK), PNG, WebP and BMP. Transparency is dropped, not blended, and colour profiles are not
/// applied, as PIL does it. 16-bit samples keep their high byte.
/// </remarks>
public static class ImageReader
{
    /// <summary>Files larger than this are refused unread.</summary>
    public const long LargestFile = 64L << 20;

    /// <summary>Images of more pixels than this are refused before memory is taken for them.</summary>
    public const long LargestImage = 50_000_000;

    /// <summary>And those of a longer side, JPEG's longest: a picture as long as that and one pixel high would take a hundred times its own memory to be resized.</summary>
    public const int LongestSide = 65_535;

    private const string Types = "JPEG, PNG, WebP or BMP";

    /// <summary>Reads and decodes one image.</summary>
    /// <param name="path">The file.</param>
    /// <param name="applyExifOrientation">Turn the picture the way its EXIF tag says. torchvision does not, so off by default.</param>
    /// <exception cref="ImageException">The file is missing, empty, broken, of another type, or too large.</exception>
    public static RgbImage Read(string path, bool applyExifOrientation = false)
    {
        using var data = ReadData(path);
        return Decode(data, path, applyExifOrientation);
    }

    /// <summary>The file's bytes, after a look at its size.</summary>
    internal static byte[] ReadFile(string path) => Read(path, stream =>
    {
        var bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    });

    /// <summary>SHA-256 of the file, in hexadecimal digits.</summary>
    internal static string Hash(string path) => Read(path, stream => Convert.ToHexStringLower(SHA256.HashData(stream)));

    private static T Read<T>(string path, Func<FileStream, T> read)
    {
        try
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1);
            if (stream.Length == 0)
                throw new ImageException("The file is empty", path, "Fetch it again or remove it");
            if (stream.Length > LargestFile)
                throw new ImageException($"The file is larger than {LargestFile >> 20} MiB", path, "Store the picture smaller");
            return read(stream);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ImageException("The file cannot be read", path, "Check that it exists and may be read", e);
        }
    }

    /// <summary>Decodes a whole image file held in memory; <paramref name="name"/> is what errors call it.</summary>
    public static RgbImage Decode(byte[] file, string name, bool applyExifOrientation = false)
    {
        using var data = Copy(file, name);
        return Decode(data, name, applyExifOrientation);
    }

    private static RgbImage Decode(SKData data, string name, bool applyExifOrientation)
    {
        using var pixels = DecodePixels(data, name, out var origin);
        var image = pixels.ToRgb();
        return applyExifOrientation ? Turn(image, origin) : image;
    }

    /// <summary>As <see cref="Read(string, bool)"/>, into memory that is used again.</summary>
    internal static PixelBuffer ReadPixels(string path)
    {
        using var data = ReadData(path);
        return DecodePixels(data, path, out _);
    }

    internal static PixelBuffer DecodePixels(byte[] file, string name)
    {
        using var data = Copy(file, name);
        return DecodePixels(data, name, out _);
    }

    /// <summary>The file's bytes, in memory that the garbage collector has nothing to do with.</summary>
    private static unsafe SKData ReadData(string path) => Read(path, stream =>
    {
        var file = SKData.Create(stream.Length);
        stream.ReadExactly(new Span<byte>((void*)file.Data, (int)file.Size));
        return file;
    });

    private static SKData Copy(byte[] file, string name) =>
        file.Length > 0 ? SKData.CreateCopy(file) : throw new ImageException("The file is empty", name, "Fetch it again or remove it");

    private static unsafe PixelBuffer DecodePixels(SKData data, string name, out SKEncodedOrigin origin)
    {
        using var codec = SKCodec.Create(data);
        if (codec is null)
            throw new ImageException($"The file is not a readable image ({Types})", name, "Replace or remove it");
        if (codec.EncodedFormat is not (SKEncodedImageFormat.Jpeg or SKEncodedImageFormat.Png or SKEncodedImageFormat.Webp or SKEncodedImageFormat.Bmp))
            throw new ImageException($"The file is a {codec.EncodedFormat} image, which is not read", name, $"Convert it to {Types}");
        var (width, height) = (codec.Info.Width, codec.Info.Height);
        if ((long)width * height > LargestImage || Math.Max(width, height) > LongestSide)
            throw new ImageException($"The image says that it has {width} x {height} pixels, more than {LargestImage / 1_000_000} million, or than {LongestSide} in a row", name, "Store it smaller");
        origin = codec.EncodedOrigin;
        var image = new PixelBuffer(width, height);
        SKCodecResult result;
        fixed (byte* rgba = image.Pixels) // no colour space asked for means no colour conversion; unpremultiplied means that alpha leaves the colours alone
            result = codec.GetPixels(new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Unpremul), (nint)rgba);
        if (result == SKCodecResult.Success)
            return image;
        image.Dispose();
        throw new ImageException(result == SKCodecResult.IncompleteInput ? "The image is cut off before its end" : $"The image is broken ({result})", name, "Fetch it again or remove it");
    }

    /// <summary>The image as EXIF's orientation tag wants it seen (the eight origins of the EXIF 2.3 specification).</summary>
    private static RgbImage Turn(RgbImage image, SKEncodedOrigin origin)
    {
        if (origin is SKEncodedOrigin.TopLeft)
            return image;
        var (w, h) = (image.Width, image.Height);
        var turned = (int)origin >= (int)SKEncodedOrigin.LeftTop ? new RgbImage(h, w) : new RgbImage(w, h);
        for (var y = 0; y < turned.Height; y++)
            for (var x = 0; x < turned.Width; x++)
            {
                var (fromX, fromY) = origin switch
                {
                    SKEncodedOrigin.TopRight => (w - 1 - x, y),
                    SKEncodedOrigin.BottomRight => (w - 1 - x, h - 1 - y),
                    SKEncodedOrigin.BottomLeft => (x, h - 1 - y),
                    SKEncodedOrigin.LeftTop => (y, x),
                    SKEncodedOrigin.RightTop => (y, h - 1 - x),
                    SKEncodedOrigin.RightBottom => (w - 1 - y, h - 1 - x),
                    _ => (w - 1 - y, x), // LeftBottom
                };
                image.Pixels.AsSpan(3 * (fromY * w + fromX), 3).CopyTo(turned.Pixels.AsSpan(3 * (y * turned.Width + x)));
            }
        return turned;
    }
}
