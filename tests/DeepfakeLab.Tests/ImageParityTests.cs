using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

/// <summary>What a model sees must be what torchvision would show it: every pixel of every kind of file, bit for bit.</summary>
public class ImageParityTests
{
    [Fact]
    public void Every_kind_of_image_gives_torchvisions_floats_bit_for_bit()
    {
        using var folder = TestSupport.Folder();
        Compare(folder.Path, [], atLeast: 160);
    }

    [Fact]
    public void Real_faces_give_torchvisions_floats_bit_for_bit()
    {
        string[] faces = [
            .. Some(TestSupport.Shared("data", "faces-160", "training_real")), .. Some(TestSupport.Shared("data", "faces-crop", "training_fake"))];
        using var folder = TestSupport.Folder();
        Compare(folder.Path, faces, atLeast: 160 + faces.Length * 8);

        static IEnumerable<string> Some(string path) => Directory.GetFiles(path).Order(StringComparer.Ordinal).Where((_, i) => i % 97 == 0);
    }

    [Fact]
    public void Exif_orientation_is_applied_as_pil_applies_it_when_asked_for()
    {
        using var folder = TestSupport.Folder();
        TestSupport.Python(["PIL", "numpy"], "orientation.py", folder.Path);
        for (var orientation = 1; orientation <= 8; orientation++)
        {
            var (plain, turned, expected) = (ImageReader.Read(folder[$"{orientation}.jpg"]), ImageReader.Read(folder[$"{orientation}.jpg"], applyExifOrientation: true),
                ImageReader.Read(folder[$"{orientation}.png"]));
            Assert.Equal((40, 24), (plain.Width, plain.Height));
            Assert.Equal((expected.Width, expected.Height), (turned.Width, turned.Height));
            Assert.Equal(expected.Pixels, turned.Pixels);
        }
    }

    [Fact]
    public void Batches_of_bytes_are_normalised_as_one_image_is()
    {
        using var scope = NewDisposeScope();
        var (preprocessing, images) = (Preprocessing.Square(17), randint(0, 256, [5, 3, 17, 18], ScalarType.Byte));
        var arithmetic = (images.to(float32) / 255 - tensor(preprocessing.Mean.ToArray()).view(3, 1, 1)) / tensor(preprocessing.Std.ToArray()).view(3, 1, 1);
        Assert.True(preprocessing.Normalize(images).eq(arithmetic).all().item<bool>());
        Assert.True(preprocessing.Normalize(images.flip(3).transpose(2, 3)).eq(arithmetic.flip(3).transpose(2, 3)).all().item<bool>());
        Assert.ThrowsAny<Exception>(() => preprocessing.Normalize(zeros(5, 4, 17, 18, ScalarType.Byte))); // no channel of a picture has another's numbers
        Assert.True(preprocessing.Normalize(images[4]).eq(arithmetic[4]).all().item<bool>());
    }

    private static void Compare(string folder, string[] images, int atLeast)
    {
        var lines = TestSupport.Python(["torchvision"], "images.py", [folder, .. images]).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.True(lines.Length >= atLeast, $"only {lines.Length} cases");
        var wrong = new List<string>();
        foreach (var line in lines)
        {
            var (path, name, expectedFile) = (line.Split('\t')[0], line.Split('\t')[1], line.Split('\t')[2]);
            var preprocessing = Named(name);
            using var bytes = Preprocessing.ToTensor(preprocessing.Apply(ImageReader.Read(path)));
            using var normalized = preprocessing.Normalize(bytes);
            var expected = MemoryMarshal.Cast<byte, int>(File.ReadAllBytes(expectedFile)).ToArray();
            var actual = MemoryMarshal.Cast<float, int>(normalized.data<float>().ToArray()).ToArray();
            var differing = expected.Length != actual.Length ? -1 : expected.Where((e, i) => e != actual[i]).Count();
            if (differing != 0)
                wrong.Add($"{Path.GetFileName(path)} {name}: " + (differing < 0 ? $"{actual.Length} values, not {expected.Length}" : $"{differing} of {expected.Length} differ"));
        }
        Assert.True(wrong.Count == 0, $"{wrong.Count} of {lines.Length}: " + string.Join("; ", wrong));
    }

    private static Preprocessing Named(string name) => name switch
    {
        "imagenet" => Preprocessing.ImageNet,
        "square-224" => Preprocessing.Square(224),
        "square-61" => Preprocessing.Square(61),
        "bicubic-100" => Preprocessing.Square(100) with { Interpolation = Interpolation.Bicubic },
        "bicubic-400" => Preprocessing.Square(400) with { Interpolation = Interpolation.Bicubic },
        "nearest-97" => Preprocessing.Square(97) with { Interpolation = Interpolation.Nearest },
        "crop-300" => new Preprocessing(null, new Preprocessing.Size(300, 300)),
        "none" => new Preprocessing(null),
        _ => throw new ArgumentException(name),
    };
}
