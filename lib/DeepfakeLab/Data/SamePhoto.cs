namespace DeepfakeLab;

/// <summary>Finds images that show the same photo.</summary>
internal static class SamePhoto
{
    /// <summary>A group number for each image.</summary>
    public static int[] Group(IReadOnlyList<IndexedImage> images) => [.. Enumerable.Range(0, images.Count)];
}
