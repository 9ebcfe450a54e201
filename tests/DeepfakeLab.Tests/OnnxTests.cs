using System.Globalization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace DeepfakeLab.Tests;

/// <summary>Exported models as ONNX Runtime runs them, beside the models they were made from.</summary>
/// <remarks>DEEPFAKELAB_ALL_MODELS=1 compares all variants instead of one a family and prints a line of a Markdown table for each; a list such
/// as vgg,resnet18 those whose names begin so. The table of the last run of all is in lib/DeepfakeLab/Export/README.md.</remarks>
public sealed class OnnxTests(ITestOutputHelper console) : IDisposable
{
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public void Dispose() => folder.Dispose();

    public static TheoryData<string> Compared => ModelParityTests.Compared;

    [Theory, MemberData(nameof(Compared))]
    public void Logits_are_the_models(string name)
    {
        const int size = 96; // VGG pools its 3x3 maps up to 7x7 there
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        LabRuntime.Seed(3);
        using var model = Models.Create(name).WithHead(2);
        Shake(model, size);
        var x = randn(3, 3, size, size);
        var logits = model.call(x);
        Assert.True((logits[0] - logits[1]).abs().max().item<float>() > 1e-3f * logits.abs().max().item<float>()); // one answer for all images would hide mistakes
        var exact = Exact(model, x);
        var torch = RelativeError(exact, logits);
        var plain = Exported(new OnnxOptions(), InOrder);
        var folded = Exported(new OnnxOptions { FoldBatchNorm = true }, InOrder);
        var blocked = RelativeError(exact, Run(folder["m.onnx"], x)["logits"]);
        var half = Exported(new OnnxOptions { FoldBatchNorm = true, Half = true }, GraphOptimizationLevel.ORT_ENABLE_ALL);
        var rounding = RelativeError(exact, RoundedTo(float16, model, x)); // changes the model, so it comes last
        console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {name} | {torch:0.0e-0} | {plain:0.0e-0} | {folded:0.0e-0} | {blocked:0.0e-0} | {rounding:0.0e-0} | {half:0.0e-0} |"));
        Assert.InRange(plain, 0, 1e-5);
        Assert.InRange(folded, 0, 1e-5);
        Assert.InRange(blocked, 0, Tolerance(torch));
        Assert.InRange(half, 0, HalfTolerance(rounding));

        double Exported(OnnxOptions options, GraphOptimizationLevel level)
        {
            OnnxExport.Write(folder["m.onnx"], model, Preprocessing.Square(size), options: options);
            return RelativeError(exact, Run(folder["m.onnx"], x, level)["logits"]);
        }
    }

    /// <summary>
    /// All of ONNX Runtime's optimisations but its blocked layout (NCHWc), which is faster and sums a convolution's products in another order:
    /// that alone takes wide_resnet101_2 and vgg19_bn beyond 1e-5.
    /// </summary>
    private const GraphOptimizationLevel InOrder = GraphOptimizationLevel.ORT_ENABLE_EXTENDED;

    public static TheoryData<string, string> Heads => new()
    {
        { "efficientnet_b0", nameof(HeadRecipe.StudyEfficientNet) },
        { "mnasnet0_75", nameof(HeadRecipe.StudyMnasNet) },
        { "resnet18", nameof(HeadRecipe.StudyResNet) },
    };

