using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using NetMQ;

namespace DeepfakeLab.Notebooks;

/// <summary>One message of the Jupyter protocol: routing identities, header, the header it answers, and content.</summary>
internal sealed record JupyterMessage(IReadOnlyList<byte[]> Identities, JsonObject Header, JsonObject Parent, JsonObject Content)
{
    public string Type => (string?)Header["msg_type"] ?? "";
}

/// <summary>Turns messages into frames and back; what is not signed with the session's key is no message.</summary>
internal sealed class JupyterWire(string key, string session)
{
    public const string ProtocolVersion = "5.3";
    private static readonly byte[] delimiter = "<IDS|MSG>"u8.ToArray();
    private static readonly JsonSerializerOptions compact = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
    private static readonly JsonDocumentOptions strict = new() { MaxDepth = 128 };
    private readonly byte[] secret = Encoding.UTF8.GetBytes(key);

    /// <summary>The message in these frames; null when they are malformed or wrongly signed.</summary>
    public JupyterMessage? Read(IReadOnlyList<byte[]> frames)
    {
        var at = 0;
        while (at < frames.Count && !frames[at].AsSpan().SequenceEqual(delimiter))
            at++;
        if (frames.Count < at + 6 || !IsSigned(frames, at))
            return null;
        try
        {
            var parts = Enumerable.Range(at + 2, 4).Select(i => JsonNode.Parse(frames[i], documentOptions: strict) as JsonObject).ToList();
            if (parts.Any(p => p is null) || parts[0]!["msg_type"]?.GetValueKind() != JsonValueKind.String)
                return null;
            return new JupyterMessage([.. frames.Take(at)], parts[0]!, parts[1]!, parts[3]!);
        }
        catch (Exception e) when (e is JsonException or ArgumentException or InvalidOperationException)
        {
            return null; // also for a key that occurs twice
        }
    }

    /// <summary>The frames of a new message that answers <paramref name="parent"/>.</summary>
    public NetMQMessage Write(string type, JsonObject content, JupyterMessage? parent, IEnumerable<byte[]> identities)
    {
        var header = new JsonObject
        {
            ["msg_id"] = Guid.NewGuid().ToString("N"),
            ["session"] = session,
            ["username"] = "kernel",
            ["date"] = DateTime.UtcNow.ToString("yyyy-MM-dd'T'HH:mm:ss.ffffff'Z'", CultureInfo.InvariantCulture),
            ["msg_type"] = type,
            ["version"] = ProtocolVersion,
        };
        byte[][] parts = [Bytes(header), parent is null ? "{}"u8.ToArray() : Bytes(parent.Header), "{}"u8.ToArray(), Bytes(content)];
        var message = new NetMQMessage();
        foreach (var identity in identities)
            message.Append(identity);
        message.Append(delimiter);
        message.Append(Sign(parts));
        foreach (var part in parts)
            message.Append(part);
        return message;
    }

    private static byte[] Bytes(JsonObject json) => Encoding.UTF8.GetBytes(json.ToJsonString(compact));

    private bool IsSigned(IReadOnlyList<byte[]> frames, int at) =>
        CryptographicOperations.FixedTimeEquals(frames[at + 1], Sign([frames[at + 2], frames[at + 3], frames[at + 4], frames[at + 5]]));

    private byte[] Sign(byte[][] parts)
    {
        if (secret.Length == 0)
            return [];
        using var hash = IncrementalHash.CreateHMAC(HashAlgorithmName.SHA256, secret);
        foreach (var part in parts)
            hash.AppendData(part);
        return Encoding.ASCII.GetBytes(Convert.ToHexStringLower(hash.GetHashAndReset()));
    }
}
