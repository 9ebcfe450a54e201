using System.Diagnostics;
using System.Globalization;

namespace DeepfakeLab;

/// <summary>How far a piece of work has come.</summary>
/// <param name="Task">What is being done, as a person would say it: "fine-tuning, epoch 3 of 8".</param>
/// <param name="Done">Units done so far.</param>
/// <param name="Total">Units in all; 0 where that is not known.</param>
/// <param name="Unit">What is counted: "images", "batches", "bytes".</param>
/// <param name="Elapsed">Time since the task began.</param>
/// <param name="Figures">Named figures to show beside the bar, such as ("loss", 0.42).</param>
public sealed record ProgressUpdate(
    string Task, long Done, long Total, string Unit, TimeSpan Elapsed, IReadOnlyList<(string Name, double Value)> Figures)
{
    /// <summary>Units a second so far; 0 before the first.</summary>
    public double Rate => Elapsed > TimeSpan.Zero ? Done / Elapsed.TotalSeconds : 0;

    /// <summary>Time left at the rate so far; null where it cannot be told.</summary>
    public TimeSpan? Remaining => Done > 0 && Total > 0 ? Elapsed * ((double)(Total - Done) / Done) : null;

    /// <summary>Whether this is the last update of its task.</summary>
    public bool IsComplete => Total > 0 && Done >= Total;

    /// <summary>"fine-tuning, epoch 3 of 8: 42 %, 126 of 300 images, 0:12 left, loss 0.431".</summary>
    public override string ToString()
    {
        var parts = new List<string>
        {
            Total > 0 ? string.Create(CultureInfo.InvariantCulture, $"{100.0 * Done / Total:0} %, {Done} of {Total} {Unit}") : $"{Done} {Unit}",
        };
        if (!IsComplete && Remaining is { } left)
            parts.Add(left.TotalHours >= 1 ? $"{(int)left.TotalHours}:{left.Minutes:00}:{left.Seconds:00} left" : $"{(int)left.TotalMinutes}:{left.Seconds:00} left");
        parts.AddRange(Figures.Select(f => $"{f.Name} {f.Value.ToString("0.####", CultureInfo.InvariantCulture)}"));
        return $"{Task}: {string.Join(", ", parts)}";
    }
}

/// <summary>Where long-running parts of the library tell how far they are, and learn that they are to stop.</summary>
public static class LabProgress
{
    /// <summary>The name under which a host puts a boxed <see cref="CancellationToken"/> with <see cref="AppContext.SetData"/>.</summary>
    /// <remarks>A notebook kernel interrupts a running cell this way without knowing the library.</remarks>
    public const string CancellationKey = "DeepfakeLab.Cancellation";

    /// <summary>Raised on the working thread, as often as the work reports; a listener that draws should limit itself.</summary>
    public static event Action<ProgressUpdate>? Changed;

    /// <summary>The host's wish to interrupt, if it has one. Long loops pass it on or check it once a batch.</summary>
    public static CancellationToken Interrupt => AppContext.GetData(CancellationKey) is CancellationToken token ? token : default;

    /// <summary>Begins a task whose progress is reported through the returned object.</summary>
    public static ProgressTask Begin(string task, long total, string unit) => new(task, total, unit);

    internal static void Report(ProgressUpdate update) => Changed?.Invoke(update);
}

/// <summary>One task under way. Thread-safe.</summary>
public sealed class ProgressTask(string task, long total, string unit)
{
    private readonly Stopwatch clock = Stopwatch.StartNew();
    private long done;

    /// <summary>Counts <paramref name="units"/> more as done.</summary>
    public void Advance(long units = 1, params IReadOnlyList<(string Name, double Value)> figures) =>
        LabProgress.Report(new ProgressUpdate(task, Interlocked.Add(ref done, units), total, unit, clock.Elapsed, figures));
}
