using System.Text;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Notebooks;

/// <summary>Publishes what a cell shows. Text is gathered for a moment, so that a loop that prints is not a message a character.</summary>
internal sealed class OutputPublisher(JupyterSockets sockets, JupyterMessage request, int count, bool silent)
{
    private static readonly TimeSpan gather = TimeSpan.FromMilliseconds(30);
    private const int MostText = 32_768;
    private readonly Lock gate = new();
    private readonly StringBuilder text = new();
    private string stream = "stdout";

    public void Show(CellOutput output)
    {
        lock (gate)
        {
            if (output is StreamOutput written)
            {
                Gather(written);
                return;
            }
            FlushText();
            switch (output)
            {
                case DisplayOutput display:
                    Publish("display_data", display.Data, new JsonObject { ["display_id"] = display.DisplayId });
                    break;
                case DisplayUpdate update:
                    Publish("update_display_data", update.Data, new JsonObject { ["display_id"] = update.DisplayId });
                    break;
                case ResultOutput result when !silent:
                    sockets.Publish("execute_result", new()
                    {
                        ["execution_count"] = count,
                        ["data"] = NotebookJson.ToJson(result.Data),
                        ["metadata"] = new JsonObject(),
                    }, request);
                    break;
                case ErrorOutput error:
                    sockets.Publish("error", new()
                    {
                        ["ename"] = error.Name,
                        ["evalue"] = error.Message,
                        ["traceback"] = new JsonArray([.. error.Traceback.Select(l => (JsonNode)l)]),
                    }, request);
                    break;
            }
        }
    }

    public void Flush()
    {
        lock (gate)
            FlushText();
    }

    private void Gather(StreamOutput written)
    {
        if (written.Name != stream)
            FlushText();
        stream = written.Name;
        if (text.Length == 0)
            _ = FlushLater();
        text.Append(written.Text);
        if (text.Length >= MostText)
            FlushText();
    }

    private async Task FlushLater()
    {
        await Task.Delay(gather);
        Flush();
    }

    private void FlushText()
    {
        if (text.Length == 0)
            return;
        sockets.Publish("stream", new() { ["name"] = stream, ["text"] = text.ToString() }, request);
        text.Clear();
    }

    private void Publish(string type, MimeBundle data, JsonObject transient) =>
        sockets.Publish(type, new() { ["data"] = NotebookJson.ToJson(data), ["metadata"] = new JsonObject(), ["transient"] = transient }, request);
}
