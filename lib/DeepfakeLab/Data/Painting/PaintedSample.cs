namespace DeepfakeLab;

/// <summary>
/// The embedded sample: 600 painted faces in CIPLAB's layout, so that everything runs without the photographs. It is painted once
/// into the cache folder. Beside each fake lies the mask of what was replaced.
/// </summary>
internal static class PaintedSample
{
    /// <summary>Raise it whenever a change alters the pictures: the folder in the cache carries it.</summary>
    public const int Version = 3;

    public const int Side = 256;
    public const int Real = 320;
    private const long Seeds = 0x5A3B_0000_0000; // far from the seeds that pretraining counts up from 0

    /// <summary>The file that tells a sample's folder from one of photographs, and the folder of its masks.</summary>
    public const string Marker = ".painted-sample";
    private const string MaskFolder = ".masks";

    private static readonly (Difficulty Difficulty, int Count)[] fakes = [(Difficulty.Easy, 70), (Difficulty.Mid, 140), (Difficulty.Hard, 70)];

    // How often CIPLAB replaces which parts, roughly.
    private static readonly (FaceParts Parts, int Weight)[] choices =
    [
        (All(1, 1, 1, 1), 22), (All(1, 1, 1, 0), 12), (All(1, 1, 0, 1), 14), (All(0, 0, 1, 1), 18), (All(1, 1, 0, 0), 14),
        (All(0, 0, 0, 1), 6), (All(0, 0, 1, 0), 5), (All(1, 0, 0, 0), 4), (All(0, 1, 0, 0), 3), (All(1, 0, 0, 1), 2),
    ];

    private static FaceParts All(int left, int right, int nose, int mouth) => (FaceParts)(left | 2 * right | 4 * nose | 8 * mouth);

    public static int Count => Real + fakes.Sum(f => f.Count);

    /// <summary>The images of a sample: all of them, or (twins with them) every eighth.</summary>
    private static IReadOnlyList<int> Indices(bool quick) => [.. Enumerable.Range(0, Count).Where(i => !quick || i % 8 == 0)];

    /// <summary>The sample's folder in the cache, painted first where it is not there yet.</summary>
    public static string Ensure()
    {
        var failures = new List<string>();
        foreach (var cache in NativeLibraryFix.CacheFolders())
        {
            var folder = Path.Combine(cache, $"painted-sample-{Version}{(LabRuntime.Quick ? "-eighth" : "")}");
            try
            {
                if (!IsWhole(folder, LabRuntime.Quick))
                    Write(folder, LabRuntime.Quick);
                return folder;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                failures.Add($"{folder} ({e.Message})");
            }
        }
        throw new DataException("No folder takes the painted sample", string.Join(", ", failures), "Set DEEPFAKELAB_CACHE to a folder that can be written");
    }

    /// <summary>Paints the sample into a new folder. It appears in one move, whole; of two writers at once, one wins.</summary>
    public static void Write(string folder, bool quick = false, CancellationToken cancellation = default)
    {
        var indices = Indices(quick);
        folder = Path.GetFullPath(folder);
        var temporary = $"{folder}.{Guid.NewGuid():N}.tmp";
        try
        {
            foreach (var name in (string[])["training_fake", "training_real", MaskFolder])
                Directory.CreateDirectory(Path.Combine(temporary, name));
            var progress = LabProgress.Begin("painting the sample", indices.Count, "images");
            using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
            ImageLoader.ForEach(indices.Count, either.Token, i =>
            {
                var (name, picture, mask) = Paint(indices[i]);
                File.WriteAllBytes(Path.Combine(temporary, name), picture);
                if (mask is not null)
                    File.WriteAllBytes(MaskPath(temporary, name), mask);
                progress.Advance();
            });
            File.WriteAllText(Path.Combine(temporary, Marker), $"Painted faces, not photographs: version {Version} of DeepfakeLab's sample.\n");
            if (Directory.Exists(folder) && !IsWhole(folder, quick))
                Directory.Delete(folder, recursive: true); // left by someone who deleted a part of it
            if (!Directory.Exists(folder))
                Directory.Move(temporary, folder);
        }
        catch (IOException) when (IsWhole(folder, quick))
        {
            // another process was faster
        }
        finally
        {
            if (Directory.Exists(temporary))
                Directory.Delete(temporary, recursive: true);
        }
    }

