using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>Our own engine beside libtorch in float64. In float32 it runs on any processor, if slower, so these tests do too; in bfloat16 where its instructions are.</summary>
/// <remarks>
/// In float32 the tolerance is 1e-5 of the results' norm: whole networks were off by up to 1.1e-6 (ONNX Runtime: .5e-6), a convolution of VGG without the batch norm
/// behind it, where sums cancel, by 4.5e-6; what is left out, a pixel at an edge or the last channel, by a thousand times as much.
/// In bfloat16 it is what torch is off by in bfloat16, a few hundredths, and half as much again; each layer's edges are <see cref="BFloat16Tests"/>' matter.
/// </remarks>
public sealed class VectorEngineTests
{
    private const double Tolerance = 1e-5;

    public VectorEngineTests() => LabRuntime.Start();

    public static TheoryData<string, ModelOptions, int, int, int> Networks => new()
    {
        { "resnet18", new(), 1, 1, 1 },
        { "resnet18", new(), 33, 33, 47 },
        { "resnet50", new() { ReplaceStrideWithDilation = (false, true, true) }, 1, 40, 54 },
        { "vgg11", new(), 2, 65, 34 },
        { "resnext50_32x4d", new(), 2, 45, 62 },
        { "mobilenet_v2", new(), 33, 32, 32 },
        { "mobilenet_v2", new(), 2, 75, 97 },
        { "mobilenet_v2", new() { WidthMultiplier = 0.3, RoundNearest = 1 }, 3, 40, 50 },
        { "mnasnet0_75", new(), 1, 128, 128 },
        { "mnasnet0_5", new(), 5, 43, 66 },
        { "efficientnet_b0", new(), 33, 32, 32 },
        { "efficientnet_b0", new(), 1, 75, 97 },
        { "efficientnet_b3", new(), 2, 64, 50 },
    };

