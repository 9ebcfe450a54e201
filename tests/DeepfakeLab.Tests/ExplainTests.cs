using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>Explanations against references written with PyTorch's hooks, and on networks whose explanation is known.</summary>
public class ExplainTests
{
    [Theory]
    [InlineData("mobilenet_v2", "features.18", "features.13", "features.0", "features.14.conv.1.0")]
    [InlineData("resnet18", "layer4", "layer2", "layer3.0.conv2")]
    [InlineData("resnext50_32x4d", "layer4", "layer1")]
    [InlineData("efficientnet_b0", "features.8", "features.5", "features.6.1.block.2.fc1")]
    [InlineData("mnasnet0_75", "layers.16", "layers.11")]
    [InlineData("vgg11_bn", "features.28", "features.20", "features.9")]
    public void Grad_CAM_and_integrated_gradients_equal_a_reference_with_hooks(string name, params string[] layers)
    {
        using var folder = TestSupport.Folder();
        TestSupport.Python(["torch", "torchvision"], "explain.py", [folder.Path, name, .. layers]);
        using var scope = NewDisposeScope();
        using var model = Models.Create(name, Weights.File(folder[$"{name}.pth"]), classes: 10, new ModelOptions { PlainHead = true });
        using var expected = Checkpoint.Read(folder[$"{name}-explain.pth"]);
        model.train(); // each method sees to eval mode itself
        var filled = layers.SelectMany(l => (string[])[$"{l}/cam", $"{l}/cam++"]).Count(key => expected[key].max().item<float>() == 1);
        Assert.True(filled >= layers.Length, $"only {filled} of the reference's maps show anything");
        foreach (var layer in layers)
        {
            Near(expected[$"{layer}/cam"], Explain.GradCam(model, expected["x"], 3, layer), $"Grad-CAM at {layer}");
            Near(expected[$"{layer}/cam++"], Explain.GradCamPlusPlus(model, expected["x"], 3, layer), $"Grad-CAM++ at {layer}");
        }
        Near(expected[$"{layers[0]}/cam"], Explain.GradCam(model, expected["x"], 3), "Grad-CAM at the usual layer");
        var attributions = Explain.IntegratedGradients(model, expected["x"], 3, steps: 4);
        // VGG's float32 differs by 0.3 %: where rounding changes which pixel a max pooling takes or which side of a ReLU a value is on, a whole
        // gradient moves. That it is rounding and nothing else float64 shows, in which all families agree to 1e-7
        Assert.InRange(Difference(expected["ig"], attributions), 0, name.StartsWith("vgg", StringComparison.Ordinal) ? 1e-2 : 1e-4);
        model.to(float64);
        Assert.InRange(Difference(expected["ig64"], Explain.IntegratedGradients(model, expected["x"], 3, steps: 4)), 0, 1e-7);
        Assert.True(model.training);
        Assert.All(model.parameters(), p => Assert.Null(p.grad));
    }

    [Fact]
    public void Integrated_gradients_sum_up_to_what_the_score_gains_from_the_mean_colour_to_the_image()
    {
        using var scope = NewDisposeScope();
        using var model = Small();
        model.to(float64);
        var x = randn(2, 3, 32, 32, dtype: float64) * 0.3;
        model.eval();
        Tensor gain;
        using (no_grad())
        {
            var logits = model.call(x) - model.call(zeros_like(x));
            gain = logits.select(1, 2) - logits.select(1, 0);
        }
        double Missing(int steps) => ((Explain.IntegratedGradients(model, x, 2, steps, against: 0).sum([1, 2, 3]) - gain).abs().max() / gain.abs().max()).item<double>();
        Assert.InRange(Missing(64), 0, 0.1); // 0.054: each kink of a ReLU on the way leaves a little
    }

    [Fact]
    public void A_layer_that_is_none_or_gives_no_maps_is_refused_by_name()
    {
        using var scope = NewDisposeScope();
        using var model = Small();
        var x = zeros(1, 3, 64, 64);
        Assert.Contains("features.99", Assert.Throws<ModelException>(() => Explain.GradCam(model, x, 0, "features.99")).Message, StringComparison.Ordinal);
        Assert.Contains("classifier", Assert.Throws<ModelException>(() => Explain.GradCam(model, x, 0, "classifier")).Message, StringComparison.Ordinal);
        Assert.Throws<ModelException>(() => Explain.Occlusion(model, x, 0, square: 65));
    }

