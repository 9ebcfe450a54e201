using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The optimizer that a recipe asks for, its parameters in groups that have rates and weight decay of their own.</summary>
internal sealed class TrainingOptimizer : IDisposable
{
    private readonly OptimizerHelper optimizer;
    private readonly double[] factors; // of each parameter group's rate
    private readonly Parameter[] learning;

    /// <summary>Over those of <paramref name="part"/>'s parameters that ask for gradients.</summary>
    /// <param name="factor">A parameter's share of the rate; null for 1.</param>
    /// <param name="beside">A module beside the model that learns too, or null.</param>
    public TrainingOptimizer(Recipe recipe, nn.Module part, double rate, Func<Parameter, double>? factor = null, nn.Module? beside = null)
    {
        // Weight decay is for the weights of layers; biases and batch norm's scale and shift go without, as is usual.
        var groups = part.parameters().Concat(beside?.parameters() ?? []).Where(p => p.requires_grad)
            .GroupBy(p => (Factor: factor?.Invoke(p) ?? 1, Decays: p.dim() > 1))
            .OrderByDescending(g => g.Key.Factor).ThenByDescending(g => g.Key.Decays)
            .Select(g => (g.Key.Factor, Decay: g.Key.Decays ? recipe.WeightDecay : 0, Parameters: g.ToList())).ToList();
        factors = [.. groups.Select(g => g.Factor)];
        learning = [.. groups.SelectMany(g => g.Parameters)];
        optimizer = recipe.Optimizer switch
        {
            OptimizerKind.Adam => optim.Adam(groups.Select(g => new Adam.ParamGroup(g.Parameters, weight_decay: g.Decay)), rate),
            OptimizerKind.Sgd => optim.SGD(groups.Select(g => new SGD.ParamGroup(g.Parameters, rate, recipe.Momentum, weight_decay: g.Decay)), rate, recipe.Momentum),
            _ => optim.AdamW(groups.Select(g => new AdamW.ParamGroup(g.Parameters, weight_decay: g.Decay)), rate),
        };
        Rate = rate;
    }

    /// <summary>The rate, of which groups have their shares.</summary>
    public double Rate
    {
        get;
        set
        {
            field = value;
            foreach (var (group, factor) in optimizer.ParamGroups.Zip(factors))
                group.LearningRate = value * factor;
        }
    }

    /// <summary>Gradients go rather than become zeros, which would be added to and would take memory meanwhile.</summary>
    public void Forget()
    {
        foreach (var parameter in learning)
            parameter.grad = null;
    }

    public void Step() => optimizer.step();

    public void Dispose() => optimizer.Dispose();

    /// <summary>Everything that the optimizer remembers between steps, by name: moments and, for Adam, the number of steps.</summary>
    public IEnumerable<(string Key, Tensor Value)> State()
    {
        foreach (var (i, state) in States())
            switch (state)
            {
                case AdamW.State s:
                    yield return ($"exp_avg.{i}", s.exp_avg);
                    yield return ($"exp_avg_sq.{i}", s.exp_avg_sq);
                    yield return ($"step.{i}", tensor(s.step));
                    break;
                case Adam.State s:
                    yield return ($"exp_avg.{i}", s.exp_avg);
                    yield return ($"exp_avg_sq.{i}", s.exp_avg_sq);
                    yield return ($"step.{i}", tensor(s.step));
                    break;
                case SGD.State { momentum_buffer: not null } s: // none before a parameter's first gradient
                    yield return ($"momentum_buffer.{i}", s.momentum_buffer);
                    break;
            }
    }

    /// <summary>Takes back what <see cref="State"/> gave.</summary>
    public void Restore(IReadOnlyDictionary<string, Tensor> saved)
    {
        foreach (var (i, state) in States())
            switch (state)
            {
                case AdamW.State s:
                    s.step = saved[$"step.{i}"].item<long>();
                    s.exp_avg.copy_(saved[$"exp_avg.{i}"]);
                    s.exp_avg_sq.copy_(saved[$"exp_avg_sq.{i}"]);
                    break;
                case Adam.State s:
                    s.step = saved[$"step.{i}"].item<long>();
                    s.exp_avg.copy_(saved[$"exp_avg.{i}"]);
                    s.exp_avg_sq.copy_(saved[$"exp_avg_sq.{i}"]);
                    break;
                case SGD.State s when saved.TryGetValue($"momentum_buffer.{i}", out var buffer):
                    s.momentum_buffer = buffer.clone().DetachFromDisposeScope();
                    break;
            }
    }

    private IEnumerable<(int Index, OptimizerState State)> States() => optimizer.state_dict().State.Index();
}
