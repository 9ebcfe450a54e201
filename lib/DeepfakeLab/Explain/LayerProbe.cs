using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Reads what a layer gave out during a forward pass, and how the score depends on it.</summary>
internal static class LayerProbe
{
    /// <summary>Activations of a layer and the gradient of the summed scores with respect to them, both [N, C, h, w].</summary>
    /// <param name="layer">A stage of <see cref="VisionModel.Stages"/>, or any module's state-dict path such as <c>layer4.1.conv2</c>.</param>
    /// <param name="score">Of logits [N, K]: [N].</param>
    public static (Tensor Activations, Tensor Gradients) Run(VisionModel model, Tensor images, string layer, Func<Tensor, Tensor> score)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        IDisposable? gradients = null;
        Tensor? kept = null;
        // The graph begins at the layer: what the layers before it computed is not kept. A clone goes on, as later layers may work in place.
        var hook = Find(model, layer).register_forward_hook((_, _, output) =>
        {
            gradients ??= enable_grad();
            kept = output.detach().requires_grad_().MoveToOtherDisposeScope(scope);
            return kept.clone();
        });
        try
        {
            var logits = model.call(images);
            if (kept is null || kept.Dimensions != 4)
                throw new ModelException($"This layer of {model.Name} gives no feature maps [N, C, h, w]", layer, "Use a convolutional stage, such as " + DefaultLayer(model));
            var gradient = autograd.grad([score(logits).sum()], [kept])[0];
            return (kept.detach().MoveToOuterDisposeScope(), gradient.detach().MoveToOuterDisposeScope());
        }
        finally
        {
            gradients?.Dispose();
            hook.remove();
        }
    }

    /// <summary>The last stage that still has feature maps: the usual place for Grad-CAM.</summary>
    public static string DefaultLayer(VisionModel model) => model.Stages[^2];

    /// <summary>How many cells each stage's feature maps have across, for images of this size.</summary>
    public static IReadOnlyDictionary<string, long> CellsOf(VisionModel model, Tensor images)
    {
        var cells = new Dictionary<string, long>();
        var hooks = model.Stages.SkipLast(1).Select(stage => Find(model, stage).register_forward_hook((_, _, output) =>
        {
            if (output.Dimensions == 4)
                cells[stage] = Math.Min(output.shape[2], output.shape[3]);
            return output;
        })).ToList();
        try
        {
            model.call(images);
        }
        finally
        {
            hooks.ForEach(h => h.remove());
        }
        return cells;
    }

    private static nn.Module<Tensor, Tensor> Find(VisionModel model, string layer)
    {
        if (model.Stages.Contains(layer) && layer != model.Stages[^1])
            return model.StageLayers(layer)[^1];
        return model.named_modules().FirstOrDefault(m => m.name == layer).module as nn.Module<Tensor, Tensor>
            ?? throw new ModelException($"{model.Name} has no such layer", layer, $"Use one of {string.Join(", ", model.Stages.SkipLast(1))}, or a module's path in the state dict");
    }
}
