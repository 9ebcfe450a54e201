using System.Buffers.Binary;
using System.Text;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Objects that a pickle can hold here, beside null, bool, long, double, string and byte[].</summary>
internal sealed record PickleTuple(object?[] Items);
internal sealed record PickleList(List<object?> Items);

/// <summary>A dict as the list of its assignments, so that no key's hash matters; the last assignment of a key counts.</summary>
internal sealed record PickleDict(List<(object? Key, object? Value)> Items);
internal sealed record PickleName(string FullName);
internal sealed record PickleStorage(ScalarType Type, string Key, long Count);
internal sealed record PickleTensor(PickleStorage Storage, long Offset, long[] Shape, long[] Strides);

/// <summary>A tensor or parameter as PyTorch pickled it before 0.4, which torchvision's files of 2017 have: made empty, filled afterwards.</summary>
internal sealed class PickleOldTensor
{
    public PickleTensor? Content { get; set; }
}

/// <summary>Reads what <c>torch.save</c> pickles of tensors and plain containers. It knows a handful of names and calls nothing.</summary>
/// <remarks>
/// Ours because the formats are small and safety is the point: Python's pickle machine calls whatever a file names. The opcodes are
/// those of protocols 2 to 5 that plain data needs (Python's <c>pickletools.py</c>); every object costs at least one byte of the file,
/// and no more than <see cref="MostObjects"/> are made.
/// </remarks>
internal sealed class PickleReader(Stream stream, Func<PickleTuple, PickleStorage>? persistent = null, Func<object?, object?>? persistentId = null)
{
    private const int MostObjects = 1_000_000;
    private const int LongestText = 1 << 20;

    private static readonly Dictionary<string, ScalarType> storages = new(StringComparer.Ordinal)
    {
        ["DoubleStorage"] = ScalarType.Float64,
        ["FloatStorage"] = ScalarType.Float32,
        ["HalfStorage"] = ScalarType.Float16,
        ["BFloat16Storage"] = ScalarType.BFloat16,
        ["LongStorage"] = ScalarType.Int64,
        ["IntStorage"] = ScalarType.Int32,
        ["ShortStorage"] = ScalarType.Int16,
        ["CharStorage"] = ScalarType.Int8,
        ["ByteStorage"] = ScalarType.Byte,
        ["BoolStorage"] = ScalarType.Bool,
    };

    private readonly List<object?> stack = [];
    private readonly Stack<int> marks = [];
    private readonly List<object?> memo = [];
    private int made;

    /// <summary>The element type that a name such as <c>torch.FloatStorage</c> stands for.</summary>
    public static ScalarType StorageType(object? name) =>
        name is PickleName { FullName: var full } && full.StartsWith("torch.", StringComparison.Ordinal) && storages.TryGetValue(full[6..], out var type)
            ? type
            : throw new InvalidDataException("a storage's type is not known");

    /// <summary>The name of the storage class of an element type, without its module.</summary>
    public static string StorageName(ScalarType type) => storages.FirstOrDefault(s => s.Value == type).Key
        ?? throw new CheckpointException("PyTorch's files take no tensor of this type", type.ToString(), "Convert it first");

