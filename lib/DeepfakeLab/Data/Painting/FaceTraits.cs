namespace DeepfakeLab;

public enum HairColour { Black, DarkBrown, Brown, Blond, Red, Grey }

public enum HairStyle { Bald, Short, SidePart, Curly, LongStraight, LongWavy, Bun, Fringe }

public enum EyeColour { Brown, Dark, Blue, Green, Grey }

public enum Glasses { None, Clear, Dark }

public enum Headwear { None, Cap, Beanie }

public enum Beard { None, Stubble, Moustache, Full }

public enum Age { Young, Middle, Old }

public enum Mark { None, Birthmark, Vitiligo, Plaster, EyePatch, Paint }

public enum Scenery { Studio, Gradient, Lights, Leaves, Wall, Sky }

/// <summary>Everything that decides how <see cref="FacePainter"/> paints a face. Lengths are in heads: 1 is half the head's width or height.</summary>
/// <remarks>
/// <see cref="Attributes"/> are the labels that a network can be pretrained on: what a painted face shows, never whether it was
/// manipulated.
/// </remarks>
public sealed record FaceTraits
{
    private static readonly (string Name, int Classes, Func<FaceTraits, int> Read)[] heads =
    [
        ("skin", 6, t => Level(t.Skin, 0, 1, 6)),
        ("hairColour", 6, t => (int)t.HairColour),
        ("hairStyle", 8, t => (int)t.HairStyle),
        ("eyeColour", 5, t => (int)t.EyeColour),
        ("glasses", 3, t => (int)t.Glasses),
        ("headwear", 3, t => (int)t.Headwear),
        ("beard", 4, t => (int)t.Beard),
        ("age", 3, t => (int)t.Age),
        ("scenery", 6, t => (int)t.Scenery),
        ("yaw", 5, t => Level(t.Yaw, -0.42, 0.42, 5)),
        ("roll", 3, t => Level(t.Roll, -0.2, 0.2, 3)),
        ("light", 5, t => Level(t.LightX, -1, 1, 5)),
        ("gaze", 3, t => Level(t.GazeX, -1, 1, 3)),
        ("smile", 3, t => Level(t.Smile, -0.4, 1, 3)),
        ("mouthOpen", 3, t => t.MouthOpen <= 0 ? 0 : t.MouthOpen < 0.5 ? 1 : 2),
        ("eyeSize", 3, t => Level(t.EyeSize, 0.85, 1.2, 3)),
        ("noseWidth", 3, t => Level(t.NoseWidth, 0.75, 1.3, 3)),
        ("lips", 3, t => Level(t.Lips, 0.6, 1.5, 3)),
        ("brows", 3, t => Level(t.BrowThickness, 0.5, 1.6, 3)),
        ("jaw", 3, t => Level(t.Jaw, 0, 1, 3)),
        ("mark", 6, t => (int)t.Mark),
        ("markPlace", 6, t => t.Mark == Mark.None ? 0 : t.MarkV < -0.3 ? 1 : t.MarkV > 0.38 ? 2 : t.MarkU < -0.25 ? 3 : t.MarkU > 0.25 ? 4 : 5),
    ];

    /// <summary>The attributes that a network can learn to tell, and how many classes each has.</summary>
    public static IReadOnlyList<(string Name, int Classes)> Heads { get; } = [.. heads.Select(h => (h.Name, h.Classes))];

    /// <summary>The class of each attribute, in the order of <see cref="Heads"/>.</summary>
    public int[] Attributes => [.. heads.Select(h => h.Read(this))];

    /// <summary>Skin from light (0) to dark (1), and how ruddy it is (-1 to 1).</summary>
    public double Skin { get; init; }
    public double SkinHue { get; init; }
    public HairColour HairColour { get; init; }
    public double HairTint { get; init; }
    public HairStyle HairStyle { get; init; }
    public EyeColour EyeColour { get; init; }
    public Glasses Glasses { get; init; }
    public Headwear Headwear { get; init; }
    public Beard Beard { get; init; }
    public Age Age { get; init; }
    public Scenery Scenery { get; init; }
    public double SceneryHue { get; init; }
    public double ClothesHue { get; init; }
    public double AccessoryHue { get; init; }

