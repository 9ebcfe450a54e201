using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// A copy of a model that computes in bfloat16 while the model itself keeps the weights in float32, where small steps are not lost
/// (Micikevicius et al. 2017, "Mixed Precision Training", arXiv:1710.03740). Batch norms are the model's own, in float32. bfloat16 has
/// float32's range, so that losses need no scaling.
/// </summary>
/// <remarks>TorchSharp offers neither autocast nor what it would need for one.</remarks>
internal sealed class MixedPrecision : IDisposable
{
    private readonly VisionModel model, copy;
    private readonly (nn.Module Own, nn.Module Copied)[] modules;
    private readonly (Parameter Own, Parameter Copied)[] parameters;

    public MixedPrecision(VisionModel model)
    {
        (this.model, copy) = (model, FrozenPrefix.Copy(model));
        using var none = no_grad();
        TensorLayout.Weights(copy, channelsLast: true);
        modules = [.. Initialisation.Modules(model).Zip(Initialisation.Modules(copy))];
        foreach (var (own, copied) in modules)
            if (own is BatchNorm)
                foreach (var (value, target) in own.state_dict().Values.Zip(copied.state_dict().Values))
                    target.set_(value.detach()); // the same memory
            else if (copied is nn.Module<Tensor, Tensor> layer && !layer.named_children().Any())
                layer.to(ScalarType.BFloat16);
        parameters = [.. model.parameters().Zip(copy.parameters())];
    }

    /// <summary>Takes over the model's weights and modes, and which of its parameters learn.</summary>
    public void Begin()
    {
        copy.train();
        foreach (var (own, copied) in modules)
        {
            if (!own.training)
                copied.eval();
            if ((own, copied) is (BatchNorm norm, BatchNorm copiedNorm))
                copiedNorm.momentum = norm.momentum;
        }
        foreach (var (own, copied) in parameters)
            copied.requires_grad = own.requires_grad;
        Follow();
    }

    /// <summary>What <paramref name="function"/> of the model gives, computed in bfloat16: float32 in, float32 out.</summary>
    public Tensor Run(Func<VisionModel, Tensor, Tensor> function, Tensor input) => function(copy, input.to(ScalarType.BFloat16)).to(ScalarType.Float32);

    /// <summary>Adds the copy's gradients to the model's, in float32.</summary>
    public void TakeGradients()
    {
        using var none = no_grad();
        foreach (var (own, copied) in parameters)
        {
            using var scope = NewDisposeScope();
            if (copied.grad is not { } gradient)
                continue;
            own.grad = own.grad is { } before ? before.add_(gradient) : gradient.to(ScalarType.Float32);
            copied.grad = null;
        }
    }

    /// <summary>Takes over the model's weights after a step.</summary>
    public void Follow()
    {
        using var none = no_grad();
        foreach (var (own, copied) in parameters)
            if (copied.dtype != own.dtype)
                copied.copy_(own);
    }

    public void Dispose() => copy.Dispose();
}