    /// <summary>Reads one pickle, up to and with its STOP; the stream then stands behind it.</summary>
    public object? Read()
    {
        while (true)
        {
            var op = Byte();
            switch ((char)op)
            {
                case '\x80': Byte(); break;                                          // PROTO
                case '\x95': Skip(8); break;                                         // FRAME
                case '.': return Pop();                                              // STOP
                case '(': marks.Push(stack.Count); Count(); break;                   // MARK
                case '0': Pop(); break;                                              // POP
                case 'N': Push(null); break;
                case '\x88': Push(true); break;
                case '\x89': Push(false); break;
                case 'K': Push((long)Byte()); break;                                 // BININT1
                case 'M': Push((long)BinaryPrimitives.ReadUInt16LittleEndian(Bytes(2))); break;
                case 'J': Push((long)BinaryPrimitives.ReadInt32LittleEndian(Bytes(4))); break;
                case '\x8a': Push(Long(Bytes(Byte()))); break;                       // LONG1
                case 'G': Push(BinaryPrimitives.ReadDoubleBigEndian(Bytes(8))); break;
                case 'X': Push(Text(UInt32())); break;                               // BINUNICODE
                case '\x8c': Push(Text(Byte())); break;                              // SHORT_BINUNICODE
                case 'T': Push(Latin1(BinaryPrimitives.ReadInt32LittleEndian(Bytes(4)))); break; // BINSTRING, by Python 2
                case 'U': Push(Latin1(Byte())); break;                               // SHORT_BINSTRING
                case 'B': Push(Bytes(UInt32())); break;                              // BINBYTES
                case 'C': Push(Bytes(Byte())); break;
                case ')': Push(new PickleTuple([])); break;
                case ']': Push(new PickleList([])); break;
                case '}': Push(new PickleDict([])); break;
                case 't': Push(new PickleTuple(PopMark())); break;
                case '\x85': Push(new PickleTuple([Pop()])); break;
                case '\x86': PushTuple(2); break;
                case '\x87': PushTuple(3); break;
                case 'a': { var item = Pop(); Top<PickleList>().Items.Add(item); break; }
                case 'e': { var items = PopMark(); Top<PickleList>().Items.AddRange(items); break; }
                case 's': { var value = Pop(); var key = Pop(); Top<PickleDict>().Items.Add((key, value)); break; }
                case 'u': SetItems(PopMark()); break;
                case 'q': Remember(Byte()); break;
                case 'r': Remember(UInt32()); break;
                case '\x94': Remember(memo.Count); break;                            // MEMOIZE
                case 'h': Recall(Byte()); break;
                case 'j': Recall(UInt32()); break;
                case 'c': { var module = Line(); Push(Name(module, Line())); break; } // GLOBAL
                case '\x93': { var name = Pop() as string; Push(Name(Pop() as string ?? "", name ?? "")); break; }
                case 'R': { var arguments = Pop<PickleTuple>(); Push(Call(Pop<PickleName>().FullName, arguments.Items)); break; }
                case '\x81': { var arguments = Pop<PickleTuple>(); Push(Call(Pop<PickleName>().FullName, arguments.Items)); break; } // NEWOBJ
                case 'b': Build(Pop()); break;
                case 'Q': Push(Persistent(Pop())); break;                            // BINPERSID
                case 'P': Push(Persistent(Line())); break;                           // PERSID
                default: throw new InvalidDataException($"its pickle uses an instruction that tensors do not need (0x{op:x2})");
            }
        }
    }

    /// <summary>The names that a file may mention. Nothing is looked up by them; each is handled below or stands for a type.</summary>
    private static PickleName Name(string module, string name) => $"{module}.{name}" switch
    {
        "collections.OrderedDict" or "torch._utils._rebuild_tensor_v2" or "torch._utils._rebuild_tensor" or "torch._utils._rebuild_parameter"
            or "torch.Size" or "torch.nn.parameter.Parameter" => new($"{module}.{name}"),
        "torch._tensor._rebuild_tensor_v2" or "torch.tensor._rebuild_tensor_v2" => new("torch._utils._rebuild_tensor_v2"),
        _ when module is "torch" or "torch.cuda" && (storages.ContainsKey(name) || storages.ContainsKey(name.Replace("Tensor", "Storage", StringComparison.Ordinal))) =>
            new("torch." + name),
        _ => throw new InvalidDataException($"it names {Printable($"{module}.{name}")}, which tensors do not need and which is not run"),
    };

    private static object? Call(string function, object?[] arguments) => function switch
    {
        "collections.OrderedDict" when arguments.Length == 0 => new PickleDict([]),
        "collections.OrderedDict" when arguments is [PickleList pairs] =>
            new PickleDict([.. pairs.Items.Select(p => p switch
            {
                PickleList { Items: [var key, var value] } => (key, value),
                PickleTuple { Items: [var key, var value] } => (key, value),
                _ => throw new InvalidDataException("a dict's item is not a pair"),
            })]),
        "torch.Size" when arguments is [PickleTuple lengths] => lengths,
        "torch._utils._rebuild_tensor_v2" or "torch._utils._rebuild_tensor" when arguments is [PickleStorage storage, long offset, PickleTuple shape, PickleTuple strides, ..] =>
            new PickleTensor(storage, offset, Longs(shape), Longs(strides)),
        "torch._utils._rebuild_parameter" or "torch.nn.parameter.Parameter" when arguments is [PickleTensor or PickleOldTensor, ..] => arguments[0],
        _ when arguments.Length == 0 && (function == "torch.nn.parameter.Parameter" || function.EndsWith("Tensor", StringComparison.Ordinal)) => new PickleOldTensor(),
        _ => throw new InvalidDataException($"it calls {function} with arguments that do not fit"),
    };

