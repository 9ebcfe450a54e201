using System.Diagnostics;
using System.Net.WebSockets;
using System.Text;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>A headless Chromium that reaches no further than this machine, and by default nothing at all, driven over its DevTools protocol: one page, its console and its requests.</summary>
/// <remarks>Fifty lines of protocol spare the tests Node and a browser download of its own.</remarks>
internal sealed class Browser : IDisposable
{
    private readonly Process process;
    private readonly TemporaryFolder profile = TestSupport.Folder();
    private readonly ClientWebSocket socket = new();
    private readonly List<JsonNode> events = [];
    private readonly bool local;
    private readonly string? allowed;
    private int calls;

    /// <summary>Starts Chromium; where there is none the test is skipped.</summary>
    /// <param name="local">Whether it may ask servers on 127.0.0.1.</param>
    /// <param name="allowed">The beginning of addresses, on this machine, that a page may ask for without complaint.</param>
    public Browser(bool local = false, string? allowed = null)
    {
        (this.local, this.allowed) = (local, allowed);
        string[] names = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        var file = Environment.GetEnvironmentVariable("CHROME_PATH") ?? names.FirstOrDefault(File.Exists);
        if (file is null)
            TestSupport.Skip("needs Chromium (apt install chromium) or CHROME_PATH");
        process = Process.Start(new ProcessStartInfo(file!,
            ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
             $"--user-data-dir={profile.Path}", "about:blank"])
        { RedirectStandardError = true, RedirectStandardOutput = true })!; // else it would inherit, and outlive, the tests' own
        try
        {
            Connect();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private void Connect()
    {
        var listening = new TaskCompletionSource<string>();
        process.ErrorDataReceived += (_, line) =>
        {
            if (line.Data?.Split("DevTools listening on ") is [_, var address])
                listening.TrySetResult(address);
        };
        process.BeginErrorReadLine();
        Assert.True(listening.Task.Wait(TimeSpan.FromMinutes(1)), "Chromium does not listen");
        var address = new Uri(listening.Task.Result);
        using var http = new HttpClient();
        var pages = JsonNode.Parse(http.GetStringAsync($"http://{address.Authority}/json/list").Result)!.AsArray();
        socket.ConnectAsync(new Uri(pages.First(p => (string?)p!["type"] == "page")!["webSocketDebuggerUrl"]!.ToString()), default).Wait();
        foreach (var domain in (string[])["Page", "Runtime", "Log", "Network"])
            Call($"{domain}.enable");
        if (!local)
            Call("Network.emulateNetworkConditions", new() { ["offline"] = true, ["latency"] = 0, ["downloadThroughput"] = 0, ["uploadThroughput"] = 0 });
    }

    /// <summary>What the page wrote to its console as an error or warning, exceptions, and everything it asked for outside itself.</summary>
    public IReadOnlyList<string> Complaints =>
    [
        .. events.Where(e => (string?)e["method"] == "Log.entryAdded" && (string?)e["params"]!["entry"]!["level"] is "error" or "warning").Select(e => e["params"]!["entry"]!["text"]!.ToString()),
        .. events.Where(e => (string?)e["method"] == "Runtime.consoleAPICalled" && (string?)e["params"]!["type"] is "error" or "warning").Select(e => e["params"]!["args"]!.ToJsonString()),
        .. events.Where(e => (string?)e["method"] == "Runtime.exceptionThrown").Select(e => e["params"]!["exceptionDetails"]!.ToJsonString()),
        .. events.Where(e => (string?)e["method"] == "Network.requestWillBeSent").Select(e => e["params"]!["request"]!["url"]!.ToString())
            .Where(url => !((string?[])["data:", "file:", "blob:", allowed]).Any(inside => inside is not null && url.StartsWith(inside, StringComparison.Ordinal))).Select(url => "asked for " + url),
    ];

    /// <summary>Opens a file, as a reader with this window and colour scheme sees it, and waits until it has loaded.</summary>
    public void Open(string path, bool dark = false, int width = 1100)
    {
        Call("Emulation.setEmulatedMedia", new() { ["features"] = new JsonArray(new JsonObject { ["name"] = "prefers-color-scheme", ["value"] = dark ? "dark" : "light" }) });
        Call("Emulation.setDeviceMetricsOverride", new() { ["width"] = width, ["height"] = 800, ["deviceScaleFactor"] = 1, ["mobile"] = false });
        events.RemoveAll(e => (string?)e["method"] == "Page.loadEventFired");
        Call("Page.navigate", new() { ["url"] = new Uri(path).AbsoluteUri }); // of a path, the file's
        while (!events.Any(e => (string?)e["method"] == "Page.loadEventFired"))
            events.Add(Receive());
    }

    /// <summary>The value of a JavaScript expression in the page; a promise is waited for.</summary>
    public JsonNode? Evaluate(string expression)
    {
        var answer = Call("Runtime.evaluate", new() { ["expression"] = expression, ["returnByValue"] = true, ["awaitPromise"] = true });
        Assert.True(answer["exceptionDetails"] is null, answer.ToJsonString());
        return answer["result"]!["value"];
    }

    /// <summary>Moves the mouse to the middle of the first element that this CSS selector finds.</summary>
    public void Hover(string selector)
    {
        var at = Middle(selector);
        foreach (var aside in (double[])[30, 0]) // a pointer comes from somewhere
            Call("Input.dispatchMouseEvent", new() { ["type"] = "mouseMoved", ["x"] = (double)at[0]! + aside, ["y"] = (double)at[1]! + aside });
    }

    private JsonNode Middle(string selector) =>
        Evaluate($"(e => {{ e.scrollIntoView({{ block: 'center' }}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})(document.querySelector({JsonValue.Create(selector).ToJsonString()}))")!;

    /// <summary>Clicks on the first element that this CSS selector finds.</summary>
    public void Click(string selector)
    {
        var at = Middle(selector);
        foreach (var type in (string[])["mousePressed", "mouseReleased"])
            Call("Input.dispatchMouseEvent", new() { ["type"] = type, ["x"] = (double)at[0]!, ["y"] = (double)at[1]!, ["button"] = "left", ["clickCount"] = 1 });
    }

    /// <summary>Chooses a file in the first file input that this CSS selector finds.</summary>
    public void Choose(string selector, string file)
    {
        var document = Call("DOM.getDocument")["root"]!["nodeId"]!.GetValue<int>();
        var input = Call("DOM.querySelector", new() { ["nodeId"] = document, ["selector"] = selector })["nodeId"]!.GetValue<int>();
        Call("DOM.setFileInputFiles", new() { ["nodeId"] = input, ["files"] = new JsonArray(file) });
    }

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
    public byte[] Screenshot() => Convert.FromBase64String(Call("Page.captureScreenshot", new() { ["captureBeyondViewport"] = true })["data"]!.ToString());

    public void Dispose()
    {
        socket.Dispose();
        process.Kill(entireProcessTree: true);
        process.WaitForExit();
        process.Dispose();
        try
        {
            profile.Dispose();
        }
        catch (IOException)
        {
            // a child of Chromium that is just ending may still write there; the folder is temporary
        }
    }

    private JsonNode Call(string method, JsonObject? parameters = null)
    {
        var id = ++calls;
        var text = new JsonObject { ["id"] = id, ["method"] = method, ["params"] = parameters ?? [] }.ToJsonString();
        socket.SendAsync(Encoding.UTF8.GetBytes(text), WebSocketMessageType.Text, true, default).Wait();
        while (true)
        {
            var message = Receive();
            if ((int?)message["id"] == id)
                return message["result"] ?? throw new InvalidOperationException($"{method}: {message.ToJsonString()}");
            events.Add(message);
        }
    }

    private JsonNode Receive()
    {
        using var timeout = new CancellationTokenSource(TimeSpan.FromMinutes(1));
        using var message = new MemoryStream();
        var buffer = new byte[1 << 16];
        WebSocketReceiveResult part;
        do
        {
            part = socket.ReceiveAsync(buffer, timeout.Token).Result;
            message.Write(buffer, 0, part.Count);
        }
        while (!part.EndOfMessage);
        return JsonNode.Parse(message.ToArray())!;
    }
}
