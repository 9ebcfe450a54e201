using System.Globalization;

namespace DeepfakeLab;

/// <summary>An axis from <paramref name="Min"/> to <paramref name="Max"/>, linear or logarithmic, or with one name a whole number.</summary>
internal sealed record Axis(string Title, double Min, double Max, bool Log = false, string[]? Names = null)
{
    /// <summary>An axis for named categories at 0, 1, 2 …</summary>
    public static Axis Of(string title, string[] names) => new(title, -0.5, names.Length - 0.5, Names: names);

    /// <summary>An axis around all finite values, with round ends.</summary>
    public static Axis Around(string title, IEnumerable<double> values, bool fromZero = false)
    {
        var finite = values.Where(double.IsFinite).ToArray();
        var (low, high) = finite.Length == 0 ? (0, 1) : (finite.Min(), finite.Max());
        if (fromZero)
            low = Math.Min(0, low);
        if (high - low < 1e-12)
            (low, high) = (low - 0.5, high + 0.5);
        var step = Step(high - low);
        return new Axis(title, Math.Floor(low / step + 1e-9) * step, Math.Ceiling(high / step - 1e-9) * step);
    }

    /// <summary>The place of a value between the axis's ends, from 0 to 1.</summary>
    public double Place(double value) =>
        Log ? (Math.Log10(value) - Math.Log10(Min)) / (Math.Log10(Max) - Math.Log10(Min)) : (value - Min) / (Max - Min);

    public IEnumerable<(double Value, string Text)> Ticks()
    {
        if (Names is not null)
            return Names.Select((name, i) => ((double)i, name));
        if (Log)
        {
            return Enumerable.Range((int)Math.Ceiling(Math.Log10(Min) - 1e-9), 1 + (int)Math.Floor(Math.Log10(Max) + 1e-9) - (int)Math.Ceiling(Math.Log10(Min) - 1e-9))
                .Select(power => (Math.Pow(10, power), "1e" + power.ToString(CultureInfo.InvariantCulture)));
        }
        var step = Step(Max - Min);
        var first = (int)Math.Ceiling(Min / step - 1e-9);
        return Enumerable.Range(first, (int)Math.Floor(Max / step + 1e-9) - first + 1)
            .Select(i => (i * step, (i * step).ToString("0.######", CultureInfo.InvariantCulture)));
    }

    /// <summary>1, 2 or 5 times a power of ten, so that there are three to seven ticks.</summary>
    private static double Step(double span)
    {
        var power = Math.Pow(10, Math.Floor(Math.Log10(span / 4)));
        return (span / 4 / power) switch { < 1.5 => power, < 3.5 => 2 * power, < 7.5 => 5 * power, _ => 10 * power };
    }
}
