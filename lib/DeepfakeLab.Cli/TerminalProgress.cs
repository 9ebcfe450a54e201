using System.Diagnostics;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace DeepfakeLab.Cli;

/// <summary>How progress is shown.</summary>
public enum ProgressMode
{
    /// <summary>A bar on a terminal, lines where output is redirected.</summary>
    Auto,

    /// <summary>A bar with time left and figures, drawn in place.</summary>
    Bar,

    /// <summary>A line of text every few seconds; no control codes.</summary>
    Lines,

    /// <summary>A line of JSON at most four times a second, and one as each task ends, for programs.</summary>
    Json,

    /// <summary>Nothing.</summary>
    Silent,
}

/// <summary>Shows how far the library is: as a bar, as lines or as JSON lines, on standard error, so that results on standard output can be piped.</summary>
/// <remarks>
/// <code>using var progress = TerminalProgress.Show();</code>
/// The library reports on its working threads. Lines are written there, which happens seldom; for the bar they only leave a note,
/// and a timer draws.
/// </remarks>
public sealed class TerminalProgress : IDisposable
{
    private static readonly TimeSpan redraw = TimeSpan.FromMilliseconds(150), betweenLines = TimeSpan.FromSeconds(5), betweenJson = TimeSpan.FromMilliseconds(250);
    private static readonly JsonSerializerOptions readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly IAnsiConsole console;
    private readonly TextWriter lines;
    private readonly ProgressMode mode;
    private readonly Lock gate = new();
    private readonly Stopwatch sinceLine = Stopwatch.StartNew();
    private readonly CancellationTokenSource stop = new();
    private readonly Task drawing;
    private ProgressUpdate? latest;
    private string? lastTask;
    private string status = "";

    internal TerminalProgress(IAnsiConsole console, TextWriter lines, ProgressMode mode)
    {
        (this.console, this.lines, this.mode) = (console, lines, mode);
        LabProgress.Changed += Note;
        drawing = mode == ProgressMode.Bar ? Task.Run(DrawBars) : Task.CompletedTask;
    }

    /// <summary>What the command line asks for, for every command.</summary>
    public static ProgressMode Mode { get; set; }

