using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using System.Threading.Channels;

namespace DeepfakeLab.Notebooks;

/// <summary>A C# kernel for Jupyter: one <see cref="CSharpSession"/> behind the Jupyter protocol 5.3.</summary>
/// <remarks>
/// Requests on the shell channel are done one after another by one worker. Control requests are answered at once on the sockets'
/// thread, so that a running cell can be interrupted. Whatever a message holds, it ends in a reply or is dropped.
/// </remarks>
public sealed class JupyterKernel : IDisposable
{
    private sealed record Work(JupyterSockets.Channel Channel, JupyterMessage? Message); // without a message: the end of what is to be aborted

    private readonly string session = Guid.NewGuid().ToString("N");
    private readonly Channel<Work> queue = Channel.CreateUnbounded<Work>();
    private readonly TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<(int Line, string Code)> history = [];
    private readonly LibraryProgress progress = new();
    private readonly CSharpSession cells;
    private readonly CodeAssistant assistant;
    private readonly JupyterSockets sockets;
    private CancellationTokenSource? running;
    private bool aborting;
    private int executionCount;

    private JupyterKernel(ConnectionFile connection, SessionOptions options)
    {
        cells = new CSharpSession(options with { Referenced = progress.Attach });
        assistant = new CodeAssistant(cells);
        sockets = new JupyterSockets(connection, new JupyterWire(connection.Key, session), Receive);
    }

