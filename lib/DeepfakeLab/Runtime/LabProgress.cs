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
    /// <summary>The work that this task is a part of, such as all epochs for one of them; null for a task of its own.</summary>
    public ProgressUpdate? Whole { get; init; }

    /// <summary>Bytes of memory that the process takes up; seen at most a quarter of a second ago.</summary>
    public long Memory { get; init; }

    /// <summary>Units a second so far; 0 before the first.</summary>
    public double Rate => Elapsed > TimeSpan.Zero ? Done / Elapsed.TotalSeconds : 0;

    /// <summary>Time left at the rate so far; null where it cannot be told.</summary>
    public TimeSpan? Remaining => Done > 0 && Total > 0 ? Elapsed * ((double)(Total - Done) / Done) : null;

    /// <summary>Whether this is the last update of its task.</summary>
    public bool IsComplete => Total > 0 && Done >= Total;

    /// <summary>"fine-tuning, epoch 3 of 8: 42 %, 0:12 left", and the task alone where the total is not known.</summary>
    public string Summary => Total == 0 ? Task
        : string.Create(CultureInfo.InvariantCulture, $"{Task}: {100.0 * Done / Total:0} %{(Left is { } left ? ", " + left : "")}");

    /// <summary>"126 of 300 images, 31 images/s, 812 MB, loss 0.431".</summary>
    public string Details
    {
        get
        {
            var parts = new List<string> { Total > 0 ? $"{Amount(Done)} of {Amount(Total)} {Counted}" : $"{Amount(Done)} {Counted}" };
            if (Rate > 0)
                parts.Add($"{Amount(Rate)} {Counted}/s");
            if (Memory > 0)
                parts.Add(string.Create(CultureInfo.InvariantCulture, $"{Memory / 1e6:0} MB"));
            parts.AddRange(Figures.Select(f => $"{f.Name} {f.Value.ToString("0.####", CultureInfo.InvariantCulture)}"));
            return string.Join(", ", parts);
        }
    }

    /// <summary>Both in a line.</summary>
    public override string ToString() => $"{Summary}{(Total > 0 ? "," : ":")} {Details}";

    private string? Left => IsComplete || Remaining is not { } left ? null
        : left.TotalHours >= 1 ? $"{(int)left.TotalHours}:{left.Minutes:00}:{left.Seconds:00} left" : $"{(int)left.TotalMinutes}:{left.Seconds:00} left";

    private string Counted => Unit == "bytes" ? "MB" : Unit;

    private string Amount(double units) => Unit == "bytes" ? (units / 1e6).ToString("0.0", CultureInfo.InvariantCulture)
        : units.ToString(units is > 0 and < 10 ? "0.#" : "0", CultureInfo.InvariantCulture);
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

    internal static void Report(ProgressUpdate update) => Changed?.Invoke(update with { Memory = Memory() });

    private static long memory, memoryAt = long.MinValue / 2;

    /// <summary>The process's working set. To ask the system takes longer than a small batch, so it is asked four times a second.</summary>
    private static long Memory()
    {
        var now = Environment.TickCount64;
        if (now - Interlocked.Read(ref memoryAt) >= 250)
        {
            Interlocked.Exchange(ref memoryAt, now);
            Interlocked.Exchange(ref memory, Environment.WorkingSet);
        }
        return Interlocked.Read(ref memory);
    }
}

/// <summary>One task under way. Thread-safe.</summary>
public sealed class ProgressTask(string task, long total, string unit, ProgressTask? whole = null)
{
    private readonly Stopwatch clock = Stopwatch.StartNew();
    private long done;

    /// <summary>Begins a part of this task, counted in the same unit: what advances the part advances the whole.</summary>
    public ProgressTask Part(string name, long units) => new(name, units, unit, this);

    /// <summary>Counts <paramref name="units"/> more as done.</summary>
    public void Advance(long units = 1, params IReadOnlyList<(string Name, double Value)> figures) => LabProgress.Report(Count(units, figures));

    private ProgressUpdate Count(long units, IReadOnlyList<(string Name, double Value)> figures)
    {
        var all = whole?.Count(units, []);
        return new ProgressUpdate(task, Interlocked.Add(ref done, units), total, unit, clock.Elapsed, figures) { Whole = all };
    }
}
