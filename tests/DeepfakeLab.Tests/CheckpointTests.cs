using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>Files between Python and C#, and files that are damaged or meant to harm.</summary>
public sealed class CheckpointTests(CheckpointTests.Written written) : IClassFixture<CheckpointTests.Written>
{
    /// <summary>One set of files as Python writes them.</summary>
    public sealed class Written : IDisposable
    {
        private readonly Lazy<TemporaryFolder> folder = new(() =>
        {
            var made = TestSupport.Folder();
            TestSupport.Python(["torch"], "checkpoints.py", "write", made.Path);
            return made;
        });

        internal TemporaryFolder Folder => folder.Value;

        public void Dispose()
        {
            if (folder.IsValueCreated)
                folder.Value.Dispose();
        }
    }

    [Theory]
    [InlineData("zip.pth", "reference"), InlineData("zip4.pth", "reference"), InlineData("legacy.pth", "reference")]
    [InlineData("nested.pth", "reference"), InlineData("model.pth", "reference"), InlineData("plain-tar.pth", "plain")]
    public void Every_format_that_Python_writes_is_read(string file, string reference)
    {
        using var expected = Checkpoint.Read(written.Folder[reference + ".safetensors"]);
        using var actual = Checkpoint.Read(written.Folder[file]);
        Assert.Equal(expected.Keys, actual.Keys);
        Assert.All(expected, t => Equal(t.Value, actual[t.Key]));
    }

    [Theory, InlineData("ours.pth"), InlineData("ours.safetensors")]
    public void Python_reads_what_is_written_here(string file)
    {
        using var folder = TestSupport.Folder();
        using var state = Checkpoint.Read(written.Folder["zip.pth"]);
        Checkpoint.Write(folder[file], state);
        TestSupport.Python(["torch"], "checkpoints.py", "compare", folder[file], written.Folder["reference.safetensors"]);
        using var back = Checkpoint.Read(folder[file]);
        Assert.All(state, t => Equal(t.Value, back[t.Key]));
    }

    [Theory, InlineData("mobilenet_v2"), InlineData("mnasnet0_75"), InlineData("resnet18"), InlineData("efficientnet_b0"), InlineData("vgg11_bn"), InlineData("mobilenet_v3_small")]
    public void A_models_own_state_dict_goes_to_torchvision_and_back(string name)
    {
        using var folder = TestSupport.Folder();
        using var model = Models.Create(name);
        using var state = StateDict.Of(model);
        Checkpoint.Write(folder["m.pth"], state);
        TestSupport.Python(["torch", "torchvision"], "checkpoints.py", "load", folder["m.pth"], name);
        using var again = Models.Create(name, Weights.File(folder["m.pth"]));
        using var copy = StateDict.Of(again);
        Assert.All(state, t => Equal(t.Value, copy[t.Key]));
        Assert.Throws<CheckpointException>(() => Checkpoint.Write(folder["m.bin"], state));
    }

    [Fact]
    public void Metadata_of_safetensors_comes_back()
    {
        using var folder = TestSupport.Folder();
        using var one = ones(1);
        SafeTensors.Write(folder["m.safetensors"], [("a", one)], new Dictionary<string, string> { ["model"] = "x \"y\" Ω" });
        using var state = SafeTensors.Read(folder["m.safetensors"]);
        Assert.Equal("x \"y\" Ω", state.Metadata["model"]);
    }

    [Fact]
    public void A_truncated_file_is_refused_with_its_name()
    {
        using var folder = TestSupport.Folder();
        foreach (var file in (string[])["zip.pth", "legacy.pth", "plain-tar.pth", "reference.safetensors"])
        {
            var whole = File.ReadAllBytes(written.Folder[file]);
            File.WriteAllBytes(folder[file], whole[..(whole.Length / 3)]);
            Assert.Contains(folder[file], Assert.Throws<CheckpointException>(() => Checkpoint.Read(folder[file])).Message);
        }
        Assert.Contains("none.pth", Assert.Throws<CheckpointException>(() => Checkpoint.Read(folder["none.pth"])).Message);
        Assert.Throws<CheckpointException>(() => Checkpoint.Read(folder.Path));
    }

