using System.Collections;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>A checkpoint file that cannot be read, or does not fit the model.</summary>
public sealed class CheckpointException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);

/// <summary>Named tensors in their file's order: the weights and buffers of a model. Owns its tensors.</summary>
public sealed class StateDict : IReadOnlyDictionary<string, Tensor>, IDisposable
{
    private readonly OrderedDictionary<string, Tensor> tensors = [];

    /// <param name="source">The file it was read from or the model it was taken of, for messages.</param>
    internal StateDict(string source) => Source = source;

    /// <summary>The version that PyTorch gives the state of each module, by the module's name; of a model's own state only. torchvision's MNASNet loads none without.</summary>
    internal OrderedDictionary<string, int> Versions { get; } = [];

    /// <summary>The file it was read from, or the name of the model it was taken of.</summary>
    public string Source { get; }

    /// <summary>Free text that came with the file; only <c>.safetensors</c> has any.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; internal set; } = new Dictionary<string, string>();

    /// <summary>The model's own tensors (views that share its memory), in PyTorch's order.</summary>
    public static StateDict Of(nn.Module model)
    {
        var state = new StateDict(model.GetName());
        Collect(model, "");
        return state;

        void Collect(nn.Module module, string prefix)
        {
            using var frozen = no_grad();
            state.Versions[prefix.TrimEnd('.')] = module is TorchSharp.Modules.BatchNorm or MnasNet ? 2 : 1; // the others' states never changed
            foreach (var (name, parameter) in module.named_parameters(recurse: false))
                state.Add(prefix + name, parameter.detach().DetachFromDisposeScope());
            foreach (var (name, buffer) in module.named_buffers(recurse: false))
                state.Add(prefix + name, buffer.alias().DetachFromDisposeScope());
            foreach (var (name, child) in module.named_children())
                Collect(child, $"{prefix}{name}.");
        }
    }

    /// <summary>Copies the tensors into a model, whose types and memory layout stay. The keys and shapes must be the model's.</summary>
    /// <param name="strict">False loads what fits by key and leaves the rest; a shape that differs is an error even then.</param>
    /// <exception cref="CheckpointException">Names every missing, unexpected and misshapen key; the model is then unchanged.</exception>
    /// <remarks>Files older than PyTorch 0.4.1 have no <c>num_batches_tracked</c>; as in PyTorch it is then zero.</remarks>
    public void LoadInto(nn.Module model, bool strict = true)
    {
        using var own = Of(model);
        var old = !tensors.Keys.Any(IsCounter);
        var missing = own.Keys.Where(k => !ContainsKey(k) && !(old && IsCounter(k))).ToList();
        var unexpected = Keys.Where(k => !own.ContainsKey(k)).ToList();
        var misshapen = own.Where(t => TryGetValue(t.Key, out var mine) && !Fits(mine, t.Value))
            .Select(t => $"{t.Key} ({Describe(this[t.Key])} for {Describe(t.Value)})").ToList();
        if (misshapen.Count > 0 || strict && (missing.Count > 0 || unexpected.Count > 0))
            throw new CheckpointException($"The weights do not fit {model.GetName()}: {string.Join("; ",
                    ((string[])[List("missing", missing), List("unexpected", unexpected), List("of another shape or type", misshapen)]).Where(t => t.Length > 0))}",
                Source, "Choose the model that the file was made from, with as many classes");

        using var frozen = no_grad();
        foreach (var (key, target) in own)
        {
            if (TryGetValue(key, out var mine))
                target.copy_(mine);
            else if (old && IsCounter(key))
                target.zero_();
        }
    }

    private static bool IsCounter(string key) => key.EndsWith("num_batches_tracked", StringComparison.Ordinal);

    private static bool Fits(Tensor mine, Tensor target) =>
        mine.shape.AsSpan().SequenceEqual(target.shape) && mine.is_floating_point() == target.is_floating_point();

    private static string Describe(Tensor t) => $"{t.dtype} [{string.Join(", ", t.shape)}]";

    private static string List(string what, List<string> keys) => keys.Count switch
    {
        0 => "",
        > 8 => string.Create(CultureInfo.InvariantCulture, $"{keys.Count} {what}: {string.Join(", ", keys.Take(8))}, …"),
        _ => $"{what}: {string.Join(", ", keys)}",
    };

    /// <summary>Takes ownership of the tensor.</summary>
    internal void Add(string key, Tensor tensor)
    {
        if (tensors.TryAdd(key, tensor))
            return;
        tensor.Dispose();
        throw new InvalidDataException($"the key {key} occurs twice");
    }

    public Tensor this[string key] => tensors[key];

    public IEnumerable<string> Keys => tensors.Keys;

    public IEnumerable<Tensor> Values => tensors.Values;

    public int Count => tensors.Count;

    public bool ContainsKey(string key) => tensors.ContainsKey(key);

    public bool TryGetValue(string key, [MaybeNullWhen(false)] out Tensor value) => tensors.TryGetValue(key, out value);

    public IEnumerator<KeyValuePair<string, Tensor>> GetEnumerator() => tensors.GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    public void Dispose()
    {
        foreach (var tensor in tensors.Values)
            tensor.Dispose();
        tensors.Clear();
    }
}
