using System.Globalization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace DeepfakeLab.Tests;

/// <summary>ResNet-18's ImageNet weights from the NuGet package, beside the package's own files in ONNX Runtime.</summary>
public sealed class PackagedWeightsTests(ITestOutputHelper console)
{
    [Fact]
    public void ResNet18_gives_the_features_that_the_packages_file_gives()
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        using var model = Models.ResNet18(Weights.Embedded);
        model.eval();
        Assert.Contains("CNTK", model.WeightsOrigin.Description);
        Assert.Contains("fc is random", model.WeightsOrigin.Description);
        Assert.Equal(PackagedWeights.Sha256, model.WeightsOrigin.Sha256);
        using var file = PackagedWeights.Read(File.ReadAllBytes(PackagedWeights.Path), "the package");
        Assert.Equal(22 * 5, file.Count);
        using var network = new InferenceSession(PackagedWeights.Path);
        using var published = new InferenceSession(Path.Combine(AppContext.BaseDirectory, "resnet18-preprocess-cntk.onnx"));
        foreach (var seed in (int[])[1, 2])
        {
            var face = Preprocessing.ToTensor(FacePainter.Paint(FaceTraits.Random(seed), 224)).unsqueeze(0);
            var h = model.ForwardUntil(model.Preprocessing.Normalize(face), "layer4");
            foreach (var layer in model.StageLayers("layer4"))
                h = layer.call(h);
            var features = ExtraBlock(h, file).mean([2, 3]);
            var centred = face.to(float32) - tensor(Preprocessing.ImageNet.Mean.ToArray()).view(1, 3, 1, 1) * 255;
            var same = Run(network, centred.flip(1));
            var error = ((features - same).abs().max() / same.abs().max()).item<float>();
            var whole = Run(network, Run(published, face.to(float32)).view(1, 3, 224, 224)); // with the mean image, which ImageNet's mean colour stands for here
            var alike = nn.functional.cosine_similarity(features, whole, 1, 1e-8).item<float>();
            console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"face {seed}: off by {error:e2}; cosine with the published preprocessing {alike:f4}"));
            Assert.InRange(error, 0, 1e-4f);
            Assert.InRange(alike, 0.98f, 1.0001f);
        }
    }

    [Fact]
    public void A_new_head_and_other_class_counts_keep_the_features()
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        using var model = Models.ResNet18(Weights.Parse("package"), classes: 7);
        using var other = Models.ResNet18(Weights.Embedded).WithHead(2);
        var x = randn(1, 3, 64, 64);
        model.eval();
        other.eval();
        Assert.Equal([1L, 7], model.call(x).shape);
        Assert.True(model.Features(x).allclose(other.Features(x)));
    }

    [Fact]
    public void Eight_bits_come_back_within_half_a_step()
    {
        using var scope = NewDisposeScope();
        using var folder = TestSupport.Folder();
        using var model = Models.MnasNet0_5();
        using var state = StateDict.Of(model);
        var (whole, small) = (Path.Combine(folder.Path, "whole.safetensors"), Path.Combine(folder.Path, "small.safetensors"));
        SafeTensors.Write(whole, state.Select(e => (e.Key, e.Value)));
        SafeTensors.Write(small, EightBits.Pack(state));
        Assert.InRange(new FileInfo(small).Length, 1, 0.3 * new FileInfo(whole).Length);
        using var back = EightBits.Unpack(SafeTensors.Read(small));
        Assert.Equal(state.Keys, back.Keys);
        foreach (var (name, value) in state.Where(e => e.Value.dim() > 1))
        {
            var rows = value.flatten(1).abs();
            Assert.True(((back[name] - value).flatten(1).abs() <= (rows.amax(1) / 254).unsqueeze(1) * 1.0001).all().item<bool>(), name);
        }
        back.LoadInto(model);
        using var untouched = EightBits.Unpack(SafeTensors.Read(whole));
        Assert.Equal(state.Keys, untouched.Keys);
    }

    /// <summary>Everybody who clones the project carries them.</summary>
    [Fact]
    public void Embedded_weights_load_and_stay_small()
    {
        var files = Directory.GetFiles(Path.Combine(TestSupport.Root, "data", "weights"));
        Assert.InRange(files.Sum(f => new FileInfo(f).Length), 1, 12_000_000);
        foreach (var name in files.Select(f => Path.GetFileName(f).Replace("-painted-faces.safetensors", "", StringComparison.Ordinal)))
        {
            using var scope = NewDisposeScope();
            using var model = Models.Create(name, Weights.Embedded);
            model.eval();
            Assert.True(Weights.ComeWith(name));
            Assert.Contains("trained on painted faces", model.WeightsOrigin.Description);
            Assert.Equal(["skin", "hairColour"], PaintedPretraining.Read(model.call(zeros(1, 3, 64, 64))).Take(2).Select(r => r.Attribute));
        }
    }

    [Fact]
    public void Damaged_ONNX_files_end_in_bad_content_and_nothing_else()
    {
        LabRuntime.Start();
        using var graph = new OnnxGraph();
        using var weight = ones(2, 3, 1, 1);
        graph.Input("x", ScalarType.Float32, "n", 3, 4, 4);
        graph.AddNamed("y", "Conv", ["x", graph.Constant("w", weight)], ("kernel_shape", new long[] { 1, 1 }));
        graph.Output("y", ScalarType.Float32, "n", 2, 4, 4);
        var stream = new MemoryStream();
        graph.ToModel("m", "", new Dictionary<string, string>()).WriteTo(stream);
        var file = stream.ToArray();
        using (var read = new OnnxWeights(file)["w"])
            Assert.True(read.Equals(weight));
        var (random, refused) = (new Random(7), 0);
        for (var i = 0; i < 20_000; i++)
        {
            var bytes = file[..(i % 3 == 0 ? random.Next(file.Length) : file.Length)];
            for (var flips = random.Next(4); flips > 0 && bytes.Length > 0; flips--)
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            try
            {
                new OnnxWeights(bytes)["w"].Dispose();
            }
            catch (Exception e)
            {
                Assert.True(RawTensors.IsBadContent(e), e.ToString());
                refused++;
            }
        }
        Assert.InRange(refused, 5_000, 19_999);
    }

    /// <summary>The package's third block of layer4, which is left out of resnet18, written out.</summary>
    private static Tensor ExtraBlock(Tensor x, StateDict file)
    {
        Tensor Of(string name) => file[PackagedWeights.ExtraBlock + name];
        Tensor Step(Tensor h, int i) => nn.functional.batch_norm(nn.functional.conv2d(h, Of($"conv{i}.weight"), padding: [1, 1]),
            Of($"bn{i}.running_mean"), Of($"bn{i}.running_var"), Of($"bn{i}.weight"), Of($"bn{i}.bias"), eps: 1e-5);
        return (Step(Step(x, 1).relu(), 2) + x).relu();
    }

    private static Tensor Run(InferenceSession session, Tensor x)
    {
        var values = new DenseTensor<float>(x.contiguous().data<float>().ToArray(), [.. x.shape.Select(n => (int)n)]);
        using var results = session.Run([NamedOnnxValue.CreateFromTensor(session.InputMetadata.Keys.Single(), values)]);
        return tensor(results.Single().AsTensor<float>().ToArray()).unsqueeze(0);
    }
}
