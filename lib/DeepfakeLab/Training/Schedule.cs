namespace DeepfakeLab;

/// <summary>Learning rates as functions of the step alone, so that a resumed run needs no state for them.</summary>
internal static class Schedule
{
    /// <summary>The rate that a recipe has at a step.</summary>
    /// <param name="peak">The highest rate.</param>
    /// <param name="step">0 to <paramref name="steps"/> - 1.</param>
    /// <param name="steps">Steps in all.</param>
    /// <param name="perEpoch">Steps an epoch.</param>
    public static double Rate(Recipe recipe, double peak, long step, long steps, long perEpoch) => recipe.Schedule switch
    {
        RateSchedule.OneCycle => OneCycle(peak, step, steps, recipe.WarmUp),
        RateSchedule.Cosine => Cosine(peak, 0, (double)step / steps),
        RateSchedule.Step => peak * Math.Pow(recipe.StepFactor, step / perEpoch / recipe.StepEpochs),
        _ => peak,
    };

    /// <summary>One cycle: up from peak/25 to the peak along a cosine, then down to peak/10,000. As PyTorch's OneCycleLR with its defaults.</summary>
    /// <param name="warmUp">The share of steps that rise.</param>
    public static double OneCycle(double peak, long step, long steps, double warmUp)
    {
        var (start, end) = (peak / 25, peak / 25 / 1e4);
        var top = warmUp * steps - 1;
        return step <= top
            ? Cosine(start, peak, top <= 0 ? 1 : step / top)
            : Cosine(peak, end, Math.Min(1, (step - top) / Math.Max(1, steps - 1 - top)));
    }

    /// <summary>From <paramref name="from"/> at 0 to <paramref name="to"/> at 1 along half a cosine.</summary>
    public static double Cosine(double from, double to, double share) => to + (from - to) * (1 + Math.Cos(Math.PI * share)) / 2;
}
