using SkiaSharp;

namespace DeepfakeLab;

/// <summary>Where the parts of a face lie in a picture of 256 x 256: a turned ellipsoid seen from the front.</summary>
/// <remarks>
/// Head coordinates: u from -1 (left edge of an unturned face) to 1, v from -1 (hairline) to 1 (chin). Local coordinates: pixels
/// from the head's centre, before the lean of the head, its zoom and its place are applied by <see cref="Placement"/>.
/// </remarks>
internal sealed class HeadShape
{
    public const float Canvas = 256;

    public HeadShape(FaceTraits traits)
    {
        Traits = traits;
        (A, B) = (62 * (float)traits.FaceWidth, 82 * (float)traits.FaceHeight);
        (sin, cos) = ((float)Math.Sin(traits.Yaw), (float)Math.Cos(traits.Yaw));
        Placement = SKMatrix.CreateTranslation(Canvas * (0.5f + (float)traits.OffsetX), Canvas * (0.53f + (float)traits.OffsetY))
            .PreConcat(SKMatrix.CreateRotation((float)traits.Roll))
            .PreConcat(SKMatrix.CreateScale((float)traits.Zoom, (float)traits.Zoom));
        EyeU = 0.42f * (float)traits.EyeSpacing;
        EyeWidth = 0.215f * A * (float)traits.EyeSize;
        NoseV = 0.24f + 0.13f * ((float)traits.NoseLength - 0.85f);
    }

    private readonly float sin, cos;

    public FaceTraits Traits { get; }

    /// <summary>Half the head's width and the distance from its centre to the chin, in pixels.</summary>
    public float A { get; }
    public float B { get; }

    /// <summary>Local to picture coordinates.</summary>
    public SKMatrix Placement { get; }

    public float EyeU { get; }
    public const float EyeV = -0.07f;
    public const float MouthV = 0.53f;
    public float NoseV { get; }

    /// <summary>Half an eye's width in pixels, unturned.</summary>
    public float EyeWidth { get; }

    public float ChinX => A * sin * 0.4f;

    public float JawX => A * (0.66f + 0.2f * (float)Traits.Jaw);

    public float ChinWidth => A * (0.2f + 0.2f * (float)Traits.Jaw);

    public SKPoint At(float u, float v) => new(A * (u * cos + Depth(u, v) * sin * 0.8f), B * v);

    /// <summary>How much narrower a thing at u looks for the turn of the head.</summary>
    public float Squeeze(float u) => Math.Clamp(cos - u / Depth(u, 0) * sin * 0.8f, 0.35f, 1.2f);

    private static float Depth(float u, float v) => MathF.Sqrt(MathF.Max(0.05f, 1 - u * u - 0.25f * v * v));

    /// <summary>The face's outline with the forehead up to the crown.</summary>
    public SKPath Outline()
    {
        using var path = new SKPathBuilder();
        path.MoveTo(0, -1.1f * B);
        path.CubicTo(0.62f * A, -1.1f * B, A, -0.75f * B, A, -0.12f * B);
        path.CubicTo(A, 0.2f * B, JawX + 0.07f * A, 0.48f * B, JawX + 0.35f * ChinX, 0.63f * B);
        path.CubicTo(JawX * 0.88f + 0.6f * ChinX, 0.83f * B, ChinX + ChinWidth, B, ChinX, B);
        path.CubicTo(ChinX - ChinWidth, B, -JawX * 0.88f + 0.6f * ChinX, 0.83f * B, -JawX + 0.35f * ChinX, 0.63f * B);
        path.CubicTo(-JawX - 0.07f * A, 0.48f * B, -A, 0.2f * B, -A, -0.12f * B);
        path.CubicTo(-A, -0.75f * B, -0.62f * A, -1.1f * B, 0, -1.1f * B);
        path.Close();
        return path.Detach();
    }

    /// <summary>Centre, half width and half height of a part, in local coordinates.</summary>
    public (SKPoint Centre, float HalfWidth, float HalfHeight) Part(FaceParts part) => part switch
    {
        FaceParts.LeftEye => (At(-EyeU, EyeV - 0.06f), EyeWidth * 1.5f * Squeeze(-EyeU), EyeWidth * 1.25f),
        FaceParts.RightEye => (At(EyeU, EyeV - 0.06f), EyeWidth * 1.5f * Squeeze(EyeU), EyeWidth * 1.25f),
        FaceParts.Nose => (At(0, NoseV - 0.07f), 0.27f * A * (float)Traits.NoseWidth, 0.23f * B),
        FaceParts.Mouth => (At(0, MouthV + 0.02f + 0.03f * (float)Traits.MouthOpen), 0.44f * A * (float)Traits.MouthWidth, 0.2f * B * (1 + 0.35f * (float)Math.Max(0, Traits.MouthOpen))),
        _ => throw new ArgumentOutOfRangeException(nameof(part), part, "one part"),
    };
}
