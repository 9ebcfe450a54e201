using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What <c>torch.save</c> wrote before 1.6; after <c>_legacy_load</c> of PyTorch's <c>serialization.py</c>.</summary>
internal static class LegacyCheckpoint
{
    private static readonly byte[] magic = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

    /// <summary>Protocol byte, then LONG1 with the magic number of ten bytes.</summary>
    public static bool IsMagicPickle(ReadOnlySpan<byte> first) =>
        first.Length > 14 && first[0] == 0x80 && first[2] == 0x8a && first[3] == 10 && first.Slice(4, 10).SequenceEqual(magic);

    /// <summary>0.1.10 to 1.5, and since with <c>_use_new_zipfile_serialization=False</c>: five pickles, then each storage's length and numbers.</summary>
    public static StateDict ReadMagicPickle(Stream stream, string source)
    {
        var storages = new TorchStorages();
        new PickleReader(stream).Read(); // the magic number
        if (new PickleReader(stream).Read() is not 1001L)
            throw new InvalidDataException("its protocol is not PyTorch's 1001");
        if (new PickleReader(stream).Read() is not PickleDict system || system.Items.Any(i => i is { Key: "little_endian", Value: not true }))
            throw new InvalidDataException("it was written on a big-endian machine");
        var content = new PickleReader(stream, storages.Declare).Read();
        if (new PickleReader(stream).Read() is not PickleList { Items: var keys })
            throw new InvalidDataException("its list of storages is missing");
        foreach (var key in keys)
        {
            var storage = storages[key as string ?? ""];
            storages.Fill(storage, ReadNumbers(stream, storage.Type, storage.Count));
        }
        return storages.ToStateDict(content, source, stream.Length);
    }

    public static bool IsTar(ReadOnlySpan<byte> first) => first.Length >= 262 && first.Slice(257, 5).SequenceEqual("ustar"u8);

    /// <summary>Before 0.1.10: a tar archive with the members storages, tensors and pickle.</summary>
    public static StateDict ReadTar(Stream stream, string source)
    {
        var members = TarMembers(stream);
        var storages = new TorchStorages();
        Seek("storages");
        for (var left = Count(); left > 0; left--)
        {
            if (new PickleReader(stream).Read() is not PickleTuple { Items: [var key, _, var typeName] })
                throw new InvalidDataException("a storage is not described");
            var type = PickleReader.StorageType(typeName);
            var numbers = ReadNumbers(stream, type, null);
            storages.Fill(storages.Declare(new PickleStorage(type, Name(key), numbers.shape[0])), numbers);
        }
        if (new PickleReader(stream).Read() is not PickleList { Items.Count: 0 })
            throw new InvalidDataException("it uses views of storages, which PyTorch has not written since 0.4");

        var tensors = new Dictionary<string, PickleTensor>(StringComparer.Ordinal);
        Seek("tensors");
        for (var left = Count(); left > 0; left--)
        {
            if (new PickleReader(stream).Read() is not PickleTuple { Items: [var key, var storage, _] })
                throw new InvalidDataException("a tensor is not described");
            var dimensions = Longs(1)[0] & 0xffffffff; // the upper half was never filled in
            if (dimensions > 64)
                throw new InvalidDataException("a tensor has more than 64 dimensions");
            var (shape, strides) = (Longs(dimensions), Longs(dimensions));
            tensors[Name(key)] = new PickleTensor(storages[Name(storage)], Longs(1)[0], shape, strides);
        }

        Seek("pickle");
        var content = new PickleReader(stream, persistentId: id => tensors.TryGetValue(Name(id), out var tensor) ? tensor
            : throw new InvalidDataException("it refers to a tensor that is not there")).Read();
        return storages.ToStateDict(content, source, stream.Length);

        void Seek(string member) => stream.Position = members.TryGetValue(member, out var at) ? at
            : throw new InvalidDataException($"its archive has no member {member}");

        long Count() => new PickleReader(stream).Read() is long count ? count : throw new InvalidDataException("a count is missing");

        long[] Longs(long count)
        {
            var bytes = new byte[8 * count];
            stream.ReadExactly(bytes);
            return [.. Enumerable.Range(0, (int)count).Select(i => BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(8 * i)))];
        }
    }

    private static string Name(object? key) => key is string or long ? Convert.ToString(key, CultureInfo.InvariantCulture)! : throw new InvalidDataException("a key is neither number nor text");

    /// <summary>A storage's length, as the file has it once more, and its numbers.</summary>
    private static Tensor ReadNumbers(Stream stream, ScalarType type, long? expected)
    {
        Span<byte> length = stackalloc byte[8];
        stream.ReadExactly(length);
        var count = BinaryPrimitives.ReadInt64LittleEndian(length);
        if (count < 0 || expected is { } known && count != known || count > (stream.Length - stream.Position) / RawTensors.Size(type))
            throw new InvalidDataException("a storage's length is wrong or beyond the file's end");
        return RawTensors.Read(stream, type, count);
    }

    /// <summary>Where each regular member's content begins. .NET's own reader allocates what an extended header claims before looking.</summary>
    private static Dictionary<string, long> TarMembers(Stream stream)
    {
        var members = new Dictionary<string, long>(StringComparer.Ordinal);
        Span<byte> header = stackalloc byte[512];
        while (stream.Position + 512 <= stream.Length)
        {
            stream.ReadExactly(header);
            if (header[0] == 0)
                break;
            var size = Convert.ToInt64(Encoding.ASCII.GetString(header.Slice(124, 12)).Trim('\0', ' '), 8);
            if (size < 0 || size > stream.Length - stream.Position)
                throw new InvalidDataException("its archive is cut off");
            var name = Encoding.ASCII.GetString(header[..100]).TrimEnd('\0');
            if (header[156] is (byte)'0' or 0)
                members.TryAdd(name.StartsWith("./", StringComparison.Ordinal) ? name[2..] : name, stream.Position);
            stream.Position += (size + 511) / 512 * 512;
        }
        return members;
    }
}
