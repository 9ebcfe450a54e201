using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>Every model beside torchvision's: the numbers of one variant a family in full, keys and shapes of all.</summary>
/// <remarks>
/// DEEPFAKELAB_ALL_MODELS=1 compares the numbers of all variants and prints them as a table; a list such as vgg,resnet18 those whose
/// names begin so. Python runs once a family; 10 GB of temporary files.
/// </remarks>
public sealed class ModelParityTests(ModelParityTests.Results results, ITestOutputHelper console) : IClassFixture<ModelParityTests.Results>
{
    private const int Size = 64;

    private static readonly string[] oneOfEach =
        ["efficientnet_b0", "efficientnet_v2_s", "mnasnet0_75", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnext50_32x4d", "vgg11_bn"];

    private static readonly string[] compared = Environment.GetEnvironmentVariable("DEEPFAKELAB_ALL_MODELS") switch
    {
        null or "" => oneOfEach,
        "1" => [.. Models.Names],
        var some => [.. Models.Names.Where(name => some.Split(',').Any(begin => name.StartsWith(begin, StringComparison.Ordinal)))],
    };

    public static TheoryData<string> Compared => [.. compared];

    /// <summary>What Python wrote: of few models in one process, for it takes seconds to start; of many a family at a time.</summary>
    public sealed class Results : IDisposable
    {
        private readonly Dictionary<string, TemporaryFolder> folders = [];

        internal TemporaryFolder Of(string name)
        {
            string Group(string model) => compared.Length <= oneOfEach.Length ? "" : ModelInfo.All.Single(i => i.Name == model).Family;
            if (!folders.TryGetValue(Group(name), out var folder))
            {
                folders[Group(name)] = folder = TestSupport.Folder();
                TestSupport.Python(["torch", "torchvision"], "models.py",
                    [folder.Path, Size.ToString(CultureInfo.InvariantCulture), .. compared.Where(model => Group(model) == Group(name))]);
            }
            return folder;
        }

        public void Dispose()
        {
            foreach (var folder in folders.Values)
                folder.Dispose();
        }
    }

    [Theory, MemberData(nameof(Compared))]
    public void Numbers_equal_torchvisions(string name)
    {
        var folder = results.Of(name);
        using (var theirs = Checkpoint.Read(folder[$"{name}-result.pth"]))
        {
            LabRuntime.Seed(7);
            using (var fresh = Models.Create(name))
            {
                using var scope = NewDisposeScope();
                using var state = StateDict.Of(fresh);
                var sums = state.Values.Select(t => t.to(float64).sum().item<double>());
                Assert.Equal(theirs["fresh"].data<double>(), sums, (a, b) => Math.Abs(a - b) <= 1e-9 * Math.Max(1, Math.Abs(a)));
            }

            VisionModel Written() => Models.Create(name, Weights.File(folder[$"{name}.pth"]), options: new ModelOptions { Dropout = 0, StochasticDepth = 0 });
            string row;
            using (var model = Written())
                row = InEvaluation(model, theirs) + InSingle(model, theirs);
            using (var model = Written())
                row += InDouble(model, theirs);
            console.WriteLine($"| {name} | {row}");
        }
        foreach (var file in (string[])[$"{name}-result.pth", $"{name}.pth"])
            File.Delete(folder[file]);
    }

    private static string InEvaluation(VisionModel model, StateDict theirs)
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        model.eval();
        var x = theirs["x"];
        var logits = Close(theirs["logits"], model.call(x), 1e-5, "logits");
        Close(theirs["features"], model.Features(x), 1e-5, "features");
        Assert.Equal(theirs["multiply_adds"].item<long>(), model.CountMultiplyAdds(Size));
        foreach (var stage in model.Stages)
        {
            var h = model.ForwardUntil(x[..1], stage);
            var before = h.clone();
            Close(theirs["logits"][..1], model.ForwardFrom(h, stage), 1e-5, stage);
            Assert.True(h.Equals(before), $"{stage} changes its input");
        }
        var channelsLast = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2);
        Close(theirs["logits"], model.call(channelsLast), 1e-5, "channels-last");
        return string.Create(CultureInfo.InvariantCulture, $"logits {logits:e1} | ");
    }

    /// <summary>
    /// Every gradient in float32 to 1e-4 of its norm. Where rounding turns a ReLU over, torch's own gradients leave their float64 values by
    /// more than that when a picture changes in its last bit; there four times torch's largest such error is allowed.
    /// </summary>
    private static string InSingle(VisionModel model, StateDict theirs)
    {
        var noise = theirs["noise"].data<double>().ToArray();
        var (apart, beyond, index, worst) = (new List<double>(), 0, 0, "");
        Descend(model, theirs, float32, steps: 1, () =>
        {
            foreach (var (key, parameter) in model.named_parameters())
            {
                var (expected, own) = (theirs["gradient32/" + key], noise[index++]);
                var off = (Sample(parameter.grad!) - expected).norm().item<float>() / Math.Max(1e-30, expected.norm().item<float>());
                if (own < 1) // a bias before batch norm has no gradient but rounding
                {
                    apart.Add(off);
                    beyond += off > 1e-4 ? 1 : 0;
                }
                if (off > Math.Max(1e-4, 4 * own))
                    worst += string.Create(CultureInfo.InvariantCulture, $"{key} {off:e1}, torch {own:e1}; ");
            }
            foreach (var (key, buffer) in model.named_buffers())
                Close(theirs["buffer32/" + key], buffer, 1e-4, key);
        });
        Assert.True(worst.Length == 0, "gradients: " + worst);
        return string.Create(CultureInfo.InvariantCulture,
            $"float32: gradients {apart.Max():e1}, torch's noise {noise.Where(own => own < 1).Max():e1}, beyond 1e-4 {beyond} of {apart.Count} | ");
    }

    private static string InDouble(VisionModel model, StateDict theirs)
    {
        var worst = 0.0;
        var losses = Descend(model, theirs, float64, steps: 5, () =>
        {
            foreach (var (key, parameter) in model.named_parameters())
                worst = Math.Max(worst, Close(theirs["gradient/" + key], Sample(parameter.grad!), 1e-7, "the gradient of " + key, floor: 1e-6)); // some are zero but for rounding
            foreach (var (key, buffer) in model.named_buffers())
                Close(theirs["buffer/" + key], buffer, 1e-7, key);
        });
        return string.Create(CultureInfo.InvariantCulture, $"float64: gradients {worst:e1}, loss of 5 steps {Losses(theirs["losses"], losses):e1} |");
    }

    /// <summary>The losses of some steps, as in <c>models.py</c>; the gradients of the first are looked at before it is taken.</summary>
    private static List<double> Descend(VisionModel model, StateDict theirs, ScalarType type, int steps, Action look)
    {
        model.to(type).train();
        using var x = theirs["x"][.., .., ..48, ..48].to(type);
        using var descent = optim.SGD(model.parameters(), 1e-3);
        var losses = new List<double>();
        for (var step = 0; step < steps; step++)
        {
            using var scope = NewDisposeScope();
            descent.zero_grad();
            var loss = nn.functional.cross_entropy(model.call(x), theirs["y"]);
            loss.backward();
            losses.Add(loss.to(float64).item<double>());
            if (step == 0)
                look();
            descent.step();
        }
        return losses;
    }

    private static double Losses(Tensor theirs, List<double> ours)
    {
        var off = theirs.data<double>().ToArray().Zip(ours, (a, b) => Math.Abs(a - b) / a).Max();
        Assert.InRange(off, 0, 1e-4);
        return off;
    }

    private static Tensor Sample(Tensor gradient) =>
        gradient.flatten()[TensorIndex.Slice(step: gradient.numel() > 100_000 ? 97 : 1)];

    [Fact]
    public void Keys_shapes_and_counts_of_every_variant_are_torchvisions()
    {
        var lines = TestSupport.Python(["torch", "torchvision"], "models.py", ["keys", .. Models.Names]).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(36, lines.Length);
        foreach (var line in lines.Select(l => l.Split(' ')))
        {
            using var model = Models.Construct(line[0]);
            using var state = StateDict.Of(model);
            Assert.Equal(line[2..], state.Select(t => $"{t.Key}:{string.Join('x', t.Value.shape)}"));
            Assert.Equal(long.Parse(line[1], CultureInfo.InvariantCulture), model.ParameterCount);
            Assert.Equal(model.Stages.Distinct(), model.Stages);
            var info = ModelInfo.All.Single(i => i.Name == model.Name);
            Assert.Equal((model.Family, model.ParameterCount, model.InputSize), (info.Family, info.Parameters, info.InputSize));
            if (info.MultiplyAdds < 400_000_000) // the others' are counted at a smaller size above
                Assert.Equal(info.MultiplyAdds, model.CountMultiplyAdds());
        }
    }

    [Fact]
    public void Constructor_arguments_make_torchvisions_models()
    {
        static nn.Module<Tensor, Tensor> Norm(long channels) => nn.GroupNorm(4, channels);
        Dictionary<string, ModelOptions> made = new()
        {
            ["resnet50"] = new() { Groups = 2, WidthPerGroup = 48, ReplaceStrideWithDilation = (false, true, true) },
            ["resnet18"] = new() { NormLayer = Norm },
            ["resnet34"] = new() { Block = ResNetBlock.Bottleneck },
            ["wide_resnet50_2"] = new() { Block = ResNetBlock.BasicBlock, WidthPerGroup = 64 },
            ["mobilenet_v2"] = new()
            {
                WidthMultiplier = 0.35,
                RoundNearest = 4,
                NormLayer = Norm,
                InvertedResidualSetting = [(1, 16, 1, 1), (4, 24, 2, 2), (3, 48, 1, 2)],
            },
            ["mobilenet_v3_large"] = new() { WidthMultiplier = 0.75, ReducedTail = true, Dilated = true },
            ["mobilenet_v3_small"] = new() { ReducedTail = true, Dilated = true, NormLayer = Norm },
            ["efficientnet_b0"] = new() { NormLayer = Norm },
        };
        using var folder = TestSupport.Folder();
        TestSupport.Python(["torch", "torchvision"], "models.py", ["options", folder.Path]);
        foreach (var (name, options) in made)
        {
            using var scope = NewDisposeScope();
            using var inference = inference_mode();
            using var theirs = Checkpoint.Read(folder[$"{name}-result.pth"]);
            using var model = Models.Create(name, Weights.File(folder[$"{name}.pth"]), classes: 7, options);
            model.eval();
            Close(theirs["logits"], model.call(theirs["x"]), 1e-5, name);
        }
        Assert.Throws<ModelException>(() => Models.Create("resnet18", options: new ModelOptions { Groups = 2 }));
    }

    [Fact]
    public void The_registry_of_weights_is_torchvisions()
    {
        var theirs = TestSupport.Python(["torch", "torchvision"], "models.py", ["weights", .. Models.Names]).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        var ours = Models.Names.SelectMany(PretrainedWeights.Of).Select(w => string.Create(CultureInfo.InvariantCulture,
            $"{w.Model} {w.Entry} {w.Address} {w.Top1:0.0##} {w.Top5:0.0##} {w.Resize} {w.Crop} {w.Preprocessing.Interpolation.ToString().ToLowerInvariant()} {string.Join(' ', w.Mean.Concat(w.Std).Select(v => v.ToString("0.00000", CultureInfo.InvariantCulture)))}")
            .Replace("NaN", "nan", StringComparison.Ordinal));
        // torchvision 0.14 has the hashes of EfficientNet files that were replaced on the server in 2023
        static string WithoutHash(string line) => line.Contains("_rwightman-") || line.Contains("_lukemelas-")
            ? System.Text.RegularExpressions.Regex.Replace(line, "-[0-9a-f]{8}[.]pth", ".pth") : line;
        Assert.Equal(theirs.Select(WithoutHash), ours.Select(WithoutHash));
    }

    private static double Close(Tensor expected, Tensor actual, double relative, string what, double floor = 0)
    {
        using var scope = NewDisposeScope();
        Assert.Equal(expected.shape, actual.shape);
        var off = (expected.to(float64) - actual.to(float64)).abs().max().item<double>() / Math.Max(floor, expected.to(float64).abs().max().item<double>());
        Assert.True(off <= relative || expected.Equals(actual), $"{what} differs by {off:e2} of its largest value");
        return off;
    }
}
