using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>A copy of a model's parameters and buffers, by state-dict key.</summary>
internal sealed class WeightCopy : IDisposable
{
    private readonly Dictionary<string, Tensor> values;

    /// <param name="constant">Modules of it whose values never change and need not be copied.</param>
    public WeightCopy(nn.Module model, IEnumerable<nn.Module>? constant = null)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        var shared = (constant ?? []).SelectMany(m => m.state_dict().Values).Select(v => v.Handle).ToHashSet();
        values = model.state_dict().ToDictionary(e => e.Key, e => (shared.Contains(e.Value.Handle) ? e.Value.detach() : e.Value.detach().clone()).DetachFromDisposeScope());
    }

    public WeightCopy(Dictionary<string, Tensor> values) => this.values = values;

    public IReadOnlyDictionary<string, Tensor> Values => values;

    public void CopyTo(nn.Module model)
    {
        using var none = no_grad();
        foreach (var (key, value) in model.state_dict())
            value.copy_(values[key]);
    }

    /// <summary>Moves each value the given share of the way to the model's: an exponential moving average of the weights.</summary>
    public void MoveTowards(nn.Module model, double share)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        foreach (var (key, value) in model.state_dict())
            if (value.is_floating_point())
                values[key].lerp_(value, share);
            else
                values[key].copy_(value);
    }

    public void Dispose()
    {
        foreach (var value in values.Values)
            value.Dispose();
    }
}
