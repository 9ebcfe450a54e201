using System.Buffers.Binary;
using System.IO.Compression;
using System.Text.Json;

namespace DeepfakeLab.Tests;

/// <summary>Opening folders, what is left out of them, and splitting.</summary>
public class DatasetTests
{
    private static RgbImage Noise(int seed, int width = 40, int height = 30)
    {
        var image = new RgbImage(width, height);
        new Random(seed).NextBytes(image.Pixels);
        return image;
    }

    /// <summary>A small folder in CIPLAB's layout: every picture different noise.</summary>
    private static TemporaryFolder Ciplab(int reals, int fakes)
    {
        var folder = TestSupport.Folder();
        Directory.CreateDirectory(folder["training_fake"]);
        Directory.CreateDirectory(folder["training_real"]);
        for (var i = 1; i <= reals; i++)
            File.WriteAllBytes(folder[$"training_real/real_{i:00000}.jpg"], Noise(i).ToJpeg());
        for (var i = 1; i <= fakes; i++)
            File.WriteAllBytes(folder[$"training_fake/{(Difficulty)(i % 3)}_{i}_1{i % 2}01.jpg".ToLowerInvariant()], Noise(1000 + i).ToJpeg());
        return folder;
    }

    [Fact]
    public void Ciplab_names_say_difficulty_and_parts()
    {
        using var folder = Ciplab(3, 4);
        var data = FaceDataset.Open(folder.Path);
        Assert.Equal(["fake", "real"], data.Classes);
        Assert.Equal(0, data.FakeClass);
        Assert.False(data.IsSample);
        Assert.Equal(7, data.Images.Count);
        var image = Assert.Single(data.Images, i => i.Name == "training_fake/mid_1_1101.jpg");
        Assert.Equal((0, Difficulty.Mid, FaceParts.LeftEye | FaceParts.RightEye | FaceParts.Mouth), (image.Label, image.Difficulty, image.Replaced));
        Assert.All(data.Images.Where(i => i.Label == 1), i => Assert.True(i is { Difficulty: null, Replaced: FaceParts.None }));
        Assert.Equal(7, data.Images.Select(i => i.Group).Distinct().Count());
    }

    [Fact]
    public void Any_folder_with_one_sub_folder_a_class_opens_and_the_fake_class_is_found_by_its_name()
    {
        using var folder = TestSupport.Folder();
        foreach (var (name, seed) in ((string, int)[])[("authentic/a.png", 1), ("authentic/deep/er/b.png", 2), ("deepfakes/c.png", 3), (".hidden/d.png", 4)])
        {
            Directory.CreateDirectory(Path.GetDirectoryName(folder[name])!);
            File.WriteAllBytes(folder[name], Noise(seed).ToPng());
        }
        var data = FaceDataset.Open(folder.Path);
        Assert.Equal(["authentic", "deepfakes"], data.Classes);
        Assert.Equal(1, data.FakeClass);
        Assert.Equal(["authentic/a.png", "authentic/deep/er/b.png", "deepfakes/c.png"], data.Images.Select(i => i.Name));
    }

