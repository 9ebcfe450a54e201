using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Random initialisation as torchvision's constructors do it: He et al. 2015 (fan out) for convolutions.</summary>
/// <remarks>Draws in torchvision's order, so one seed gives both the same weights.</remarks>
internal static class Initialisation
{
    public static void Apply(nn.Module root, Action<Linear> linear)
    {
        using var frozen = no_grad();
        foreach (var module in Modules(root))
        {
            switch (module)
            {
                case Conv2d conv:
                    nn.init.kaiming_normal_(conv.weight, mode: nn.init.FanInOut.FanOut);
                    if (conv.bias is not null)
                        nn.init.zeros_(conv.bias);
                    break;
                case BatchNorm2d norm:
                    nn.init.ones_(norm.weight);
                    nn.init.zeros_(norm.bias);
                    norm.reset_running_stats();
                    break;
                case GroupNorm norm:
                    nn.init.ones_(norm.weight);
                    nn.init.zeros_(norm.bias);
                    break;
                case Linear layer:
                    linear(layer);
                    break;
            }
        }
    }

    /// <summary>The module and all below it, parents first; TorchSharp's own order differs from PyTorch's.</summary>
    public static IEnumerable<nn.Module> Modules(nn.Module root) =>
        root.named_children().SelectMany(child => Modules(child.module)).Prepend(root);
}
