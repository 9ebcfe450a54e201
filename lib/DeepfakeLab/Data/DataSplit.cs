using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace DeepfakeLab;

/// <summary>Three parts of a dataset that share no photo.</summary>
/// <param name="Train">What the weights are fitted to.</param>
/// <param name="Validation">What epochs and settings are chosen by.</param>
/// <param name="Test">What the final figures are measured on, once.</param>
/// <param name="Seed">The seed that drew the split.</param>
public sealed record DataSplit(IReadOnlyList<FaceImage> Train, IReadOnlyList<FaceImage> Validation, IReadOnlyList<FaceImage> Test, long Seed)
{
    /// <summary>
    /// Splits by class and difficulty, keeping images of the same photo together. Which part an image falls into depends on the
    /// images' names and the seed alone, not on their order or the machine.
    /// </summary>
    internal static DataSplit Create(IReadOnlyList<FaceImage> images, double test, double validation, long seed)
    {
        if (!(test >= 0 && validation >= 0 && test + validation < 1))
            throw new DataException("The shares of test and validation leave nothing to train on",
                FormattableString.Invariant($"test {test}, validation {validation}"), "Choose shares of 0 or more that sum to less than 1");
        var strata = images.GroupBy(Stratum).ToDictionary(s => s.Key, s => Targets(s.Count(), test, validation));
        var missing = strata.ToDictionary(s => s.Key, s => (int[])s.Value.Clone());
        var parts = new List<FaceImage>[] { [], [], [] };

        // Groups first, the largest before the others, each to the part that is furthest from full in the group's strata; then
        // the single images, the vast majority, fill each stratum up to its exact shares.
        var groups = images.GroupBy(i => i.Group).Select(g => g.OrderBy(i => i.Name, StringComparer.Ordinal).ToList())
            .OrderByDescending(g => g.Count).ThenBy(g => Draw(seed, g[0].Name)).ThenBy(g => g[0].Name, StringComparer.Ordinal);
        foreach (var group in groups)
        {
            var part = group.Count == 1 ? FirstWithRoom(missing[Stratum(group[0])]) : Emptiest(group);
            foreach (var image in group)
                missing[Stratum(image)][part]--;
            parts[part].AddRange(group);
        }
        foreach (var part in parts)
            part.Sort((a, b) => string.CompareOrdinal(a.Name, b.Name));
        if ((test > 0 && parts[2].Count == 0) || (validation > 0 && parts[1].Count == 0) || parts[0].Count == 0)
            throw new DataException("There are too few images for such a split", $"{images.Count} images", "Add images, or set the share of that part to 0");
        return new DataSplit(parts[0], parts[1], parts[2], seed);

        int Emptiest(List<FaceImage> group)
        {
            var (best, bestNeed) = (0, double.NegativeInfinity);
            for (var part = 0; part < 3; part++)
            {
                var need = group.Average(i => strata[Stratum(i)][part] is > 0 and var target ? (double)missing[Stratum(i)][part] / target : -1);
                if (need > bestNeed)
                    (best, bestNeed) = (part, need);
            }
            return best;
        }
    }

    /// <summary>Every image a photo of its own: what a split that knows nothing of photos makes of them.</summary>
    internal static IReadOnlyList<FaceImage> Ungrouped(IReadOnlyList<FaceImage> images) => [.. images.Select((image, i) => image with { Group = i })];

    private static (int, Difficulty?) Stratum(FaceImage image) => (image.Label, image.Difficulty);

    private static int[] Targets(int count, double test, double validation)
    {
        var (forTest, forValidation) = ((int)Math.Round(count * test), (int)Math.Round(count * validation));
        return [count - forTest - forValidation, forValidation, forTest];
    }

    private static int FirstWithRoom(int[] missing) => missing[2] > 0 ? 2 : missing[1] > 0 ? 1 : 0;

    /// <summary>A number drawn for a name: hashing it makes the draw independent of all other names.</summary>
    private static ulong Draw(long seed, string name)
    {
        var text = Encoding.UTF8.GetBytes(name);
        var bytes = new byte[8 + text.Length];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, seed);
        text.CopyTo(bytes, 8);
        return BinaryPrimitives.ReadUInt64LittleEndian(SHA256.HashData(bytes));
    }
}
