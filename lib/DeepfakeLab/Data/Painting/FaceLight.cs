using SkiaSharp;

namespace DeepfakeLab;

/// <summary>Lights painted skin: a height map of the face, its normals, one lamp with soft shadow colours, and skin's own unevenness.</summary>
internal static class FaceLight
{
    private const int Step = 2; // the light changes slowly: it is computed at every second pixel

    private readonly record struct Bump(float X, float Y, float InverseX, float InverseY, float Height);

    public static unsafe void Shade(SKBitmap skin, HeadShape head)
    {
        var (w, h) = (skin.Width, skin.Height);
        int gw = w / Step + 2, gh = h / Step + 2;
        var (light, gloss) = Map(head, w, gw, gh);
        var traits = head.Traits;
        var random = new SeededRandom(SeededRandom.Combine(traits.Seed, 6));
        var strength = (float)traits.LightStrength;
        var warm = (float)traits.Warmth * 0.05f;
        // Light in full shadow is dim and, through skin, red.
        Span<float> low = [1 - 0.66f * strength, 1 - 0.78f * strength, 1 - 0.78f * strength];
        Span<float> high = [1.1f + warm, 1.07f, 1.05f - warm];
        var uneven = Noise(ref random, 24);
        var pixel = (byte*)skin.GetPixels();
        for (var y = 0; y < h; y++)
            for (var x = 0; x < w; x++, pixel += 4)
            {
                if (pixel[3] == 0)
                    continue;
                int gx = x / Step, gy = y / Step;
                float fx = x % Step / (float)Step, fy = y % Step / (float)Step;
                var at = gy * gw + gx;
                var d = Blend(light, at, gw, fx, fy);
                var shine = Blend(gloss, at, gw, fx, fy) * 255 * pixel[3] / 255;
                var bits = random.NextUInt64();
                var rough = 1 + 0.05f * (Sample(uneven, 24, x * 24f / w, y * 24f / h) - 0.5f) + 0.03f * ((bits & 0xFFFF) / 65536f - 0.5f);
                for (var c = 0; c < 3; c++)
                    pixel[c] = (byte)Math.Clamp(pixel[c] * (low[c] + (high[c] - low[c]) * d) * rough + shine, 0, pixel[3]);
            }
    }

    /// <summary>Diffuse light (0 to about 1) and gloss at each grid point.</summary>
    private static (float[] Light, float[] Gloss) Map(HeadShape head, int width, int gw, int gh)
    {
        var traits = head.Traits;
        head.Placement.TryInvert(out var inverse);
        var bumps = Bumps(head);
        var height = new float[gw * gh];
        var scale = Step * HeadShape.Canvas / width;
        for (var y = 0; y < gh; y++)
            for (var x = 0; x < gw; x++)
            {
                var p = inverse.MapPoint(new SKPoint(x * scale, y * scale));
                float u = p.X / head.A, v = p.Y / head.B;
                var z = MathF.Sqrt(MathF.Max(0.03f, 1.12f - u * u - 0.62f * v * v));
                foreach (var bump in bumps)
                {
                    float dx = (p.X - bump.X) * bump.InverseX, dy = (p.Y - bump.Y) * bump.InverseY;
                    var square = dx * dx + dy * dy;
                    if (square < 9)
                        z += bump.Height * MathF.Exp(-square);
                }
                height[y * gw + x] = z * head.A;
            }
        var (light, gloss) = (new float[gw * gh], new float[gw * gh]);
        var lamp = System.Numerics.Vector3.Normalize(new((float)traits.LightX * 1.05f, -(float)traits.LightY * 0.8f, 0.85f));
        var half = System.Numerics.Vector3.Normalize(lamp + System.Numerics.Vector3.UnitZ);
        var shine = (float)((0.1 + 0.12 * traits.Skin) * traits.LightStrength);
        for (var y = 0; y < gh; y++)
            for (var x = 0; x < gw; x++)
            {
                int left = Math.Max(x - 1, 0), right = Math.Min(x + 1, gw - 1), up = Math.Max(y - 1, 0), down = Math.Min(y + 1, gh - 1);
                var normal = System.Numerics.Vector3.Normalize(new(
                    (height[y * gw + left] - height[y * gw + right]) / (2 * scale), (height[up * gw + x] - height[down * gw + x]) / (2 * scale), 1));
                var diffuse = System.Numerics.Vector3.Dot(normal, lamp);
                light[y * gw + x] = Math.Clamp((diffuse + 0.22f) / 1.18f, 0, 1);
                gloss[y * gw + x] = shine * MathF.Pow(MathF.Max(0, System.Numerics.Vector3.Dot(normal, half)), 26);
            }
        return (light, gloss);
    }

    /// <summary>What stands out of the ellipsoid and what lies in it. Widths and heights are in heads.</summary>
    private static Bump[] Bumps(HeadShape head)
    {
        var nose = (float)head.Traits.NoseWidth;
        var cheek = 0.05f + 0.03f * MathF.Max(0, (float)head.Traits.Smile);
        var list = new List<Bump>();
        Add(0, 0.02f, 0.11f, 0.14f, 0.12f);
        Add(0, 0.12f, 0.13f * nose, 0.13f, 0.12f);
        Add(0, head.NoseV - 0.02f, 0.16f * nose, 0.1f, 0.17f);
        Add(0, 0.5f, 0.36f, 0.14f, 0.06f);
        Add(0, 0.48f, 0.24f, 0.04f, 0.025f);
        Add(0, 0.59f, 0.2f, 0.045f, 0.045f);
        Add(0, 0.69f, 0.18f, 0.05f, -0.05f);
        Add(0, 0.86f, 0.22f, 0.11f, 0.07f);
        foreach (var side in (float[])[-1, 1])
        {
            Add(side * 0.15f * nose, head.NoseV + 0.02f, 0.09f, 0.06f, 0.05f);
            Add(side * head.EyeU, -0.09f, 0.23f, 0.12f, -0.11f);
            Add(side * head.EyeU, -0.06f, 0.14f, 0.06f, 0.05f);
            Add(side * 0.38f, -0.25f, 0.26f, 0.07f, 0.055f);
            Add(side * 0.55f, 0.22f, 0.24f, 0.16f, cheek);
        }
        return [.. list];

        void Add(float u, float v, float width, float tall, float rise)
        {
            var at = head.At(u, v);
            list.Add(new Bump(at.X + head.ChinX * Math.Clamp(v, 0, 1) * 0.4f, at.Y, 1 / (width * head.A * 1.2f), 1 / (tall * head.B * 1.2f), rise));
        }
    }

    private static float Blend(float[] grid, int at, int stride, float fx, float fy)
    {
        var top = grid[at] + (grid[at + 1] - grid[at]) * fx;
        var bottom = grid[at + stride] + (grid[at + stride + 1] - grid[at + stride]) * fx;
        return top + (bottom - top) * fy;
    }

    private static float[] Noise(ref SeededRandom random, int side)
    {
        var values = new float[(side + 2) * (side + 2)];
        for (var i = 0; i < values.Length; i++)
            values[i] = (float)random.NextDouble();
        return values;
    }

    private static float Sample(float[] noise, int side, float x, float y) =>
        Blend(noise, (int)y * (side + 2) + (int)x, side + 2, x - (int)x, y - (int)y);
}