    [Fact]
    public void Bad_files_are_left_out_by_name_or_stop_a_strict_opening()
    {
        using var folder = Ciplab(2, 2);
        var good = Noise(9, 200, 200).ToJpeg();
        File.WriteAllBytes(folder["training_real/empty.jpg"], []);
        File.WriteAllBytes(folder["training_real/cut.jpg"], good[..(good.Length / 2)]);
        File.WriteAllText(folder["training_real/notes.txt"], "not an image");
        File.WriteAllBytes(folder["training_real/huge.png"], PngHeader(60000, 60000));
        File.WriteAllBytes(folder["training_real/picture.gif"], Convert.FromBase64String("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"));
        var data = FaceDataset.Open(folder.Path);
        Assert.Equal(4, data.Images.Count);
        var problems = data.Problems.ToDictionary(p => p.Name["training_real/".Length..], p => p.Problem);
        Assert.Equal(["cut.jpg", "empty.jpg", "huge.png", "notes.txt", "picture.gif"], problems.Keys.Order());
        Assert.Contains("empty", problems["empty.jpg"]);
        Assert.Contains("cut off", problems["cut.jpg"]);
        Assert.Contains("60000 x 60000", problems["huge.png"]);
        Assert.Contains("not a readable image", problems["notes.txt"]);
        Assert.Contains("Gif", problems["picture.gif"]);
        var again = FaceDataset.Open(folder.Path); // from the cache
        Assert.Equal(data.Problems, again.Problems);
        Assert.Equal(data.Fingerprint, again.Fingerprint);
        var error = Assert.Throws<ImageException>(() => FaceDataset.Open(folder.Path, strict: true));
        Assert.Contains("cut.jpg", error.Subject);
    }

    [Fact]
    public void A_file_that_changes_is_looked_at_again()
    {
        using var folder = Ciplab(2, 2);
        var before = FaceDataset.Open(folder.Path);
        File.WriteAllBytes(folder["training_real/real_00001.jpg"], Noise(77, 50, 60).ToJpeg());
        var after = FaceDataset.Open(folder.Path);
        Assert.NotEqual(before.Fingerprint, after.Fingerprint);
        Assert.Contains((50, 60, 1), DataReport.From(after).Sizes);
    }

    [Fact]
    public void The_argument_comes_first_then_the_environment_then_the_usual_folder_here_or_above_then_the_sample()
    {
        using var folder = TestSupport.Folder();
        var (given, named, deep) = (folder["given"], folder["named"], Path.Combine(folder.Path, "a", "b"));
        var usual = Path.Combine(folder.Path, "data", "real_and_fake_face");
        foreach (var path in (string[])[given, named, deep])
            Directory.CreateDirectory(path);
        Assert.Null(FaceFolder.Choose(null, null, deep));
        Directory.CreateDirectory(usual);
        Assert.Equal(usual, FaceFolder.Choose(null, "", deep)?.Root);
        Assert.Equal(usual, FaceFolder.Choose(null, null, folder.Path)?.Root);
        Assert.Equal((named, "the folder that DEEPFAKELAB_DATA names"), FaceFolder.Choose(null, named, deep));
        Assert.Equal((given, "the folder given"), FaceFolder.Choose(given, named, deep));
        Assert.Equal(folder["nowhere"], Assert.Throws<DataException>(() => FaceFolder.Choose(null, folder["nowhere"], deep)).Subject);
    }

    [Fact]
    public void A_folder_that_is_not_there_or_holds_one_class_is_refused_with_its_path()
    {
        using var folder = TestSupport.Folder();
        Assert.Equal(folder["none"], Assert.Throws<DataException>(() => FaceDataset.Open(folder["none"])).Subject);
        Directory.CreateDirectory(folder["only"]);
        File.WriteAllBytes(folder["only/a.png"], Noise(1).ToPng());
        Assert.Equal(folder.Path, Assert.Throws<DataException>(() => FaceDataset.Open(folder.Path)).Subject);
    }

    [Fact]
    public void The_same_photo_is_kept_together_and_byte_copies_are_reported()
    {
        using var folder = Ciplab(20, 20);
        File.Copy(folder["training_real/real_00003.jpg"], folder["training_real/real_00099.jpg"]);
        var data = FaceDataset.Open(folder.Path);
        var group = data.Images.Where(i => i.Name is "training_real/real_00003.jpg" or "training_real/real_00099.jpg").Select(i => i.Group).Distinct();
        Assert.Single(group);
        var json = JsonDocument.Parse(DataReport.From(data).ToJson().ToJsonString()).RootElement;
        Assert.Equal(["training_real/real_00003.jpg", "training_real/real_00099.jpg"], json.GetProperty("duplicates")[0].EnumerateArray().Select(n => n.GetString()!));
        Assert.Equal(41, json.GetProperty("images").GetInt32());
    }

