using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The state of a training between two epochs of fine-tuning, in one safetensors file that is written whole or not at all.</summary>
/// <remarks>
/// It holds the model, what learns beside it, the best model so far, the averaged weights and what the optimizer remembers. No random state is needed: every
/// epoch draws from (seed, epoch).
/// </remarks>
internal sealed class TrainingCheckpoint : IDisposable
{
    private readonly StateDict tensors;

    private TrainingCheckpoint(StateDict tensors, IReadOnlyList<EpochFigures> history)
    {
        this.tensors = tensors;
        History = history;
    }

    public IReadOnlyList<EpochFigures> History { get; }

    public void Dispose() => tensors.Dispose();

    /// <param name="file">Where it goes.</param>
    /// <param name="beside">What learns beside the model and is dropped in the end, or null.</param>
    /// <param name="identity">What makes a training this one and no other; reading asks for the same.</param>
    public static void Write(
        string file, string identity, IReadOnlyList<EpochFigures> history, nn.Module model, WeightCopy best, TrainingOptimizer optimizer, WeightCopy? average,
        nn.Module? beside)
    {
        using var scope = NewDisposeScope();
        using var state = StateDict.Of(model);
        using var besides = beside is null ? null : StateDict.Of(beside);
        var entries = state.Select(e => ("model." + e.Key, e.Value))
            .Concat(besides?.Select(e => ("beside." + e.Key, e.Value)) ?? [])
            .Concat(best.Values.Select(e => ("best." + e.Key, e.Value)))
            .Concat(average?.Values.Select(e => ("average." + e.Key, e.Value)) ?? [])
            .Concat(optimizer.State().Select(e => ("optimizer." + e.Key, e.Value)));
        SafeTensors.Write(file, entries, new Dictionary<string, string>
        {
            ["identity"] = Hash(identity),
            ["history"] = JsonSerializer.Serialize(history),
        });
    }

    /// <exception cref="TrainingException">The file belongs to another training.</exception>
    /// <exception cref="LabException">The file is damaged.</exception>
    public static TrainingCheckpoint Read(string file, string identity)
    {
        var tensors = SafeTensors.Read(file);
        if (tensors.Metadata.GetValueOrDefault("identity") != Hash(identity))
        {
            tensors.Dispose();
            throw new TrainingException("The checkpoint belongs to a training with other data, weights, seed or settings", file,
                "Resume with the settings it was begun with, or begin anew in another folder");
        }
        return new TrainingCheckpoint(tensors, JsonSerializer.Deserialize<List<EpochFigures>>(tensors.Metadata["history"])!);
    }

    /// <summary>Puts the weights back and returns the best weights so far.</summary>
    public WeightCopy RestoreTo(nn.Module model, WeightCopy? average, nn.Module? beside)
    {
        using (var current = Part("model."))
            current.CopyTo(model);
        if (beside is not null)
            using (var other = Part("beside."))
                other.CopyTo(beside);
        if (average is not null)
            foreach (var (key, value) in average.Values)
                value.copy_(tensors["average." + key]);
        return Part("best.");
    }

    public void RestoreTo(TrainingOptimizer optimizer) =>
        optimizer.Restore(tensors.Where(e => e.Key.StartsWith("optimizer.", StringComparison.Ordinal)).ToDictionary(e => e.Key["optimizer.".Length..], e => e.Value));

    private WeightCopy Part(string prefix) => new(tensors.Where(e => e.Key.StartsWith(prefix, StringComparison.Ordinal))
        .ToDictionary(e => e.Key[prefix.Length..], e => e.Value.clone().DetachFromDisposeScope()));

    private static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)));
}
