using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Varied copies of images as files of their own, as the original study made them, so that they can be looked at, and split wrongly.</summary>
internal static class AugmentedCopies
{
    /// <summary>Writes copies of images, resized and varied, into the cache, where they are not there yet.</summary>
    /// <param name="copies">Of each image.</param>
    /// <param name="size">Pixels a side of the copies.</param>
    /// <param name="seed">Of how they are varied.</param>
    /// <returns>Copies called "name#1" and so on, with the label and the group of their image.</returns>
    public static IReadOnlyList<FaceImage> Write(IReadOnlyList<FaceImage> images, int copies, int size, Augmentation augmentation, long seed, CancellationToken cancellation)
    {
        LabRuntime.Start();
        var folder = Path.Combine(LabFolders.Cache, "copies");
        var written = new FaceImage[images.Count * copies];
        var progress = LabProgress.Begin("varied copies of the images", written.Length, "images");
        ImageLoader.ForEach(images.Count, cancellation, i =>
        {
            var bytes = ImageReader.ReadFile(images[i].Path);
            var content = Convert.ToHexStringLower(SHA256.HashData(bytes));
            RgbImage? resized = null;
            for (var copy = 1; copy <= copies; copy++)
            {
                var draw = SeededRandom.Combine(seed, 7, copy, BitConverter.ToInt64(SHA256.HashData(Encoding.UTF8.GetBytes(images[i].Name))));
                var name = Hash(string.Create(CultureInfo.InvariantCulture, $"{content} {size} {augmentation} {draw}"));
                var path = Path.Combine(folder, name[..2], name + ".png");
                if (!File.Exists(path))
                {
                    resized ??= Preprocessing.Square(size).Apply(ImageReader.Decode(bytes, images[i].Path));
                    Vary(resized, augmentation, draw).SavePng(path);
                }
                written[i * copies + copy - 1] = images[i] with { Name = $"{images[i].Name}#{copy}", Path = path };
                progress.Advance();
            }
        });
        return written;
    }

    private static RgbImage Vary(RgbImage image, Augmentation augmentation, ulong draw)
    {
        using var scope = NewDisposeScope();
        var planes = augmentation.Apply(Preprocessing.ToTensor(image).unsqueeze(0), [draw]).round().clamp(0, 255).to(ScalarType.Byte);
        return new RgbImage(image.Width, image.Height, planes[0].permute(1, 2, 0).contiguous().bytes.ToArray());
    }

    private static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)));
}
