namespace DeepfakeLab;

/// <summary>Cuts the surroundings off faces, at full resolution: a model that sees the whole picture at 224 pixels loses the seams.</summary>
/// <remarks>
/// It cuts the middle, where a portrait has its face: no package of a face detector with weights of a free licence was to be had when this
/// was written. Pictures with the face elsewhere need another tool.
/// </remarks>
public static class FaceCrop
{
    /// <summary>How the crop is chosen, for messages.</summary>
    public const string Method = "central square; no face detector is built in";

    /// <summary>Writes a crop of every good image of a folder, as PNG, into the same sub-folders of another one.</summary>
    /// <param name="data">What to crop.</param>
    /// <param name="folder">Must not exist or be empty; appears whole or not at all.</param>
    /// <param name="keep">The crop's side as a share of the image's shorter side, above 0 to 1.</param>
    /// <returns>How many crops were written.</returns>
    /// <exception cref="DataException">The folder is taken or cannot be written, or two images would get one name.</exception>
    public static int Write(FaceDataset data, string folder, double keep, CancellationToken cancellation = default)
    {
        if (keep is not (> 0 and <= 1))
            throw new DataException("The share to keep lies above 0 and is at most 1", keep.ToString(System.Globalization.CultureInfo.InvariantCulture), "Use 0.7 for portraits");
        folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        FaceArchive.CheckFree(folder);
        var names = data.Images.Select(i => Path.ChangeExtension(i.Name, ".png")).ToList();
        if (names.GroupBy(n => n, StringComparer.OrdinalIgnoreCase).FirstOrDefault(g => g.Count() > 1) is { } twice)
            throw new DataException("Two images would get one name", twice.Key, "Rename one of them");
        var temporary = $"{folder}.{Guid.NewGuid():N}.tmp";
        try
        {
            var progress = LabProgress.Begin("cropping", names.Count, "images");
            ImageLoader.ForEach(names.Count, cancellation, i =>
            {
                var image = ImageReader.Read(data.Images[i].Path);
                var side = Math.Max(1, (int)Math.Round(keep * Math.Min(image.Width, image.Height)));
                new Preprocessing(null, new Preprocessing.Size(side, side)).Apply(image).SavePng(Path.Combine(temporary, names[i]));
                progress.Advance();
            });
            if (Directory.Exists(folder))
                Directory.Delete(folder);
            Directory.Move(temporary, folder);
            return names.Count;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DataException($"The crops cannot be written ({e.Message.TrimEnd('.')})", folder, "Name a folder that can be written", e);
        }
        finally
        {
            if (Directory.Exists(temporary))
                Directory.Delete(temporary, recursive: true);
        }
    }
}
