using System.Text.Json.Nodes;
using DeepfakeLab.Cli;
using Spectre.Console;

namespace DeepfakeLab.Tests;

/// <summary>How far the library is, as a person, a log and a program read it. Alone, as progress of all that the process does arrives in one place.</summary>
[Collection("environment")]
public class ProgressTests
{
    [Fact]
    public void An_update_says_share_time_left_speed_memory_and_figures()
    {
        var update = new ProgressUpdate("fine-tuning, epoch 3 of 8", 120, 300, "images", TimeSpan.FromSeconds(4), [("loss", 0.43125), ("best accuracy", 0.71)]) { Memory = 812_000_000 };
        Assert.Equal("fine-tuning, epoch 3 of 8: 40 %, 0:06 left, 120 of 300 images, 30 images/s, 812 MB, loss 0.4313, best accuracy 0.71", update.ToString());
        Assert.Equal("downloading: 25 %, 0:03 left, 2.5 of 10.0 MB, 2.5 MB/s", (update with { Task = "downloading", Done = 2_500_000, Total = 10_000_000, Unit = "bytes", Elapsed = TimeSpan.FromSeconds(1), Figures = [], Memory = 0 }).ToString());
        Assert.Equal("x: 5 steps", new ProgressUpdate("x", 5, 0, "steps", default, []).ToString());
    }

    [Fact]
    public void A_part_advances_the_whole_and_the_process_memory_is_told()
    {
        var seen = Updates(() =>
        {
            var whole = LabProgress.Begin("all epochs", 20, "images");
            for (var epoch = 1; epoch <= 2; epoch++)
                whole.Part($"epoch {epoch}", 10).Advance(5);
        });
        Assert.Equal([("epoch 1", 5L, 5L), ("epoch 2", 5L, 10L)], seen.Select(u => (u.Task, u.Done, u.Whole!.Done)));
        Assert.StartsWith("all epochs: 50 %", seen[1].Whole!.Summary, StringComparison.Ordinal);
        Assert.InRange(seen[1].Memory / (double)Environment.WorkingSet, 0.5, 2);
    }

    [Fact]
    public void A_bar_shows_epochs_above_batches_above_figures_in_place()
    {
        using var text = new StringWriter();
        using var screen = TextWriter.Synchronized(text); // drawn on another thread
        var console = AnsiConsole.Create(new AnsiConsoleSettings { Ansi = AnsiSupport.Yes, ColorSystem = ColorSystemSupport.NoColors, Interactive = InteractionSupport.Yes, Out = new AnsiConsoleOutput(screen) });
        console.Profile.Width = 80;
        using (new TerminalProgress(console, TextWriter.Null, ProgressMode.Bar))
        {
            LabProgress.Begin("all epochs", 40, "images").Part("epoch 1 of 4", 10).Advance(5, ("best accuracy", 0.75));
            SpinWait.SpinUntil(() => Drawn().Contains("epoch 1", StringComparison.Ordinal), TimeSpan.FromSeconds(20));
        }
        var lines = Drawn().Split('\n');
        var at = Array.FindIndex(lines, l => l.Contains("━━━───────────────────── all epochs: 13 %", StringComparison.Ordinal));
        Assert.True(at >= 0, Drawn());
        Assert.Contains("━━━━━━━━━━━━──────────── epoch 1 of 4: 50 %, 0:00 left", lines[at + 1], StringComparison.Ordinal);
        Assert.Contains("5 of 10 images", lines[at + 2], StringComparison.Ordinal);
        Assert.Contains("best accuracy 0.75", lines[at + 2], StringComparison.Ordinal);
        Assert.EndsWith("\u001b[?25h", Drawn(), StringComparison.Ordinal); // the cursor is back

        string Drawn()
        {
            lock (screen) // which it locks while it writes
                return text.ToString();
        }
    }

    [Fact]
    public void Json_lines_come_at_most_four_times_a_second_and_at_each_tasks_end()
    {
        var lines = Written(ProgressMode.Json, () =>
        {
            var epoch = LabProgress.Begin("all epochs", 200_000, "images").Part("epoch 1 of 2", 100_000);
            for (var i = 0; i < 10_000; i++)
                epoch.Advance(10, ("loss", 0.5), ("bad", double.NaN));
            LabProgress.Begin("scoring", 1, "images").Advance();
        }, out var seconds).Select(l => JsonNode.Parse(l)!).ToArray();
        Assert.InRange(lines.Length, 3, 3 + (int)(seconds * 4)); // first, last, other task; and those that time allows
        var end = lines[^2];
        Assert.Equal(("epoch 1 of 2", 100_000, 100_000, "images"), ((string)end["task"]!, (int)end["done"]!, (int)end["total"]!, (string)end["unit"]!));
        Assert.True((double)end["rate"]! > 0 && (long)end["memory"]! > 1_000_000 && (double)end["remaining"]! == 0, end.ToJsonString());
        Assert.Equal((0.5, true, 100_000), ((double)end["figures"]!["loss"]!, end["figures"]!["bad"] is null, (int)end["whole"]!["done"]!));
        Assert.Equal("scoring", (string?)lines[^1]["task"]);
    }

    [Theory]
    [InlineData(ProgressMode.Lines), InlineData(ProgressMode.Silent)]
    public void Short_work_writes_no_lines(ProgressMode mode) => Assert.Empty(Written(mode, () => LabProgress.Begin("short", 1, "images").Advance(), out _));

    [Fact]
    public void The_command_line_writes_json_lines_on_request_and_lines_without_control_codes_when_redirected()
    {
        using var folder = TestSupport.Folder();
        TrainingTests.PaintImages(folder["images"], 6);
        (int Code, string Output, string Error) Check(params string[] options) => TestSupport.Run("dotnet",
            [typeof(Cli.Program).Assembly.Location, "data", "check", folder["images"], .. options], new Dictionary<string, string> { ["DEEPFAKELAB_CACHE"] = folder[options.Length == 0 ? "auto" : options[1]] });
        var json = Check("--progress", "json");
        Assert.Equal(0, json.Code);
        var last = JsonNode.Parse(json.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries)[^1])!;
        Assert.Equal(12, (int)last["total"]!);
        Assert.DoesNotContain("\"task\"", json.Output, StringComparison.Ordinal);
        Assert.Empty(Check("--progress", "silent").Error);
        Assert.DoesNotContain('\u001b', Check().Error);
        var wrong = Check("--progress", "loud");
        Assert.Equal(2, wrong.Code);
        Assert.Contains("loud", wrong.Error, StringComparison.Ordinal);
    }

    private static List<ProgressUpdate> Updates(Action work)
    {
        var seen = new List<ProgressUpdate>();
        LabProgress.Changed += seen.Add;
        work();
        LabProgress.Changed -= seen.Add;
        return seen;
    }

    private static string[] Written(ProgressMode mode, Action work, out double seconds)
    {
        using var lines = new StringWriter();
        var clock = System.Diagnostics.Stopwatch.StartNew();
        using (new TerminalProgress(AnsiConsole.Console, lines, mode))
            work();
        seconds = clock.Elapsed.TotalSeconds;
        return lines.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }
}
