using SkiaSharp;

namespace DeepfakeLab;

/// <summary>How well a painted fake is made. All that decides how hard the sample is to see through stands in <see cref="Of"/>.</summary>
/// <param name="Feather">Width of the seam, in pixels of 256.</param>
/// <param name="ColourMatch">How much of the colour difference at the seam is taken out, 0 to 1.</param>
/// <param name="Skin">Largest difference of skin tone between the two faces.</param>
/// <param name="Light">Largest difference of the light's direction.</param>
/// <param name="Pose">Largest difference of turn and lean, in radians.</param>
/// <param name="Shift">Largest displacement of a part, in pixels of 256.</param>
/// <param name="Stretch">Largest difference of a part's size.</param>
internal sealed record SeamCraft(float Feather, float ColourMatch, double Skin, double Light, double Pose, double Shift, double Stretch)
{
    public static SeamCraft Of(Difficulty difficulty) => difficulty switch
    {
        Difficulty.Easy => new(0.5f, 0.0f, 1.00, 2.0, 0.25, 5.0, 0.22),
        Difficulty.Mid => new(0.6f, 0.0f, 0.60, 2.0, 0.25, 4.0, 0.18),
        _ => new(1.0f, 0.2f, 0.40, 1.6, 0.20, 3.0, 0.14),
    };
}

/// <summary>Makes fakes: parts of one painted face put into another, with the seams that such work leaves.</summary>
internal static class FaceForger
{
    private static readonly FaceParts[] parts = [FaceParts.LeftEye, FaceParts.RightEye, FaceParts.Nose, FaceParts.Mouth];

    /// <summary>The picture of a forged face and, for each pixel, the parts that were put there (as bits of <see cref="FaceParts"/>).</summary>
    public static (RgbImage Picture, byte[] Mask) Forge(FaceTraits face, Difficulty difficulty, FaceParts replaced, long seed, int size)
    {
        var (scene, mask) = ForgeScene(face, difficulty, replaced, seed, size);
        return (face.Camera.Take(scene, seed), mask);
    }

    /// <summary>The same before the camera. Outside the mask it equals the untouched scene.</summary>
    public static (RgbImage Scene, byte[] Mask) ForgeScene(FaceTraits face, Difficulty difficulty, FaceParts replaced, long seed, int size)
    {
        var craft = SeamCraft.Of(difficulty);
        var random = new SeededRandom(SeededRandom.Combine(seed, 0xF0));
        var donor = Donor(face, craft, ref random);
        RgbImage scene = FacePainter.PaintScene(face, size), from = FacePainter.PaintScene(donor, size);
        var (faceHead, donorHead, mask) = (new HeadShape(face), new HeadShape(donor), new byte[size * size]);
        using var inside = Inside(faceHead, size);
        foreach (var part in parts.Where(p => replaced.HasFlag(p)))
            Transplant(scene, from, faceHead, donorHead, part, craft, ref random, mask, inside.GetPixelSpan());
        return (scene, mask);
    }

    /// <summary>Another person in nearly the same pose, who wears the same glasses: those would give every forged eye away.</summary>
    private static FaceTraits Donor(FaceTraits face, SeamCraft craft, ref SeededRandom random)
    {
        var other = FaceTraits.Random((long)(random.NextUInt64() >> 1));
        return other with
        {
            Skin = Math.Clamp(face.Skin + random.Symmetric(craft.Skin), 0, 1),
            Yaw = Math.Clamp(face.Yaw + random.Symmetric(craft.Pose), -0.45, 0.45),
            Roll = face.Roll + random.Symmetric(craft.Pose * 0.5),
            LightX = Math.Clamp(face.LightX + random.Symmetric(craft.Light), -1, 1),
            LightStrength = Math.Clamp(face.LightStrength + random.Symmetric(craft.Light * 0.35), 0.3, 1),
            Zoom = face.Zoom * (1 + random.Symmetric(0.05)),
            OffsetX = 0,
            OffsetY = 0,
            Glasses = face.Glasses,
            AccessoryHue = face.AccessoryHue,
            ClothesHue = face.ClothesHue,
            Headwear = Headwear.None,
            HairStyle = face.HairStyle == HairStyle.Fringe ? HairStyle.Fringe : HairStyle.Short,
            Beard = craft.ColourMatch > 0.5f ? face.Beard : other.Beard,
            Age = craft.ColourMatch > 0.5f ? face.Age : other.Age,
        };
    }

