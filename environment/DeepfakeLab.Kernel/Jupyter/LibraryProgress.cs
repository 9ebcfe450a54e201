using System.Diagnostics;
using System.Net;
using System.Reflection;

namespace DeepfakeLab.Notebooks;

/// <summary>Shows under a running cell how far the library is, in a line that goes when the cell ends.</summary>
/// <remarks>The library raises <c>DeepfakeLab.LabProgress.Changed</c>; the kernel knows that event by name only.</remarks>
internal sealed class LibraryProgress
{
    private static readonly TimeSpan quiet = TimeSpan.FromSeconds(0.4); // what is done sooner needs no bar
    private readonly Lock gate = new();
    private readonly Stopwatch sinceShown = new();
    private string? shownAs;
    private CellContext? owner;

    /// <summary>Listens to a library that has just been loaded, if it is ours.</summary>
    public void Attach(Assembly library)
    {
        if (library.GetType("DeepfakeLab.LabProgress")?.GetEvent("Changed") is { EventHandlerType: { } type } changed)
            changed.AddEventHandler(null, Delegate.CreateDelegate(type, this, typeof(LibraryProgress).GetMethod(nameof(Note), BindingFlags.Instance | BindingFlags.NonPublic)!));
    }

    /// <summary>Takes the line away.</summary>
    public void EndCell(Action<CellOutput> show)
    {
        lock (gate)
        {
            if (shownAs is not null)
                show(new DisplayUpdate(new MimeBundle { [MimeBundle.Html] = "", [MimeBundle.Plain] = "" }, shownAs));
            (shownAs, owner) = (null, null);
            sinceShown.Reset();
        }
    }

    /// <summary>Called on the library's working threads, as often as they report.</summary>
    private void Note(object update)
    {
        if (CellContext.Current is not { } cell)
            return;
        lock (gate)
        {
            if (!sinceShown.IsRunning)
                sinceShown.Start();
            if (sinceShown.Elapsed < quiet)
                return;
            sinceShown.Restart();
            var data = Describe(update);
            if (shownAs is not null && owner == cell)
            {
                cell.Show(new DisplayUpdate(data, shownAs));
                return;
            }
            (shownAs, owner) = (Guid.NewGuid().ToString("N"), cell);
            cell.Show(new DisplayOutput(data, shownAs));
        }
    }

    private static MimeBundle Describe(object update)
    {
        var text = update.ToString() ?? "";
        var (done, total) = (Figure("Done"), Figure("Total"));
        var bar = total > 0 ? $"<progress max=\"{total}\" value=\"{done}\"></progress> " : "";
        return new MimeBundle { [MimeBundle.Html] = bar + WebUtility.HtmlEncode(text), [MimeBundle.Plain] = text };

        long Figure(string name) => update.GetType().GetProperty(name)?.GetValue(update) is long value ? value : 0;
    }
}