    [Theory] // an eye's box is .17 high: cells of 1/5 are too coarse, of 1/7 fine
    [InlineData(160, "features.13"), InlineData(224, "features.18"), InlineData(96, "features.13"), InlineData(64, "features.6")]
    public void The_layer_to_point_with_is_the_deepest_whose_cells_are_small_enough(int size, string layer)
    {
        using var model = Models.MobileNetV2(Weights.None);
        Assert.Equal(0.17, Localisation.SmallestPart, 1e-9);
        Assert.Equal(layer, Explain.LayerFor(model, size, Localisation.SmallestPart));
    }

    [Fact]
    public void Occlusion_finds_the_only_place_that_matters()
    {
        using var scope = NewDisposeScope();
        using var model = Small();
        // What matters to any network: the place whose hiding changes the answer. One bright spot on nothing is such a place.
        var x = zeros(1, 3, 64, 64);
        x[0].narrow(1, 8, 12).narrow(2, 40, 12).fill_(4);
        model.eval();
        using var frozen = no_grad();
        var target = (int)(model.call(x) - model.call(zeros_like(x))).argmax(1).item<long>();
        var map = Explain.Occlusion(model, x, target, square: 16, stride: 8)[0];
        Assert.Equal((7, 7), (map.GetLength(0), map.GetLength(1)));
        for (var row = 0; row < 7; row++)
        {
            for (var column = 0; column < 7; column++)
            {
                var overlaps = row * 8 < 20 && row * 8 + 16 > 8 && column * 8 < 52 && column * 8 + 16 > 40;
                Assert.True(overlaps || map[row, column] < 1e-4, $"{row},{column}: {map[row, column]}");
            }
        }
        Assert.Equal(1, map.Cast<float>().Max());
    }

