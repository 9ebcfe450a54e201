using System.Text;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Reads the float32 initializers of an ONNX file and the order in which its convolutions and batch norms use them.</summary>
/// <remarks>
/// Ours because it is four fields of onnx.proto, and the file is taken as hostile: every length is checked against what is left of the
/// message it stands in, nothing is copied before that, and messages nest no deeper than model, graph, node.
/// </remarks>
internal sealed class OnnxWeights
{
    private readonly Dictionary<string, (long[] Shape, ReadOnlyMemory<byte> Numbers)> initializers = new(StringComparer.Ordinal);

    /// <summary>The graph's nodes in their order: the operator and the names of its inputs.</summary>
    public IReadOnlyList<(string Operator, IReadOnlyList<string> Inputs)> Nodes { get; }

    /// <exception cref="InvalidDataException">The bytes are no ONNX file, or hold what is not read here.</exception>
    public OnnxWeights(ReadOnlyMemory<byte> file)
    {
        var nodes = new List<(string, IReadOnlyList<string>)>();
        Nodes = nodes;
        var graphs = 0;
        foreach (var (field, _, graph) in Fields(file))
        {
            if (field != 7) // ModelProto.graph
                continue;
            if (graphs++ > 0)
                throw new InvalidDataException("it has more than one graph");
            foreach (var (part, _, bytes) in Fields(graph))
                if (part == 1) // GraphProto.node: inputs are its field 1, the operator its field 4
                    nodes.Add((Fields(bytes).Where(f => f.Field == 4).Select(f => Text(f.Bytes)).LastOrDefault(""), [.. Fields(bytes).Where(f => f.Field == 1).Select(f => Text(f.Bytes))]));
                else if (part == 5) // GraphProto.initializer
                    AddInitializer(bytes);
        }
        if (graphs == 0)
            throw new InvalidDataException("it has no graph");
    }

    /// <summary>A copy of an initializer; the caller owns it.</summary>
    public Tensor this[string name]
    {
        get
        {
            if (!initializers.TryGetValue(name, out var found))
                throw new InvalidDataException($"it has no initializer {name}");
            var tensor = empty(found.Shape, float32, CPU);
            found.Numbers.Span.CopyTo(tensor.bytes);
            return tensor;
        }
    }

    private void AddInitializer(ReadOnlyMemory<byte> message)
    {
        var (shape, type, name, numbers) = (new List<long>(), 0L, "", ReadOnlyMemory<byte>.Empty);
        foreach (var (field, value, bytes) in Fields(message))
            switch (field)
            {
                case 1 when bytes.IsEmpty: shape.Add((long)value); break;
                case 1: // packed
                    for (var rest = bytes; !rest.IsEmpty;)
                        shape.Add((long)Varint(ref rest));
                    break;
                case 2: type = (long)value; break;
                case 8: name = Text(bytes); break;
                case 4 or 9: numbers = bytes; break; // packed float_data, raw_data: both little-endian float32
            }
        if (type != 1)
            return; // not float32
        if (RawTensors.Count([.. shape]) * sizeof(float) != numbers.Length)
            throw new InvalidDataException($"the initializer {name} has {numbers.Length} bytes, not what its shape needs");
        if (!initializers.TryAdd(name, ([.. shape], numbers)))
            throw new InvalidDataException($"the initializer {name} occurs twice");
    }

    /// <summary>A message's fields: numbers in Value, strings and nested messages in Bytes.</summary>
    private static IEnumerable<(int Field, ulong Value, ReadOnlyMemory<byte> Bytes)> Fields(ReadOnlyMemory<byte> message)
    {
        while (!message.IsEmpty)
        {
            var tag = Varint(ref message);
            var (value, length) = (0UL, 0UL);
            switch (tag & 7)
            {
                case 0: value = Varint(ref message); break;
                case 1: length = 8; break;
                case 2: length = Varint(ref message); break;
                case 5: length = 4; break;
                default: throw new InvalidDataException("it is no protobuf message");
            }
            if (tag >> 3 is 0 or > 0x1fffffff || length > (ulong)message.Length)
                throw new InvalidDataException("a field reaches beyond its message");
            yield return ((int)(tag >> 3), value, message[..(int)length]);
            message = message[(int)length..];
        }
    }

    private static ulong Varint(ref ReadOnlyMemory<byte> message)
    {
        var span = message.Span;
        var value = 0UL;
        for (var i = 0; i < Math.Min(10, span.Length); i++)
        {
            value |= (ulong)(span[i] & 0x7f) << (7 * i);
            if (span[i] < 0x80)
            {
                message = message[(i + 1)..];
                return value;
            }
        }
        throw new InvalidDataException("a number is cut off");
    }

    private static string Text(ReadOnlyMemory<byte> bytes) =>
        bytes.Length <= 1024 ? Encoding.UTF8.GetString(bytes.Span) : throw new InvalidDataException("a name is longer than 1024 bytes");
}
