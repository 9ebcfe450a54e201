using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// Weights in eight bits, for the files inside the library: of a convolution or a linear layer each output channel holds whole multiples
/// of a 127th of its largest weight; everything else is in half precision.
/// </summary>
internal static class EightBits
{
    /// <summary>What the name of a weight's steps, one an output channel, ends in.</summary>
    private const string Step = ".step";

    /// <summary>The tensors as they are stored; made in the caller's dispose scope.</summary>
    public static IEnumerable<(string Name, Tensor Tensor)> Pack(StateDict state)
    {
        foreach (var (name, value) in state)
        {
            if (!value.is_floating_point() || value.dim() < 2)
            {
                yield return (name, value.is_floating_point() ? value.to(ScalarType.Float16) : value);
                continue;
            }
            var (whole, step) = Whole(value.cpu());
            yield return (name, whole.to(ScalarType.Int8).reshape(value.shape));
            yield return (name + Step, step);
        }
    }

    /// <summary>Gives a model's weights the values that come back from <see cref="Pack"/>.</summary>
    public static void Round(nn.Module model)
    {
        using var none = no_grad();
        foreach (var weight in model.parameters().Where(p => p.dim() > 1))
        {
            using var scope = NewDisposeScope();
            var (whole, step) = Whole(weight);
            weight.copy_((whole * step.unsqueeze(1)).reshape(weight.shape));
        }
    }

    /// <summary>Each output channel in whole numbers, [channels, rest], and what one of them is worth.</summary>
    private static (Tensor Whole, Tensor Step) Whole(Tensor value)
    {
        var rows = value.to(ScalarType.Float32).flatten(1);
        var step = rows.abs().amax(1).clamp_min(1e-20) / 127;
        return ((rows / step.unsqueeze(1)).round(), step);
    }

    /// <summary>The tensors as a model takes them. Takes over what it is given; a file without steps passes unchanged.</summary>
    public static StateDict Unpack(StateDict packed)
    {
        using var stored = packed;
        var state = new StateDict(packed.Source) { Metadata = packed.Metadata };
        foreach (var (name, value) in packed)
        {
            if (packed.TryGetValue(name + Step, out var step))
            {
                using var rows = value.flatten(1);
                using var steps = step.unsqueeze(1);
                using var weights = rows * steps;
                state.Add(name, weights.reshape(value.shape).DetachFromDisposeScope());
            }
            else if (!name.EndsWith(Step, StringComparison.Ordinal))
                state.Add(name, value.alias().DetachFromDisposeScope());
        }
        return state;
    }
}
