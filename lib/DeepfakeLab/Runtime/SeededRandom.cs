namespace DeepfakeLab;

/// <summary>SplitMix64 (Steele, Lea and Flood, 2014): the same numbers for a seed on every system and .NET version.</summary>
/// <remarks><see cref="Random"/> promises neither, and its sequences did change between versions.</remarks>
internal struct SeededRandom(ulong seed)
{
    private ulong state = seed;

    /// <summary>One seed from several numbers, so that (seed, epoch, image) each have a sequence of their own.</summary>
    public static ulong Combine(params ReadOnlySpan<long> parts)
    {
        var hash = 0x9E3779B97F4A7C15UL;
        foreach (var part in parts)
            hash = Mix(hash ^ Mix((ulong)part + 0x9E3779B97F4A7C15UL));
        return hash;
    }

    public ulong NextUInt64() => Mix(state += 0x9E3779B97F4A7C15UL);

    /// <summary>Uniform in [0, 1).</summary>
    public double NextDouble() => (NextUInt64() >> 11) * (1.0 / (1UL << 53));

    /// <summary>Uniform in [-range, range).</summary>
    public double Symmetric(double range) => (2 * NextDouble() - 1) * range;

    /// <summary>Uniform in 0 to <paramref name="bound"/> - 1.</summary>
    public int Next(int bound) => (int)(((UInt128)NextUInt64() * (ulong)bound) >> 64);

    /// <summary>Beta(alpha, alpha), by Jöhnk's rejection (1964), which suits alpha up to about 1.</summary>
    public double NextBeta(double alpha)
    {
        while (true)
        {
            var (x, y) = (Math.Pow(NextDouble(), 1 / alpha), Math.Pow(NextDouble(), 1 / alpha));
            if (x + y is > 0 and <= 1)
                return x / (x + y);
        }
    }

    public void Shuffle<T>(Span<T> items)
    {
        for (var i = items.Length - 1; i > 0; i--)
        {
            var j = Next(i + 1);
            (items[i], items[j]) = (items[j], items[i]);
        }
    }

    private static ulong Mix(ulong z)
    {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9UL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBUL;
        return z ^ (z >> 31);
    }
}
