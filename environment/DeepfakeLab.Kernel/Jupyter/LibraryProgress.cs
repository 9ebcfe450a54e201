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

    /// <summary>A bar, and above it one for the whole that the task is a part of, where it is of one.</summary>
    private static MimeBundle Describe(object update)
    {
        var (text, html) = (update.ToString() ?? "", Bar(update, update.ToString()));
        if (Property(update, "Whole") is { } whole && Property(whole, "Summary") is string summary)
            (text, html) = ($"{summary} | {text}", $"{Bar(whole, summary)}<br>{html}");
        return new MimeBundle { [MimeBundle.Html] = html, [MimeBundle.Plain] = text };

        static string Bar(object update, string? text) =>
            (Property(update, "Total") is long total and > 0 ? $"<progress max=\"{total}\" value=\"{Property(update, "Done")}\"></progress> " : "") + WebUtility.HtmlEncode(text);

        static object? Property(object of, string name) => of.GetType().GetProperty(name)?.GetValue(of);
    }
}
