using System.Security.Cryptography;
using System.Text;

namespace DeepfakeLab;

/// <summary>A folder of face images, one sub-folder a class.</summary>
public sealed class FaceDataset
{
    private static readonly string[] wordsForFake = ["fake", "manipulated", "forged", "tampered", "altered", "synthetic", "generated"];

    private FaceDataset() { }

    /// <summary>The folder that holds the class folders.</summary>
    public required string Root { get; init; }

    /// <summary>Which rule chose the folder, in words.</summary>
    public required string Origin { get; init; }

    /// <summary>Whether these are the embedded sample's painted faces. Figures measured on them say nothing about real photos.</summary>
    public required bool IsSample { get; init; }

    /// <summary>The classes in the order of their folders' names; CIPLAB's are fake = 0, real = 1.</summary>
    public required IReadOnlyList<string> Classes { get; init; }

    /// <summary>Index of the positive class: the first whose name says fake (or manipulated, forged, ...), else 0.</summary>
    public required int FakeClass { get; init; }

    /// <summary>All good images, ordered by name.</summary>
    public required IReadOnlyList<FaceImage> Images { get; init; }

    /// <summary>The files that were left out, ordered by name.</summary>
    public required IReadOnlyList<ImageProblem> Problems { get; init; }

    /// <summary>SHA-256 over the names and contents of all images: the same wherever the same data lies.</summary>
    public required string Fingerprint { get; init; }

    /// <summary>What the index knows of each image, in the order of <see cref="Images"/>.</summary>
    internal IReadOnlyList<IndexedImage> Index { get; private init; } = [];

    /// <summary>
    /// Opens a dataset: CIPLAB's "Real and Fake Face Detection", whose file names are decoded, or any folder with one sub-folder a
    /// class. Every image is decoded once; a second opening takes what was found from the cache.
    /// </summary>
    /// <param name="path">The folder; else <c>DEEPFAKELAB_DATA</c>; else <c>data/real_and_fake_face</c> in the working directory or
    /// above it; else the embedded sample.</param>
    /// <param name="strict">Stop at the first file that is broken, empty, of another type or too large, instead of leaving it out.</param>
    /// <exception cref="DataException">The folder does not exist or does not hold two classes of images.</exception>
    /// <exception cref="ImageException">Under <paramref name="strict"/>: a file is not a good image.</exception>
    public static FaceDataset Open(string? path = null, bool strict = false)
    {
        var (root, origin) = FaceFolder.Choose(path)
            ?? (PaintedSample.Ensure(), "the embedded sample of painted faces, as no folder was given and none is at data/real_and_fake_face");
        return Read(FaceFolder.Unwrap(root), origin, strict);
    }

    /// <summary>Paints the embedded sample into a folder that does not exist yet, to be looked at or opened like any other.</summary>
    /// <exception cref="DataException">The folder exists, or cannot be written.</exception>
    public static void WriteSample(string folder, CancellationToken cancellation = default)
    {
        if (Path.Exists(folder))
            throw new DataException("The folder for the sample exists already", folder, "Name one that does not");
        try
        {
            PaintedSample.Write(folder, cancellation: cancellation);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DataException("The sample cannot be written there", folder, "Name a folder that can be written", e);
        }
    }

    /// <summary>Which pixels of one of the sample's fakes were replaced, bool [H, W]; null for images whose mask is not known.</summary>
    /// <param name="parts">Only these parts' pixels; all of them by default.</param>
    public bool[,]? Mask(FaceImage image, FaceParts parts = FaceParts.LeftEye | FaceParts.RightEye | FaceParts.Nose | FaceParts.Mouth)
    {
        if (!IsSample || PaintedSample.ReadMask(Root, image) is not { } bits)
            return null;
        var mask = new bool[bits.GetLength(0), bits.GetLength(1)];
        for (var y = 0; y < mask.GetLength(0); y++)
            for (var x = 0; x < mask.GetLength(1); x++)
                mask[y, x] = ((FaceParts)bits[y, x] & parts) != 0;
        return mask;
    }

    /// <summary>Splits into parts that share no photo, stratified by class and difficulty.</summary>
    /// <param name="test">Share of all images, 0 to 1.</param>
    /// <param name="validation">Share of all images, 0 to 1.</param>
    /// <param name="seed">The same seed and images give the same split everywhere.</param>
    /// <exception cref="DataException">The shares make no sense, or there are too few images.</exception>
    public DataSplit Split(double test = 0.2, double validation = 0.16, long seed = 42) => DataSplit.Create(Images, test, validation, seed);

    public override string ToString() =>
        $"{Images.Count} images ({string.Join(", ", Classes.Select((c, i) => $"{Images.Count(image => image.Label == i)} {c}"))}) from {Origin}"
        + (Problems.Count == 0 ? "" : $"; {Problems.Count} left out")
        + (LabRuntime.Quick ? ". QUICK CHECK (DEEPFAKELAB_QUICK=1): fewer images, trainings cut to an epoch; every figure below is meaningless" : "");

    private static FaceDataset Read(string root, string origin, bool strict)
    {
        var folders = FaceFolder.ClassFolders(root);
        var looked = ImageIndex.Build(root, [.. folders.SelectMany(folder => FaceFolder.Files(root, folder))]);
        var problems = looked.Where(i => i.Problem is not null).Select(i => new ImageProblem(i.Name, Path.Combine(root, i.Name), i.Problem!)).ToList();
        if (strict && problems.Count > 0)
            throw new ImageException(problems[0].Problem, problems[0].Path, "Replace or remove it, or open the folder without strict");
        var good = looked.Where(i => i.Problem is null).OrderBy(i => i.Name, StringComparer.Ordinal).ToList();
        folders = [.. folders.Where(folder => good.Exists(i => i.Name.StartsWith(folder + "/", StringComparison.Ordinal)))];
        if (folders.Count < 2)
            throw new DataException($"The folder holds {(folders.Count == 0 ? "no" : "only one")} class of images", root,
                "Give the folder that holds one sub-folder a class, such as training_fake and training_real");

        var groups = SamePhoto.Group(good);
        var images = new List<FaceImage>(good.Count);
        foreach (var (image, group) in good.Zip(groups))
        {
            var label = folders.IndexOf(image.Name[..image.Name.IndexOf('/')]);
            var (difficulty, replaced) = CiplabName.Decode(image.Name[(image.Name.LastIndexOf('/') + 1)..]);
            images.Add(new FaceImage(image.Name, Path.Combine(root, image.Name.Replace('/', Path.DirectorySeparatorChar)), label, difficulty, replaced, group));
        }
        // CIPLAB calls its folders training_fake and training_real; the classes are fake and real.
        var classes = folders.ConvertAll(f => f.StartsWith("training_", StringComparison.Ordinal) ? f["training_".Length..] : f);
        var fake = classes.FindIndex(c => Array.Exists(wordsForFake, word => c.Contains(word, StringComparison.OrdinalIgnoreCase)));
        return new FaceDataset
        {
            Root = root,
            Origin = origin,
            IsSample = File.Exists(Path.Combine(root, PaintedSample.Marker)),
            Classes = classes,
            FakeClass = Math.Max(fake, 0),
            Images = images,
            Problems = problems,
            Fingerprint = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', good.Select(i => i.Name + " " + i.Hash))))),
            Index = good,
        };
    }
}
