using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Notebooks;

/// <summary>Where Jupyter wants the kernel to listen, and the key that messages are signed with.</summary>
internal sealed record ConnectionFile(IPAddress Address, string Key, int Shell, int Control, int IoPub, int Stdin, int Heartbeat)
{
    /// <exception cref="NotebookException">The file is absent, no connection file, or asks for what is not allowed.</exception>
    public static ConnectionFile Read(string path, bool allowRemote)
    {
        var text = BoundedFile.ReadText(path);
        try
        {
            var json = JsonNode.Parse(text) as JsonObject ?? throw new FormatException("its top is not an object");
            if ((string?)json["transport"] is { } transport && transport != "tcp")
                throw new FormatException($"its transport is {transport}, not tcp");
            if ((string?)json["signature_scheme"] is { } scheme && scheme != "hmac-sha256")
                throw new FormatException($"its signature scheme is {scheme}, not hmac-sha256");
            var address = (string?)json["ip"] switch
            {
                null or "" or "localhost" => IPAddress.Loopback,
                "*" => IPAddress.Any,
                var ip => IPAddress.Parse(ip),
            };
            var key = (string?)json["key"] ?? "";
            if (!IPAddress.IsLoopback(address) && (!allowRemote || key.Length == 0))
                throw new NotebookException("The kernel listens on this machine only, and the connection file asks for another address", address.ToString(),
                    "Use 127.0.0.1, or add --allow-remote to the kernelspec's arguments; whoever holds the key then runs code as you");
            return new ConnectionFile(address, key, Port("shell"), Port("control"), Port("iopub"), Port("stdin"), Port("hb"));

            int Port(string name) => (int?)json[name + "_port"] is { } port and >= 0 and <= 65535 ? port : throw new FormatException($"it has no {name}_port");
        }
        catch (Exception e) when (e is JsonException or FormatException or InvalidOperationException)
        {
            throw new NotebookException($"This is no Jupyter connection file ({e.Message.TrimEnd('.')})", path, "Let Jupyter start the kernel", e);
        }
    }
}
