using System.Globalization;
using System.Text.Json;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>A model that cannot be exported, or a place that it cannot be exported to.</summary>
public sealed class ExportException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);

/// <summary>What goes into an ONNX file beside the network.</summary>
public sealed record OnnxOptions
{
    /// <summary>Batch norms are multiplied into the convolutions before them; faster, and equal but for rounding.</summary>
    public bool FoldBatchNorm { get; init; }

    /// <summary>
    /// The input "image" is then uint8 [N, H, W, 3], RGB as decoders give it; where the preprocessing is one exact size, of any height and
    /// width, which the graph resizes as PIL does to within a level. Otherwise "image" is float32 [N, 3, H, W], resized and normalised.
    /// </summary>
    public bool Preprocess { get; init; }

    /// <summary>The output is then "probabilities" instead of "logits".</summary>
    public bool Softmax { get; init; }

    /// <summary>Weights and arithmetic in float16; input and output types stay.</summary>
    public bool Half { get; init; }

    /// <summary>A second output "maps", float32 [N, classes, h, w]: what each place adds to each logit (Zhou et al. 2016, arXiv:1512.04150).
    /// For models whose head is one linear layer on averaged features.</summary>
    public bool ClassMaps { get; init; }

    /// <summary>What each tensor that a convolution, a linear layer or a sum takes ranges over: these are then rounded to 8 bits, and so are weights.
    /// <see cref="OnnxInt8"/> measures it.</summary>
    internal IReadOnlyDictionary<string, (float Low, float High)>? Ranges { get; init; }

    /// <summary>Filled with the names of those tensors, which become outputs of the graph.</summary>
    internal ISet<string>? Observed { get; init; }
}

/// <summary>Writes a model as an ONNX file (opset 18, any batch size), which ONNX Runtime, browsers and phones can run.</summary>
/// <remarks>TorchSharp has no ONNX exporter: the graph is made by walking the model's own modules.</remarks>
public static class OnnxExport
{
    /// <summary>Writes the file, whole or not at all.</summary>
    /// <param name="path">The file.</param>
    /// <param name="model">Any of <see cref="Models"/> with any <see cref="HeadRecipe"/>, exported as in eval mode.</param>
    /// <param name="preprocessing">What images go through; must give one size.</param>
    /// <param name="classes">Names of the logits; null for numbers.</param>
    /// <param name="metadata">Further entries of the file's metadata.</param>
    /// <exception cref="ExportException">The model has a layer, or the preprocessing a step, that is not known here.</exception>
    public static void Write(
        string path, VisionModel model, Preprocessing preprocessing, IReadOnlyList<string>? classes = null, OnnxOptions? options = null,
        IReadOnlyDictionary<string, string>? metadata = null)
    {
        if (preprocessing.OutputSize is not var (height, width))
            throw new ExportException("The preprocessing gives images of different sizes", model.Name, "Use an exact resize or a crop");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using var graph = new OnnxGraph();
        var builder = new Builder(graph, options ?? new OnnxOptions());
        builder.Build(model, preprocessing, height, width);
        var all = new Dictionary<string, string>
        {
            ["model"] = model.Name,
            ["classes"] = JsonSerializer.Serialize(classes ?? [.. Enumerable.Range(0, model.Classes).Select(c => c.ToString(CultureInfo.InvariantCulture))]),
            ["size"] = string.Create(CultureInfo.InvariantCulture, $"{height},{width}"),
            ["mean"] = JsonSerializer.Serialize(preprocessing.Mean),
            ["std"] = JsonSerializer.Serialize(preprocessing.Std),
            ["weights"] = model.WeightsOrigin.Description,
        };
        foreach (var (key, value) in metadata ?? new Dictionary<string, string>())
            all[key] = value;
        var message = graph.ToModel(model.Name, $"{model.Name}, exported by DeepfakeLab", all);
        AtomicFile.Write(path, message.WriteTo);
    }

