using System.Runtime.Intrinsics;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>What is computed once, when it is computed again, and what is never met.</summary>
public sealed class FeatureCacheTests : IDisposable
{
    private readonly TemporaryFolder folder = TestSupport.Folder();

    public FeatureCacheTests() => LabRuntime.Start();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void A_tensor_is_computed_once_and_comes_back_to_the_bit()
    {
        LabRuntime.Seed(1);
        using var expected = randn(10, 3, 4);
        for (var i = 0; i < 2; i++)
        {
            var cache = new FeatureCache(folder.Path, 1 << 20);
            using var got = cache.Get("key", 10, at => expected.narrow(0, at, Math.Min(4, 10 - at)).alias());
            Assert.True(got.eq(expected).all().ToBoolean());
            Assert.Equal(1 - i, cache.Computed);
        }
    }

    [Fact]
    public void A_writer_that_dies_leaves_no_entry_and_a_file_cut_short_is_none()
    {
        var cache = new FeatureCache(folder.Path, 1 << 20);
        Assert.Throws<IOException>(() => cache.Get("key", 8, at => at == 0 ? ones(4, 5) : throw new IOException("killed")));
        Assert.Empty(Directory.GetFiles(folder.Path));
        cache.Get("key", 8, at => ones(4, 5)).Dispose();
        var file = Assert.Single(Directory.GetFiles(folder.Path));
        using (var stream = File.OpenWrite(file))
            stream.SetLength(stream.Length - 4);
        using var again = cache.Get("key", 8, at => ones(4, 5) * 2);
        Assert.Equal(80, again.sum().item<float>());
    }

    [Fact]
    public void Beyond_the_limit_the_entries_used_longest_ago_go()
    {
        var cache = new FeatureCache(folder.Path, 3 * 400);
        foreach (var (i, key) in ((string[])["a", "b", "c"]).Index())
        {
            cache.Get(key, 10, at => ones(10, 10)).Dispose();
            foreach (var file in Directory.GetFiles(folder.Path).Where(f => File.GetLastWriteTimeUtc(f) > DateTime.UtcNow.AddHours(-1)))
                File.SetLastWriteTimeUtc(file, DateTime.UtcNow.AddHours(-10 + i));
        }
        cache.Get("a", 10, at => throw new InvalidOperationException("it is there")).Dispose(); // used: now the newest
        cache.Get("d", 10, at => ones(10, 10)).Dispose();
        Assert.Equal(3, Directory.GetFiles(folder.Path).Length);
        cache.Get("a", 10, at => throw new InvalidOperationException("it is there")).Dispose();
        var before = cache.Computed;
        cache.Get("b", 10, at => ones(10, 10)).Dispose();
        Assert.Equal(before + 1, cache.Computed);
    }

    [Fact]
    public void Frozen_features_are_those_of_the_layers_and_a_changed_input_computes_them_anew()
    {
        TrainingTests.PaintImages(folder["data"], 6);
        var images = FaceDataset.Open(folder["data"]).Images;
        LabRuntime.Seed(1);
        using var model = Models.MobileNetV2().WithHead(2);
        var recipe = Recipe.FineTune("features.3") with { FeatureCopies = 2, MirrorScores = false };
        var cache = new FeatureCache(folder["cache"], 1L << 30);
        var size = Preprocessing.Square(32);

        Assert.Equal(2, Compute(recipe));
        Assert.Equal(0, Compute(recipe));
        Assert.Equal(0, Compute(recipe with { LearningRate = 1e-5, Epochs = 1 }));
        Assert.Equal(1, Compute(recipe, seed: 2)); // the copies; validation images are not varied
        Assert.Equal(1, Compute(recipe with { FeatureCopies = 3 }));
        Assert.Equal(1, Compute(recipe with { Augmentation = Augmentation.None }));
        Assert.Equal(2, Compute(recipe with { Cut = "features.4" }));
        Assert.Equal(2, Compute(recipe, preprocessing: size with { Std = [0.299f, 0.224f, 0.225f] }));
        File.Copy(images[1].Path, images[0].Path, overwrite: true); // under the same name
        Assert.Equal(1, Compute(recipe));
        using (no_grad())
            model.StageLayers("features.1")[0].parameters().First()[0].add_(1e-3f);
        Assert.Equal(2, Compute(recipe));
        using (no_grad())
            model.StageLayers("features.9")[0].parameters().First()[0].add_(1e-3f); // behind the cut
        Assert.Equal(0, Compute(recipe));

        int Compute(Recipe r, long seed = 1, Preprocessing? preprocessing = null)
        {
            var (p, before) = (preprocessing ?? size, cache.Computed);
            using var train = new ImageStore([.. images.Take(4)], p, default);
            using var held = new ImageStore([.. images.Skip(4)], p, default);
            using var features = new FrozenFeatures(model, r, seed, p, train, held, default, cache);
            using var scope = NewDisposeScope();
            using var none = inference_mode();
            model.eval();
            var direct = model.call(TensorLayout.ChannelsLast(p.Normalize(held.Batch([0, 1], default)))).to(ScalarType.Float64).softmax(1);
            Assert.Equal(Predictor.Rows(direct)[1][0], features.Score(mirrorScores: false, trainingMode: false)[1][0], 4);
            return cache.Computed - before;
        }
    }