    public static TheoryData<string, string> HostilePickles => new()
    {
        { "cos\nsystem\n(X\x04\0\0\0true" + "tR.", "os.system" },                       // the classic
        { "\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "posix.system" }, // STACK_GLOBAL
        { "cbuiltins\neval\n(X\x01\0\0\0" + "1tR.", "builtins.eval" },
        { "ctorch\nload\n(X\x01\0\0\0xtR.", "torch.load" },
        { "ctorch.nn.modules.linear\nLinear\n)\x81.", "torch.nn.modules.linear.Linear" },
        { "ctorch\nFloatTensor\n(K\x05tR.", "arguments that do not fit" },              // would make five numbers
        { "(S'true'\nios\nsystem\n.", "0x53" },                                          // INST
        { "\x80\x02\x82\x01.", "0x82" },                                                 // EXT1, the extension registry
        { "X\xff\xff\xff\x7f.", "longer than the file" },                                // a text of 2 GB
        { "}q\0(h\0h\0u.", "not a text" },                                               // a dict that contains itself
        { "r\xff\xff\xff\xff.", "too many" },                                            // a memo of four thousand million
        { new string('}', 1_100_000), "more than 1000000 objects" },
        { new string('(', 1_100_000), "more than 1000000 objects" },
    };

    [Theory, MemberData(nameof(HostilePickles))]
    public void A_pickle_that_asks_for_more_than_tensors_is_refused(string latin1, string says)
    {
        var error = Assert.Throws<CheckpointException>(() => ReadZip(latin1));
        Assert.Contains(says.Split('|'), text => error.Message.Contains(text, StringComparison.Ordinal));
    }

    [Fact]
    public void Tensors_and_parameters_of_the_oldest_files_are_read()
    {
        const string storage = "(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + "0X\x03\0\0\0cpuK\x04tQ";
        const string tensor = "ctorch\nFloatTensor\n)R(" + storage + "K\0K\x02K\x02\x86K\x02K\x01\x86tb";
        const string parameter = "ctorch.nn.parameter\nParameter\n)\x81(" + tensor + "NN\x88\x89tb"; // data, -, hooks, requires_grad, volatile
        float[] numbers = [1, 2, 3, 4];
        using var state = ReadZip("}(X\x01\0\0\0a" + tensor + "X\x01\0\0\0b" + parameter + "u.", System.Runtime.InteropServices.MemoryMarshal.AsBytes(numbers.AsSpan()).ToArray());
        Assert.All(state.Values, t => Assert.Equal(numbers, t.data<float>()));
        Assert.Equal([2L, 2], state["b"].shape);
        Assert.Throws<CheckpointException>(() => ReadZip("}X\x01\0\0\0actorch\nFloatTensor\n)Rs.")); // never filled
    }

    [Fact]
    public void Tensors_that_reach_outside_their_storage_or_claim_too_much_are_refused()
    {
        string Tensor(string count, string offset, string shape, string strides) =>
            "\x80\x02}X\x01\0\0\0a" + "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + "0X\x03\0\0\0cpu"
            + count + "tQ" + offset + shape + strides + "\x89}tRs.";
        var good = Tensor("K\x04", "K\0", "K\x02K\x02\x86", "K\x02K\x01\x86");
        using (var state = ReadZip(good, data: new byte[16]))
            Assert.Equal([2L, 2], state["a"].shape);
        const string most = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", minus = "J\xff\xff\xff\xff";
        foreach (var bad in (string[])[
            Tensor("K\x04", "K\x01", "K\x02K\x02\x86", "K\x02K\x01\x86"),         // one beyond the end
            Tensor("K\x04", minus, "K\x02\x85", "K\x01\x85"),
            Tensor("K\x04", "K\0", minus + "\x85", "K\x01\x85"),
            Tensor("K\x04", "K\0", "K\x02\x85", minus + "\x85"),
            Tensor("K\x04", "K\0", "K\x02K\x02\x86", "K\x01\x85"),
            Tensor("K\x04", "K\0", most + "\x85", most + "\x85"),                   // overflows
            Tensor("K\x04", "K\0", most + most + "\x86", "K\0K\0\x86"),
            Tensor("K\x04", "K\0", "J\0\0\0\x40\x85", "K\0\x85"),                   // 4 GiB of one number
            Tensor(most, "K\0", "K\x02\x85", "K\x01\x85"),
            Tensor(minus, "K\0", "K\x02\x85", "K\x01\x85"),
            Tensor("K\x05", "K\0", "K\x02\x85", "K\x01\x85"),                       // not the storage's size
        ])
            Assert.Throws<CheckpointException>(() => ReadZip(bad, data: new byte[16]));
        Assert.Throws<CheckpointException>(() => ReadZip(good)); // no storage at all
        Assert.Throws<CheckpointException>(() => ReadZip(good, data: new byte[16], dataName: "../../data/0"));
    }

    [Fact]
    public void A_zip_bomb_is_refused_before_it_unfolds()
    {
        var bomb = Bomb();
        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains("compressed", Assert.Throws<CheckpointException>(() => Read(bomb)).Message);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4 << 20);
    }