    /// <summary>The layers before <paramref name="cut"/> as an ONNX file in memory: "image" float32 [N, 3, height, width] to "features", what enters the cut.</summary>
    internal static byte[] Prefix(VisionModel model, string cut, int height, int width)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using var graph = new OnnxGraph();
        new Builder(graph, new OnnxOptions { FoldBatchNorm = true }).BuildPrefix(model, cut, height, width);
        var message = graph.ToModel(model.Name, $"{model.Name} before {cut}", new Dictionary<string, string>());
        var file = new byte[message.Size];
        message.WriteTo(new MemoryStream(file));
        return file;
    }

    /// <summary>Whether <see cref="OnnxOptions.ClassMaps"/> can be had of this model.</summary>
    internal static bool HasClassMaps(VisionModel model) => Builder.ClassLayer(model) is not null;

    private sealed class Builder(OnnxGraph graph, OnnxOptions options)
    {
        private readonly ScalarType type = options.Half ? ScalarType.Float16 : ScalarType.Float32;
        private readonly Dictionary<string, string> quantized = [];

        public void Build(VisionModel model, Preprocessing preprocessing, int height, int width)
        {
            var x = options.Preprocess ? Preprocess(preprocessing, height, width) : Plain(height, width);
            if (options.Half)
                x = Cast(x, type);
            var maps = Chain([.. model.Stages.SkipLast(1).SelectMany(model.StageLayers)], x);
            var logits = Chain([model.Head], Pooled(model, maps, height, width));
            if (options.Half)
                logits = Cast(logits, ScalarType.Float32);
            var output = options.Softmax ? graph.AddNamed("probabilities", "Softmax", [logits], ("axis", 1L)) : graph.AddNamed("logits", "Identity", [logits]);
            graph.Output(output, ScalarType.Float32, "N", model.Classes);
            if (options.ClassMaps)
                ClassMaps(model, maps);
        }

        public void BuildPrefix(VisionModel model, string cut, int height, int width)
        {
            var x = Chain([.. model.Stages.TakeWhile(s => s != cut).SelectMany(model.StageLayers)], Plain(height, width));
            var whole = cut == model.Stages[^1];
            x = graph.AddNamed("features", "Identity", [whole ? Pooled(model, x, height, width) : x]);
            graph.Output(x, ScalarType.Float32, whole ? ["N", "F"] : ["N", "C", "h", "w"]);
        }

        private string Plain(int height, int width)
        {
            graph.Input("image", ScalarType.Float32, "N", 3, height, width);
            return "image";
        }

        private string Preprocess(Preprocessing preprocessing, int height, int width)
        {
            var resizes = preprocessing is { Resize.Width: > 0, CenterCrop: null };
            if (resizes)
                graph.Input("image", ScalarType.Byte, "N", "H", "W", 3);
            else
                graph.Input("image", ScalarType.Byte, "N", height, width, 3);
            var x = graph.Add("Transpose", [Cast("image", ScalarType.Float32)], ("perm", new long[] { 0, 3, 1, 2 }));
            if (resizes)
            {
                using var sizes = tensor(new long[] { height, width });
                x = graph.Add("Resize", [x, "", "", graph.Constant("sizes", sizes)], ("axes", new long[] { 2, 3 }), ("antialias", 1L),
                    ("coordinate_transformation_mode", "half_pixel"), ("cubic_coeff_a", -0.5f), ("mode", preprocessing.Interpolation switch
                    {
                        Interpolation.Bilinear => "linear",
                        Interpolation.Bicubic => "cubic",
                        var other => throw new ExportException("This filter has no counterpart in ONNX", other.ToString(), "Leave the preprocessing out"),
                    }));
                x = graph.Add("Clip", [graph.Add("Round", [x]), graph.Constant("black", torch.tensor(0f)), graph.Constant("white", torch.tensor(255f))]);
            }
            var scale = preprocessing.Std.Select(s => 1 / (255 * s)).ToArray();
            var shift = preprocessing.Mean.Zip(preprocessing.Std, (m, s) => m / s).ToArray();
            x = graph.Add("Mul", [x, graph.Constant("scale", torch.tensor(scale).view(3, 1, 1))]);
            return graph.Add("Sub", [x, graph.Constant("shift", torch.tensor(shift).view(3, 1, 1))]);
        }

        /// <summary>Feature maps [N, C, h, w] to feature vectors, as <see cref="VisionModel"/> pools them.</summary>
        private string Pooled(VisionModel model, string maps, int height, int width)
        {
            if (!model.FlattensMaps && model.PooledSide == 1)
                maps = graph.Add("GlobalAveragePool", [maps]);
            else if (!model.FlattensMaps)
            {
                var (h, w) = MapSize(model, height, width);
                if (h != model.PooledSide) // ONNX has no adaptive pooling, but it is a product with a matrix of averages from each side
                    maps = graph.Add("MatMul", [Weight("pool_rows", Averages(h, model.PooledSide)), maps]);
                if (w != model.PooledSide)
                    maps = graph.Add("MatMul", [maps, Weight("pool_columns", Averages(w, model.PooledSide).t())]);
            }
            return graph.Add("Flatten", [maps], ("axis", 1L));
        }

        /// <summary>[parts, length]: row i averages PyTorch's i-th adaptive window.</summary>
        private static Tensor Averages(long length, int parts)
        {
            var matrix = zeros(parts, length);
            for (var i = 0; i < parts; i++)
            {
                var (from, to) = (i * length / parts, ((i + 1) * length + parts - 1) / parts);
                matrix[i, TensorIndex.Slice(from, to)] = torch.tensor(1f / (to - from));
            }
            return matrix;
        }

        private static (long Height, long Width) MapSize(VisionModel model, long height, long width)
        {
            foreach (var pool in model.Stages.SkipLast(1).SelectMany(model.StageLayers).OfType<MaxPool2d>())
                (height, width) = (height / 2, width / 2); // VGG halves its maps there and nowhere else
            return (height, width);
        }

        /// <summary>The head's linear layer on every place instead of on their average.</summary>
        private void ClassMaps(VisionModel model, string maps)
        {
            var linear = ClassLayer(model) ??
                throw new ExportException("Class maps need a head of one linear layer on averaged features", model.Name, "Leave the class maps out, or train with the default head");
            var heat = graph.Add("Conv", [maps, Weight("maps_weight", linear.weight.unsqueeze(-1).unsqueeze(-1)), Weight("maps_bias", linear.bias!)]);
            if (options.Half)
                heat = Cast(heat, ScalarType.Float32);
            graph.Output(graph.AddNamed("maps", "Identity", [heat]), ScalarType.Float32, "N", model.Classes, "h", "w");
        }

        /// <summary>The head's only linear layer, where it sees the average of all places.</summary>
        public static Linear? ClassLayer(VisionModel model) =>
            Layers.Flatten([model.Head]).Where(m => m is not Dropout).ToList() is [Linear linear] && !model.FlattensMaps && model.PooledSide == 1 ? linear : null;

        /// <summary>Modules one after the other; a batch norm behind a convolution may be folded into it.</summary>
        private string Chain(IReadOnlyList<nn.Module> modules, string x)
        {
            var layers = Layers.Flatten(modules).ToList();
            for (var i = 0; i < layers.Count; i++)
                if (options.FoldBatchNorm && layers[i] is Conv2d conv && i + 1 < layers.Count && layers[i + 1] is BatchNorm2d norm)
                {
                    x = Convolve(conv, norm, x);
                    i++;
                }
                else
                    x = Layer(layers[i], x);
            return x;
        }

        private string Layer(nn.Module layer, string x) => layer switch
        {
            Conv2d conv => Convolve(conv, null, x),
            BatchNorm2d norm => Normalise(x, norm.weight!, norm.bias!, norm.running_mean!, norm.running_var!, norm.eps),
            BatchNorm1d norm => Normalise(x, norm.weight!, norm.bias!, norm.running_mean!, norm.running_var!, norm.eps),
            Linear linear => graph.Add("Gemm", [Quantized(x, 2), .. Weights(x, linear.weight, linear.bias)], ("transB", 1L)),
            MaxPool2d pool => graph.Add("MaxPool", [x], ("kernel_shape", pool.kernel_size!), ("strides", pool.stride!), ("pads", Pads(pool.padding ?? [0, 0]))),
            ReLU => graph.Add("Relu", [x]),
            ReLU6 => graph.Add("Clip", [x, Weight("zero", torch.tensor(0f)), Weight("six", torch.tensor(6f))]),
            SiLU => graph.Add("Mul", [x, graph.Add("Sigmoid", [x])]),
            Hardswish => graph.Add("HardSwish", [x]),
            Hardsigmoid => graph.Add("HardSigmoid", [x], ("alpha", 1f / 6), ("beta", 0.5f)),
            Sigmoid => graph.Add("Sigmoid", [x]),
            Tanh => graph.Add("Tanh", [x]),
            Dropout or Identity => x,
            Layers.SqueezeExcitation squeeze => graph.Add("Mul", [Chain(squeeze.Steps, graph.Add("GlobalAveragePool", [x])), x]),
            Layers.IResidual block => Residual(block, x),
            _ => throw new ExportException("A layer of this kind is not known to the ONNX export", layer.GetType().Name, "Export as safetensors or pth"),
        };

        private string Residual(Layers.IResidual block, string x)
        {
            var y = Chain(block.Branch, x);
            if (!block.Adds)
                return y;
            y = graph.Add("Add", [Quantized(y, 4), Quantized(Chain(block.Shortcut, x), 4)]);
            return block.EndsInReLU ? graph.Add("Relu", [y]) : y;
        }

        private string Convolve(Conv2d conv, BatchNorm2d? norm, string x)
        {
            var (weight, bias) = (conv.weight!, conv.bias);
            Tensor w = weight, b = bias!;
            if (norm is not null)
            {
                var scale = norm.weight!.to(float64) / (norm.running_var!.to(float64) + norm.eps).sqrt();
                w = w.to(float64) * scale.view(-1, 1, 1, 1);
                b = ((bias?.to(float64) ?? zeros(weight.shape[0], float64, weight.device)) - norm.running_mean!) * scale + norm.bias!;
            }
            return graph.Add("Conv", [Quantized(x, 4), .. Weights(x, w, b)], ("kernel_shape", conv.kernel_size!), ("strides", conv.stride!), ("pads", Pads(conv.padding!)),
                ("dilations", conv.dilation!), ("group", conv.groups));
        }

        private string Normalise(string x, Tensor weight, Tensor bias, Tensor mean, Tensor variance, double eps) =>
            graph.Add("BatchNormalization", [x, Weight("scale", weight), Weight("shift", bias), Weight("mean", mean), Weight("variance", variance)], ("epsilon", (float)eps));

        private static long[] Pads(long[] padding) => [padding[0], padding[1], padding[0], padding[1]];

        private string Weight(string name, Tensor value)
        {
            using var converted = value.detach().to(type, copy: true);
            return graph.Constant(name, converted);
        }

        /// <summary>A layer's weight, and its bias if it has one, for an input of this name.</summary>
        private IEnumerable<string> Weights(string x, Tensor weight, Tensor? bias)
        {
            if (options.Ranges is not { } ranges)
                return bias is null ? [Weight("weight", weight)] : [Weight("weight", weight), Weight("bias", bias)];
            // a step of its own for each output channel, the same to both sides of zero
            var steps = weight.to(float64).abs().flatten(1).amax([1]).clamp(min: 1e-12) / 127;
            var rounded = (weight.to(float64) / steps.view([-1, .. Enumerable.Repeat(1L, (int)weight.dim() - 1)])).round().clamp(-127, 127).to(int8);
            var name = graph.Constant("steps", steps.to(float32));
            var parts = new List<string> { graph.Add("DequantizeLinear", [graph.Constant("weight", rounded), name, graph.Constant("zeros", zeros_like(steps, int8))], ("axis", 0L)) };
            if (bias is null)
                return parts;
            var product = steps.to(float32).to(float64) * Step(ranges[x]); // what the sums of products are counted in
            parts.Add(graph.Add("DequantizeLinear", [graph.Constant("bias", (bias.to(float64) / product).round().clamp(int.MinValue, int.MaxValue).to(int32)), graph.Constant("steps", product.to(float32))], ("axis", 0L)));
            return parts;
        }

        /// <summary>A tensor as it is, or rounded to 8 bits within its range and back, once for all that take it; ONNX Runtime then computes in 8 bits.</summary>
        private string Quantized(string x, int rank)
        {
            if (options.Observed?.Add(x) == true)
                graph.Output(x, ScalarType.Float32, [.. Enumerable.Range(0, rank).Select(i => $"{x}_{i}")]);
            if (options.Ranges is not { } ranges)
                return x;
            if (quantized.TryGetValue(x, out var done))
                return done;
            var step = graph.Constant(x + "_step", torch.tensor(Step(ranges[x])));
            var zero = graph.Constant(x + "_zero", torch.tensor((byte)Math.Clamp(Math.Round(-Math.Min(0, ranges[x].Low) / Step(ranges[x])), 0, 255)));
            var bytes = graph.AddNamed(x + "_bytes", "QuantizeLinear", [x, step, zero]);
            return quantized[x] = graph.AddNamed(x + "_rounded", "DequantizeLinear", [bytes, step, zero]);
        }

        /// <summary>What one of 255 steps over a range is worth; zero is always one of them.</summary>
        private static float Step((float Low, float High) range) => (Math.Max(0, range.High) - Math.Min(0, range.Low)) is > 0 and var width ? width / 255 : 1;

        private string Cast(string x, ScalarType to) => graph.Add("Cast", [x], ("to", (long)OnnxGraph.TypeOf(to)));
    }
}
