namespace DeepfakeLab;

/// <summary>Whether heat lies on the parts of a face that were replaced.</summary>
/// <param name="N">Images counted: fakes whose replaced parts are known.</param>
/// <param name="Hits">The share of images whose hottest place lies on a replaced part (the pointing game, Zhang et al. 2016).</param>
/// <param name="HeatInside">The mean share of the heat that lies on replaced parts.</param>
/// <param name="Chance">What blind pointing would reach: the mean share of the image that replaced parts cover.</param>
public sealed record Localisation(int N, double Hits, double HeatInside, double Chance)
{
    /// <summary>How many times as often as by chance the hottest place is a replaced part.</summary>
    public double HitsOverChance => Hits / Chance;

    /// <summary>Compares heat maps with masks of the same images.</summary>
    /// <param name="heats">[h, w] each, of any size.</param>
    /// <param name="masks">True where replaced, of any size but covering the same field of view; null where that is not known.</param>
    public static Localisation Of(IReadOnlyList<float[,]> heats, IReadOnlyList<bool[,]?> masks)
    {
        if (heats.Count != masks.Count)
            throw new EvaluationException("Heat maps and masks differ in number", $"{heats.Count} and {masks.Count}", "Pass one mask, or null, for each heat map");
        int n = 0, hits = 0;
        double inside = 0, chance = 0;
        foreach (var (heat, mask) in heats.Zip(masks))
        {
            var pixels = mask?.Length ?? 0;
            if (mask is null || pixels == 0 || !mask.Cast<bool>().Contains(true))
                continue;
            n++;
            int covered = 0, hottest = 0;
            double sum = 0, on = 0, highest = -1;
            var (rows, columns) = (mask.GetLength(0), mask.GetLength(1));
            for (var y = 0; y < rows; y++)
            {
                for (var x = 0; x < columns; x++)
                {
                    var (value, hit) = (Charts.Sample(heat, (x + 0.5) / columns, (y + 0.5) / rows), mask[y, x]);
                    covered += hit ? 1 : 0;
                    sum += value;
                    on += hit ? value : 0;
                    if (value > highest)
                        (highest, hottest) = (value, hit ? 1 : 0);
                }
            }
            var share = covered / (double)pixels;
            hits += highest > 0 ? hottest : 0; // a map without any heat points nowhere
            inside += sum > 0 ? on / sum : share;
            chance += share;
        }
        return n == 0
            ? throw new EvaluationException("No image has a known replaced part", null, "Pass fakes whose names tell it (CIPLAB's, or the sample's)")
            : new Localisation(n, hits / (double)n, inside / n, chance / n);
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