    /// <summary>Begins to show progress, until the returned object is disposed of.</summary>
    /// <param name="terminal">Where; null for standard error as it is now, which a notebook's session has put its own before.</param>
    public static TerminalProgress Show(TextWriter? terminal = null)
    {
        terminal ??= Console.Error;
        var console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(terminal) });
        var plain = Console.IsErrorRedirected || !console.Profile.Capabilities.Ansi || !console.Profile.Capabilities.Interactive;
        using (ExecutionContext.IsFlowSuppressed() ? null : (IDisposable)ExecutionContext.SuppressFlow())
        {
            var progress = new TerminalProgress(console, terminal, Mode == ProgressMode.Auto ? plain ? ProgressMode.Lines : ProgressMode.Bar : Mode);
            if (progress.mode == ProgressMode.Bar && !Console.IsOutputRedirected)
                LinesAboveBar.Of(progress);
            return progress;
        }
    }

    /// <summary>Says what the whole is at, before what the library reports: "cell 3 of 12".</summary>
    public void Status(string text)
    {
        lock (gate)
            (latest, status) = (null, text);
    }

    /// <summary>Writes a line that stays, above the bar. It tells an event, so it is no progress that <see cref="ProgressMode.Silent"/> would leave out.</summary>
    public void WriteLine(string text)
    {
        if (mode == ProgressMode.Bar)
            console.WriteLine(text);
        else
            lines.WriteLine(text);
    }

    private void Note(ProgressUpdate update)
    {
        lock (gate)
        {
            latest = update;
            if (mode is not (ProgressMode.Lines or ProgressMode.Json))
                return;
            var (json, sameTask) = (mode == ProgressMode.Json, update.Task == lastTask);
            // the end of a task is told, unless it went by too fast to be worth a line
            var due = sinceLine.Elapsed >= (json ? betweenJson : betweenLines) || (update.IsComplete && (json || sameTask)) || (json && !sameTask);
            if (!due)
                return;
            lines.WriteLine(json ? ToJson(status, update).ToJsonString(readable) : Join(status, Line(update)));
            lastTask = update.Task;
            sinceLine.Restart();
        }
    }

    private async Task DrawBars() => await console.Live(Text.Empty).AutoClear(true).StartAsync(async live =>
    {
        while (!stop.IsCancellationRequested)
        {
            await Task.Delay(redraw, stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            IRenderable bars;
            lock (gate)
                bars = Bars(status, latest, console.Profile.Width);
            live.UpdateTarget(bars);
            live.Refresh();
        }
    });

    /// <summary>A bar for what is being done, its figures below it, and above it a bar for what it is a part of.</summary>
    private static IRenderable Bars(string status, ProgressUpdate? update, int width)
    {
        if (update is null)
            return new Text(status);
        var top = update.Whole ?? update;
        return new Rows(
        [
            Bar(top, Join(status, top.Summary), width), .. update == top ? Array.Empty<IRenderable>() : [Bar(update, update.Summary, width)],
            new Text(Cut(update.Details, width)),
        ]);
    }

    private const int BarWidth = 24;

    private static Markup Bar(ProgressUpdate update, string text, int width)
    {
        var filled = update.Total > 0 ? (int)(BarWidth * Math.Clamp((double)update.Done / update.Total, 0, 1)) : 0;
        return new Markup($"[green]{new string('━', filled)}[/][grey]{new string('─', BarWidth - filled)}[/] {Markup.Escape(Cut(text, width - BarWidth - 1))}");
    }

    private static string Cut(string text, int width) => text.Length < Math.Max(20, width) ? text : text[..(Math.Max(20, width) - 2)] + "…";

    private static string Line(ProgressUpdate update) => update.Whole is { } whole ? $"{whole.Summary} | {update}" : update.ToString();

    private static string Join(string status, string rest) => status.Length == 0 ? rest : $"{status} | {rest}";

    /// <summary>Times in seconds, memory in bytes; what is not known is left out.</summary>
    private static JsonObject ToJson(string status, ProgressUpdate update)
    {
        var json = new JsonObject();
        if (status.Length > 0)
            json["status"] = status;
        json["task"] = update.Task;
        (json["done"], json["total"], json["unit"]) = (update.Done, update.Total > 0 ? update.Total : null, update.Unit);
        (json["elapsed"], json["rate"], json["memory"]) = (Round(update.Elapsed.TotalSeconds), Round(update.Rate), update.Memory);
        if (update.Remaining is { } left)
            json["remaining"] = Round(left.TotalSeconds);
        json["figures"] = new JsonObject(update.Figures.Select(f => KeyValuePair.Create(f.Name, (JsonNode?)(double.IsFinite(f.Value) ? f.Value : null))));
        if (update.Whole is { } whole)
            json["whole"] = ToJson("", whole);
        return json;

        static double Round(double value) => Math.Round(value, 3);
    }

    public void Dispose()
    {
        LabProgress.Changed -= Note;
        LinesAboveBar.Of(null);
        stop.Cancel();
        drawing.Wait();
        stop.Dispose();
    }

    /// <summary>Standard output while a bar is shown on the same terminal: what is printed goes above the bar, not into it.</summary>
    private sealed class LinesAboveBar(TextWriter original) : TextWriter
    {
        private static readonly Lazy<LinesAboveBar> installed = new(() =>
        {
            var writer = new LinesAboveBar(Console.Out);
            Console.SetOut(writer);
            return writer;
        });
        private readonly StringBuilder line = new();
        private TerminalProgress? bar;

        public override Encoding Encoding => original.Encoding;

        /// <summary>From now on above this bar; straight to the terminal without one.</summary>
        public static void Of(TerminalProgress? bar)
        {
            if (bar is null && !installed.IsValueCreated)
                return;
            lock (installed.Value.line)
            {
                installed.Value.bar = bar;
                installed.Value.Original.Write(installed.Value.line);
                installed.Value.line.Clear();
            }
        }

        private TextWriter Original => original;

        public override void Write(char value)
        {
            lock (line)
            {
                if (bar is null)
                    original.Write(value);
                else if (value != '\n')
                    line.Append(value);
                else
                {
                    bar.console.WriteLine(line.ToString().TrimEnd('\r'));
                    line.Clear();
                }
            }
        }

        public override void Flush() => original.Flush();
    }
}
