using System.Text;
using Google.Protobuf;

namespace DeepfakeLab;

/// <summary>One protobuf message, as a list of fields that are written when the whole is: a model's weights pass through memory one at a time.</summary>
/// <remarks>
/// Google.Protobuf (which TorchSharp brings) does the encoding. Classes generated from onnx.proto would need a code generator in the
/// build and hold every weight twice, for the dozen fields used here.
/// </remarks>
internal sealed class OnnxMessage
{
    private readonly List<(long Size, Action<CodedOutputStream> Write)> fields = [];

    /// <summary>In bytes, as written.</summary>
    public long Size => fields.Sum(f => f.Size);

    public OnnxMessage Number(int field, long value) => Field(field, WireFormat.WireType.Varint, CodedOutputStream.ComputeInt64Size(value), o => o.WriteInt64(value));

    public OnnxMessage Real(int field, float value) => Field(field, WireFormat.WireType.Fixed32, 4, o => o.WriteFloat(value));

    public OnnxMessage Text(int field, string value) => Bytes(field, Encoding.UTF8.GetByteCount(value), () => Encoding.UTF8.GetBytes(value));

    /// <summary>Bytes that are asked for only when the message is written.</summary>
    public OnnxMessage Bytes(int field, int length, Func<byte[]> bytes) =>
        Field(field, WireFormat.WireType.LengthDelimited, CodedOutputStream.ComputeLengthSize(length) + length,
            o => o.WriteBytes(UnsafeByteOperations.UnsafeWrap(bytes())));

    public OnnxMessage Nested(int field, OnnxMessage message)
    {
        var size = message.Size;
        if (size > int.MaxValue)
            throw new ExportException("The model is too large for an ONNX file", $"{size} bytes", "Export as float16, or as safetensors");
        return Field(field, WireFormat.WireType.LengthDelimited, CodedOutputStream.ComputeLengthSize((int)size) + size, o =>
        {
            o.WriteLength((int)size);
            message.Write(o);
        });
    }

    public void WriteTo(Stream stream)
    {
        using var output = new CodedOutputStream(stream, leaveOpen: true);
        Write(output);
    }

    private void Write(CodedOutputStream output)
    {
        foreach (var (_, write) in fields)
            write(output);
    }

    private OnnxMessage Field(int field, WireFormat.WireType type, long size, Action<CodedOutputStream> write)
    {
        fields.Add((CodedOutputStream.ComputeTagSize(field) + size, o =>
        {
            o.WriteTag(field, type);
            write(o);
        }
        ));
        return this;
    }
}