    [Theory, MemberData(nameof(Heads))]
    public void The_studys_heads_are_exported_too(string name, string head)
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        LabRuntime.Seed(4);
        using var model = Models.Create(name).WithHead(2, (HeadRecipe)typeof(HeadRecipe).GetProperty(head)!.GetValue(null)!);
        Shake(model, 128);
        var x = randn(2, 3, 128, 128);
        OnnxExport.Write(folder["m.onnx"], model, Preprocessing.Square(128));
        var (logits, answer) = (model.call(x), Run(folder["m.onnx"], x)["logits"]);
        var exact = Exact(model, x);
        console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name} {head} torch: {RelativeError(exact, logits):e2}, ONNX Runtime: {RelativeError(exact, answer):e2}"));
        Assert.InRange(RelativeError(exact, answer), 0, Tolerance(RelativeError(exact, logits)));
    }

    [Fact]
    public void Preprocessing_softmax_class_maps_and_metadata_are_in_the_file_on_request()
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        LabRuntime.Seed(5);
        using var model = Models.MobileNetV2().WithHead(2);
        Shake(model);
        var image = new RgbImage(150, 201);
        var random = new Random(1);
        for (var i = 0; i < image.Pixels.Length; i++)
            image.Pixels[i] = (byte)((i / 3 % 150 * 255 / 150 + random.Next(40)) % 256);
        var preprocessing = Preprocessing.Square(64) with { Mean = [0.5f, 0.4f, 0.3f] };
        var metadata = new Dictionary<string, string> { ["licence"] = "of the test" };
        OnnxExport.Write(folder["m.onnx"], model, preprocessing, ["fake", "real"],
            new OnnxOptions { FoldBatchNorm = true, Preprocess = true, Softmax = true, ClassMaps = true }, metadata);

        var pixels = new DenseTensor<byte>(image.Pixels, [1, 201, 150, 3]);
        var results = Run(folder["m.onnx"], NamedOnnxValue.CreateFromTensor("image", pixels));
        var expected = model.call(preprocessing.ToBatch(image).cpu());
        Assert.InRange((results["probabilities"] - expected.softmax(1)).abs().max().item<float>(), 0, 0.01f); // resizing may differ by a level
        Assert.InRange((results["probabilities"] - results["maps"].mean([2, 3]).softmax(1)).abs().max().item<float>(), 0, 1e-5f); // the places' shares add up to the logits

        using var session = new InferenceSession(folder["m.onnx"]);
        var written = session.ModelMetadata.CustomMetadataMap;
        Assert.Equal("""["fake","real"]""", written["classes"]);
        Assert.Equal("64,64", written["size"]);
        Assert.Equal("[0.5,0.4,0.3]", written["mean"]);
        Assert.Equal("of the test", written["licence"]);
    }

    [Theory, InlineData("mobilenet_v2"), InlineData("efficientnet_b0"), InlineData("resnet18"), InlineData("mnasnet0_75"), InlineData("mobilenet_v3_small"), InlineData("resnext50_32x4d")]
    public void In_eight_bits_a_file_is_a_quarter_and_answers_stay(string name)
    {
        const int size = 64;
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        LabRuntime.Seed(8);
        using var model = Models.Create(name).WithHead(2);
        Shake(model, size);
        var x = randn(8, 3, size, size);
        var (plain, small, observed) = (folder["plain.onnx"], folder["small.onnx"], new HashSet<string>());
        OnnxExport.Write(plain, model, Preprocessing.Square(size), options: new OnnxOptions { FoldBatchNorm = true, Observed = observed });
        var ranges = Run(plain, x).Where(r => observed.Contains(r.Key)).ToDictionary(r => r.Key, r => (r.Value.min().item<float>(), r.Value.max().item<float>()));
        OnnxExport.Write(small, model, Preprocessing.Square(size), options: new OnnxOptions { FoldBatchNorm = true, Ranges = ranges });
        var (logits, answer) = (model.call(x), Run(small, x)["logits"]);
        var error = ((answer - logits) - (answer - logits).mean([0], keepdim: true)).norm().item<float>() / (logits - logits.mean([0], keepdim: true)).norm().item<float>();
        var length = new FileInfo(small).Length / (double)new FileInfo(plain).Length;
        console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}: differences between pictures off by {error:0.000} of themselves, {length:0.00} of the file"));
        Assert.InRange(error, 1e-4, 0.5); // of random weights and noise; below 1e-4 it would not be in eight bits
        Assert.InRange(length, 0.2, 0.32);
    }

    [Fact]
    public void What_cannot_be_exported_is_an_error_and_no_file()
    {
        using var model = Models.Create("resnet18", options: new ModelOptions { NormLayer = c => nn.GroupNorm(4, c) });
        Assert.Equal("GroupNorm", Assert.Throws<ExportException>(() => OnnxExport.Write(folder["m.onnx"], model, Preprocessing.Square(64))).Subject);
        Assert.Throws<ExportException>(() => OnnxExport.Write(folder["m.onnx"], model, new Preprocessing(new Preprocessing.Size(64, 0))));
        Assert.Empty(Directory.GetFiles(folder.Path));
    }

    /// <summary>
    /// Puts the model in eval mode with batch norms that are neither zero and one, which would hide mistakes, nor far from what enters them,
    /// which would make one answer for all images: each takes its statistics from a batch of noise that runs through the model once. What a
    /// block adds to its input is made small against it, as it is in trained networks: a deep network of random blocks amplifies rounding a
    /// thousandfold (ResNet-152's float32 logits in torch are off by 4e-4), and no export could be told from another there.
    /// </summary>
    internal static void Shake(VisionModel model, int size = 64)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        model.eval();
        foreach (var (_, parameter) in model.named_parameters())
            if (parameter.dim() == 1)
                parameter.add_(randn_like(parameter) * 0.1);
        foreach (var block in model.modules().OfType<Layers.IResidual>().Where(b => b.Adds))
            block.Branch.SelectMany(Initialisation.Modules).OfType<TorchSharp.Modules.BatchNorm2d>().Last().weight!.mul_(0.25);
        var remove = new List<Action>();
        foreach (var norm in model.modules().OfType<TorchSharp.Modules.BatchNorm2d>())
            remove.Add(norm.register_forward_pre_hook((_, x) =>
            {
                norm.running_mean!.copy_(x.mean([0, 2, 3]));
                norm.running_var!.copy_(x.var([0, 2, 3]) + 0.01);
                return x;
            }).remove);
        model.call(randn(8, 3, size, size)).Dispose();
        remove.ForEach(r => r());
    }

    private static Dictionary<string, Tensor> Run(string file, Tensor x, GraphOptimizationLevel level = GraphOptimizationLevel.ORT_ENABLE_ALL) =>
        Run(file, NamedOnnxValue.CreateFromTensor("image", new DenseTensor<float>(x.data<float>().ToArray(), [.. x.shape.Select(n => (int)n)])), level);

    private static Dictionary<string, Tensor> Run(string file, NamedOnnxValue input, GraphOptimizationLevel level = GraphOptimizationLevel.ORT_ENABLE_ALL)
    {
        using var options = new SessionOptions { GraphOptimizationLevel = level };
        using var session = new InferenceSession(file, options);
        using var results = session.Run([input]);
        return results.ToDictionary(r => r.Name, r => r.AsTensor<float>() is var t ? tensor(t.ToArray()).view([.. t.Dimensions.ToArray().Select(n => (long)n)]) : null!);
    }

    /// <summary>The logits in float64, beside which both float32 programs show their own rounding. The model is float32 again afterwards.</summary>
    internal static Tensor Exact(VisionModel model, Tensor x)
    {
        model.to(float64);
        var logits = model.call(x.to(float64));
        model.to(float32);
        return logits;
    }

    /// <summary>Float32 with all optimisations: 1e-5 of the largest logit, or twice what torch's own float32 is off.</summary>
    private static double Tolerance(double torch) => Math.Max(1e-5, 2 * torch);

    /// <summary>
    /// float16 is held to what rounding alone does to the very same model: twice that, for both are the largest of a few roundings'
    /// sums, or 5e-3. What a network of random weights makes of rounding says nothing of a trained one.
    /// </summary>
    private static double HalfTolerance(double rounding) => Math.Max(5e-3, 2 * rounding);

    /// <summary>
    /// The logits in float64 when only what a file of this type stores is rounded: each convolution's weights and bias after its batch norm is
    /// folded in, and what every layer gives to the next. The model is spoilt afterwards.
    /// </summary>
    internal static Tensor RoundedTo(ScalarType type, VisionModel model, Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor Round(Tensor t) => t.to(type).to(float64);
        model.to(float64);
        TorchSharp.Modules.Conv2d? before = null;
        foreach (var module in model.modules())
        {
            if (module is TorchSharp.Modules.BatchNorm2d norm && before is not null)
            {
                var scale = norm.weight! / (norm.running_var! + norm.eps).sqrt();
                var shift = norm.running_mean! * scale;
                before.weight!.copy_(Round(before.weight * scale.view(-1, 1, 1, 1)) / scale.view(-1, 1, 1, 1));
                if (before.bias is { } bias)
                {
                    norm.running_mean!.sub_(bias);
                    shift = norm.running_mean * scale;
                    bias.zero_();
                }
                norm.bias!.copy_(Round(norm.bias - shift) + shift);
            }
            else if (before is not null)
                RoundLayer(before);
            before = module as TorchSharp.Modules.Conv2d;
            if (module is TorchSharp.Modules.Linear linear)
                RoundLayer(linear);
            else if (module is nn.Module<Tensor, Tensor> layer && before is null && module != model)
                layer.register_forward_hook((_, _, y) => Round(y));
        }
        return model.call(Round(x)).MoveToOuterDisposeScope();

        void RoundLayer(nn.Module<Tensor, Tensor> layer)
        {
            foreach (var (_, parameter) in layer.named_parameters())
                parameter.copy_(Round(parameter));
            layer.register_forward_hook((_, _, y) => Round(y));
        }
    }

    private static double RelativeError(Tensor expected, Tensor actual)
    {
        using var scope = NewDisposeScope();
        Assert.Equal(expected.shape, actual.shape);
        return (expected.to(float64) - actual.to(float64)).abs().max().item<double>() / expected.to(float64).abs().max().item<double>();
    }
}
