namespace DeepfakeLab;

/// <summary>Many images on one sheet.</summary>
public static class ContactSheet
{
    /// <summary>Lays images out in rows, each fitted into a square of <paramref name="side"/> pixels.</summary>
    public static RgbImage Make(IReadOnlyList<FaceImage> images, int columns = 10, int side = 128)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(columns, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(side, 8);
        var rows = Math.Max(1, (images.Count + columns - 1) / columns);
        if ((long)rows * columns * side * side > ImageReader.LargestImage)
            throw new DataException($"A sheet of {images.Count} images would have more than {ImageReader.LargestImage / 1_000_000} million pixels",
                null, "Take fewer images or smaller ones");
        var sheet = new RgbImage(columns * side, rows * side);
        Array.Fill(sheet.Pixels, (byte)255);
        ImageLoader.ForEach(images.Count, LabProgress.Interrupt, i =>
        {
            var image = ImageReader.Read(images[i].Path);
            var scale = (double)side / Math.Max(image.Width, image.Height);
            int width = Math.Max(1, (int)(image.Width * scale)), height = Math.Max(1, (int)(image.Height * scale));
            image = Resampler.Resize(image, width, height, Interpolation.Bilinear);
            int left = i % columns * side + (side - width) / 2, top = i / columns * side + (side - height) / 2;
            for (var y = 0; y < height; y++)
                image.Pixels.AsSpan(3 * y * width, 3 * width).CopyTo(sheet.Pixels.AsSpan(3 * ((top + y) * sheet.Width + left)));
        });
        return sheet;
    }
}