    [Fact]
    public void Memory_does_not_grow_with_explanations()
    {
        using var model = Small();
        using var x = zeros(1, 3, 64, 64);
        Explain.GradCam(model, x, 0);
        var before = Tensor.TotalCount;
        for (var i = 0; i < 3; i++)
        {
            Explain.GradCam(model, x, 0);
            Explain.GradCamPlusPlus(model, x, 0, "features.10");
            Explain.Occlusion(model, x, 0);
            Explain.IntegratedGradients(model, x, 0, 2).Dispose();
        }
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void Grad_CAM_keeps_no_graph_of_the_layers_before_its_own()
    {
        using var model = Small();
        using var x = zeros(1, 3, 64, 64);
        var kept = new Dictionary<string, bool>();
        foreach (var stage in model.Stages.SkipLast(1))
            model.StageLayers(stage)[0].register_forward_hook((_, input, output) => { kept[stage] = input.requires_grad || output.requires_grad; return output; });
        Explain.GradCam(model, x, 0, "features.10");
        Assert.Contains(kept, stage => stage.Value); // those after it
        Assert.All(model.Stages.TakeWhile(stage => stage != "features.10"), stage => Assert.False(kept[stage], stage));
        Assert.True(is_grad_enabled());
    }

    [Fact]
    public void Localisation_counts_hits_heat_and_chance()
    {
        var mask = new bool[10, 10];
        for (var y = 0; y < 5; y++)
        {
            for (var x = 0; x < 2; x++)
                mask[y, x] = true;
        }
        var (on, off) = (new float[10, 10], new float[10, 10]);
        (on[1, 1], off[9, 9]) = (1, 1);
        var result = Localisation.Of([on, off, on], [mask, mask, null]);
        Assert.Equal(new Localisation(2, 0.5, 0.5, 0.1, 0.5, 0), result);
        Assert.Equal(5, result.HitsOverChance, 1e-12);
        Assert.Throws<EvaluationException>(() => Localisation.Of([on], [null]));
        // on 5 by 5 cells the hottest in the corner points at the cell's centre, not at the border; a tie counts by halves; no heat points nowhere
        var (corner, tie, cold) = (new float[5, 5], new float[5, 5], new float[5, 5]);
        (corner[0, 0], tie[0, 0], tie[4, 4]) = (1, 1, 1);
        var parts = new bool[20, 20];
        parts[2, 2] = true;
        Assert.Equal((1, 0.5, 0, 3), Localisation.Of([corner], [parts]) is var c && Localisation.Of([tie], [parts]) is var t && Localisation.Of([cold, cold, cold], [parts, parts, parts]) is var z
            ? (c.Hits, t.Hits, z.Hits, z.Cold) : default);
        // always the same place: above chance by area, not above the other images' masks
        var elsewhere = new bool[20, 20];
        elsewhere[17, 17] = true;
        var blind = Localisation.Of([corner, corner], [parts, elsewhere]);
        Assert.Equal((0.5, 0.5, 1 / 400.0), (blind.Hits, blind.Swapped, blind.Chance));
        var even = new float[4, 4];
        for (var i = 0; i < 16; i++)
            even[i / 4, i % 4] = 1;
        Assert.Equal(0.1, Localisation.Of([even], [mask]).HeatInside, 1e-6);
    }

    [Fact]
    public void Ciplabs_boxes_follow_the_name()
    {
        FaceImage Named(FaceParts parts) => new("x.jpg", "/x.jpg", 0, Difficulty.Easy, parts, 0);
        Assert.Null(Localisation.CiplabMask(Named(FaceParts.None)));
        var left = Localisation.CiplabMask(Named(FaceParts.LeftEye))!;
        Assert.True(left[45, 35] && !left[45, 65] && !left[75, 50]);
        var both = Localisation.CiplabMask(Named(FaceParts.RightEye | FaceParts.Mouth))!;
        Assert.True(!both[45, 35] && both[45, 65] && both[75, 50]);
    }

    [Fact]
    public void Principal_components_equal_scikit_learns_and_tsne_keeps_neighbours_as_well()
    {
        LabRuntime.Seed(5);
        using var scope = NewDisposeScope();
        var centres = randn(4, 20, dtype: float64) * 4;
        var x = cat([.. Enumerable.Range(0, 4).Select(i => centres[i] + randn(30, 20, dtype: float64))]);
        using var folder = TestSupport.Folder();
        File.WriteAllText(folder["x.json"], Json(x));
        var plane = Embeddings.Tsne(x, perplexity: 15);
        File.WriteAllText(folder["plane.json"], JsonSerializer.Serialize(Enumerable.Range(0, 120).Select(i => (double[])[plane[i, 0], plane[i, 1]])));
        var expected = JsonNode.Parse(TestSupport.Python(["sklearn"], "pca.py", folder["x.json"], folder["plane.json"]))!;
        var pca = Embeddings.Pca(x, 3);
        for (var i = 0; i < 120; i++)
        {
            for (var d = 0; d < 3; d++)
                Assert.Equal((double)expected["pca"]![i]![d]!, pca[i, d], 1e-9);
        }
        Assert.True((double)expected["ours"]! > (double)expected["trust"]! - 0.01, expected["ours"] + " against " + expected["trust"]);
        Assert.Equal(plane, Embeddings.Tsne(x, perplexity: 15));
        Assert.Throws<EvaluationException>(() => Embeddings.Tsne(x, perplexity: 60));
    }

    [Fact]
    public void The_nearest_training_image_of_a_training_image_is_itself()
    {
        LabRuntime.Seed(6);
        using var scope = NewDisposeScope();
        var training = randn(20, 8);
        var nearest = Embeddings.Nearest(training.narrow(0, 3, 4) * 2, training, count: 3);
        Assert.Equal([3, 4, 5, 6], nearest.Select(n => n[0].Index));
        Assert.All(nearest, n => Assert.Equal(1, n[0].Similarity, 1e-6));
        Assert.All(nearest, n => Assert.True(n[0].Similarity > n[1].Similarity && n[1].Similarity >= n[2].Similarity));
    }

    /// <summary>A random network whose batch norms know the range of their inputs, as a trained one's do; without that its signal dies out.</summary>
    private static VisionModel Small()
    {
        LabRuntime.Seed(1);
        var model = Models.MobileNetV2(Weights.None, classes: 3);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        for (var i = 0; i < 60; i++)
            model.call(randn(4, 3, 64, 64)).Dispose();
        return model;
    }

    private static double Difference(Tensor expected, Tensor actual) => ((actual - expected).abs().max() / expected.abs().max()).to(float64).item<double>();

    private static void Near(Tensor expected, IReadOnlyList<float[,]> actual, string what)
    {
        var values = expected.data<float>().ToArray();
        float[] ours = [.. actual.SelectMany(m => m.Cast<float>())];
        Assert.Equal(values.Length, ours.Length);
        var worst = values.Zip(ours, (a, b) => Math.Abs(a - b)).Max();
        Assert.True(worst <= 1e-4, $"{what} differs by {worst}");
    }

    private static string Json(Tensor x) => JsonSerializer.Serialize(Enumerable.Range(0, (int)x.shape[0]).Select(i => x[i].data<double>().ToArray()));
}
