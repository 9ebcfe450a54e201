using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>MNASNet-B1 at four widths (Tan et al. 2018, arXiv:1807.11626); torchvision's <c>mnasnet.py</c>.</summary>
/// <remarks>Stages: <c>layers.0</c> … <c>layers.16</c>, <c>classifier</c>. Features: [N, 1280].</remarks>
public sealed class MnasNet : VisionModel
{
    /// <summary>Figure 7 of the paper: kernel, stride of the first, expansion, output channels, repeats.</summary>
    private static readonly (int Kernel, int Stride, int Expand, int Channels, int Repeats)[] table =
    [
        (3, 2, 3, 24, 3),
        (5, 2, 3, 40, 3),
        (5, 2, 6, 80, 3),
        (3, 1, 6, 96, 2),
        (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    ];

    private static readonly Layers.Norm batchNorm = new(Momentum: 1 - 0.9997); // the paper's, in PyTorch's sense of the word

    internal MnasNet(string name, double width, int classes, ModelOptions options) : base(name, "MNASNet")
    {
        var norm = batchNorm with { Layer = options.NormLayer };
        int stem = Layers.Channels(32 * width), channels = Layers.Channels(16 * width);
        // The activations between these layers can be cut at and kept, so none is changed in place.
        var layers = nn.Sequential(
            Layers.Conv(3, stem, stride: 2), norm.Over(stem), nn.ReLU(),
            Layers.Conv(stem, stem, groups: stem), norm.Over(stem), nn.ReLU(),
            Layers.Conv(stem, channels, kernel: 1), norm.Over(channels));
        foreach (var row in table)
        {
            var output = Layers.Channels(row.Channels * width);
            var stack = nn.Sequential();
            for (var i = 0; i < row.Repeats; i++)
                stack.append(new InvertedResidual(i == 0 ? channels : output, output, row.Kernel, i == 0 ? row.Stride : 1, row.Expand, norm));
            layers.append(stack);
            channels = output;
        }
        layers.append(Layers.Conv(channels, 1280, kernel: 1)).append(norm.Over(1280)).append(nn.ReLU());

        AddStages("layers", layers);
        AddHead("classifier", nn.Sequential(nn.Dropout(options.Dropout ?? 0.2), nn.Linear(1280, classes)), classes, features: 1280);
    }

    internal override HeadRecipe DefaultHead => HeadRecipe.Linear(dropout: 0.2);

    internal override bool DrawsByOutputs => true;

    internal override void InitialiseLinear(Linear layer)
    {
        nn.init.kaiming_uniform_(layer.weight, mode: nn.init.FanInOut.FanOut, nonlinearity: nn.init.NonlinearityType.Sigmoid);
        nn.init.zeros_(layer.bias);
    }

    private sealed class InvertedResidual : nn.Module<Tensor, Tensor>, Layers.IResidual
    {
        private readonly bool adds;
        private readonly Sequential layers;

        public InvertedResidual(int input, int output, int kernel, int stride, int expand, Layers.Norm norm) : base(nameof(InvertedResidual))
        {
            var hidden = input * expand;
            adds = stride == 1 && input == output;
            layers = nn.Sequential(
                Layers.Conv(input, hidden, kernel: 1), norm.Over(hidden), Layers.ReLU(),
                Layers.Conv(hidden, hidden, kernel, stride, groups: hidden), norm.Over(hidden), Layers.ReLU(),
                Layers.Conv(hidden, output, kernel: 1), norm.Over(output));
            RegisterComponents();
        }

        public IReadOnlyList<nn.Module> Branch => [layers];

        public bool Adds => adds;

        public override Tensor forward(Tensor x) => adds ? layers.call(x).add_(x) : layers.call(x);
    }
}
