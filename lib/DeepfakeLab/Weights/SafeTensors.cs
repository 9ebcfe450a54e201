using System.Buffers.Binary;
using System.Text.Json;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Hugging Face's file format for tensors: a length, a JSON header, the numbers. Nothing in it can be executed.</summary>
public static class SafeTensors
{
    private const long LongestHeader = 16 << 20; // a model of ten thousand tensors needs about 1 MiB

    private static readonly (string Name, ScalarType Type)[] types =
    [
        ("F64", ScalarType.Float64), ("F32", ScalarType.Float32), ("F16", ScalarType.Float16), ("BF16", ScalarType.BFloat16),
        ("I64", ScalarType.Int64), ("I32", ScalarType.Int32), ("I16", ScalarType.Int16), ("I8", ScalarType.Int8),
        ("U8", ScalarType.Byte), ("BOOL", ScalarType.Bool),
    ];

    /// <summary>Reads all tensors of a file.</summary>
    /// <exception cref="CheckpointException">The file is missing, damaged or not of this format.</exception>
    public static StateDict Read(string path) => Checkpoint.Open(path, stream => Read(stream, path));

    internal static StateDict Read(Stream stream, string source)
    {
        Span<byte> prefix = stackalloc byte[8];
        stream.ReadExactly(prefix);
        var headerLength = BinaryPrimitives.ReadInt64LittleEndian(prefix);
        var dataLength = stream.Length - 8 - headerLength;
        if (headerLength is < 2 or > LongestHeader || dataLength < 0)
            throw new InvalidDataException($"its header claims {headerLength} bytes");
        var bytes = new byte[headerLength];
        stream.ReadExactly(bytes);
        using var header = JsonDocument.Parse(bytes, new JsonDocumentOptions { MaxDepth = 8 });

        var entries = new List<(string Name, ScalarType Type, long[] Shape, long Begin, long End)>();
        var metadata = new Dictionary<string, string>();
        foreach (var property in header.RootElement.EnumerateObject())
        {
            if (property.NameEquals("__metadata__"))
                foreach (var item in property.Value.EnumerateObject())
                    metadata[item.Name] = item.Value.GetString() ?? "";
            else
                entries.Add(Entry(property));
        }

        var state = new StateDict(source) { Metadata = metadata };
        long position = 0; // the format allows neither holes nor overlaps, so the data can be read straight through
        foreach (var (name, type, shape, begin, end) in entries.OrderBy(e => e.Begin).ThenBy(e => e.End))
        {
            var count = RawTensors.Count(shape);
            if (begin != position || end - begin != checked(count * RawTensors.Size(type)) || end > dataLength)
                throw new InvalidDataException($"the data of {name} is not where a tensor of its shape would be");
            using var vector = RawTensors.Read(stream, type, count);
            state.Add(name, vector.reshape(shape));
            position = end;
        }
        if (position != dataLength)
            throw new InvalidDataException($"{dataLength - position} bytes after the last tensor belong to none");
        return state;
    }

    private static (string, ScalarType, long[], long, long) Entry(JsonProperty property)
    {
        var typeName = property.Value.GetProperty("dtype").GetString();
        var type = types.FirstOrDefault(t => t.Name == typeName);
        if (type.Name is null)
            throw new InvalidDataException($"the type {typeName} of {property.Name} is not known");
        var offsets = property.Value.GetProperty("data_offsets");
        if (offsets.GetArrayLength() != 2)
            throw new InvalidDataException($"{property.Name} has no pair of offsets");
        var shape = property.Value.GetProperty("shape").EnumerateArray().Select(n => n.GetInt64()).ToArray();
        return (property.Name, type.Type, shape, offsets[0].GetInt64(), offsets[1].GetInt64());
    }

    /// <summary>Writes tensors, in row-major order; either the whole file appears or none.</summary>
    /// <param name="metadata">Free text to keep with them; null for none.</param>
    /// <exception cref="CheckpointException">A name occurs twice or is reserved, or a type has no name in this format.</exception>
    public static void Write(string path, IEnumerable<(string Name, Tensor Tensor)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        var all = tensors.ToList();
        var header = new MemoryStream();
        using (var json = new Utf8JsonWriter(header))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject("__metadata__");
                foreach (var (key, value) in metadata)
                    json.WriteString(key, value);
                json.WriteEndObject();
            }
            long at = 0;
            var seen = new HashSet<string>(StringComparer.Ordinal) { "__metadata__" };
            foreach (var (name, tensor) in all)
            {
                var type = types.FirstOrDefault(t => t.Type == tensor.dtype).Name;
                if (!seen.Add(name) || type is null)
                    throw new CheckpointException($"A .safetensors file takes each name once and no {tensor.dtype}", name, "Rename or convert the tensor");
                json.WriteStartObject(name);
                json.WriteString("dtype", type);
                json.WriteStartArray("shape");
                foreach (var length in tensor.shape)
                    json.WriteNumberValue(length);
                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(at);
                json.WriteNumberValue(at += tensor.numel() * RawTensors.Size(tensor.dtype));
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        while (header.Length % 8 != 0)
            header.WriteByte((byte)' '); // numbers then begin at a multiple of their size, which memory mapping wants
        AtomicFile.Write(path, stream =>
        {
            Span<byte> length = stackalloc byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
            stream.Write(length);
            header.WriteTo(stream);
            foreach (var (_, tensor) in all)
                RawTensors.Write(stream, tensor);
        });
    }

    /// <summary>Writes a state dict.</summary>
    public static void Write(string path, StateDict state, IReadOnlyDictionary<string, string>? metadata = null) =>
        Write(path, state.Select(t => (t.Key, t.Value)), metadata);
}