    [Theory]
    [InlineData("mobilenet_v2", "features.16"), InlineData("resnet18", "layer4"), InlineData("resnext50_32x4d", "fc"), InlineData("efficientnet_b0", "features.7")]
    [InlineData("mnasnet0_75", "classifier"), InlineData("vgg11", "features.11"), InlineData("vgg11_bn", "features.15"), InlineData("mobilenet_v3_small", "features.9")]
    public void Layers_with_their_batch_norm_folded_give_what_they_gave(string name, string cut)
    {
        using var scope = NewDisposeScope();
        LabRuntime.Seed(2);
        using var model = Models.Create(name).WithHead(2);
        using (no_grad())
            foreach (var norm in model.modules().OfType<TorchSharp.Modules.BatchNorm2d>())
            {
                norm.running_mean!.uniform_(-0.2, 0.2);
                norm.running_var!.uniform_(0.5, 2);
                norm.weight!.uniform_(0.5, 1.5);
                norm.bias!.uniform_(-0.3, 0.3);
            }
        var images = randn(2, 3, 64, 64);
        model.eval();
        using var none = no_grad();
        var expected = model.ForwardUntil(images, cut);
        using var prefix = new FrozenPrefix(model, cut);
        using var coarse = new FrozenPrefix(model, cut, ScalarType.BFloat16);
        const string vectors = "512-bit vectors, float32";
        var ours = Vector512.IsHardwareAccelerated && name is not "mobilenet_v3_small";
        var float32 = ours ? vectors : "ONNX Runtime, float32";
        Assert.Equal(float32, prefix.Engine);
        Assert.Equal(!FusedEngine.Pays || ours && !FusedEngine.HasMatrixUnits && name.StartsWith("vgg", StringComparison.Ordinal) ? float32
            : ours && !FusedEngine.HasMatrixUnits && MachineCode.Runs ? "512-bit vectors, bfloat16" : "oneDNN, bfloat16", coarse.Engine);
        Assert.True(Error(prefix.Run(images)) < 1e-5, $"float32: {Error(prefix.Run(images))}");
        Assert.True(Error(coarse.Run(images)) < 0.03, $"bfloat16: {Error(coarse.Run(images))}");
        if (FusedEngine.Missing is not null)
            return;
        using var folded = FrozenPrefix.Fold(model, cut);
        folded.eval();
        using var fused = new FusedEngine(folded, cut);
        var (given, before) = (TensorLayout.ChannelsLast(images), images.clone());
        foreach (var _ in (int[])[1, 2]) // the second time with weights that the first packed
            Assert.True(Error(fused.Run(given)) < 1e-5, $"fused float32: {Error(fused.Run(given))}");
        folded.to(bfloat16);
        using var halved = new FusedEngine(folded, cut); // which not every processor is given
        Assert.True(Error(halved.Run(given)) < 0.03, $"fused bfloat16: {Error(halved.Run(given))}");
        Assert.True(given.eq(before).all().item<bool>());

        double Error(Tensor actual) => ((actual - expected).norm() / expected.norm()).item<float>();
    }

