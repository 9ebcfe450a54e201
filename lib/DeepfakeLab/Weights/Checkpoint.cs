using System.IO.Compression;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Reads checkpoint files: <c>.safetensors</c> and what <c>torch.save</c> writes. Files are taken as hostile: nothing in them is run.</summary>
public static class Checkpoint
{
    /// <summary>Reads all tensors of a file; its content, not its name, tells the format.</summary>
    /// <remarks>Tensors under <c>state_dict</c>, <c>model_state_dict</c> or <c>model</c> are found, and a <c>module.</c> prefix that all keys have is taken off.</remarks>
    /// <exception cref="CheckpointException">The file is missing, damaged, of another format, or holds more than tensors.</exception>
    public static StateDict Read(string path) => Open(path, stream =>
    {
        Span<byte> first = stackalloc byte[16];
        var length = stream.ReadAtLeast(first, first.Length, throwOnEndOfStream: false);
        stream.Position = 0;
        first = first[..length];
        if (first.StartsWith("PK\u0003\u0004"u8))
            return ReadZip(stream, path);
        if (length > 8 && first[8] == '{')
            return SafeTensors.Read(stream, path);
        throw new InvalidDataException("its first bytes are of no format that is known here");
    });

    /// <summary>Opens a file and has it read, so that whatever is wrong with it ends in one kind of error that names it.</summary>
    internal static StateDict Open(string path, Func<Stream, StateDict> read)
    {
        LabRuntime.Start();
        try
        {
            using var scope = NewDisposeScope(); // frees what a failed reading leaves behind; a finished one is taken out of it
            using var frozen = no_grad();
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 1 << 16);
            var state = read(stream);
            foreach (var tensor in state.Values)
                tensor.DetachFromDisposeScope();
            return state;
        }
        catch (Exception e) when (e is IOException and not EndOfStreamException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"The weights cannot be opened ({e.Message})", path, "Check the path and its permissions", e);
        }
        catch (Exception e) when (RawTensors.IsBadContent(e))
        {
            throw new CheckpointException($"The file is no checkpoint that can be read here: {e.Message.TrimEnd('.')}", path,
                "Give a .safetensors file or a state dict that torch.save wrote; fetch it again if it was cut or damaged", e);
        }
    }

    /// <summary>PyTorch's format since 1.6: a zip archive without compression, a pickle beside one file for each storage.</summary>
    private static StateDict ReadZip(Stream stream, string source)
    {
        using var archive = new ZipArchive(stream, ZipArchiveMode.Read, leaveOpen: true);
        long total = 0;
        foreach (var entry in archive.Entries)
        {
            total = checked(total + entry.Length);
            if (entry.Length != entry.CompressedLength || total > stream.Length)
                throw new InvalidDataException("its archive is compressed or claims more than the file holds, as torch.save never does");
        }
        if (archive.Entries.Any(e => e.Name == "constants.pkl"))
            throw new InvalidDataException("it is a TorchScript program, not a state dict");
        var pickle = archive.Entries.Where(e => e.Name == "data.pkl").ToList() is [var only] ? only
            : throw new InvalidDataException("its archive does not hold exactly one data.pkl");
        var root = pickle.FullName[..^"data.pkl".Length];
        if (archive.GetEntry(root + "byteorder") is { Length: < 16 } order && new StreamReader(order.Open()).ReadToEnd() == "big")
            throw new InvalidDataException("it was written on a big-endian machine");

        var storages = new Storages();
        object? content;
        using (var bytes = new MemoryStream())
        {
            using (var open = pickle.Open())
                open.CopyTo(bytes);
            bytes.Position = 0;
            content = new PickleReader(bytes, storages.Declare).Read();
        }
        storages.Fill(storage =>
        {
            var entry = archive.GetEntry($"{root}data/{storage.Key}") ?? throw new InvalidDataException($"the numbers of storage {storage.Key} are missing");
            if (entry.Length != checked(storage.Count * RawTensors.Size(storage.Type)))
                throw new InvalidDataException($"storage {storage.Key} has {entry.Length} bytes, not those of {storage.Count} numbers");
            using var data = entry.Open();
            return RawTensors.Read(data, storage.Type, storage.Count);
        });
        return storages.ToStateDict(content, source, stream.Length);
    }

    /// <summary>The blocks of numbers that a pickle's tensors are views of.</summary>
    internal sealed class Storages
    {
        private readonly Dictionary<string, PickleStorage> declared = new(StringComparer.Ordinal);
        private readonly Dictionary<string, Tensor> filled = new(StringComparer.Ordinal);

        public object? Declare(PickleTuple id)
        {
            if (id.Items is not ["storage", var typeName, string key, _, long count, ..] || count < 0)
                throw new InvalidDataException("it refers to something other than a storage");
            if (id.Items is [_, _, _, _, _, not null])
                throw new InvalidDataException("it uses views of storages, which PyTorch itself no longer writes");
            var storage = new PickleStorage(PickleReader.StorageType(typeName), key, count);
            return declared.TryAdd(key, storage) || declared[key] == storage ? declared[key]
                : throw new InvalidDataException($"storage {key} is declared in two ways");
        }

        public void Fill(Func<PickleStorage, Tensor> read)
        {
            foreach (var storage in declared.Values)
                filled.Add(storage.Key, read(storage));
        }

        public StateDict ToStateDict(object? content, string source, long fileLength)
        {
            var state = new StateDict(source);
            long bytes = 0;
            foreach (var (key, tensor) in Unwrap(content))
            {
                // a view may repeat its storage (expand does), but a small file shall not stand for a huge tensor
                bytes = checked(bytes + RawTensors.Count(tensor.Shape) * RawTensors.Size(tensor.Storage.Type));
                if (bytes > 4 * fileLength + (64 << 20))
                    throw new InvalidDataException("its tensors are far larger than the file");
                state.Add(key, View(tensor));
            }
            return state;
        }

        private Tensor View(PickleTensor tensor)
        {
            var last = tensor.Offset;
            if (tensor.Shape.Length != tensor.Strides.Length || tensor.Offset < 0)
                throw new InvalidDataException("a tensor's shape and strides do not belong together");
            for (var i = 0; i < tensor.Shape.Length; i++)
                last = tensor.Strides[i] >= 0 ? checked(last + Math.Max(0, tensor.Shape[i] - 1) * tensor.Strides[i])
                    : throw new InvalidDataException("a tensor has a negative stride");
            if (RawTensors.Count(tensor.Shape) == 0)
                return empty(tensor.Shape, tensor.Storage.Type, CPU);
            if (last >= tensor.Storage.Count)
                throw new InvalidDataException("a tensor reaches beyond its storage");
            return filled[tensor.Storage.Key].as_strided(tensor.Shape, tensor.Strides, tensor.Offset); // keeps the storage's memory
        }

        private static List<(string Key, PickleTensor Tensor)> Unwrap(object? content)
        {
            for (var depth = 0; depth < 4; depth++)
            {
                if (content is not PickleDict dict)
                    throw new InvalidDataException($"it holds no dict of tensors ({(content is PickleTensor ? "one tensor" : "something else")})");
                var byKey = new OrderedDictionary<string, object?>();
                foreach (var (key, value) in dict.Items)
                    byKey[key as string ?? throw new InvalidDataException("a key is not a text")] = value;
                if (((string[])["state_dict", "model_state_dict", "model"]).FirstOrDefault(k => byKey.GetValueOrDefault(k) is PickleDict) is { } nested)
                {
                    content = byKey[nested];
                    continue;
                }
                if (byKey.FirstOrDefault(i => i.Value is not PickleTensor) is { Key: { } other })
                    throw new InvalidDataException($"{other} is not a tensor");
                const string prefix = "module."; // DataParallel's
                var strip = byKey.Count > 0 && byKey.Keys.All(k => k.StartsWith(prefix, StringComparison.Ordinal)) ? prefix.Length : 0;
                return [.. byKey.Select(i => (i.Key[strip..], (PickleTensor)i.Value!))];
            }
            throw new InvalidDataException("its state dict lies too deep");
        }
    }
}
