using System.Globalization;
using System.Text.RegularExpressions;

namespace DeepfakeLab;

/// <summary>How hard a manipulation is to see, as CIPLAB's experts graded it.</summary>
public enum Difficulty { Easy, Mid, Hard }

/// <summary>The parts of a face that were replaced.</summary>
[Flags]
public enum FaceParts { None = 0, LeftEye = 1, RightEye = 2, Nose = 4, Mouth = 8 }

/// <summary>One image of a dataset.</summary>
/// <param name="Name">Path below the dataset's root, separated by '/': <c>training_fake/easy_1_0001.jpg</c>.</param>
/// <param name="Path">Absolute path of the file.</param>
/// <param name="Label">Index into <see cref="FaceDataset.Classes"/>.</param>
/// <param name="Difficulty">Read from the name of a CIPLAB fake; null for every other image.</param>
/// <param name="Replaced">Read from the name of a CIPLAB fake; none for every other image.</param>
/// <param name="Group">Images that show the same photo have the same number.</param>
public sealed record FaceImage(string Name, string Path, int Label, Difficulty? Difficulty, FaceParts Replaced, int Group)
{
    /// <summary>The parts that can be replaced, in words, in the order of CIPLAB's digits.</summary>
    internal static IReadOnlyList<(string Name, FaceParts Part)> Parts { get; } =
        [("left eye", FaceParts.LeftEye), ("right eye", FaceParts.RightEye), ("nose", FaceParts.Nose), ("mouth", FaceParts.Mouth)];

    /// <summary>"left eye, mouth"; empty where nothing was replaced or nothing is known of it.</summary>
    internal string ReplacedInWords => string.Join(", ", Parts.Where(p => Replaced.HasFlag(p.Part)).Select(p => p.Name));
}

/// <summary>A file that was left out of a dataset.</summary>
/// <param name="Name">Path below the dataset's root, separated by '/'.</param>
/// <param name="Path">Absolute path.</param>
/// <param name="Problem">What is wrong with it.</param>
public sealed record ImageProblem(string Name, string Path, string Problem)
{
    public override string ToString() => $"{Name}: {Problem}";
}

/// <summary>The names of CIPLAB's fakes: <c>mid_17_1100.jpg</c> is of middle difficulty and has both eyes replaced.</summary>
internal static partial class CiplabName
{
    public static (Difficulty? Difficulty, FaceParts Replaced) Decode(string fileName)
    {
        var match = Pattern().Match(fileName);
        if (!match.Success)
            return (null, FaceParts.None);
        var difficulty = Enum.Parse<Difficulty>(match.Groups[1].ValueSpan, ignoreCase: true);
        var bits = match.Groups[2].Value;
        return (difficulty, FaceImage.Parts.Where((_, i) => bits[i] == '1').Aggregate(FaceParts.None, (all, p) => all | p.Part));
    }

    public static string Encode(Difficulty difficulty, int number, FaceParts replaced) =>
        string.Create(CultureInfo.InvariantCulture,
            $"{difficulty.ToString().ToLowerInvariant()}_{number}_{string.Concat(FaceImage.Parts.Select(p => replaced.HasFlag(p.Part) ? '1' : '0'))}.jpg");

    [GeneratedRegex(@"^(easy|mid|hard)_[0-9]+_([01]{4})\.[a-z]+$", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant)]
    private static partial Regex Pattern();
}
