using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

public class ModelTests
{
    [Fact]
    public void The_real_MobileNetV2_weights_load_strictly_and_say_where_they_came_from()
    {
        var file = TestSupport.Shared("weights", "mobilenet_v2-imagenet1k-int8-dequantized.pth");
        using var model = Models.MobileNetV2(Weights.File(file));
        Assert.StartsWith("aa380acd", model.WeightsOrigin.Sha256);
        Assert.Equal(3504872, model.ParameterCount);
    }

    [Fact]
    public void Real_photographs_are_classified_as_torchvision_does()
    {
        var file = TestSupport.Shared("weights", "mobilenet_v2-imagenet1k-int8-dequantized.pth");
        var expected = TestSupport.Python(["torch", "torchvision", "sklearn"], "classify.py", file)
            .Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(l => l.Split('\t')).GroupBy(l => l[0]).ToList();
        using var model = Models.MobileNetV2(Weights.File(file));
        model.eval();
        using var inference = inference_mode();
        Assert.Equal(2, expected.Count);
        foreach (var photo in expected)
        {
            using var scope = NewDisposeScope();
            var preprocessing = Preprocessing.ImageNet; // of IMAGENET1K_V1
            var image = Preprocessing.ToTensor(preprocessing.Apply(ImageReader.Read(photo.Key)));
            var pixels = preprocessing.Normalize(image).unsqueeze(0);
            var top = ImageNetClasses.Top(model.call(pixels));
            Assert.Equal(photo.Select(l => l[1]), top.Select(t => t.Name));
            Assert.Equal(top.Select(t => t.Name), Lesson.Sees(model, pixels).Select(s => s.Answer)); // what the notebooks show
            Assert.All(photo.Zip(top), p => Assert.Equal(double.Parse(p.First[2], System.Globalization.CultureInfo.InvariantCulture), p.Second.Probability, 1e-5));
        }
    }

    [Fact]
    public void A_new_head_keeps_torchvisions_keys_and_the_body_and_returns_the_model()
    {
        using var model = Models.MobileNetV2();
        Assert.Same(model, model.WithHead(2));
        Assert.Equal(2, model.Classes);
        using var state = StateDict.Of(model);
        Assert.Equal([2L, 1280], state["classifier.1.weight"].shape);
        Assert.Equal("classifier.1.bias", state.Keys.Last());
        using var x = zeros(2, 3, 64, 64);
        using var logits = model.call(x);
        Assert.Equal([2L, 2], logits.shape);
    }

    /// <summary>torchvision's EfficientNet and MNASNet draw by the number of outputs: two of them got weights near 1 and a first loss of 4.</summary>
    [Theory, InlineData("efficientnet_b0"), InlineData("mnasnet0_5"), InlineData("mobilenet_v2"), InlineData("mobilenet_v3_small"), InlineData("resnet18")]
    public void A_new_head_for_two_classes_begins_near_guessing(string name)
    {
        LabRuntime.Seed(4);
        using var model = Models.Create(name).WithHead(2);
        using var state = StateDict.Of(model);
        Assert.InRange(state[state.Keys.Last(k => k.EndsWith(".weight", StringComparison.Ordinal))].abs().max().item<float>(), 1e-4f, 0.06f);
    }

    [Theory, InlineData(128)]
    public void The_heads_of_the_original_study_fit_their_backbones(int size)
    {
        using var scope = NewDisposeScope();
        using var x = zeros(2, 3, size, size);
        foreach (var head in (HeadRecipe[])[HeadRecipe.StudyMobileNet, HeadRecipe.StudyEfficientNet, HeadRecipe.StudyMnasNet, HeadRecipe.StudyResNet, HeadRecipe.StudyResNext, HeadRecipe.StudyVgg])
        {
            using var model = Models.MobileNetV2().WithHead(2, head);
            Assert.Equal([2L, 2], model.call(x).shape);
            Assert.Equal(head.FlattenAt == 0 ? 1280 : 20480, model.FeatureCount);
            Assert.Equal([.. head.Hidden, 2], model.Head.modules().OfType<TorchSharp.Modules.Linear>().Select(layer => (int)layer.out_features));
        }
    }

    [Theory, InlineData("resnet18"), InlineData("mobilenet_v2"), InlineData("mobilenet_v3_small"), InlineData("efficientnet_b0")]
    public void Another_normalisation_than_batch_norm_starts_as_the_identity_too(string name)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var model = Models.Create(name, options: new ModelOptions { NormLayer = channels => nn.GroupNorm(1, channels) });
        Assert.All(model.modules().OfType<TorchSharp.Modules.GroupNorm>(), norm =>
        {
            Assert.True(norm.weight!.Equals(ones_like(norm.weight)));
            Assert.True(norm.bias!.Equals(zeros_like(norm.bias)));
        });
        model.eval();
        Assert.True(model.call(randn(2, 3, 64, 64)).isfinite().all().item<bool>());
    }

    [Fact]
    public void A_cut_splits_parameters_and_a_wrong_stage_is_named()
    {
        using var model = Models.MobileNetV2();
        Assert.Equal(20, model.Stages.Count);
        Assert.Equal(158, model.ParametersFrom("features.0").Count());
        Assert.Equal(["classifier.1.weight", "classifier.1.bias"], model.ParametersFrom("classifier").Select(p => p.Name));
        Assert.Equal("features.19", Assert.Throws<ModelException>(() => model.ParametersFrom("features.19").Any()).Subject);
    }

    [Fact]
    public void All_misfits_of_a_state_dict_are_reported_together_and_nothing_is_changed()
    {
        using var folder = TestSupport.Folder();
        using var model = Models.MobileNetV2();
        using var scope = NewDisposeScope();
        using (var state = StateDict.Of(model))
            SafeTensors.Write(folder["w.safetensors"], state.Where(t => t.Key != "classifier.1.bias")
                .Select(t => (t.Key, t.Key == "classifier.1.weight" ? zeros(10, 1280) : ones_like(t.Value))).Append(("extra", zeros(1))));
        var before = model.get_parameter("features.0.0.weight")!.clone();
        using var read = Checkpoint.Read(folder["w.safetensors"]);
        var error = Assert.Throws<CheckpointException>(() => read.LoadInto(model));
        Assert.Contains("missing: classifier.1.bias", error.Message);
        Assert.Contains("unexpected: extra", error.Message);
        Assert.Contains("classifier.1.weight (Float32 [10, 1280] for Float32 [1000, 1280])", error.Message);
        Assert.True(before.Equals(model.get_parameter("features.0.0.weight")!));
    }

    [Fact]
    public void Inference_keeps_no_tensor_but_its_result()
    {
        using var model = Models.MobileNetV2();
        model.eval();
        using var inference = inference_mode();
        using var x = zeros(1, 3, 64, 64);
        model.call(x).Dispose();
        var before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        model.call(x).Dispose();
        Assert.Equal(before, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }
}
