using SkiaSharp;

namespace DeepfakeLab;

/// <summary>The colours of a painted face.</summary>
internal static class FacePalette
{
    private static readonly SKColor[] skins =
        [new(247, 217, 196), new(236, 196, 168), new(222, 174, 138), new(190, 138, 100), new(146, 98, 68), new(98, 64, 46), new(70, 46, 36)];

    public static SKColor Skin(FaceTraits traits)
    {
        var at = Math.Clamp(traits.Skin, 0, 0.999) * (skins.Length - 1);
        var colour = Brush.Mix(skins[(int)at], skins[(int)at + 1], at - (int)at);
        var ruddy = traits.SkinHue * 9;
        return Brush.Rgb(colour.Red + ruddy * 0.5, colour.Green - ruddy * 0.6, colour.Blue - ruddy * 0.3);
    }

    public static SKColor Hair(FaceTraits traits)
    {
        SKColor colour = traits.HairColour switch
        {
            HairColour.Black => new(30, 26, 26),
            HairColour.DarkBrown => new(62, 43, 33),
            HairColour.Brown => new(108, 74, 50),
            HairColour.Blond => new(206, 168, 108),
            HairColour.Red => new(158, 76, 38),
            _ => new(166, 164, 162),
        };
        return Brush.Scale(colour, 1 + 0.13 * traits.HairTint);
    }

    public static SKColor Iris(FaceTraits traits) => traits.EyeColour switch
    {
        EyeColour.Brown => new(112, 70, 38),
        EyeColour.Dark => new(48, 32, 24),
        EyeColour.Blue => new(84, 138, 184),
        EyeColour.Green => new(98, 132, 84),
        _ => new(128, 140, 148),
    };

    public static SKColor Lips(FaceTraits traits)
    {
        var skin = Skin(traits);
        var bare = Brush.Rgb(skin.Red * 0.86, skin.Green * 0.62, skin.Blue * 0.62);
        return Brush.Mix(bare, traits.LipColour > 0.75 ? new SKColor(156, 28, 46) : new SKColor(188, 78, 88), traits.LipColour * 0.7);
    }
}