    [Theory, MemberData(nameof(Networks))]
    public void What_a_network_computes_is_as_in_float64(string name, ModelOptions options, int images, int height, int width)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        LabRuntime.Seed(4);
        using var model = Models.Create(name, options: options).WithHead(2);
        OnnxTests.Shake(model);
        using var exact = FrozenPrefix.Copy(model);
        exact.eval();
        exact.to(float64);
        var pixels = randn(images, 3, height, width);
        foreach (var cut in model.Stages.Skip(1).Where((c, i) => i % 7 == 2 || c == model.Stages[^1]))
            Check(model, exact, cut, pixels);
    }

    private static void Check(VisionModel model, VisionModel exact, string cut, Tensor pixels)
    {
        using var scope = NewDisposeScope();
        using var folded = FrozenPrefix.Fold(model, cut);
        folded.eval();
        var expected = exact.ForwardUntil(pixels.to(float64), cut);
        using var rounded = FrozenPrefix.Fold(model, cut);
        rounded.eval();
        rounded.to(bfloat16);
        var tolerance = 1.5 * Error(rounded.ForwardUntil(pixels.to(bfloat16), cut));
        foreach (var bfloat16 in BFloat16Tests.AreThere() ? (bool[])[false, true] : [false])
        {
            using var engine = new VectorEngine(folded, cut, (int)pixels.shape[2], (int)pixels.shape[3], bfloat16);
            var actual = engine.Run(pixels);
            Assert.Equal(expected.shape, actual.shape);
            Assert.True(Error(actual) < (bfloat16 ? tolerance : Tolerance), $"{cut}: {Error(actual)}, bfloat16 {bfloat16}, torch's {tolerance / 1.5}");
        }

        double Error(Tensor actual) => ((actual - expected).norm() / expected.norm()).item<double>();
    }

    [Theory]
    [InlineData("resnet18", "layer4", false), InlineData("mobilenet_v2", "features.7", false), InlineData("vgg11", "features.9", false), InlineData("resnext50_32x4d", "layer2", false), InlineData("efficientnet_b0", "features.6", false)]
    [InlineData("resnet18", "layer4", true), InlineData("mobilenet_v2", "features.7", true), InlineData("mnasnet0_5", "layers.10", true), InlineData("resnext50_32x4d", "layer2", true), InlineData("efficientnet_b0", "features.6", true)]
    public void An_image_gives_the_same_bits_in_any_batch_and_with_any_number_of_threads(string name, string cut, bool bfloat16)
    {
        if (bfloat16 && !BFloat16Tests.AreThere())
            return;
        using var scope = NewDisposeScope();
        using var none = no_grad();
        LabRuntime.Seed(5);
        using var model = Models.Create(name).WithHead(2);
        OnnxTests.Shake(model);
        using var folded = FrozenPrefix.Fold(model, cut);
        folded.eval();
        var (pixels, threads) = (randn(33, 3, 35, 44), get_num_threads());
        var before = pixels.clone();
        Tensor? expected = null;
        try
        {
            foreach (var count in (int[])[1, 3, 8])
            {
                set_num_threads(count);
                using var engine = new VectorEngine(folded, cut, 35, 44, bfloat16);
                expected ??= engine.Run(pixels);
                Assert.True(engine.Run(pixels).equal(expected).all().item<bool>(), $"{count} threads");
                Assert.True(engine.Run(pixels.narrow(0, 3, 5)).equal(expected.narrow(0, 3, 5)).all().item<bool>(), $"{count} threads, five images");
                Assert.True(engine.Run(pixels.narrow(0, 32, 1)).equal(expected.narrow(0, 32, 1)).all().item<bool>(), $"{count} threads, one image");
            }
        }
        finally
        {
            set_num_threads(threads);
        }
        Assert.True(pixels.equal(before).all().item<bool>());
    }

    [Theory]
    [InlineData("resnet18", "fc", false), InlineData("mobilenet_v2", "classifier", false), InlineData("efficientnet_b0", "classifier", false)]
    [InlineData("resnet18", "fc", true), InlineData("mobilenet_v2", "classifier", true), InlineData("efficientnet_b0", "classifier", true)]
    public void What_is_not_a_number_stays_so_and_in_its_image(string name, string cut, bool bfloat16)
    {
        if (bfloat16 && !BFloat16Tests.AreThere())
            return;
        using var scope = NewDisposeScope();
        using var none = no_grad();
        LabRuntime.Seed(6);
        using var model = Models.Create(name).WithHead(2);
        model.eval();
        using var folded = FrozenPrefix.Fold(model, cut);
        folded.eval();
        var pixels = randn(3, 3, 64, 64);
        using var engine = new VectorEngine(folded, cut, 64, 64, bfloat16);
        var clean = engine.Run(pixels);
        pixels[1].fill_(float.NaN);
        var features = engine.Run(pixels);
        Assert.True(features[1].isnan().all().item<bool>());
        Assert.True(features[0].equal(clean[0]).all().item<bool>() && features[2].equal(clean[2]).all().item<bool>());
    }

    [Fact]
    public void Other_layers_are_left_to_others()
    {
        (string Name, string Cut, ModelOptions Options, bool Covered)[] cases =
        [
            ("resnet18", "fc", new(), true), ("mobilenet_v2", "features.1", new(), false), ("mobilenet_v2", "features.2", new(), true), ("vgg16", "features.2", new(), false),
            ("resnext50_32x4d", "fc", new(), true), ("resnext50_32x4d", "fc", new() { ReplaceStrideWithDilation = (false, true, true) }, false), ("efficientnet_b0", "classifier", new(), true), ("efficientnet_v2_s", "classifier", new(), false), ("mobilenet_v3_small", "classifier", new(), false), ("resnet18", "stem", new(), false),
            ("resnet18", "fc", new() { NormLayer = c => nn.GroupNorm(4, c) }, false),
        ];
        foreach (var (name, cut, options, covered) in cases)
        {
            using var model = Models.Create(name, options: options);
            using var layers = options.CanFold ? FrozenPrefix.Fold(model, cut) : FrozenPrefix.Copy(model);
            Assert.True(covered == VectorEngine.Covers(layers, cut), $"{name} {cut}");
        }
    }

    /// <summary>All sizes of a block's rest, with and without a sum, against sums in double precision; nothing beside the result is written.</summary>
    [Fact]
    public unsafe void Products_of_matrices_are_right_to_the_edge()
    {
        var random = new Random(7);
        foreach (var rows in (int[])[1, 5, 11, 12, 13, 25])
            foreach (var columns in (int[])[16, 32, 48, 80])
                foreach (var depth in (int[])[1, 3, 27, 100])
                {
                    var (lda, ldc) = (depth + 3, columns + 16);
                    using var memory = new Floats(lda * (rows + MatrixKernel.Rows) + depth * columns + columns + 2 * ldc * (rows + 1));
                    var a = memory.Data;
                    var b = a + lda * (rows + MatrixKernel.Rows);
                    var bias = b + depth * columns;
                    var add = bias + columns;
                    var c = add + ldc * (rows + 1);
                    for (var i = 0; i < c - a; i++)
                        a[i] = random.NextSingle() - 0.5f;
                    new Span<float>(c, ldc * (rows + 1)).Fill(9);
                    MatrixKernel.Multiply(a, lda, rows, b, depth, columns, bias, c, ldc, add, -0.5f, 0.5f);
                    for (var i = 0; i <= rows; i++)
                        for (var j = 0; j < ldc; j++)
                        {
                            double expected = 9;
                            if (i < rows && j < columns)
                            {
                                expected = (double)bias[j] + add[i * ldc + j];
                                for (var k = 0; k < depth; k++)
                                    expected += (double)a[i * lda + k] * b[MatrixKernel.At(k, j, depth, columns)];
                                expected = Math.Clamp(expected, -0.5, 0.5);
                            }
                            Assert.True(Math.Abs(expected - c[i * ldc + j]) < 1e-5, $"{rows}x{depth}x{columns} at {i}, {j}: {c[i * ldc + j]}, not {expected}");
                        }
                }
    }
}