    /// <summary>Runs until it is told to shut down or the process that started it is gone.</summary>
    /// <exception cref="NotebookException">The connection file cannot be used.</exception>
    public static async Task RunAsync(string connectionFile, SessionOptions options, bool allowRemote = false)
    {
        using var kernel = new JupyterKernel(ConnectionFile.Read(connectionFile, allowRemote), options);
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, signal =>
        {
            signal.Cancel = true;
            kernel.Interrupt();
        });
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, signal =>
        {
            signal.Cancel = true;
            kernel.ended.TrySetResult();
        });
        kernel.Status("starting", null);
        _ = Task.Run(kernel.DoWork);
        _ = Task.Run(WarmUp);
        _ = kernel.EndWithParent();
        await kernel.ended.Task;
    }

    public void Dispose()
    {
        Interrupt();
        sockets.Dispose();
        cells.Dispose();
        assistant.Dispose();
    }

    private void Receive(JupyterSockets.Channel channel, JupyterMessage message)
    {
        if (channel == JupyterSockets.Channel.Shell && message.Type != "shutdown_request")
        {
            queue.Writer.TryWrite(new Work(channel, message));
            return;
        }
        Status("busy", message);
        switch (message.Type)
        {
            case "interrupt_request":
                Interrupt();
                sockets.Reply(channel, "interrupt_reply", Ok(), message);
                break;
            case "shutdown_request":
                var reply = Ok();
                reply["restart"] = (message.Content["restart"] as JsonValue)?.GetValueKind() == System.Text.Json.JsonValueKind.True;
                sockets.Publish("shutdown_reply", (JsonObject)reply.DeepClone(), message);
                sockets.Reply(channel, "shutdown_reply", reply, message);
                Status("idle", message);
                ended.TrySetResult();
                return;
            case "kernel_info_request":
                sockets.Reply(channel, "kernel_info_reply", KernelInfo(), message);
                break;
        }
        Status("idle", message);
    }

    private void Interrupt()
    {
        var cell = Volatile.Read(ref running);
        try
        {
            cell?.CancelAsync(); // not Cancel: what is registered on it must not run on the sockets' thread
        }
        catch (ObjectDisposedException)
        {
            // the cell has just ended
        }
    }

    private async Task DoWork()
    {
        await foreach (var work in queue.Reader.ReadAllAsync())
        {
            if (work.Message is not { } message)
            {
                aborting = false;
                continue;
            }
            Status("busy", message);
            try
            {
                await Handle(work.Channel, message);
            }
            catch (Exception e)
            {
                // Mostly a content of the wrong shape, signed though it was. Every request has a reply, and one that fails must not end this loop.
                if (message.Type.EndsWith("_request", StringComparison.Ordinal))
                {
                    var wrongShape = e is InvalidOperationException or FormatException or ArgumentException or OverflowException;
                    var reply = Error(wrongShape ? "ProtocolError" : e.GetType().Name, e.Message);
                    if (message.Type == "execute_request")
                        reply["execution_count"] = executionCount;
                    sockets.Reply(work.Channel, message.Type.Replace("_request", "_reply", StringComparison.Ordinal), reply, message);
                }
            }
            Status("idle", message);
        }
    }

    private async Task Handle(JupyterSockets.Channel channel, JupyterMessage message)
    {
        var content = message.Content;
        switch (message.Type)
        {
            case "kernel_info_request":
                sockets.Reply(channel, "kernel_info_reply", KernelInfo(), message);
                break;
            case "execute_request":
                await Execute(channel, message);
                break;
            case "is_complete_request":
                var (state, indent) = CodeAssistant.IsComplete(Text(content, "code"));
                sockets.Reply(channel, "is_complete_reply", indent is null ? new() { ["status"] = state } : new() { ["status"] = state, ["indent"] = indent }, message);
                break;
            case "complete_request":
                sockets.Reply(channel, "complete_reply", await assistant.CompleteAsync(Text(content, "code"), Number(content, "cursor_pos")), message);
                break;
            case "inspect_request":
                sockets.Reply(channel, "inspect_reply", await assistant.InspectAsync(Text(content, "code"), Number(content, "cursor_pos")), message);
                break;
            case "history_request":
                sockets.Reply(channel, "history_reply", History(content), message);
                break;
            case "comm_info_request":
                var comms = Ok();
                comms["comms"] = new JsonObject();
                sockets.Reply(channel, "comm_info_reply", comms, message);
                break;
            case "comm_open": // there are no widgets here; the other side learns it by the close
                sockets.Publish("comm_close", new JsonObject { ["comm_id"] = Text(content, "comm_id"), ["data"] = new JsonObject() }, message);
                break;
        }
    }

    private async Task Execute(JupyterSockets.Channel channel, JupyterMessage message)
    {
        var code = Text(message.Content, "code");
        var silent = Flag(message.Content, "silent", false);
        var store = !silent && Flag(message.Content, "store_history", true);
        if (aborting)
        {
            sockets.Reply(channel, "execute_reply", new() { ["status"] = "aborted", ["execution_count"] = executionCount }, message);
            return;
        }
        if (store || executionCount == 0 && !silent)
            executionCount++;
        var count = executionCount;
        if (store)
            history.Add((count, code));
        if (!silent)
            sockets.Publish("execute_input", new() { ["code"] = code, ["execution_count"] = count }, message);

        CellResult result;
        JsonObject? expressions = null;
        using (var cancellation = new CancellationTokenSource())
        {
            var publisher = new OutputPublisher(sockets, message, count, silent);
            Volatile.Write(ref running, cancellation);
            try
            {
                result = await cells.RunAsync(code, $"cell {count}", publisher.Show, cancellation.Token);
                progress.EndCell(publisher.Show);
                publisher.Flush();
                if (result.Succeeded)
                    expressions = await UserExpressions(message.Content["user_expressions"] as JsonObject, cancellation.Token);
            }
            finally
            {
                Volatile.Write(ref running, null);
            }
        }

        JsonObject reply;
        if (result.Error is { } error)
        {
            reply = Error(error.Name, error.Message, error.Traceback);
            if (Flag(message.Content, "stop_on_error", true))
            {
                aborting = true;
                queue.Writer.TryWrite(new Work(channel, null));
            }
        }
        else
        {
            reply = Ok();
            reply["user_expressions"] = expressions;
            reply["payload"] = new JsonArray();
        }
        reply["execution_count"] = count;
        sockets.Reply(channel, "execute_reply", reply, message);
    }

    /// <summary>What a front end wants to know after a cell; an interrupt of the cell ends these as well.</summary>
    private async Task<JsonObject> UserExpressions(JsonObject? expressions, CancellationToken cancellation)
    {
        var values = new JsonObject();
        foreach (var (name, expression) in expressions ?? [])
        {
            ResultOutput? shown = null;
            var result = await cells.RunAsync(expression?.ToString() ?? "", "expression", o => shown = o as ResultOutput ?? shown, cancellation);
            values[name] = result.Error is { } error ? Error(error.Name, error.Message, error.Traceback) : new JsonObject
            {
                ["status"] = "ok",
                ["data"] = NotebookJson.ToJson(shown?.Data ?? []),
                ["metadata"] = new JsonObject(),
            };
        }
        return values;
    }

    private JsonObject History(JsonObject content)
    {
        IEnumerable<(int Line, string Code)> chosen = Text(content, "hist_access_type", "tail") switch
        {
            "range" => history.Where(h => h.Line >= Number(content, "start") && h.Line < (content["stop"] is null ? int.MaxValue : Number(content, "stop"))),
            "search" => history.Where(h => System.IO.Enumeration.FileSystemName.MatchesSimpleExpression(Text(content, "pattern", "*"), h.Code, ignoreCase: false)),
            _ => history,
        };
        if (Flag(content, "unique", false))
            chosen = chosen.DistinctBy(h => h.Code);
        if (content["n"] is not null && Text(content, "hist_access_type", "tail") != "range")
            chosen = chosen.TakeLast(Math.Max(0, Number(content, "n")));
        var output = Flag(content, "output", false);
        var reply = Ok();
        reply["history"] = new JsonArray([.. chosen.Select(h => new JsonArray(0, h.Line, output ? new JsonArray(h.Code, null) : h.Code))]);
        return reply;
    }

    private static JsonObject KernelInfo() => new()
    {
        ["status"] = "ok",
        ["protocol_version"] = JupyterWire.ProtocolVersion,
        ["implementation"] = "deepfakelab",
        ["implementation_version"] = typeof(JupyterKernel).Assembly.GetName().Version?.ToString(3),
        // The name that .NET Interactive's own front end writes into notebooks; Jupyter copies it into every notebook that it saves.
        ["language_info"] = new JsonObject
        {
            ["name"] = "polyglot-notebook",
            ["version"] = "14.0",
            ["mimetype"] = "text/x-csharp",
            ["file_extension"] = ".cs",
            ["pygments_lexer"] = "csharp",
            ["codemirror_mode"] = "text/x-csharp",
            ["nbconvert_exporter"] = "script",
        },
        ["banner"] = "DeepfakeLab's C# kernel",
        ["help_links"] = new JsonArray(),
    };

    private void Status(string state, JupyterMessage? parent) => sockets.Publish("status", new() { ["execution_state"] = state }, parent);

    /// <summary>Compiles something while the user is still reading, so that the first cell need not wait for the compiler to load.</summary>
    private static async Task WarmUp()
    {
        using var throwaway = new CSharpSession();
        await throwaway.RunAsync("var warm = 1; warm + 1", "warm-up", _ => { });
    }

    /// <summary>A kernel whose Jupyter was killed must not stay behind.</summary>
    private async Task EndWithParent()
    {
        if (OperatingSystem.IsWindows() || !int.TryParse(Environment.GetEnvironmentVariable("JPY_PARENT_PID"), out var parent) || parent <= 1)
            return; // on Windows the variable holds a handle, and Jupyter ends its kernels with a job object
        while (!ended.Task.IsCompleted)
        {
            await Task.Delay(1000);
            try
            {
                using var process = Process.GetProcessById(parent);
            }
            catch (ArgumentException)
            {
                ended.TrySetResult();
            }
        }
    }

    internal static JsonObject Ok() => new() { ["status"] = "ok" };

    private static JsonObject Error(string name, string message, IReadOnlyList<string>? traceback = null) => new()
    {
        ["status"] = "error",
        ["ename"] = name,
        ["evalue"] = message,
        ["traceback"] = new JsonArray([.. (traceback ?? [message]).Select(l => (JsonNode)l)]),
    };

    private static string Text(JsonObject content, string name, string? otherwise = null) =>
        (string?)content[name] ?? otherwise ?? throw new FormatException($"the message has no {name}");

    private static int Number(JsonObject content, string name) => (int?)content[name] ?? 0;

    private static bool Flag(JsonObject content, string name, bool otherwise) => (bool?)content[name] ?? otherwise;
}
