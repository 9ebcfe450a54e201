namespace DeepfakeLab;

/// <summary>Whether heat lies on the parts of a face that were replaced.</summary>
/// <param name="N">Images counted: fakes whose replaced parts are known.</param>
/// <param name="Hits">The share of images whose hottest place lies on a replaced part (the pointing game, Zhang et al. 2016).</param>
/// <param name="HeatInside">The mean share of the heat that lies on replaced parts.</param>
/// <param name="Chance">What blind pointing would reach: the mean share of the image that replaced parts cover.</param>
/// <param name="Swapped">
/// The share of hits when each hottest place is held against the other images' masks. A model that always looks at the middle of a face
/// beats <paramref name="Chance"/> without having seen anything, but not this; NaN for a single image. Where fakes have several parts
/// replaced the masks are much alike, and no model can beat it by much.
/// </param>
/// <param name="Cold">Images whose map holds no heat at all. They point nowhere, and count as missed.</param>
public sealed record Localisation(int N, double Hits, double HeatInside, double Chance, double Swapped, int Cold)
{
    /// <summary>The smaller side of the smallest replaced part, an eye, as a share of the image's: what the cells of a heat map should not be larger than.</summary>
    public static double SmallestPart => ciplabBoxes.Min(b => Math.Min(b.Right - b.Left, b.Bottom - b.Top));

    /// <summary>How many times as often as by blind pointing the hottest place is a replaced part.</summary>
    public double HitsOverChance => Hits / Chance;

    /// <summary>How many times as often the hottest place lies on the image's own replaced parts as on those of the others.</summary>
    public double HitsOverSwapped => Hits / Swapped;

    /// <summary>Compares heat maps with masks of the same images.</summary>
    /// <param name="heats">[h, w] each, of any size. The centre of the hottest cell is where it points; of several equally hot ones, each to its share.</param>
    /// <param name="masks">True where replaced, of any size but covering the same field of view; null where that is not known.</param>
    public static Localisation Of(IReadOnlyList<float[,]> heats, IReadOnlyList<bool[,]?> masks)
    {
        if (heats.Count != masks.Count)
            throw new EvaluationException("Heat maps and masks differ in number", $"{heats.Count} and {masks.Count}", "Pass one mask, or null, for each heat map");
        (float[,] Heat, bool[,] Mask, List<(double U, double V)> Hottest)[] known =
            [.. heats.Zip(masks).Where(p => p.Second is not null && p.Second.Cast<bool>().Contains(true)).Select(p => (p.First, p.Second!, Hottest(p.First)))];
        if (known.Length == 0)
            throw new EvaluationException("No image has a known replaced part", null, "Pass fakes whose names tell it (CIPLAB's, or the sample's)");
        double hits = 0, swapped = 0, inside = 0, chance = 0;
        for (var i = 0; i < known.Length; i++)
        {
            var (heat, mask, hottest) = known[i];
            var covered = mask.Cast<bool>().Count(m => m) / (double)mask.Length;
            chance += covered;
            hits += Hit(hottest, mask);
            inside += Inside(heat, mask) is var share && double.IsFinite(share) ? share : covered;
            for (var j = 0; j < known.Length; j++)
                swapped += j == i ? 0 : Hit(hottest, known[j].Mask);
        }
        var n = known.Length;
        return new Localisation(n, hits / n, inside / n, chance / n, swapped / n / (n - 1), known.Count(k => k.Hottest.Count == 0));
    }

    /// <summary>The centres of the hottest cells, from 0 to 1; none where there is no heat.</summary>
    /// <remarks>Not the maximum between the cells: beyond the outermost centres a map is flat, and its hottest pixel would be any, often one on the border.</remarks>
    private static List<(double U, double V)> Hottest(float[,] heat)
    {
        var highest = heat.Cast<float>().Max();
        var (rows, columns) = (heat.GetLength(0), heat.GetLength(1));
        return highest <= 0 ? [] :
            [.. from y in Enumerable.Range(0, rows) from x in Enumerable.Range(0, columns) where heat[y, x] == highest select ((x + 0.5) / columns, (y + 0.5) / rows)];
    }

    private static double Hit(List<(double U, double V)> places, bool[,] mask) => places.Count == 0 ? 0
        : places.Count(p => mask[(int)(p.V * mask.GetLength(0)), (int)(p.U * mask.GetLength(1))]) / (double)places.Count;

    /// <summary>The share of the heat that lies on the mask; NaN where there is no heat.</summary>
    private static double Inside(float[,] heat, bool[,] mask)
    {
        var (rows, columns) = (mask.GetLength(0), mask.GetLength(1));
        double sum = 0, on = 0;
        for (var y = 0; y < rows; y++)
        {
            for (var x = 0; x < columns; x++)
            {
                var value = Charts.Sample(heat, (x + 0.5) / columns, (y + 0.5) / rows);
                sum += value;
                on += mask[y, x] ? value : 0;
            }
        }
        return on / sum;
    }

    /// <summary>
    /// A mask of the places where CIPLAB's photos have the parts that this image's name says were replaced; null when it names none.
    /// Rough: the boxes are where the parts lie on average (mean of 500 of its photos), its photos being centred on the face.
    /// The name's "left" eye is the one at the image's left, as 11 of the 14 pairs that differ in one eye show.
    /// </summary>
    public static bool[,]? CiplabMask(FaceImage image, int size = 100)
    {
        if (image.Replaced == FaceParts.None)
            return null;
        var mask = new bool[size, size];
        foreach (var (part, left, top, right, bottom) in ciplabBoxes)
        {
            if (!image.Replaced.HasFlag(part))
                continue;
            for (var y = (int)(top * size); y < bottom * size; y++)
            {
                for (var x = (int)(left * size); x < right * size; x++)
                    mask[y, x] = true;
            }
        }
        return mask;
    }

    private static readonly (FaceParts Part, double Left, double Top, double Right, double Bottom)[] ciplabBoxes =
    [
        (FaceParts.LeftEye, 0.26, 0.38, 0.48, 0.55),
        (FaceParts.RightEye, 0.52, 0.38, 0.74, 0.55),
        (FaceParts.Nose, 0.38, 0.46, 0.62, 0.67),
        (FaceParts.Mouth, 0.32, 0.65, 0.68, 0.83),
    ];
}
