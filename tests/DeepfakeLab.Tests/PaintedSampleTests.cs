namespace DeepfakeLab.Tests;

/// <summary>The painted faces: the same everywhere and every time, with masks that tell where a fake was changed.</summary>
public class PaintedSampleTests
{
    [Fact]
    public async Task The_same_traits_give_the_same_picture_in_every_thread()
    {
        var alone = Enumerable.Range(0, 12).Select(i => FacePainter.Paint(FaceTraits.Random(i), 128).Pixels).ToList();
        var together = await Task.WhenAll(Enumerable.Range(0, 12).Select(i => Task.Run(() => FacePainter.Paint(FaceTraits.Random(i), 128).Pixels)));
        for (var i = 0; i < 12; i++)
            Assert.Equal(alone[i], together[i]);
        Assert.NotEqual(alone[0], alone[1]);
    }

    [Fact]
    public void Attributes_fit_their_heads_and_every_class_occurs()
    {
        var attributes = Enumerable.Range(0, 3000).Select(i => FaceTraits.RandomMarked(i).Attributes).ToList();
        for (var head = 0; head < FaceTraits.Heads.Count; head++)
            Assert.Equal(Enumerable.Range(0, FaceTraits.Heads[head].Classes), attributes.Select(a => a[head]).Distinct().Order());
    }

    [Theory]
    [InlineData(Difficulty.Easy), InlineData(Difficulty.Mid), InlineData(Difficulty.Hard)]
    public void A_fake_differs_from_its_face_inside_the_mask_and_nowhere_else(Difficulty difficulty)
    {
        var face = FaceTraits.Random(31) with { Yaw = 0.1 };
        var untouched = FacePainter.PaintScene(face, 256);
        foreach (var parts in (FaceParts[])[FaceParts.LeftEye, FaceParts.Nose | FaceParts.Mouth, (FaceParts)15])
        {
            var (scene, mask) = FaceForger.ForgeScene(face, difficulty, parts, 5, 256);
            int changed = 0, covered = 0;
            for (var i = 0; i < mask.Length; i++)
            {
                var same = scene.Pixels.AsSpan(3 * i, 3).SequenceEqual(untouched.Pixels.AsSpan(3 * i, 3));
                Assert.True(same || mask[i] != 0, $"pixel {i} changed outside the mask");
                (changed, covered) = (changed + (same ? 0 : 1), covered + (mask[i] == 0 ? 0 : 1));
            }
            Assert.InRange(changed, 0.7 * covered, covered);
            Assert.Equal((byte)parts, mask.Aggregate((byte)0, (a, b) => (byte)(a | b)));
        }
    }

    [Fact]
    public void The_sample_has_ciplabs_layout_masks_and_a_few_photos_twice()
    {
        using var folder = TestSupport.Folder();
        FaceDataset.WriteSample(folder["sample"]);
        Assert.Throws<DataException>(() => FaceDataset.WriteSample(folder["sample"]));
        Assert.Equal(["sample"], Directory.GetFileSystemEntries(folder.Path).Select(Path.GetFileName)); // nothing half-made is left
        var data = FaceDataset.Open(folder["sample"], strict: true);
        Assert.True(data.IsSample);
        Assert.Equal(["fake", "real"], data.Classes);
        Assert.Equal([(null, 320), (Difficulty.Easy, 70), (Difficulty.Mid, 140), (Difficulty.Hard, 70)],
            data.Images.GroupBy(i => i.Difficulty).Select(g => (g.Key, g.Count())).OrderBy(g => g.Key));
        foreach (var image in data.Images.Where(i => i.Label == 0))
        {
            var mask = data.Mask(image)!;
            var share = mask.Cast<bool>().Count(m => m) / (double)mask.Length;
            Assert.InRange(share, 0.004, 0.4);
            Assert.Equal((256, 256), (mask.GetLength(0), mask.GetLength(1)));
            Assert.True(data.Mask(image, FaceParts.Nose)!.Cast<bool>().Any(m => m) == image.Replaced.HasFlag(FaceParts.Nose));
        }
        Assert.Null(data.Mask(data.Images.First(i => i.Label == 1)));

        // Fakes that share a real image's photo are found, and hardly anything else is taken for one photo.
        var paired = data.Images.GroupBy(i => i.Group).Where(g => g.Count() > 1).ToList();
        var expected = PaintedSample.Twins().ToList();
        var group = data.Images.ToDictionary(i => Path.GetFileName(i.Name), i => i.Group);
        Assert.Equal(16, expected.Count);
        var found = expected.Count(e => group.First(g => g.Key.StartsWith(e.Fake, StringComparison.Ordinal)).Value == group[e.Real]);
        var others = paired.Sum(g => g.Count()) - 2 * found;
        Assert.True(found >= 15 && others <= 24, $"found {found} of {expected.Count}, joined {others} others: " + string.Join("; ", paired.Select(g => string.Join(",", g.Select(i => i.Name)))));

        // Painted again, byte for byte the same.
        var face = PaintedSample.Paint(1);
        Assert.Equal(File.ReadAllBytes(Path.Combine(data.Root, face.Name)), face.Picture);
        var fake = PaintedSample.Paint(PaintedSample.Real + 100);
        Assert.Equal(File.ReadAllBytes(Path.Combine(data.Root, fake.Name)), fake.Picture);
    }

    [Fact]
    public void Only_the_replaced_parts_tell_real_from_fake()
    {
        // The same camera, storage and wardrobe for both: means over many faces agree.
        var real = Enumerable.Range(0, PaintedSample.Real).Select(i => PaintedSample.TraitsOf(i)).ToList();
        var fake = Enumerable.Range(PaintedSample.Real, 280).Select(i => PaintedSample.TraitsOf(i)).ToList();
        foreach (var of in (Func<FaceTraits, double>[])[t => t.Camera.Quality / 100.0, t => t.Camera.Grain / 5, t => t.Skin, t => t.Glasses == Glasses.Clear ? 1 : 0, t => t.LightStrength, t => t.Camera.Exposure])
            Assert.InRange(real.Average(of) - fake.Average(of), -0.09, 0.09);
    }
}
