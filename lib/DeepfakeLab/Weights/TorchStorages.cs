using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The blocks of numbers that a checkpoint's tensors are views of, and the way from its pickled content to a state dict.</summary>
internal sealed class TorchStorages
{
    private readonly OrderedDictionary<string, PickleStorage> declared = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Tensor> filled = new(StringComparer.Ordinal);

    /// <summary>Resolves a pickle's reference to a storage: ("storage", type, key, device, count).</summary>
    public PickleStorage Declare(PickleTuple id)
    {
        if (id.Items is not ["storage", var typeName, string key, _, long count, ..])
            throw new InvalidDataException("it refers to something other than a storage");
        if (id.Items is [_, _, _, _, _, not null])
            throw new InvalidDataException("it uses views of storages, which PyTorch has not written since 0.4");
        return Declare(new PickleStorage(PickleReader.StorageType(typeName), key, count));
    }

    public PickleStorage Declare(PickleStorage storage)
    {
        if (storage.Count < 0)
            throw new InvalidDataException($"storage {storage.Key} has a negative length");
        return declared.TryAdd(storage.Key, storage) || declared[storage.Key] == storage ? storage
            : throw new InvalidDataException($"storage {storage.Key} is declared in two ways");
    }

    public PickleStorage this[string key] => declared.TryGetValue(key, out var storage) ? storage
        : throw new InvalidDataException($"storage {key} is not declared");

    /// <summary>Reads the numbers of every storage that was declared.</summary>
    public void FillAll(Func<PickleStorage, Tensor> read)
    {
        foreach (var storage in declared.Values)
            Fill(storage, read(storage));
    }

    public void Fill(PickleStorage storage, Tensor numbers)
    {
        if (!filled.TryAdd(storage.Key, numbers))
            throw new InvalidDataException($"storage {storage.Key} comes twice");
    }

    /// <param name="fileLength">Bytes of the file; its tensors may not be far larger.</param>
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
        if (last >= tensor.Storage.Count || !filled.TryGetValue(tensor.Storage.Key, out var numbers))
            throw new InvalidDataException("a tensor reaches beyond its storage");
        return numbers.as_strided(tensor.Shape, tensor.Strides, tensor.Offset); // keeps the storage's memory
    }

    /// <summary>Finds the dict of tensors, which training scripts often save beside other things.</summary>
    private static List<(string Key, PickleTensor Tensor)> Unwrap(object? content)
    {
        for (var depth = 0; depth < 4; depth++)
        {
            if (content is not PickleDict dict)
                throw new InvalidDataException($"it holds {(content is PickleTensor ? "one tensor" : "something")}, not a dict of tensors");
            var byKey = new OrderedDictionary<string, object?>();
            foreach (var (key, value) in dict.Items)
                byKey[key as string ?? throw new InvalidDataException("a key of its dict is not a text")] = value is PickleOldTensor old ? old.Content : value;
            if (((string[])["state_dict", "model_state_dict", "model"]).FirstOrDefault(k => byKey.GetValueOrDefault(k) is PickleDict) is { } nested)
            {
                content = byKey[nested];
                continue;
            }
            if (byKey.FirstOrDefault(i => i.Value is not PickleTensor) is { Key: { } other })
                throw new InvalidDataException($"its entry {PickleReader.Printable(other)} is not a tensor");
            const string prefix = "module."; // DataParallel's
            var strip = byKey.Count > 0 && byKey.Keys.All(k => k.StartsWith(prefix, StringComparison.Ordinal)) ? prefix.Length : 0;
            return [.. byKey.Select(i => (i.Key[strip..], (PickleTensor)i.Value!))];
        }
        throw new InvalidDataException("its state dict lies too deep");
    }
}
