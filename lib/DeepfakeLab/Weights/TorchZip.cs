using System.IO.Compression;
using System.Text;

namespace DeepfakeLab;

/// <summary>PyTorch's file format since 1.6: a zip archive without compression, a pickle beside one file for each storage.</summary>
internal static class TorchZip
{
    public static StateDict Read(Stream stream, string source)
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
        if (archive.GetEntry(root + "byteorder") is { Length: < 16 } order && Encoding.ASCII.GetString(Bytes(order)) == "big")
            throw new InvalidDataException("it was written on a big-endian machine");

        var storages = new TorchStorages();
        var content = new PickleReader(new MemoryStream(Bytes(pickle)), storages.Declare).Read();
        storages.FillAll(storage =>
        {
            var entry = archive.GetEntry($"{root}data/{storage.Key}") ?? throw new InvalidDataException($"the numbers of storage {storage.Key} are missing");
            if (entry.Length != checked(storage.Count * RawTensors.Size(storage.Type)))
                throw new InvalidDataException($"storage {storage.Key} has {entry.Length} bytes, not those of {storage.Count} numbers");
            using var data = entry.Open();
            return RawTensors.Read(data, storage.Type, storage.Count);
        });
        return storages.ToStateDict(content, source, stream.Length);
    }

    private static byte[] Bytes(ZipArchiveEntry entry)
    {
        var bytes = new byte[entry.Length]; // at most the file's own length, which was checked
        using var stream = entry.Open();
        stream.ReadExactly(bytes);
        return bytes;
    }

    public static void Write(string path, StateDict state) => AtomicFile.Write(path, stream =>
    {
        using var archive = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true);
        void Entry(string name, Action<Stream> write)
        {
            using var entry = archive.CreateEntry("archive/" + name, CompressionLevel.NoCompression).Open();
            write(entry);
        }
        Entry("data.pkl", entry => entry.Write(Pickle(state)));
        Entry("byteorder", entry => entry.Write("little"u8));
        foreach (var (index, tensor) in state.Values.Index())
            Entry($"data/{index}", entry => RawTensors.Write(entry, tensor));
        Entry("version", entry => entry.Write("3\n"u8));
    });

    /// <summary>What <c>pickle.dumps(OrderedDict(...), protocol=2)</c> gives, without memo: each tensor with a storage of its own, and the modules' versions as an attribute.</summary>
    private static byte[] Pickle(StateDict state)
    {
        using var bytes = new MemoryStream();
        using (var writer = new BinaryWriter(bytes))
        {
            Op("\u0080\u0002ccollections\nOrderedDict\n)R(");
            foreach (var (index, (key, tensor)) in state.Index())
            {
                Text(key);
                Op("ctorch._utils\n_rebuild_tensor_v2\n((");
                Text("storage");
                Op($"ctorch\n{PickleReader.StorageName(tensor.dtype)}\n");
                Text(index.ToString(System.Globalization.CultureInfo.InvariantCulture));
                Text("cpu");
                Number(tensor.numel());
                Op("tQ");
                Number(0);
                Numbers(tensor.shape);
                Numbers(Strides(tensor.shape));
                Op("\u0089ccollections\nOrderedDict\n)RtR");
            }
            Op("u");
            if (state.Versions.Count > 0)
            {
                Op("}");
                Text("_metadata");
                Op("ccollections\nOrderedDict\n)R(");
                foreach (var (module, version) in state.Versions)
                {
                    Text(module);
                    Op("}");
                    Text("version");
                    Number(version);
                    Op("s");
                }
                Op("usb");
            }
            Op(".");

            void Op(string latin1) => writer.Write(Encoding.Latin1.GetBytes(latin1));

            void Text(string text)
            {
                var utf8 = Encoding.UTF8.GetBytes(text);
                writer.Write((byte)'X');
                writer.Write(utf8.Length);
                writer.Write(utf8);
            }

            void Number(long number)
            {
                Op("\u008a\u0008");
                writer.Write(number);
            }

            void Numbers(IEnumerable<long> numbers)
            {
                Op("(");
                foreach (var number in numbers)
                    Number(number);
                Op("t");
            }
        }
        return bytes.ToArray();
    }

    /// <summary>The strides of a dense row-major tensor.</summary>
    private static long[] Strides(long[] shape)
    {
        var strides = new long[shape.Length];
        for (long i = shape.Length - 1, step = 1; i >= 0; step *= Math.Max(1, shape[i--]))
            strides[i] = step;
        return strides;
    }
}