    private static void Transplant(RgbImage scene, RgbImage from, HeadShape face, HeadShape donor, FaceParts part, SeamCraft craft,
        ref SeededRandom random, byte[] mask, ReadOnlySpan<byte> inside)
    {
        var size = scene.Width;
        var unit = size / HeadShape.Canvas;
        var (centre, halfWidth, halfHeight) = face.Part(part);
        var (donorCentre, donorWidth, donorHeight) = donor.Part(part);
        var (width, height) = (donorWidth * (1 + (float)random.Symmetric(craft.Stretch)), donorHeight * (1 + (float)random.Symmetric(craft.Stretch)));
        var (shiftX, shiftY) = ((float)random.Symmetric(craft.Shift), (float)random.Symmetric(craft.Shift));
        face.Placement.TryInvert(out var toFace);
        var feather = craft.Feather / MathF.Min(halfWidth, halfHeight);

        // First pass: where each pixel of the part comes from, how much of it is laid over, and the colours along the rim.
        var (middle, reach) = (face.Placement.MapPoint(centre), 1.6f * MathF.Max(halfWidth, halfHeight));
        var pieces = new List<(int At, float Alpha, float R, float G, float B)>();
        Span<double> rimFace = stackalloc double[3], rimDonor = stackalloc double[3];
        var rim = 0;
        for (var y = Math.Max(0, (int)((middle.Y - reach) * unit)); y < Math.Min(size, (middle.Y + reach) * unit); y++)
            for (var x = Math.Max(0, (int)((middle.X - reach) * unit)); x < Math.Min(size, (middle.X + reach) * unit); x++)
            {
                var local = toFace.MapPoint(new SKPoint((x + 0.5f) / unit, (y + 0.5f) / unit));
                float nx = (local.X - centre.X) / halfWidth, ny = (local.Y - centre.Y) / halfHeight;
                var radius = MathF.Sqrt(MathF.Sqrt(nx * nx * nx * nx + ny * ny * ny * ny)) * 0.5f + MathF.Sqrt(nx * nx + ny * ny) * 0.5f; // between a box and an oval
                var at = y * size + x;
                var alpha = Math.Clamp((1 - radius) / feather + 0.5f, 0, 1) * inside[4 * at + 3] / 255;
                if (alpha < 1 / 255f)
                    continue;
                var source = donor.Placement.MapPoint(new SKPoint(donorCentre.X + nx * width + shiftX, donorCentre.Y + ny * height + shiftY));
                var (r, g, b) = Sample(from, source.X * unit - 0.5f, source.Y * unit - 0.5f);
                pieces.Add((at, alpha, r, g, b));
                if (radius > 0.78f)
                {
                    for (var c = 0; c < 3; c++)
                        rimFace[c] += scene.Pixels[3 * at + c];
                    (rimDonor[0], rimDonor[1], rimDonor[2], rim) = (rimDonor[0] + r, rimDonor[1] + g, rimDonor[2] + b, rim + 1);
                }
            }

        Span<float> gain = stackalloc float[3];
        for (var c = 0; c < 3; c++)
            gain[c] = 1 + craft.ColourMatch * (float)(Math.Clamp((rimFace[c] + rim) / (rimDonor[c] + rim + 1e-9), 0.4, 2.5) - 1);
        foreach (var (at, alpha, r, g, b) in pieces)
        {
            Blend(ref scene.Pixels[3 * at], r * gain[0], alpha);
            Blend(ref scene.Pixels[3 * at + 1], g * gain[1], alpha);
            Blend(ref scene.Pixels[3 * at + 2], b * gain[2], alpha);
            mask[at] |= (byte)part;
        }

        static void Blend(ref byte pixel, float value, float alpha) => pixel = (byte)Math.Clamp(pixel + (value - pixel) * alpha + 0.5f, 0, 255);
    }

    /// <summary>The face's own area, softly edged, as the alpha of an image: nothing is put beside the face.</summary>
    private static SKBitmap Inside(HeadShape head, int size)
    {
        var bitmap = new SKBitmap(new SKImageInfo(size, size, SKColorType.Rgba8888, SKAlphaType.Premul));
        bitmap.Erase(SKColors.Transparent);
        using var canvas = new SKCanvas(bitmap);
        canvas.Scale(size / HeadShape.Canvas);
        var placement = head.Placement;
        canvas.Concat(in placement);
        canvas.Scale(0.95f, 0.98f);
        using var brush = new Brush(canvas);
        using var outline = head.Outline();
        brush.Fill(outline, SKColors.White);
        canvas.Flush();
        return bitmap;
    }

    private static (float R, float G, float B) Sample(RgbImage image, float x, float y)
    {
        x = Math.Clamp(x, 0, image.Width - 1.001f);
        y = Math.Clamp(y, 0, image.Height - 1.001f);
        var (ix, iy) = ((int)x, (int)y);
        var (fx, fy, stride) = (x - ix, y - iy, 3 * image.Width);
        var at = iy * stride + 3 * ix;
        var p = image.Pixels;
        return (One(at), One(at + 1), One(at + 2));

        float One(int i)
        {
            var top = p[i] + (p[i + 3] - p[i]) * fx;
            var bottom = p[i + stride] + (p[i + stride + 3] - p[i + stride]) * fx;
            return top + (bottom - top) * fy;
        }
    }
}
