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
public sealed record FaceImage(string Name, string Path, int Label, Difficulty? Difficulty, FaceParts Replaced, int Group);

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
    private static readonly FaceParts[] parts = [FaceParts.LeftEye, FaceParts.RightEye, FaceParts.Nose, FaceParts.Mouth];

    public static (Difficulty? Difficulty, FaceParts Replaced) Decode(string fileName)
    {
        var match = Pattern().Match(fileName);
        if (!match.Success)
            return (null, FaceParts.None);
        var difficulty = Enum.Parse<Difficulty>(match.Groups[1].ValueSpan, ignoreCase: true);
        var bits = match.Groups[2].Value;
        return (difficulty, parts.Where((_, i) => bits[i] == '1').Aggregate(FaceParts.None, (a, b) => a | b));
    }

    public static string Encode(Difficulty difficulty, int number, FaceParts replaced) =>
        string.Create(CultureInfo.InvariantCulture,
            $"{difficulty.ToString().ToLowerInvariant()}_{number}_{string.Concat(parts.Select(p => replaced.HasFlag(p) ? '1' : '0'))}.jpg");

    [GeneratedRegex(@"^(easy|mid|hard)_[0-9]+_([01]{4})\.[a-z]+$", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant)]
    private static partial Regex Pattern();
}
