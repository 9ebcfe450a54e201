#if PLAYWRIGHT
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.Json.Nodes;
using Microsoft.Playwright;

namespace DeepfakeLab.Tests;

/// <summary>Debian's Chromium, headless, that reaches no further than this machine, and by default nothing at all, driven by Playwright: one page, its console and its requests.</summary>
internal sealed class Browser : IDisposable
{
    private readonly IPlaywright playwright;
    private readonly IBrowser chromium;
    private readonly IPage page;
    private readonly ICDPSession devTools;
    private readonly ConcurrentQueue<string> complaints = new();

    /// <summary>Starts Chromium; where there is none the test is skipped.</summary>
    /// <param name="local">Whether it may ask servers on 127.0.0.1.</param>
    /// <param name="allowed">The beginning of addresses, on this machine, that a page may ask for without complaint.</param>
    public Browser(bool local = false, string? allowed = null)
    {
        string[] names = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        var file = Environment.GetEnvironmentVariable("CHROME_PATH") ?? names.FirstOrDefault(File.Exists);
        if (file is null)
            TestSupport.Skip("needs Chromium (apt install chromium) or CHROME_PATH");
        playwright = Playwright.CreateAsync().Result;
        chromium = playwright.Chromium.LaunchAsync(new()
        {
            ExecutablePath = file,
            Args = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        }).Result;
        page = chromium.NewPageAsync(new() { Offline = !local }).Result;
        page.SetDefaultTimeout(60_000);
        devTools = page.Context.NewCDPSessionAsync(page).Result;
        page.Console += (_, message) =>
        {
            if (message.Type is "error" or "warning")
                complaints.Enqueue(message.Text);
        };
        page.PageError += (_, error) => complaints.Enqueue(error);
        page.Request += (_, request) =>
        {
            if (!((string?[])["data:", "file:", "blob:", allowed]).Any(inside => inside is not null && request.Url.StartsWith(inside, StringComparison.Ordinal)))
                complaints.Enqueue("asked for " + request.Url);
        };
    }

    /// <summary>What the page wrote to its console as an error or warning, exceptions, and everything it asked for outside itself.</summary>
    public IReadOnlyCollection<string> Complaints => complaints;

    /// <summary>Opens a file, as a reader with this window and colour scheme sees it, and waits until it has loaded.</summary>
    public void Open(string path, bool dark = false, int width = 1100)
    {
        page.EmulateMediaAsync(new() { ColorScheme = dark ? ColorScheme.Dark : ColorScheme.Light }).Wait();
        page.SetViewportSizeAsync(width, 800).Wait();
        page.GotoAsync(new Uri(path).AbsoluteUri).Wait(); // of a path, the file's
    }

    /// <summary>The value of a JavaScript expression in the page, also where the page's security policy forbids it eval; a promise is waited for.</summary>
    public JsonNode? Evaluate(string expression)
    {
        var answer = JsonNode.Parse(devTools.SendAsync("Runtime.evaluate", new() { ["expression"] = expression, ["returnByValue"] = true, ["awaitPromise"] = true }).Result!.Value.GetRawText())!;
        Assert.True(answer["exceptionDetails"] is null, answer.ToJsonString());
        return answer["result"]!["value"];
    }

    /// <summary>Moves the mouse to the middle of the first element that this CSS selector finds, whatever lies over it.</summary>
    public void Hover(string selector)
    {
        var element = page.Locator(selector).First;
        element.ScrollIntoViewIfNeededAsync().Wait();
        var box = element.BoundingBoxAsync().Result!;
        foreach (var aside in (int[])[30, 0]) // a pointer comes from somewhere
            page.Mouse.MoveAsync(box.X + box.Width / 2 + aside, box.Y + box.Height / 2 + aside).Wait();
    }

    /// <summary>Clicks on the first element that this CSS selector finds, once it can be clicked.</summary>
    public void Click(string selector) => page.Locator(selector).First.ClickAsync().Wait();

    /// <summary>Chooses a file in the first file input that this CSS selector finds.</summary>
    public void Choose(string selector, string file) => page.Locator(selector).First.SetInputFilesAsync(file).Wait();

    /// <summary>Waits until a JavaScript expression is true.</summary>
    /// <param name="state">An expression that says how it stands where the wait was in vain.</param>
    public void WaitFor(string expression, string state)
    {
        var clock = Stopwatch.StartNew();
        while (!(bool)Evaluate($"Boolean({expression})")!)
        {
            Assert.True(clock.Elapsed < TimeSpan.FromMinutes(1), $"{expression} is not true; {Evaluate(state)}; {string.Join("; ", Complaints)}");
            Thread.Sleep(20);
        }
    }

    /// <summary>The whole page as a PNG file.</summary>
    public byte[] Screenshot() => page.ScreenshotAsync(new() { FullPage = true }).Result;

    public void Dispose()
    {
        chromium.DisposeAsync().AsTask().Wait();
        playwright.Dispose();
    }
}
#else
using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>In a build without Playwright, which takes 800 MB of disk, the tests that need a browser are skipped.</summary>
internal sealed class Browser : IDisposable
{
    public Browser(bool local = false, string? allowed = null) => TestSupport.Skip("needs a build with Playwright (dotnet test -p:Playwright=true) and Chromium");

    public IReadOnlyCollection<string> Complaints => [];

    public void Open(string path, bool dark = false, int width = 1100) { }

    public JsonNode? Evaluate(string expression) => null;

    public void Hover(string selector) { }

    public void Click(string selector) { }

    public void Choose(string selector, string file) { }

    public void WaitFor(string expression, string state) { }

    public byte[] Screenshot() => [];

    public void Dispose() { }
}
#endif