    [Fact]
    public void Splits_are_stratified_disjoint_the_same_for_a_seed_and_keep_groups_together()
    {
        var images = Fabricated(1000);
        var split = DataSplit.Create(images, 0.2, 0.16, 42);
        Assert.Equal(images.OrderBy(i => i.Name, StringComparer.Ordinal), split.Train.Concat(split.Validation).Concat(split.Test).OrderBy(i => i.Name, StringComparer.Ordinal));
        foreach (var (part, share) in ((IReadOnlyList<FaceImage>, double)[])[(split.Test, 0.2), (split.Validation, 0.16), (split.Train, 0.64)])
            foreach (var stratum in images.GroupBy(i => (i.Label, i.Difficulty)))
                Assert.InRange(part.Count(i => (i.Label, i.Difficulty) == stratum.Key), stratum.Count() * share - 2, stratum.Count() * share + 2);
        var parts = new[] { split.Train, split.Validation, split.Test }.Select(p => p.Select(i => i.Group).ToHashSet()).ToList();
        Assert.Empty(parts[0].Intersect(parts[1]).Concat(parts[0].Intersect(parts[2])).Concat(parts[1].Intersect(parts[2])));
        Assert.All(parts, p => Assert.Contains(p, g => g < 70)); // groups of several images fall into every part

        // Neither the files' order nor the numbers that groups happen to have matter.
        var shuffled = images.OrderBy(i => i.Path.GetHashCode()).Select(i => i with { Group = 5000 - i.Group }).ToList();
        Assert.Equal(split.Test.Select(i => i.Name), DataSplit.Create(shuffled, 0.2, 0.16, 42).Test.Select(i => i.Name));
        Assert.NotEqual(split.Test.Select(i => i.Name), DataSplit.Create(images, 0.2, 0.16, 43).Test.Select(i => i.Name));
    }

    [Theory]
    [InlineData(0.6, 0.4), InlineData(-0.1, 0.1), InlineData(double.NaN, 0.1), InlineData(0.1, 1.0)]
    public void Shares_that_leave_nothing_to_train_on_are_refused(double test, double validation) =>
        Assert.Throws<DataException>(() => DataSplit.Create(Fabricated(50), test, validation, 1));

    /// <summary>A class and three difficulties; the first images form 70 groups of two across classes.</summary>
    private static List<FaceImage> Fabricated(int count) =>
        [.. Enumerable.Range(0, count).Select(i => new FaceImage($"c{i % 2}/{i:0000}.jpg", $"/x/{i}", i % 2, i % 2 == 0 ? (Difficulty)(i / 2 % 3) : null, FaceParts.None, i < 140 ? i / 2 : i))];

    [Fact]
    public void Same_photo_groups_of_the_real_faces_are_found_and_nearly_none_is_joined_falsely()
    {
        var groups = JsonSerializer.Deserialize<string[][]>(File.ReadAllText(TestSupport.Shared("data", "same-photo-groups.json")))!;
        var data = FaceDataset.Open(TestSupport.Shared("data", "faces-160"));
        var group = data.Images.ToDictionary(i => i.Name["training_".Length..], i => i.Group);
        var known = groups.Select(g => g.Where(group.ContainsKey).ToArray()).Where(g => g.Length > 1).ToList();
        var pairs = known.SelectMany(g => g.SelectMany((a, i) => g.Skip(i + 1).Select(b => (a, b)))).ToList();
        var found = pairs.Count(p => group[p.a] == group[p.b]);
        Assert.True(found >= 0.9 * pairs.Count, $"found {found} of {pairs.Count} pairs");

        var knownGroup = known.SelectMany((g, k) => g.Select(name => (name, k))).ToDictionary(x => x.name, x => x.k);
        var falsely = group.GroupBy(g => g.Value).Where(g => g.Count() > 1)
            .SelectMany(g => g.Select(x => x.Key).Where(a => g.Any(b => b.Key != a && !(knownGroup.TryGetValue(a, out var ka) && knownGroup.TryGetValue(b.Key, out var kb) && ka == kb)))).ToList();
        Assert.True(falsely.Count <= 0.01 * group.Count, $"{falsely.Count} of {group.Count} joined falsely: {string.Join(", ", falsely)}");
    }

