using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The optimizer that a recipe asks for, its parameters in groups that have rates and weight decay of their own.</summary>
internal sealed class TrainingOptimizer : IDisposable
{
    private readonly OptimizerHelper optimizer;
    private readonly double[] factors; // of each parameter group's rate
    private readonly Parameter[] learning;
    private readonly (int Group, double Decay)[] belongs; // each parameter to its group
    private readonly OptimizerState[] states; // of each parameter
    private readonly (double L1, double L2)[] penalties; // of each parameter, as they are in the loss
    private readonly bool decouples; // AdamW's decay

    /// <summary>Over those of <paramref name="part"/>'s parameters that ask for gradients.</summary>
    /// <param name="factor">A parameter's share of the rate; null for 1.</param>
    /// <param name="beside">A module beside the model that learns too, without penalties; or null.</param>
    public TrainingOptimizer(Recipe recipe, nn.Module part, double rate, Func<Parameter, double>? factor = null, nn.Module? beside = null)
    {
        // Weight decay is for the weights of layers; biases and batch norm's scale and shift go without, as is usual.
        var groups = part.parameters().Concat(beside?.parameters() ?? []).Where(p => p.requires_grad)
            .GroupBy(p => (Factor: factor?.Invoke(p) ?? 1, Decays: p.dim() > 1))
            .OrderByDescending(g => g.Key.Factor).ThenByDescending(g => g.Key.Decays)
            .Select(g => (g.Key.Factor, Decay: g.Key.Decays ? recipe.WeightDecay : 0, Parameters: g.ToList())).ToList();
        factors = [.. groups.Select(g => g.Factor)];
        learning = [.. groups.SelectMany(g => g.Parameters)];
        belongs = [.. groups.SelectMany((g, i) => g.Parameters.Select(_ => (i, g.Decay)))];
        var beyond = (beside?.parameters() ?? []).Select(p => p.Handle).ToHashSet();
        penalties = [.. learning.Select(p => beyond.Contains(p.Handle) ? (0, 0) : (recipe.L1, recipe.L2))];
        decouples = recipe.Optimizer == OptimizerKind.AdamW;
        optimizer = recipe.Optimizer switch
        {
            OptimizerKind.Adam => optim.Adam(groups.Select(g => new Adam.ParamGroup(g.Parameters, weight_decay: g.Decay)), rate),
            OptimizerKind.Sgd => optim.SGD(groups.Select(g => new SGD.ParamGroup(g.Parameters, rate, recipe.Momentum, weight_decay: g.Decay)), rate, recipe.Momentum),
            _ => optim.AdamW(groups.Select(g => new AdamW.ParamGroup(g.Parameters, weight_decay: g.Decay)), rate),
        };
        states = [.. optimizer.state_dict().State];
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

    /// <param name="penalises">Whether <see cref="Penalise"/> comes before it; then for Adam in the same pass over memory.</param>
    /// <remarks>Adam's on the processor is <see cref="AdamKernel"/>'s, where all gradients lie in memory as their parameters do.</remarks>
    public void Step(bool penalises = false)
    {
        if (StepAtOnce(penalises))
            return;
        if (penalises)
            Penalise();
        optimizer.step();
    }

    /// <summary>Adds the gradients that L1 * sum |w| + L2 * sum w² in the loss would have, which need no graph over all parameters.</summary>
    public void Penalise()
    {
        using var none = no_grad();
        foreach (var (parameter, (l1, l2)) in learning.Zip(penalties).Where(p => p.Second != (0, 0)))
        {
            using var scope = NewDisposeScope();
            var gradient = parameter.grad ?? (parameter.grad = zeros_like(parameter));
            if (l1 > 0)
                gradient.add_(parameter.sign(), alpha: l1);
            if (l2 > 0)
                gradient.add_(parameter, alpha: 2 * l2);
        }
    }

    private bool StepAtOnce(bool penalises)
    {
        using var scope = NewDisposeScope();
        var (all, moved, rates) = (new List<AdamKernel.Numbers>(), new List<OptimizerState>(), optimizer.ParamGroups.Select(g => g.LearningRate).ToArray());
        foreach (var (i, parameter) in learning.Index())
        {
            var (l1, l2) = penalises ? penalties[i] : (0, 0);
            if (parameter.grad is null && (l1, l2) == (0, 0))
                continue;
            var (step, mean, square) = states[i] switch
            {
                AdamW.State s => (s.step + 1, s.exp_avg, s.exp_avg_sq),
                Adam.State s => (s.step + 1, s.exp_avg, s.exp_avg_sq),
                _ => (0, null, null),
            };
            if (mean is null || square is null || parameter.grad is not { } gradient || AdamKernel.Find(parameter) is not { } value || AdamKernel.Find(gradient) is not { } own || AdamKernel.Find(mean) is not { } first || AdamKernel.Find(square) is not { } second
                || own.ChannelsLast != value.ChannelsLast || first.ChannelsLast != value.ChannelsLast || second.ChannelsLast != value.ChannelsLast)
                return false;
            var (rate, decay) = (rates[belongs[i].Group], belongs[i].Decay);
            all.Add(new(value.Begin, own.Begin, first.Begin, second.Begin, parameter.numel(), new((float)(decouples ? 1 - rate * decay : 1), (float)l1, (float)(2 * l2 + (decouples ? 0 : decay)),
                rate / (1 - Math.Pow(AdamKernel.Beta1, step)), Math.Sqrt(1 - Math.Pow(AdamKernel.Beta2, step)))));
            moved.Add(states[i]);
        }
        AdamKernel.Step(all);
        foreach (var state in moved)
            _ = state is AdamW.State s ? s.step++ : ((Adam.State)state).step++;
        return true;
    }

    public void Dispose() => optimizer.Dispose();

    /// <summary>Everything that the optimizer remembers between steps, by name: moments and, for Adam, the number of steps.</summary>
    public IEnumerable<(string Key, Tensor Value)> State()
    {
        foreach (var (i, state) in states.Index())
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
        foreach (var (i, state) in states.Index())
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
}