    [Theory]
    [InlineData("""{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}""")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}""")]
    [InlineData("""{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}""")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""")]
    [InlineData("""{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}""")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""")] // four bytes belong to nothing
    [InlineData("""{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}""")]
    [InlineData("""{"a":[[[[[[[[[[]]]]]]]]]]}""")]
    [InlineData("""{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""")]
    [InlineData("[]")]
    public void A_safetensors_header_that_lies_is_refused(string header)
    {
        var bytes = new byte[8 + header.Length + 8];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, header.Length);
        Encoding.ASCII.GetBytes(header, bytes.AsSpan(8));
        Assert.Throws<CheckpointException>(() => Checkpoint.Guard("test", () => SafeTensors.Read(new MemoryStream(bytes), "test")));
        BinaryPrimitives.WriteInt64LittleEndian(bytes, long.MaxValue);
        Assert.Throws<CheckpointException>(() => Read(bytes));
    }

    /// <summary>
    /// All kinds of file (zip, both legacy ones, nested, safetensors), and ones meant to harm: a pickle that names os.system, and a zip
    /// bomb; each damaged in one to four of the ways of <see cref="Damage"/>. In a process of its own, whose .NET heap is bounded, so that
    /// what its memory grows by is what reading took.
    /// </summary>
    [Fact]
    public void Twenty_thousand_damaged_files_give_only_our_own_error()
    {
        _ = written.Folder; // says why it skips, where it must
        if (!TestSupport.Alone(("DOTNET_GCHeapHardLimit", "0x10000000"))) // 256 MB
            return;
        using var folder = TestSupport.Folder();
        var touch = $"touch {folder["executed"]}";
        var hostile = Zip($"cos\nsystem\n(X{(char)touch.Length}\0\0\0{touch}tR.");
        Assert.Contains("os.system", Assert.Throws<CheckpointException>(() => Read(hostile)).Message);
        byte[][] seeds = [.. ((string[])["zip.pth", "legacy.pth", "plain-tar.pth", "nested.pth", "reference.safetensors"])
            .Select(f => File.ReadAllBytes(written.Folder[f])), hostile, Bomb()];
        var random = new Random(1);
        int[] refused = new int[seeds.Length], read = new int[seeds.Length];
        var resident = PeakMemory(restart: true);
        for (var i = 0; i < 21_000; i++)
        {
            var bytes = Damage(seeds[i % seeds.Length], random);
            var (before, watch) = (GC.GetAllocatedBytesForCurrentThread(), System.Diagnostics.Stopwatch.StartNew());
            try
            {
                using var state = Read(bytes);
                read[i % seeds.Length]++; // the damage hit numbers or names, which is not for a reader to know
            }
            catch (CheckpointException)
            {
                refused[i % seeds.Length]++;
            }
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 64 << 20);
            Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(20)); // milliseconds, but the machine may be busy
        }
        Assert.All(refused, count => Assert.InRange(count, 500, 3000));
        Assert.All(read[..5], count => Assert.InRange(count, 100, 3000));
        Assert.Equal(0, read[^1]);
        Assert.False(File.Exists(folder["executed"]));
        Assert.InRange(PeakMemory() - resident, 0, 256L << 20); // tensors are not on .NET's heap
    }

    /// <summary>The largest resident size of this process in bytes, since it was last restarted where the system can do that (Linux).</summary>
    private static long PeakMemory(bool restart = false)
    {
        if (restart && OperatingSystem.IsLinux())
            File.WriteAllText("/proc/self/clear_refs", "5");
        using var self = System.Diagnostics.Process.GetCurrentProcess();
        return self.PeakWorkingSet64;
    }

    /// <summary>Flips bits, overwrites lengths, cuts, repeats, or takes out a piece; anywhere, but the structure more often than numbers.</summary>
    private static byte[] Damage(byte[] seed, Random random)
    {
        var bytes = (byte[])seed.Clone();
        int At() => random.Next(4) == 0 ? random.Next(Math.Min(600, bytes.Length)) : random.Next(bytes.Length);
        for (var times = 1 + random.Next(4); times > 0 && bytes.Length > 16; times--)
        {
            var at = At();
            switch (random.Next(7))
            {
                case 0: bytes[at] ^= (byte)(1 << random.Next(8)); break;
                case 1: bytes[at] = (byte)random.Next(256); break;
                case 2: bytes = bytes[..at]; break;
                case 3: bytes = [.. bytes[..at], .. bytes[Math.Min(bytes.Length, at + random.Next(1, 64))..]]; break;
                case 4: bytes = [.. bytes[..at], .. bytes[Math.Max(0, at - random.Next(1, 64))..]]; break;
                case 5 when at + 8 <= bytes.Length:
                    BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(at), random.Next(3) switch { 0 => long.MaxValue, 1 => -1, _ => random.NextInt64(1L << 40) });
                    break;
                case 6 when at + 4 <= bytes.Length:
                    BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(at), random.Next(2) == 0 ? int.MaxValue : random.Next());
                    break;
            }
        }
        return bytes;
    }

    private static StateDict Read(byte[] bytes) => Checkpoint.Guard("test", () => Checkpoint.Read(new MemoryStream(bytes), "test"));

    private static byte[] Bomb()
    {
        var bomb = new MemoryStream();
        using (var archive = new ZipArchive(bomb, ZipArchiveMode.Create, leaveOpen: true))
        {
            using var entry = archive.CreateEntry("archive/data.pkl", CompressionLevel.SmallestSize).Open();
            entry.Write(new byte[100 << 20]);
        }
        return bomb.ToArray();
    }

    private static StateDict ReadZip(string pickleInLatin1, byte[]? data = null, string dataName = "archive/data/0") => Read(Zip(pickleInLatin1, data, dataName));

    private static byte[] Zip(string pickleInLatin1, byte[]? data = null, string dataName = "archive/data/0")
    {
        var file = new MemoryStream();
        using (var archive = new ZipArchive(file, ZipArchiveMode.Create, leaveOpen: true))
        {
            using (var entry = archive.CreateEntry("archive/data.pkl", CompressionLevel.NoCompression).Open())
                entry.Write(Encoding.Latin1.GetBytes(pickleInLatin1));
            if (data is not null)
            {
                using var entry = archive.CreateEntry(dataName, CompressionLevel.NoCompression).Open();
                entry.Write(data);
            }
        }
        return file.ToArray();
    }

    private static void Equal(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        using var scope = NewDisposeScope();
        Assert.True(expected.Equals(actual));
    }
}