    [Fact]
    public void Same_photos_are_found_among_face_crops_too()
    {
        var data = FaceDataset.Open(TestSupport.Shared("data", "faces-crop"));
        var group = data.Images.ToDictionary(i => Path.GetFileNameWithoutExtension(i.Name), i => i.Group);
        (string Fake, string Real)[] seen = // looked at by eye
        [
            ("easy_145_1000", "real_00289"), ("easy_102_0101", "real_00771"), ("easy_158_0011", "real_00065"), ("easy_150_0011", "real_00211"),
            ("easy_24_0011", "real_00524"), ("easy_216_1100", "real_00159"), ("easy_117_0101", "real_00747"), ("easy_230_1010", "real_00979"),
            ("mid_306_1111", "real_00176"), ("mid_208_1110", "real_00579"), ("mid_296_1111", "real_00291"), ("easy_96_0011", "real_00802"),
        ];
        Assert.All(seen, pair => Assert.Equal(group[pair.Fake], group[pair.Real]));
        var joined = group.Values.GroupBy(g => g).Where(g => g.Count() > 1).ToList();
        Assert.InRange(joined.Sum(g => g.Count()), 80, 140);
        Assert.True(joined.Max(g => g.Count()) <= 6, $"a chain of {joined.Max(g => g.Count())}");
    }

    /// <summary>A PNG that claims a size and holds nothing: the size must be refused before memory is taken.</summary>
    private static byte[] PngHeader(int width, int height)
    {
        using var file = new MemoryStream();
        file.Write([137, 80, 78, 71, 13, 10, 26, 10]);
        var header = new byte[13];
        BinaryPrimitives.WriteInt32BigEndian(header, width);
        BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(4), height);
        (header[8], header[9]) = (8, 2);
        Chunk("IHDR", header);
        using var packed = new MemoryStream();
        using (var zlib = new ZLibStream(packed, CompressionLevel.Fastest, leaveOpen: true))
            zlib.Write(new byte[1000]);
        Chunk("IDAT", packed.ToArray());
        Chunk("IEND", []);
        return file.ToArray();

        void Chunk(string type, byte[] data)
        {
            var body = System.Text.Encoding.ASCII.GetBytes(type).Concat(data).ToArray();
            var number = new byte[4];
            BinaryPrimitives.WriteInt32BigEndian(number, data.Length);
            file.Write(number);
            file.Write(body);
            BinaryPrimitives.WriteUInt32BigEndian(number, Crc(body));
            file.Write(number);
        }

        static uint Crc(byte[] data)
        {
            var crc = 0xFFFFFFFFu;
            foreach (var b in data)
            {
                crc ^= b;
                for (var k = 0; k < 8; k++)
                    crc = (crc & 1) != 0 ? 0xEDB88320u ^ (crc >> 1) : crc >> 1;
            }
            return ~crc;
        }
    }

    [Fact]
    public void A_picture_longer_than_any_camera_makes_is_refused_with_its_name()
    {
        Assert.Equal(ImageReader.LongestSide, ImageReader.Decode(new RgbImage(ImageReader.LongestSide, 1).ToPng(), "long.png").Width);
        var error = Assert.Throws<ImageException>(() => ImageReader.Decode(new RgbImage(1, ImageReader.LongestSide + 1).ToPng(), "longer.png"));
        Assert.Contains("longer.png", error.Message);
        Assert.Contains("1 x 65536", error.Message);
    }
}
