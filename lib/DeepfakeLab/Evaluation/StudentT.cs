namespace DeepfakeLab;

/// <summary>Means of few repetitions with their uncertainty (Student, "The Probable Error of a Mean", 1908).</summary>
internal static class StudentT
{
    /// <summary>The mean of the values with the 95 % t interval over them; no interval for one value, NaN without any.</summary>
    public static Estimate Mean(IEnumerable<double> values)
    {
        double[] all = [.. values];
        if (all.Length == 0)
            return new Estimate(double.NaN, double.NaN, double.NaN);
        var mean = all.Average();
        if (all.Length == 1)
            return new Estimate(mean, double.NaN, double.NaN);
        var reach = Quantile(0.95, all.Length - 1) * Math.Sqrt(all.Sum(v => (v - mean) * (v - mean)) / (all.Length - 1) / all.Length);
        return new Estimate(mean, mean - reach, mean + reach);
    }

    /// <summary>The t that holds the middle <paramref name="share"/> of the distribution between -t and t.</summary>
    public static double Quantile(double share, int freedom)
    {
        var (low, high) = (0.0, 1.0);
        while (Within(high, freedom) < share)
            high *= 2;
        for (var i = 0; i < 100; i++)
        {
            var middle = (low + high) / 2;
            (low, high) = Within(middle, freedom) < share ? (middle, high) : (low, middle);
        }
        return (low + high) / 2;
    }

    /// <summary>The chance of a value between -t and t (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).</summary>
    private static double Within(double t, int freedom)
    {
        var angle = Math.Atan(t / Math.Sqrt(freedom));
        var (sin, cos) = Math.SinCos(angle);
        var odd = freedom % 2 == 1;
        var (term, sum) = (odd ? cos : 1, 0.0);
        for (var k = odd ? 3 : 2; k <= freedom; k += 2)
        {
            sum += term;
            term *= cos * cos * (k - 1) / k;
        }
        return odd ? (angle + sin * sum) * 2 / Math.PI : sin * sum;
    }
}