    public double FaceWidth { get; init; } = 1;
    public double FaceHeight { get; init; } = 1;
    public double Jaw { get; init; } = 0.5;
    public double EyeSize { get; init; } = 1;
    public double EyeSpacing { get; init; } = 1;
    public double EyeTilt { get; init; }
    public double EyeOpen { get; init; } = 1;
    public double BrowThickness { get; init; } = 1;
    public double BrowHeight { get; init; }
    public double BrowTilt { get; init; }
    public double NoseWidth { get; init; } = 1;
    public double NoseLength { get; init; } = 1;
    public double MouthWidth { get; init; } = 1;
    public double Lips { get; init; } = 1;
    public double LipColour { get; init; }
    public double Smile { get; init; }
    public double MouthOpen { get; init; }
    public double Freckles { get; init; }

    /// <summary>What is on the skin, where (in head coordinates, see <see cref="HeadShape"/>) and how large (in half heads' widths).</summary>
    public Mark Mark { get; init; }
    public double MarkU { get; init; }
    public double MarkV { get; init; }
    public double MarkSize { get; init; } = 0.2;

    /// <summary>Turn to the side and lean, in radians; positive turns the nose to the picture's right.</summary>
    public double Yaw { get; init; }
    public double Roll { get; init; }
    public double GazeX { get; init; }
    public double GazeY { get; init; }
    public double Zoom { get; init; } = 1;
    public double OffsetX { get; init; }
    public double OffsetY { get; init; }

    /// <summary>Where the light comes from (-1 left to 1 right, -1 below to 1 above), how hard it is and how warm.</summary>
    public double LightX { get; init; }
    public double LightY { get; init; } = 0.5;
    public double LightStrength { get; init; } = 0.6;
    public double Warmth { get; init; }

    /// <summary>What the camera does to the picture; see <see cref="Camera"/>.</summary>
    public Camera Camera { get; init; } = new();

    /// <summary>Seeds strands, pores and everything else too small to be a trait.</summary>
    public long Seed { get; init; }

    /// <summary>
    /// A random face of which two in three have a mark on the skin, for pretraining: a network has to look at the skin for its tone and
    /// edges. The sample's faces have none, so that a mark never tells real from fake.
    /// </summary>
    public static FaceTraits RandomMarked(long seed)
    {
        var random = new SeededRandom(SeededRandom.Combine(seed, 0x3A4C));
        var mark = Pick<Mark>(ref random, 5, 3, 3, 1.5, 0.8, 1.5);
        var u = mark == Mark.EyePatch ? (random.NextDouble() < 0.5 ? -0.42 : 0.42) : random.Symmetric(0.7);
        return Random(seed) with { Mark = mark, MarkU = u, MarkV = mark == Mark.EyePatch ? 0 : Between(ref random, -0.55, 0.75), MarkSize = Between(ref random, 0.1, 0.38) };
    }

