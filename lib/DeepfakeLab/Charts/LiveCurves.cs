using System.Reflection;

namespace DeepfakeLab;

/// <summary>Training curves that grow while a training goes on, handed out anew at most four times a second.</summary>
/// <remarks>
/// In a notebook:
/// <code>
/// using var live = LiveCurves.InNotebook();
/// var run = Trainer.Fit(model, split, recipe, options, live.Add);
/// </code>
/// Between epochs the loss so far is the last point of the training curve. What comes too soon after a figure waits for the next batch
/// or epoch, so nothing is drawn on threads of its own; the last state is drawn by <see cref="Dispose"/> at the latest.
/// </remarks>
public sealed class LiveCurves : IDisposable
{
    /// <summary>The time that lies between two figures at least.</summary>
    public static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(250);

    private readonly Action<Figure> show;
    private readonly TimeProvider clock;
    private readonly Lock gate = new();
    private readonly List<EpochFigures> history = [];
    private double? running;
    private long? shownAt;
    private bool pending;

    /// <param name="show">Shows a figure in the place of the one before. Called on the thread that trains.</param>
    /// <param name="clock">What tells the time; the system when not given.</param>
    public LiveCurves(Action<Figure> show, TimeProvider? clock = null)
    {
        (this.show, this.clock) = (show, clock ?? TimeProvider.System);
        LabProgress.Changed += Note;
    }

    /// <summary>
    /// Curves below the running cell of a notebook, each figure in the place of the one before. Looks for what .NET Interactive and this
    /// project's kernel call <c>KernelInvocationContext</c>, by name, so that neither need be referenced; where there is none nothing is shown.
    /// </summary>
    public static LiveCurves InNotebook()
    {
        const string name = "Microsoft.DotNet.Interactive.KernelInvocationContext";
        var type = AppDomain.CurrentDomain.GetAssemblies().Select(a => a.GetType(name)).FirstOrDefault(t => t is not null);
        var display = type?.Assembly.GetType(name + "Extensions")?.GetMethods().FirstOrDefault(m => m.Name == "Display" && m.GetParameters().Length == 3);
        var shown = type?.GetProperty("Current")?.GetValue(null) is { } cell ? display?.Invoke(null, [cell, "training begins", Array.Empty<string>()]) : null;
        var update = shown?.GetType().GetMethod("Update");
        return new LiveCurves(figure => update?.Invoke(shown, BindingFlags.DoNotWrapExceptions, null, [figure], null));
    }

    /// <summary>Takes an epoch's figures; to be given to <see cref="Trainer.Fit"/>.</summary>
    public void Add(EpochFigures epoch)
    {
        lock (gate)
        {
            history.Add(epoch);
            running = null;
            Draw();
        }
    }

    /// <summary>Draws what has not been drawn yet, and listens no longer.</summary>
    public void Dispose()
    {
        LabProgress.Changed -= Note;
        lock (gate)
        {
            running = null;
            if (pending)
                Draw(now: true);
        }
    }

    /// <summary>Fine-tuning reports images and the loss so far; every other report is but an occasion to draw what waits.</summary>
    private void Note(ProgressUpdate update)
    {
        lock (gate)
        {
            var loss = update is { Unit: "images", Figures: [("loss", var value), ..] } && double.IsFinite(value) ? value : (double?)null;
            running = loss ?? running;
            if (loss is not null || pending)
                Draw();
        }
    }

    private void Draw(bool now = false)
    {
        pending = true;
        if (!now && shownAt is { } at && clock.GetElapsedTime(at) < Pause)
            return;
        (pending, shownAt) = (false, clock.GetTimestamp());
        show(Charts.TrainingCurves([.. history, .. running is { } loss
            ? [new EpochFigures("fine-tune", 0, loss, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN)] : Array.Empty<EpochFigures>()]));
    }
}
