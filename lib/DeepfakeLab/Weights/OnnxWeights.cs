using System.Text;
using Google.Protobuf;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Reads the float32 initializers of an ONNX file and the order in which its convolutions and batch norms use them.</summary>
/// <remarks>
/// Google.Protobuf reads the fields and checks each length against what is left of the message it stands in; as in <see cref="OnnxMessage"/>
/// there are no classes generated from onnx.proto, for the handful of fields used here. Numbers stay where they are in the file until they
/// are asked for, and messages nest no deeper than model, graph, node.
/// </remarks>
internal sealed class OnnxWeights
{
    private readonly Dictionary<string, (long[] Shape, ArraySegment<byte> Numbers)> initializers = new(StringComparer.Ordinal);
    private readonly List<(string Operator, IReadOnlyList<string> Inputs)> nodes = [];

    /// <exception cref="InvalidDataException">The bytes are no ONNX file, or hold what is not read here.</exception>
    public OnnxWeights(byte[] file)
    {
        try
        {
            if (Fields(file).Where(f => f.Field == 7).ToList() is not [var graph]) // ModelProto.graph
                throw new InvalidDataException("it has no graph, or more than one");
            foreach (var (part, _, bytes) in Fields(graph.Bytes))
                if (part == 1) // GraphProto.node
                    AddNode(bytes);
                else if (part == 5) // GraphProto.initializer
                    AddInitializer(bytes);
        }
        catch (InvalidProtocolBufferException e)
        {
            throw new InvalidDataException("it is no protobuf message, or is cut off", e);
        }
    }

    /// <summary>The graph's nodes in their order: the operator and the names of its inputs.</summary>
    public IReadOnlyList<(string Operator, IReadOnlyList<string> Inputs)> Nodes => nodes;

    /// <summary>A copy of an initializer; the caller owns it.</summary>
    public Tensor this[string name]
    {
        get
        {
            if (!initializers.TryGetValue(name, out var found))
                throw new InvalidDataException($"it has no initializer {name}");
            var tensor = empty(found.Shape, float32, CPU);
            found.Numbers.AsSpan().CopyTo(tensor.bytes);
            return tensor;
        }
    }

    private void AddNode(ArraySegment<byte> message)
    {
        var (kind, inputs) = ("", new List<string>());
        foreach (var (field, _, bytes) in Fields(message))
            if (field == 1)
                inputs.Add(Text(bytes));
            else if (field == 4)
                kind = Text(bytes);
        nodes.Add((kind, inputs));
    }

    private void AddInitializer(ArraySegment<byte> message)
    {
        var (shape, type, name, numbers) = (new List<long>(), 0L, "", ArraySegment<byte>.Empty);
        foreach (var (field, value, bytes) in Fields(message))
            switch (field)
            {
                case 1 when value is { } length: shape.Add(length); break;
                case 1: // packed
                    for (var packed = Input(bytes); !packed.IsAtEnd;)
                        shape.Add(packed.ReadInt64());
                    break;
                case 2: type = value ?? 0; break;
                case 8: name = Text(bytes); break;
                case 4 or 9: numbers = bytes; break; // packed float_data, raw_data: both little-endian float32
            }
        if (type != 1)
            return; // not float32
        if (checked(RawTensors.Count([.. shape]) * sizeof(float)) != numbers.Count)
            throw new InvalidDataException($"the initializer {name} has {numbers.Count} bytes, not what its shape needs");
        if (!initializers.TryAdd(name, ([.. shape], numbers)))
            throw new InvalidDataException($"the initializer {name} occurs twice");
    }

    private static CodedInputStream Input(ArraySegment<byte> bytes) => new(bytes.Array!, bytes.Offset, bytes.Count);

    /// <summary>A message's fields: whole numbers in Value, strings and nested messages, still in the file, in Bytes.</summary>
    private static IEnumerable<(int Field, long? Value, ArraySegment<byte> Bytes)> Fields(ArraySegment<byte> message)
    {
        var input = Input(message);
        while (input.ReadTag() is not 0 and var tag)
        {
            var field = WireFormat.GetTagFieldNumber(tag);
            if (WireFormat.GetTagWireType(tag) == WireFormat.WireType.Varint)
            {
                yield return (field, input.ReadInt64(), ArraySegment<byte>.Empty);
                continue;
            }
            var from = (int)input.Position;
            input.SkipLastField(); // throws where the field reaches beyond the message
            if (WireFormat.GetTagWireType(tag) != WireFormat.WireType.LengthDelimited)
                continue;
            var until = (int)input.Position;
            var length = Input(new(message.Array!, from, until - from)).ReadLength();
            yield return (field, null, new(message.Array!, until - length, length));
        }
    }

    private static string Text(ArraySegment<byte> bytes) =>
        bytes.Count <= 1024 ? Encoding.UTF8.GetString(bytes) : throw new InvalidDataException("a name is longer than 1024 bytes");
}
