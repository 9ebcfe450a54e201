using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>Every model beside torchvision's: the numbers of one variant a family in full, keys and shapes of all.</summary>
/// <remarks>
/// DEEPFAKELAB_ALL_MODELS=1 compares the numbers of all variants; a list such as vgg,resnet18 those whose names begin so. Each variant's
/// errors become a row of artifacts/model-parity.md as soon as they are known, in place of its old one: a table can be made in parts.
/// </remarks>
public sealed class ModelParityTests(ModelParityTests.Results results) : IClassFixture<ModelParityTests.Results>
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

    /// <summary>
    /// How many steps of descent are compared in float64, which is slow: five in a table, but one of the models above 50 million parameters and
    /// in every test run. In float32, with batch norms that keep ReLUs off their corner, it is always five.
    /// </summary>
    private static int StepsInDouble(string name) => compared != oneOfEach && ModelInfo.All.Single(i => i.Name == name).Parameters < 50_000_000 ? 5 : 1;

    public static TheoryData<string> Compared => [.. compared];

    /// <summary>What Python wrote: of one of each family in one process, for it takes seconds to start; of more one at a time, for their size.</summary>
    public sealed class Results : IDisposable
    {
        private readonly Dictionary<string, Lazy<TemporaryFolder>> folders; // a failure stays in its Lazy, for each that asks

        public Results()
        {
            var groups = compared == oneOfEach ? [oneOfEach] : compared.Select(name => (string[])[name]);
            folders = groups.Select(names => (names, Folder: new Lazy<TemporaryFolder>(() => Write(names))))
                .SelectMany(g => g.names.Select(name => (name, g.Folder))).ToDictionary(g => g.name, g => g.Folder);
        }

        internal TemporaryFolder Of(string name) => folders[name].Value;

        private static TemporaryFolder Write(string[] names)
        {
            var folder = TestSupport.Folder();
            try
            {
                TestSupport.Python(["torch", "torchvision"], "models.py", [folder.Path, .. ((int[])[Size, StepsInDouble(names[0])]).Select(n => n.ToString(CultureInfo.InvariantCulture)), .. names]);
                return folder;
            }
            catch
            {
                folder.Dispose();
                throw;
            }
        }

        public void Dispose()
        {
            foreach (var folder in folders.Values.Distinct().Where(f => f.IsValueCreated))
                folder.Value.Dispose();
        }
    }

    [Theory, MemberData(nameof(Compared))]
    public void Numbers_equal_torchvisions(string name)
    {
        var folder = results.Of(name);
        using (var theirs = Checkpoint.Read(folder[$"{name}-result.pth"]))
        {
            LabRuntime.Seed(7);
            using var model = Models.Create(name, options: new ModelOptions { Dropout = 0, StochasticDepth = 0 });
            using (NewDisposeScope())
            using (var state = StateDict.Of(model))
            {
                var sums = state.Values.Select(t => t.to(float64).sum().item<double>());
                Assert.Equal(theirs["fresh"].data<double>(), sums, (a, b) => Math.Abs(a - b) <= 1e-9 * Math.Max(1, Math.Abs(a)));
            }
            using var start = Checkpoint.Read(folder[$"{name}.pth"]);
            var row = "";
            foreach (var comparison in (Func<VisionModel, StateDict, string>[])[InEvaluation, InDouble, InSingle, Smooth])
            {
                start.LoadInto(model);
                row += comparison(model, theirs);
                model.to(float32);
            }
            if (compared != oneOfEach)
                AddToTable(name, row);
        }
        foreach (var file in (string[])[$"{name}-result.pth", $"{name}.pth"])
            File.Delete(folder[file]);
    }

    /// <summary>Puts a variant's row into the table, which keeps the order of <see cref="Models.Names"/>.</summary>
    private static void AddToTable(string name, string row)
    {
        var path = Path.Combine(TestSupport.Root, "artifacts", "model-parity.md");
        var rows = (File.Exists(path) ? File.ReadAllLines(path).Skip(2) : []).Where(line => line.Length > 0).ToDictionary(line => line.Split('|')[1].Trim());
        rows[name] = $"| {name} | {row}";
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        AtomicFile.WriteText(path, string.Join('\n', (string[])[
            "| model | logits | float64: gradients | buffers | losses | float32: gradients | torch's own | buffers | torch's own | smooth: gradients | torch's own | buffers | losses |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            .. Models.Names.Where(rows.ContainsKey).Select(n => rows[n]), ""]));
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
        return $"{Text(logits)} | ";
    }

    /// <summary>The network as it is, where rounding hides nothing: gradients and buffers to 1e-7, the losses of a step or five to 1e-4.</summary>
    private static string InDouble(VisionModel model, StateDict theirs)
    {
        var (gradients, buffers) = ("", 0.0);
        var losses = Descend(model, theirs, float64, "rate64", StepsInDouble(model.Name), () =>
        {
            gradients = Gradients(model, theirs, "gradient64/", Own(theirs, "own32"), _ => 1e-7);
            buffers = Buffers(model, theirs, "buffer64/", _ => 1e-7);
        });
        return $"{gradients} | {Text(buffers)} | {Text(Losses(theirs["losses64"], losses))} | ";
    }

    /// <summary>
    /// float32 as it comes. Where rounding turns a ReLU over, torch's own gradients are per cents from its float64 ones, and elsewhere on
    /// another processor: so this tells little, and is held to little. What is held to much is <see cref="InDouble"/> and <see cref="Smooth"/>.
    /// Buffers are held to 1e-4, or, where torch's own float32 is farther from its float64, to four times that.
    /// </summary>
    private static string InSingle(VisionModel model, StateDict theirs)
    {
        var (gradients, buffers, own) = ("", 0.0, Own(theirs, "own32"));
        double Torchs(string buffer) => Off(theirs["buffer64/" + buffer], theirs["buffer32/" + buffer]);
        Descend(model, theirs, float32, "rate64", steps: 0, () =>
        {
            gradients = Gradients(model, theirs, "gradient32/", own, _ => 0.5);
            buffers = Buffers(model, theirs, "buffer32/", buffer => Math.Max(1e-4, 4 * Torchs(buffer)));
        });
        return $"{gradients} | {Summary(own)} | {Text(buffers)} | {Text(model.named_buffers().Select(b => Torchs(b.name)).DefaultIfEmpty().Max())} | ";
    }

    /// <summary>
    /// float32 where it has gradients: the same network with batch norms that keep every ReLU from its corner. The losses before and after each
    /// of five steps to 1e-4; gradients to 1e-4 of their norm, or, where they are small sums of large numbers and torch's own float32 is
    /// farther from its float64, to four times that.
    /// </summary>
    private static string Smooth(VisionModel model, StateDict theirs)
    {
        using (no_grad())
            foreach (var norm in model.modules().OfType<TorchSharp.Modules.BatchNorm2d>())
            {
                norm.weight!.mul_(0.2);
                norm.bias!.add_(1.5);
            }
        var (gradients, buffers, own) = ("", 0.0, Own(theirs, "ownsmooth"));
        var losses = Descend(model, theirs, float32, "ratesmooth", steps: 5, () =>
        {
            gradients = Gradients(model, theirs, "gradientsmooth/", own, torchs => Math.Max(1e-4, 4 * torchs));
            buffers = Buffers(model, theirs, "buffersmooth/", _ => 1e-4);
        });
        return $"{gradients} | {Summary(own)} | {Text(buffers)} | {Text(Losses(theirs["lossessmooth"], losses))} |";
    }

    /// <summary>Each parameter's error of torch's own float32 gradient; not a number where there is no gradient but rounding.</summary>
    private static double[] Own(StateDict theirs, string key) => theirs[key].data<double>().ToArray();

    private static string Summary(IEnumerable<double> errors)
    {
        var real = errors.Where(double.IsFinite).ToList();
        return Text(real.Max()) + (real.Count(e => e > 1e-4) is > 0 and var beyond ? $" ({beyond} of {real.Count})" : "");
    }

    private static string Text(double error) => error.ToString("0.0e-0", CultureInfo.InvariantCulture);

    /// <summary>Compares each parameter's gradient, whose error counts as a share of its norm, or of the largest norm where there is no gradient.</summary>
    private static string Gradients(VisionModel model, StateDict theirs, string prefix, double[] own, Func<double, double> allowed)
    {
        using var scope = NewDisposeScope();
        var (errors, bad) = (new List<double>(), "");
        var expected = model.named_parameters().Select(p => theirs[prefix + p.name].to(float64)).ToList();
        var largest = expected.Max(g => g.norm().item<double>());
        foreach (var (i, (key, parameter)) in model.named_parameters().Index())
        {
            var none = double.IsNaN(own[i]);
            var off = (Sample(parameter.grad!).to(float64) - expected[i]).norm().item<double>() / (none ? largest : expected[i].norm().item<double>());
            if (!none)
                errors.Add(off);
            if (!(off <= allowed(none ? 0 : own[i])))
                bad += $"{key} {Text(off)}, torch's own {Text(own[i])}; ";
        }
        Assert.True(bad.Length == 0, "gradients: " + bad);
        return Summary(errors);
    }

    private static double Buffers(VisionModel model, StateDict theirs, string prefix, Func<string, double> allowed) =>
        model.named_buffers().Select(b => Close(theirs[prefix + b.name], b.buffer, allowed(b.name), b.name)).DefaultIfEmpty().Max();

    /// <summary>The losses before, between and after some steps, as in <c>models.py</c>; the first gradients are looked at before they are used.</summary>
    private static List<double> Descend(VisionModel model, StateDict theirs, ScalarType type, string rate, int steps, Action look)
    {
        model.to(type).train();
        using var x = theirs["x"][.., .., ..48, ..48].to(type);
        using var descent = optim.SGD(model.parameters(), theirs[rate].item<double>());
        var losses = new List<double>();
        for (var step = 0; step <= steps; step++)
        {
            using var scope = NewDisposeScope();
            descent.zero_grad();
            var loss = nn.functional.cross_entropy(model.call(x), theirs["y"]);
            losses.Add(loss.to(float64).item<double>());
            if (step == 0 || step < steps)
                loss.backward();
            if (step == 0)
                look();
            if (step < steps)
                descent.step();
        }
        return losses;
    }

    private static double Losses(Tensor theirs, List<double> ours)
    {
        Assert.InRange(ours[^1], 0, 0.995 * ours[0]); // steps that change nothing would agree too
        var off = Apart(theirs, ours);
        Assert.InRange(off, 0, 1e-4);
        return off;
    }

    private static double Apart(Tensor expected, IEnumerable<double> actual) => expected.data<double>().ToArray().Zip(actual, (a, b) => Math.Abs(a - b) / a).Max();

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
            Assert.Equal(line[3..], state.Select(t => $"{t.Key}:{string.Join('x', t.Value.shape)}"));
            Assert.Equal(long.Parse(line[1], CultureInfo.InvariantCulture), model.ParameterCount);
            Assert.Equal(model.Stages.Distinct(), model.Stages);
            var info = ModelInfo.All.Single(i => i.Name == model.Name);
            Assert.Equal((model.Family, model.ParameterCount, model.InputSize), (info.Family, info.Parameters, info.InputSize));
            Assert.Equal(long.Parse(line[2], CultureInfo.InvariantCulture), info.MultiplyAdds);
            if (info.MultiplyAdds < 100_000_000) // our own counting is compared above, at a smaller size
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
                MobileNetBlock = c => new Halved(c.Own(c)),
                InvertedResidualSetting = [(1, 16, 1, 1), (4, 24, 2, 2), (3, 48, 1, 2)],
            },
            ["mobilenet_v3_large"] = new() { WidthMultiplier = 0.75, ReducedTail = true, Dilated = true },
            ["mobilenet_v3_small"] = new() { ReducedTail = true, Dilated = true, NormLayer = Norm, MobileNetBlock = c => new Halved(c.Own(c)) },
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

    /// <summary>A block made by somebody else, whose keys are the family's: half of what its own gives; <c>halved</c> in <c>models.py</c>.</summary>
    private sealed class Halved : nn.Module<Tensor, Tensor>
    {
        private readonly Func<Tensor, Tensor> block;

        public Halved(nn.Module<Tensor, Tensor> own) : base(nameof(Halved))
        {
            block = own.call;
            foreach (var (name, child) in own.named_children())
                register_module(name, child);
        }

        public override Tensor forward(Tensor x) => block(x).mul_(0.5);
    }

    [Fact]
    public void A_block_of_ones_own_is_neither_folded_nor_exported_as_the_familys()
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        using var model = Models.Create("mobilenet_v3_small", options: new ModelOptions { MobileNetBlock = c => new Halved(c.Own(c with { Kernel = 5 })) });
        model.eval();
        Assert.Equal([16L, 1, 5, 5], model.get_parameter("features.1.block.0.0.weight")!.shape);
        var x = randn(2, 3, 64, 64);
        using (var prefix = new FrozenPrefix(model, "features.6"))
            Close(model.ForwardUntil(x, "features.6"), prefix.Run(x), 1e-5, "prefix");
        using var folder = TestSupport.Folder();
        Assert.Equal(nameof(Halved), Assert.Throws<ExportException>(() => OnnxExport.Write(folder["m.onnx"], model, Preprocessing.Square(64))).Subject);
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

    private static double Close(Tensor expected, Tensor actual, double relative, string what)
    {
        Assert.Equal(expected.shape, actual.shape);
        var off = Off(expected, actual);
        Assert.True(off <= relative, $"{what} differs by {off:e2} of its largest value");
        return off;
    }

    /// <summary>The largest difference as a share of the largest value; 0 where nothing differs, if all are zero.</summary>
    private static double Off(Tensor expected, Tensor actual)
    {
        using var scope = NewDisposeScope();
        var off = (expected.to(float64) - actual.to(float64)).abs().max().item<double>();
        return off == 0 ? 0 : off / expected.to(float64).abs().max().item<double>();
    }
}
