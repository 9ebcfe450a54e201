using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>An ONNX graph under construction: values are known by their names, nodes are added in the order in which they run.</summary>
/// <remarks>Field numbers are those of onnx.proto (IR version 8). Owns its weights until it is disposed.</remarks>
internal sealed class OnnxGraph : IDisposable
{
    public const int Opset = 18; // the first whose Resize antialiases as PIL does

    private const int IrVersion = 8;
    private readonly OnnxMessage graph = new();
    private readonly List<Tensor> owned = [];
    private readonly Dictionary<string, int> names = [];

    /// <summary>ONNX's numbers for element types.</summary>
    public static int TypeOf(ScalarType type) => type switch
    {
        ScalarType.Float32 => 1,
        ScalarType.Byte => 2,
        ScalarType.Int8 => 3,
        ScalarType.Int32 => 6,
        ScalarType.Int64 => 7,
        ScalarType.Float16 => 10,
        _ => throw new ExportException("A weight's type has no place in the ONNX files written here", type.ToString(), "Convert the model to float32"),
    };

    /// <summary>Adds a node and returns the name of its one output.</summary>
    public string Add(string op, IEnumerable<string> inputs, params (string Name, object Value)[] attributes) => AddNamed(Unique(op), op, inputs, attributes);

    /// <summary>The same with an output of this name.</summary>
    public string AddNamed(string output, string op, IEnumerable<string> inputs, params (string Name, object Value)[] attributes)
    {
        var node = new OnnxMessage();
        foreach (var input in inputs)
            node.Text(1, input);
        node.Text(2, output).Text(3, "node_" + output).Text(4, op);
        foreach (var (name, value) in attributes)
            node.Nested(5, Attribute(name, value));
        graph.Nested(1, node);
        return output;
    }

    /// <summary>Adds a constant and returns its name; the tensor's memory is kept until the graph is disposed, not copied: it must not change before.</summary>
    public string Constant(string name, Tensor value)
    {
        name = Unique(name);
        Tensor dense;
        using (NewDisposeScope())
            dense = value.detach().cpu().contiguous().DetachFromDisposeScope();
        owned.Add(dense);
        var tensor = new OnnxMessage();
        foreach (var length in dense.shape)
            tensor.Number(1, length);
        tensor.Number(2, TypeOf(dense.dtype)).Text(8, name);
        tensor.Bytes(9, checked((int)(dense.numel() * RawTensors.Size(dense.dtype))), () => dense.bytes.ToArray());
        graph.Nested(5, tensor);
        return name;
    }

    public string Constant(string name, params float[] values)
    {
        using var tensor = torch.tensor(values);
        return Constant(name, tensor);
    }

    public void Input(string name, ScalarType type, params object[] shape) => graph.Nested(11, Value(name, type, shape));

    public void Output(string name, ScalarType type, params object[] shape) => graph.Nested(12, Value(name, type, shape));

    /// <summary>The whole file.</summary>
    public OnnxMessage ToModel(string name, string documentation, IReadOnlyDictionary<string, string> metadata)
    {
        graph.Text(2, name);
        var model = new OnnxMessage().Number(1, IrVersion).Text(2, "DeepfakeLab").Text(3, typeof(OnnxGraph).Assembly.GetName().Version!.ToString(3)).Text(6, documentation)
            .Nested(7, graph).Nested(8, new OnnxMessage().Text(1, "").Number(2, Opset));
        foreach (var (key, value) in metadata)
            model.Nested(14, new OnnxMessage().Text(1, key).Text(2, value));
        return model;
    }

    public void Dispose() => owned.ForEach(t => t.Dispose());

    private string Unique(string name)
    {
        var count = names[name] = names.GetValueOrDefault(name) + 1;
        return count == 1 ? name : $"{name}_{count}";
    }

    private static OnnxMessage Attribute(string name, object value)
    {
        const int real = 1, number = 2, text = 3, numbers = 7; // AttributeProto.AttributeType
        var attribute = new OnnxMessage().Text(1, name);
        switch (value)
        {
            case float f: return attribute.Real(2, f).Number(20, real);
            case long i: return attribute.Number(3, i).Number(20, number);
            case string s: return attribute.Text(4, s).Number(20, text);
            default:
                foreach (var i in (long[])value)
                    attribute.Number(8, i);
                return attribute.Number(20, numbers);
        }
    }

    /// <summary>A ValueInfoProto; lengths are numbers, or names where they may differ from call to call.</summary>
    private static OnnxMessage Value(string name, ScalarType type, object[] lengths)
    {
        var shape = new OnnxMessage();
        foreach (var length in lengths)
            shape.Nested(1, length is string symbol ? new OnnxMessage().Text(2, symbol) : new OnnxMessage().Number(1, Convert.ToInt64(length, null)));
        return new OnnxMessage().Text(1, name)
            .Nested(2, new OnnxMessage().Nested(1, new OnnxMessage().Number(1, TypeOf(type)).Nested(2, shape)));
    }
}