    /// <summary>Which pixels of an image were replaced, as bits of <see cref="FaceParts"/> [H, W]; null where no mask lies beside it.</summary>
    public static byte[,]? ReadMask(string root, FaceImage image)
    {
        var path = MaskPath(root, image.Name);
        if (!File.Exists(path))
            return null;
        var picture = ImageReader.Read(path);
        var mask = new byte[picture.Height, picture.Width];
        for (int y = 0, at = 0; y < picture.Height; y++)
            for (var x = 0; x < picture.Width; x++, at += 3)
                mask[y, x] = picture.Pixels[at];
        return mask;
    }

    private static string MaskPath(string root, string name) => Path.Combine(root, MaskFolder, Path.GetFileNameWithoutExtension(name) + ".png");

    private static bool IsWhole(string folder, bool quick) =>
        File.Exists(Path.Combine(folder, Marker)) && Directory.EnumerateFiles(folder, "*.jpg", SearchOption.AllDirectories).Count() == Indices(quick).Count;

    /// <summary>Paints one image: the first <see cref="Real"/> are real, the others fakes.</summary>
    internal static (string Name, byte[] Picture, byte[]? Mask) Paint(int index)
    {
        var face = TraitsOf(index);
        if (index < Real)
            return (RealName(index), FacePainter.Paint(face, Side).ToJpeg(face.Camera.Quality), null);
        var (difficulty, number) = Fake(index);
        var replaced = Choose(Seeds + index);
        var (picture, mask) = FaceForger.Forge(face, difficulty, replaced, Seeds + index, Side);
        return ("training_fake/" + CiplabName.Encode(difficulty, number, replaced), picture.ToJpeg(face.Camera.Quality), MaskImage(mask).ToPng());
    }

    /// <summary>The face of an image; a fake's before it was forged.</summary>
    internal static FaceTraits TraitsOf(int index)
    {
        var face = FaceTraits.Random(Seeds + (TwinOf(index) ?? index));
        // Dark glasses would hide what was done to the eyes, so nobody in the sample wears them.
        return face.Glasses == Glasses.Dark ? face with { Glasses = Glasses.Clear } : face;
    }

    /// <summary>Which fakes were made from which real image of the sample: the start of the fake's name, the real image's name.</summary>
    internal static IEnumerable<(string Fake, string Real)> Twins() =>
        from index in Enumerable.Range(Real, Count - Real)
        where TwinOf(index) is not null
        let fake = Fake(index)
        select ($"{fake.Difficulty}_{fake.Number}_".ToLowerInvariant(), Path.GetFileName(RealName(TwinOf(index)!.Value)));

    /// <summary>Every 18th fake is made from a real face of the sample: photos that are there twice, as in CIPLAB's data.</summary>
    private static int? TwinOf(int index) => index >= Real && (index - Real) % 18 == 0 ? index - Real : null;

    private static string RealName(int index) => FormattableString.Invariant($"training_real/real_{index + 1:00000}.jpg");

    private static (Difficulty Difficulty, int Number) Fake(int index)
    {
        var number = index - Real;
        foreach (var (difficulty, count) in fakes)
        {
            if (number < count)
                return (difficulty, number + 1);
            number -= count;
        }
        throw new ArgumentOutOfRangeException(nameof(index));
    }

    private static FaceParts Choose(long seed)
    {
        var at = new SeededRandom(SeededRandom.Combine(seed, 0xB0)).Next(choices.Sum(c => c.Weight));
        return choices.First(c => (at -= c.Weight) < 0).Parts;
    }

    private static RgbImage MaskImage(byte[] mask)
    {
        var image = new RgbImage(Side, Side);
        for (var i = 0; i < mask.Length; i++)
            image.Pixels.AsSpan(3 * i, 3).Fill(mask[i]);
        return image;
    }
}
