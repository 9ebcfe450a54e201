using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

public sealed class HiddenCachesTests
{
    /// <summary>A new libtorch that keeps it elsewhere would be left alone, and this would tell.</summary>
    [Fact]
    public void OneDNN_knows_caches_of_a_sensible_size_or_none()
    {
        TestSupport.SkipUnlessGnuLinuxX64();
        LabRuntime.Start();
        var known = HiddenCaches.Known;
        Assert.NotNull(known);
        Assert.InRange(known.Value.Levels, 0u, 10u);
        Assert.True(known.Value.Levels == 0 || known.Value.Bytes is >= 8 << 10 and <= 1 << 20, $"{known}");
    }

    /// <summary>ResNeXt-50's, and others that oneDNN divides by zero for where it knows caches of one byte: that would end this process.</summary>
    [Theory]
    [InlineData(512, 1024, 2)]
    [InlineData(1024, 2048, 2)]
    [InlineData(1024, 512, 1)]
    public void A_1x1_convolution_of_many_channels_last_is_a_matrix_product(long inputs, long outputs, long stride)
    {
        LabRuntime.Start();
        using var scope = NewDisposeScope();
        Tensor images = rand(2, 14, 14, inputs), weights = rand(outputs, inputs) / inputs;
        Tensor Every(Tensor x, long dimension) => x.index_select(dimension, arange(0, 14, stride));
        var expected = Every(Every(images, 1), 2).matmul(weights.t());
        foreach (var (type, error) in new[] { (ScalarType.Float32, 1e-5), (ScalarType.BFloat16, 1e-2) })
        {
            var maps = nn.functional.conv2d(images.permute(0, 3, 1, 2).to(type), weights.view(outputs, 1, 1, inputs).permute(0, 3, 1, 2).to(type), strides: [stride, stride]);
            Assert.True((maps.to(ScalarType.Float32).permute(0, 2, 3, 1) - expected).abs().max().item<float>() < error);
        }
    }

    [Fact]
    public void What_is_no_library_has_no_symbols()
    {
        using var folder = new TemporaryFolder();
        var file = Path.Combine(folder.Path, "x.so");
        byte[] header = [.. "\u007fELF\u0002\u0001"u8, .. new byte[58]];
        foreach (var content in new byte[][] { [1, 2, 3], header, [.. header[..40], .. Enumerable.Repeat((byte)0xff, 24)] })
        {
            File.WriteAllBytes(file, content);
            Assert.Null(HiddenCaches.Address(file, HiddenCaches.Processor));
        }
    }
}
