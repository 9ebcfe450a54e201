using Spectre.Console;

namespace DeepfakeLab.Cli;

/// <summary>Shows on the terminal how far the library is: a bar with time left and figures, or plain lines where output is redirected.</summary>
/// <remarks>
/// <code>using var progress = TerminalProgress.Show();</code>
/// The library reports on its working threads; these only leave a note here, and a timer draws. What is drawn goes to standard
/// error, so that results on standard output can be piped.
/// </remarks>
public sealed class TerminalProgress : IDisposable
{
    private static readonly TimeSpan redraw = TimeSpan.FromMilliseconds(150), plainLine = TimeSpan.FromSeconds(5);

    private readonly IAnsiConsole console;
    private readonly bool plain;
    private readonly CancellationTokenSource stop = new();
    private readonly Task drawing;
    private volatile ProgressUpdate? latest;
    private volatile string status = "";

    private TerminalProgress(IAnsiConsole console, bool plain)
    {
        this.console = console;
        this.plain = plain;
        LabProgress.Changed += Note;
        drawing = Task.Run(() => plain ? WriteLines() : DrawLive());
    }

    /// <summary>Begins to show progress, until the returned object is disposed of.</summary>
    public static TerminalProgress Show()
    {
        var console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });
        var plain = Console.IsErrorRedirected || !console.Profile.Capabilities.Ansi || !console.Profile.Capabilities.Interactive;
        using (ExecutionContext.IsFlowSuppressed() ? null : (IDisposable)ExecutionContext.SuppressFlow())
            return new TerminalProgress(console, plain);
    }

    /// <summary>Says what the whole is at, before what the library reports: "cell 3 of 12".</summary>
    public void Status(string text)
    {
        latest = null;
        status = text;
    }

    /// <summary>Writes a line that stays, above the bar.</summary>
    public void WriteLine(string text)
    {
        if (plain)
            Console.Error.WriteLine(text);
        else
            console.WriteLine(text);
    }

    private void Note(ProgressUpdate update) => latest = update;

    private async Task WriteLines()
    {
        var last = "";
        while (await Wait(plainLine))
        {
            if (latest is not { } update)
                continue;
            var line = Join(status, update.ToString());
            if (line != last)
                await Console.Error.WriteLineAsync(line);
            last = line;
        }
    }

    private async Task DrawLive() => await console.Live(Text.Empty).AutoClear(true).StartAsync(async live =>
    {
        while (await Wait(redraw))
        {
            live.UpdateTarget(Render(status, latest, console.Profile.Width));
            live.Refresh();
        }
    });

    private async Task<bool> Wait(TimeSpan time)
    {
        await Task.Delay(time, stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        return !stop.IsCancellationRequested;
    }

    private static Markup Render(string status, ProgressUpdate? update, int width)
    {
        if (update is null)
            return new Markup(Markup.Escape(status));
        const int bar = 24;
        var filled = update.Total > 0 ? (int)(bar * Math.Clamp((double)update.Done / update.Total, 0, 1)) : 0;
        var text = Join(status, update.ToString());
        text = text.Length > Math.Max(20, width - bar - 2) ? text[..Math.Max(20, width - bar - 3)] + "…" : text;
        return new Markup($"[green]{new string('━', filled)}[/][grey]{new string('─', bar - filled)}[/] {Markup.Escape(text)}");
    }

    private static string Join(string status, string rest) => status.Length == 0 ? rest : $"{status} | {rest}";

    public void Dispose()
    {
        LabProgress.Changed -= Note;
        stop.Cancel();
        drawing.Wait();
        stop.Dispose();
    }
}