    [Fact]
    public void Pictures_become_bfloat16_as_torch_rounds_them_and_maps_their_means()
    {
        Assert.SkipUnless(BFloat16Kernel.IsSupported, "needs registers of 512 bits");
        using var scope = NewDisposeScope();
        var images = randn(3, 3, 5, 7);
        images.narrow(3, 6, 1).copy_(tensor(new[] { float.NaN, float.PositiveInfinity, -0f, 1 + 1f / 256, 1 + 3f / 256 }).reshape(5, 1));
        var pixels = BFloat16Kernel.Pixels(images.narrow(0, 1, 2));
        Assert.True(TensorLayout.IsChannelsLast(pixels));
        Assert.True(pixels.to(float32).allclose(images.narrow(0, 1, 2).to(bfloat16).to(float32), 0, 0, equal_nan: true));
        var maps = TensorLayout.ChannelsLast(randn(2, 70, 3, 5).to(bfloat16));
        Assert.True(BFloat16Kernel.Means(maps).allclose(maps.to(float32).mean([2, 3]), 1e-5, 1e-6));
    }

    [Theory, InlineData("mobilenet_v2"), InlineData("efficientnet_b0"), InlineData("resnext50_32x4d"), InlineData("resnet18")]
    public void An_image_has_the_same_bfloat16_features_in_any_batch_and_each_time(string name)
    {
        if (FusedEngine.Missing is { } why)
            Assert.Skip(why);
        using var scope = NewDisposeScope();
        using var none = no_grad();
        LabRuntime.Seed(4);
        using var model = Models.Create(name);
        OnnxTests.Shake(model, 64);
        var images = randn(37, 3, 64, 64); // more than two of the engine's parts
        using var prefix = new FrozenPrefix(model, model.Stages[^1], ScalarType.BFloat16);
        var all = prefix.Run(images);
        Assert.True((all[0] - all[1]).abs().max().item<float>() > 0);
        foreach (var (from, count) in ((int, int)[])[(0, 37), (8, 1), (3, 2), (1, 7), (2, 33)])
            Assert.True(prefix.Run(images.narrow(0, from, count)).eq(all.narrow(0, from, count)).all().item<bool>(), $"{count} from {from}");
    }

    [Fact]
    public async Task Workers_compute_on_one_thread_each_and_all_others_as_before()
    {
        if (!TestSupport.Alone(("DEEPFAKELAB_THREADS", "3")))
            return;
        LabRuntime.Start();
        var inside = new int[12];
        TorchWorkers.ForEach(inside.Length, i =>
        {
            ones(300, 300).mm(ones(300, 300)); // torch asks for its threads when it first has something to share out
            inside[i] = get_num_threads();
        });
        Assert.All(inside, n => Assert.Equal(1, n));
        Assert.Equal(3, get_num_threads());
        Assert.Equal(3, await Task.Factory.StartNew(get_num_threads, TaskCreationOptions.LongRunning));
        Assert.Throws<IOException>(() => TorchWorkers.ForEach(4, i => throw (i == 0 ? new IOException("first") : new InvalidOperationException())));
    }

    [Theory, InlineData("mnasnet0_75"), InlineData("resnet18"), InlineData("vgg11_bn")]
    public void Every_cut_gives_what_the_plain_layers_give(string name)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        LabRuntime.Seed(3);
        using var model = Models.Create(name).WithHead(2);
        OnnxTests.Shake(model, 64);
        var images = randn(9, 3, 32, 64); // two parts of the engine's, and not square
        foreach (var cut in model.Stages.Skip(1))
        {
            var expected = model.ForwardUntil(images, cut);
            using var prefix = new FrozenPrefix(model, cut);
            var actual = prefix.Run(images);
            Assert.Equal(expected.shape, actual.shape);
            Assert.True(((actual - expected).norm() / expected.norm()).item<float>() < 1e-5, cut);
            expected.Dispose();
        }
    }

    [Fact]
    public void Another_normalisation_than_batch_norm_is_kept_and_left_to_torch()
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var model = Models.Create("resnet18", options: new ModelOptions { NormLayer = c => nn.GroupNorm(4, c) });
        foreach (var norm in model.modules().OfType<TorchSharp.Modules.GroupNorm>())
        {
            norm.weight!.uniform_(0.5, 1.5);
            norm.bias!.uniform_(-0.3, 0.3);
        }
        model.eval();
        var images = randn(2, 3, 64, 64);
        using var prefix = new FrozenPrefix(model, "layer3");
        Assert.Equal("torch, float32", prefix.Engine);
        var expected = model.ForwardUntil(images, "layer3");
        Assert.True(((prefix.Run(images) - expected).norm() / expected.norm()).item<float>() < 1e-5);
    }
}
