using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>How images are varied: values as torchvision's, draws that repeat.</summary>
public sealed class AugmentationTests
{
    private static readonly Augmentation everything = Augmentation.Faces with
    {
        Crop = 0.6,
        Shear = 10,
        Hue = 0.1,
        AutoContrast = 0.5,
        Equalize = 0.5,
        Blur = 0.5,
        Jpeg = 0.5,
        Cutout = 0.3,
    };

    public AugmentationTests() => LabRuntime.Start();

    [Fact]
    public void Each_change_of_images_gives_the_values_of_torchvision()
    {
        using var folder = TestSupport.Folder();
        TestSupport.Python(["torchvision", "numpy"], "augmentation.py", folder.Path);
        using var scope = NewDisposeScope();
        var images = Read("images");
        var bytes = images.to(ScalarType.Byte);
        Near("affine", 0.02, ImageOps.Affine(images,
        [
            ImageOps.InverseAffine(0, 0, 0, 1, 0, 0), ImageOps.InverseAffine(20, 0, 0, 1, 0, 0), ImageOps.InverseAffine(-8, 3, -2, 1.2, 10, 0),
            ImageOps.InverseAffine(30, -4, 5, 0.8, -15, 7),
        ]));
        Near("crop", 1e-3, ImageOps.ResizedCrop(images, [(0, 0, 40, 48), (3, 7, 30, 28), (10, 0, 20, 48), (39, 47, 1, 1)]));
        Near("hue", 0.01, ImageOps.Hue(images, [0, 0.1, -0.3, 0.5]));
        Near("autocontrast", 1e-3, ImageOps.AutoContrast(images));
        Near("equalize", 0, ImageOps.Equalize(bytes));
        Near("blur", 1e-3, ImageOps.Blur(images, 9, [0.1, 0.7, 1.5, 3]));
        // two builds of libjpeg-turbo round the cosine transform differently here and there
        Near("jpeg", 1.5, ImageOps.Jpeg(bytes, [95, 75, 50, 10]), mean: true);

        Tensor Read(string name) => tensor(MemoryMarshal.Cast<byte, float>(File.ReadAllBytes(folder[name])).ToArray(), [4, 3, 40, 48]);

        void Near(string name, double tolerance, Tensor actual, bool mean = false)
        {
            var difference = (actual.to(ScalarType.Float32) - Read(name)).abs();
            var worst = (mean ? difference.mean() : difference.max()).item<float>();
            Assert.True(worst <= tolerance, $"{name}: off by {worst}");
        }
    }

    [Fact]
    public void An_image_is_varied_the_same_whatever_batch_it_is_in_and_differently_for_another_seed()
    {
        using var scope = NewDisposeScope();
        LabRuntime.Seed(1);
        var batch = randint(0, 256, [6, 3, 32, 40], ScalarType.Byte);
        var together = everything.Apply(batch, [1, 2, 3, 4, 5, 6]);
        for (var i = 0; i < 6; i++)
            Assert.True((everything.Apply(batch.narrow(0, i, 1), [(ulong)i + 1]) - together.narrow(0, i, 1)).abs().max().item<float>() < 1e-3, $"image {i}");
        Assert.True((everything.Apply(batch, [1, 2, 3, 4, 5, 7]) - together)[5].abs().mean().item<float>() > 1);
        Assert.Equal((0, 255), (Math.Max(0, (int)together.min().item<float>()), Math.Min(255, (int)Math.Ceiling(together.max().item<float>()))));
    }

    [Theory]
    [InlineData(nameof(Augmentation.Crop)), InlineData(nameof(Augmentation.Hue)), InlineData(nameof(Augmentation.AutoContrast)), InlineData(nameof(Augmentation.Equalize))]
    [InlineData(nameof(Augmentation.Blur)), InlineData(nameof(Augmentation.Jpeg)), InlineData(nameof(Augmentation.Cutout)), InlineData(nameof(Augmentation.Shear))]
    public void Each_setting_alone_changes_images_and_leaves_them_alone_at_zero(string name)
    {
        var alone = name switch
        {
            nameof(Augmentation.Crop) => Augmentation.None with { Crop = 0.5 },
            nameof(Augmentation.Hue) => Augmentation.None with { Hue = 0.3 },
            nameof(Augmentation.AutoContrast) => Augmentation.None with { AutoContrast = 1 },
            nameof(Augmentation.Equalize) => Augmentation.None with { Equalize = 1 },
            nameof(Augmentation.Blur) => Augmentation.None with { Blur = 1 },
            nameof(Augmentation.Jpeg) => Augmentation.None with { Jpeg = 1 },
            nameof(Augmentation.Cutout) => Augmentation.None with { Cutout = 0.5 },
            _ => Augmentation.None with { Resample = 1, Rotation = 0, Zoom = 0, Shear = 20 },
        };
        using var scope = NewDisposeScope();
        LabRuntime.Seed(1);
        var batch = randint(60, 180, [3, 3, 32, 32], ScalarType.Byte);
        ulong[] seeds = [11, 12, 13];
        Assert.True((alone.Apply(batch, seeds) - batch).abs().mean().item<float>() > 0.5);
        Assert.True((Augmentation.None.Apply(batch, seeds) - batch).abs().max().item<float>() == 0);
    }

    [Fact]
    public void A_setting_that_makes_no_sense_is_named()
    {
        var error = Assert.Throws<TrainingException>(() => (Recipe.Full() with { Augmentation = Augmentation.Faces with { Hue = 0.7 } }).Check());
        Assert.Contains(nameof(Augmentation.Hue), error.Message, StringComparison.Ordinal);
    }
}
