using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Between the bytes of a file and tensors. Everything in a file is little-endian, as are all systems that libtorch runs on here.</summary>
internal static class RawTensors
{
    public static long Size(ScalarType type) => type switch
    {
        ScalarType.Float64 or ScalarType.Int64 => 8,
        ScalarType.Float32 or ScalarType.Int32 => 4,
        ScalarType.Float16 or ScalarType.BFloat16 or ScalarType.Int16 => 2,
        _ => 1,
    };

    /// <summary>Reads <paramref name="count"/> numbers into a new vector. The caller has made sure that the stream has them.</summary>
    public static Tensor Read(Stream stream, ScalarType type, long count)
    {
        if (count * Size(type) > Array.MaxLength)
            throw new InvalidDataException("a tensor is larger than 2 GiB");
        var tensor = empty(count, type, CPU);
        if (count > 0)
            stream.ReadExactly(tensor.bytes);
        return tensor;
    }

    /// <summary>Writes a tensor's numbers in row-major order.</summary>
    public static void Write(Stream stream, Tensor tensor)
    {
        using var scope = NewDisposeScope();
        var dense = tensor.detach().cpu().contiguous();
        if (dense.numel() > 0)
            stream.Write(dense.bytes);
    }

    /// <summary>The product of a shape's lengths; throws where it is negative or beyond a long.</summary>
    public static long Count(ReadOnlySpan<long> shape)
    {
        if (shape.Length > 64)
            throw new InvalidDataException("a tensor has more than 64 dimensions");
        long count = 1;
        foreach (var length in shape)
            count = length >= 0 ? checked(count * length) : throw new InvalidDataException("a tensor has a negative length");
        return count;
    }

    /// <summary>Whether an exception means that a file's content is bad, wherever it was found out.</summary>
    public static bool IsBadContent(Exception e) =>
        e is InvalidDataException or EndOfStreamException or KeyNotFoundException or InvalidCastException or OverflowException or ExternalException
            or ArgumentException or FormatException or IndexOutOfRangeException or NotSupportedException
            or System.Text.Json.JsonException or InvalidOperationException;
}