    /// <summary>A random face; the same one for the same seed, everywhere.</summary>
    public static FaceTraits Random(long seed)
    {
        var random = new SeededRandom(SeededRandom.Combine(seed, 0xFACE));
        var age = Pick<Age>(ref random, 5, 4, 2);
        var man = random.NextDouble() < 0.5;
        var style = man ? Pick<HairStyle>(ref random, 2, 6, 5, 2, 0.5, 0.5, 0.5, 1.5) : Pick<HairStyle>(ref random, 0.2, 1, 1.5, 2, 4, 4, 2.5, 3);
        var skin = random.NextDouble();
        var hair = skin > 0.6 ? Pick<HairColour>(ref random, 8, 4, 1, 0.4, 0.3, 0) : Pick<HairColour>(ref random, 3, 3, 3.5, 3, 1.6, 0);
        if (age == Age.Old && random.NextDouble() < 0.75 || age == Age.Middle && random.NextDouble() < 0.15)
            hair = HairColour.Grey;
        var open = random.NextDouble() < 0.55 ? 0 : 0.15 + 0.85 * random.NextDouble();
        return new FaceTraits
        {
            Seed = seed,
            Age = age,
            Skin = skin,
            SkinHue = random.Symmetric(1),
            HairColour = hair,
            HairTint = random.Symmetric(1),
            HairStyle = style,
            EyeColour = skin > 0.55 ? Pick<EyeColour>(ref random, 5, 5, 0.4, 0.5, 0.3) : Pick<EyeColour>(ref random, 3, 2, 3, 2, 2),
            Glasses = Pick<Glasses>(ref random, 8, 2.2, 0.5),
            Headwear = Pick<Headwear>(ref random, 9, 1, 1),
            Beard = man && age != Age.Young ? Pick<Beard>(ref random, 3, 3, 1.5, 3) : man ? Pick<Beard>(ref random, 6, 2, 0.5, 0.7) : Beard.None,
            Scenery = Pick<Scenery>(ref random, 1, 1, 1, 1, 1, 1),
            SceneryHue = random.NextDouble(),
            ClothesHue = random.NextDouble(),
            AccessoryHue = random.NextDouble(),
            FaceWidth = 1 + random.Symmetric(0.09) + (man ? 0.02 : -0.02),
            FaceHeight = 1 + random.Symmetric(0.07),
            Jaw = Math.Clamp((man ? 0.62 : 0.38) + random.Symmetric(0.38), 0, 1),
            EyeSize = Between(ref random, 0.85, 1.2),
            EyeSpacing = 1 + random.Symmetric(0.09),
            EyeTilt = random.Symmetric(0.14),
            EyeOpen = Between(ref random, 0.65, 1.15),
            BrowThickness = Math.Clamp((man ? 1.15 : 0.9) + random.Symmetric(0.45), 0.5, 1.6),
            BrowHeight = random.Symmetric(0.05),
            BrowTilt = random.Symmetric(0.22),
            NoseWidth = Between(ref random, 0.75, 1.3),
            NoseLength = Between(ref random, 0.85, 1.15),
            MouthWidth = Between(ref random, 0.82, 1.18),
            Lips = Between(ref random, 0.6, 1.5),
            LipColour = man ? 0.15 * random.NextDouble() : random.NextDouble(),
            Smile = Between(ref random, -0.4, 1),
            MouthOpen = open,
            Freckles = skin < 0.45 && random.NextDouble() < 0.25 ? random.NextDouble() : 0,
            Yaw = random.Symmetric(0.42),
            Roll = random.Symmetric(0.2),
            GazeX = random.Symmetric(1),
            GazeY = random.Symmetric(0.6),
            Zoom = Between(ref random, 1.1, 1.42),
            OffsetX = random.Symmetric(0.05),
            OffsetY = random.Symmetric(0.04),
            LightX = random.Symmetric(1),
            LightY = Between(ref random, -0.1, 0.9),
            LightStrength = Between(ref random, 0.35, 0.95),
            Warmth = random.Symmetric(1),
            Camera = Camera.Random(ref random),
        };
    }

    private static double Between(ref SeededRandom random, double low, double high) => low + (high - low) * random.NextDouble();

    private static T Pick<T>(ref SeededRandom random, params ReadOnlySpan<double> weights) where T : struct, Enum
    {
        var total = 0.0;
        foreach (var weight in weights)
            total += weight;
        var at = random.NextDouble() * total;
        var index = 0;
        while (index < weights.Length - 1 && (at -= weights[index]) >= 0)
            index++;
        return Enum.GetValues<T>()[index];
    }

    private static int Level(double value, double low, double high, int classes) =>
        Math.Clamp((int)Math.Floor((value - low) / (high - low) * classes), 0, classes - 1);
}
