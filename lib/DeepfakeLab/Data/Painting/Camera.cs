namespace DeepfakeLab;

/// <summary>What a camera does to a scene: blur, grain, vignette, exposure. Real and manipulated faces pass through it alike.</summary>
public sealed record Camera
{
    /// <summary>Standard deviation of the lens blur, in pixels of a 256-pixel picture.</summary>
    public double Blur { get; init; }

    /// <summary>Standard deviation of the sensor's grain, in levels of 255.</summary>
    public double Grain { get; init; }

    /// <summary>How much darker the corners are, 0 to 1.</summary>
    public double Vignette { get; init; }

    /// <summary>Exposure as a factor, contrast as an exponent.</summary>
    public double Exposure { get; init; } = 1;
    public double Contrast { get; init; } = 1;

    /// <summary>JPEG quality that the picture is stored with.</summary>
    public int Quality { get; init; } = 90;

    internal static Camera Random(ref SeededRandom random) => new()
    {
        Blur = 0.25 + 0.5 * random.NextDouble(),
        Grain = 1 + 3.5 * random.NextDouble(),
        Vignette = 0.3 * random.NextDouble(),
        Exposure = 1 + random.Symmetric(0.14),
        Contrast = 1 + random.Symmetric(0.12),
        Quality = 80 + random.Next(16),
    };

    /// <summary>Takes the picture: a new image, the same for the same seed.</summary>
    internal RgbImage Take(RgbImage scene, long seed)
    {
        var (w, h) = (scene.Width, scene.Height);
        var blurred = Soften(scene, (float)(Blur * w / 256));
        var picture = new RgbImage(w, h);
        var random = new SeededRandom(SeededRandom.Combine(seed, 0xCA3));
        Span<float> curve = stackalloc float[256];
        for (var i = 0; i < 256; i++)
            curve[i] = (float)(255 * Math.Pow(Math.Min(i / 255.0 * Exposure, 1.2), Contrast));
        for (int y = 0, at = 0; y < h; y++)
            for (var x = 0; x < w; x++)
            {
                var (dx, dy) = (2f * x / w - 1, 2f * y / h - 1);
                var shade = 1 - (float)Vignette * (dx * dx + dy * dy) * 0.5f;
                var bits = random.NextUInt64();
                var common = Bell(bits) * 0.8f;
                for (var c = 0; c < 3; c++, at++)
                {
                    bits = bits * 0x9E3779B97F4A7C15UL + 0x7F4A7C15;
                    picture.Pixels[at] = (byte)Math.Clamp(curve[blurred[at]] * shade + (float)Grain * (common + 0.6f * Bell(bits)) + 0.5f, 0, 255);
                }
            }
        return picture;
    }

    /// <summary>Nearly normal with variance 1: the sum of four uniform 16-bit numbers.</summary>
    private static float Bell(ulong bits) =>
        (((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48)) / 65536f - 2) * 1.732f;

    /// <summary>A separable Gaussian of three taps a side, enough for the small blur of a lens.</summary>
    private static byte[] Soften(RgbImage image, float sigma)
    {
        if (sigma < 0.05f)
            return image.Pixels;
        Span<float> taps = stackalloc float[4];
        var sum = 0f;
        for (var k = 0; k < 4; k++)
            sum += (taps[k] = MathF.Exp(-k * k / (2 * sigma * sigma))) * (k == 0 ? 1 : 2);
        Span<int> fixedTaps = stackalloc int[4];
        for (var k = 0; k < 4; k++)
            fixedTaps[k] = (int)(taps[k] / sum * 65536 + 0.5f);
        var across = Pass(image.Pixels, image.Height, image.Width, 3 * image.Width, 3, fixedTaps);
        return Pass(across, image.Width, image.Height, 3, 3 * image.Width, fixedTaps);
    }

    private static byte[] Pass(byte[] from, int lines, int length, int lineStride, int step, ReadOnlySpan<int> taps)
    {
        var to = new byte[from.Length];
        for (var line = 0; line < lines; line++)
            for (var i = 0; i < length; i++)
                for (var c = 0; c < 3; c++)
                {
                    var start = line * lineStride + c;
                    var sum = 32768 + from[start + i * step] * taps[0];
                    for (var k = 1; k < 4; k++)
                        sum += (from[start + Math.Max(i - k, 0) * step] + from[start + Math.Min(i + k, length - 1) * step]) * taps[k];
                    to[start + i * step] = (byte)Math.Min(sum >> 16, 255);
                }
        return to;
    }
}