    /// <summary>An object's state: an old tensor's content, or a dict's attributes (module versions), which loading does not need.</summary>
    /// <remarks>The two tuples are those that <c>torch.Tensor.__setstate__</c> still takes.</remarks>
    private void Build(object? state)
    {
        if (stack.LastOrDefault() is PickleOldTensor tensor)
            tensor.Content = (state as PickleTuple)?.Items switch
            {
                [PickleStorage storage, long offset, PickleTuple shape, PickleTuple strides] => new(storage, offset, Longs(shape), Longs(strides)),
                [PickleTensor data, _, _, _, _] => data,
                [PickleOldTensor data, _, _, _, _] => data.Content,
                _ => throw new InvalidDataException("a tensor's state is not understood"),
            };
        else if (stack.LastOrDefault() is not PickleDict)
            throw new InvalidDataException("it sets attributes of something other than a dict");
    }

    private object? Persistent(object? id) => id switch
    {
        PickleTuple tuple when persistent is not null => persistent(tuple),
        not PickleTuple when persistentId is not null => persistentId(id),
        _ => throw new InvalidDataException("it refers to an object outside the pickle"),
    };

    public static long[] Longs(PickleTuple tuple) => [.. tuple.Items.Select(i => (long)(i ?? throw new InvalidDataException("a length is none")))];

    private void SetItems(object?[] items)
    {
        if (items.Length % 2 != 0)
            throw new InvalidDataException("a dict's key has no value");
        var dict = Top<PickleDict>();
        for (var i = 0; i < items.Length; i += 2)
            dict.Items.Add((items[i], items[i + 1]));
    }

    private void Remember(long index)
    {
        if (index > MostObjects)
            throw new InvalidDataException("its pickle remembers too many objects");
        while (memo.Count <= index)
            memo.Add(null);
        memo[(int)index] = stack.Count > 0 ? stack[^1] : throw new InvalidDataException("its pickle remembers nothing");
    }

    private void Recall(long index) => Push(index < memo.Count ? memo[(int)index] : throw new InvalidDataException("its pickle recalls what it never remembered"));

    private void Push(object? item)
    {
        Count();
        stack.Add(item);
    }

    private void Count()
    {
        if (++made > MostObjects)
            throw new InvalidDataException($"its pickle makes more than {MostObjects} objects");
    }

    private void PushTuple(int count)
    {
        var items = new object?[count];
        for (var i = count - 1; i >= 0; i--)
            items[i] = Pop();
        Push(new PickleTuple(items));
    }

    private object? Pop()
    {
        if (stack.Count <= (marks.Count > 0 ? marks.Peek() : 0))
            throw new InvalidDataException("its pickle takes more than it has");
        var item = stack[^1];
        stack.RemoveAt(stack.Count - 1);
        return item;
    }

    private T Pop<T>() where T : class => Pop() as T ?? throw new InvalidDataException($"its pickle has no {typeof(T).Name} where one is needed");

    private T Top<T>() where T : class =>
        stack.LastOrDefault() as T ?? throw new InvalidDataException($"its pickle has no {typeof(T).Name} where one is needed");

    private object?[] PopMark()
    {
        if (!marks.TryPop(out var from))
            throw new InvalidDataException("its pickle ends a list that never began");
        var items = stack[from..].ToArray();
        stack.RemoveRange(from, stack.Count - from);
        return items;
    }

    private byte Byte() => stream.ReadByte() is var b and >= 0 ? (byte)b : throw new EndOfStreamException("its pickle is cut off");

    private byte[] Bytes(long count)
    {
        if (count < 0 || count > LongestText || count > stream.Length - stream.Position)
            throw new InvalidDataException("its pickle holds a text longer than the file");
        var bytes = new byte[count];
        stream.ReadExactly(bytes);
        return bytes;
    }

    private void Skip(int count) => Bytes(count);

    private long UInt32() => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(4));

    private static readonly UTF8Encoding strict = new(false, throwOnInvalidBytes: true);

    private string Text(long length) => strict.GetString(Bytes(length));

    private string Latin1(long length) => Encoding.Latin1.GetString(Bytes(length));

    /// <summary>A little-endian two's complement number; PyTorch's magic number is the only one that does not fit a long.</summary>
    private static object Long(byte[] bytes)
    {
        var value = new System.Numerics.BigInteger(bytes);
        return value >= long.MinValue && value <= long.MaxValue ? (object)(long)value : value; // without the cast both become BigInteger
    }

    private string Line()
    {
        var line = new StringBuilder();
        for (var b = Byte(); b != '\n'; b = Byte())
            if (line.Append((char)b).Length > 1024)
                throw new InvalidDataException("its pickle holds a name of more than 1024 letters");
        return line.ToString();
    }

    /// <summary>Something from a file that an error message may repeat.</summary>
    public static string Printable(string text) => new([.. text.Take(80).Select(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' ? c : '?')]);
}
