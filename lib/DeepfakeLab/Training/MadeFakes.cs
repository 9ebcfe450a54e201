using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// Fakes made of real images while training goes on: a soft-edged part of the face is taken from another image, or from a copy of the same
/// one that was moved a little (Li et al., "Face X-ray", 2020; Shiohara and Yamasaki, "Self-Blended Images", 2022). The same photo then
/// occurs as real and as fake, and only the seam tells which: it cannot be learned by heart.
/// </summary>
internal static class MadeFakes
{
    /// <summary>Replaces a part of some images of a batch.</summary>
    /// <param name="batch">uint8 [N, 3, H, W].</param>
    /// <param name="made">Which images are changed.</param>
    /// <param name="donors">Images of the batch that parts may be taken from.</param>
    /// <param name="seeds">One number a changed image, from which everything is drawn.</param>
    /// <returns>uint8 [N, 3, H, W], a new tensor.</returns>
    public static Tensor Apply(Tensor batch, int[] made, int[] donors, ulong[] seeds)
    {
        using var scope = NewDisposeScope();
        var draws = seeds.Select(s => new Draw(s, donors)).ToArray();
        using var rows = tensor(made.Select(i => (long)i).ToArray(), device: batch.device);
        using var from = tensor(draws.Select((d, i) => (long)(d.Donor ?? made[i])).ToArray(), device: batch.device);
        var target = batch.index_select(0, rows).to(ScalarType.Float32);
        var donor = ImageOps.Affine(batch.index_select(0, from).to(ScalarType.Float32),
            [.. draws.Select(d => ImageOps.InverseAffine(d.Angle, d.MoveX * batch.shape[3], d.MoveY * batch.shape[2], d.Zoom, 0, 0))], GridSamplePaddingMode.Reflection);
        var mask = stack(draws.Select(d => d.Mask(batch.shape[2], batch.shape[3], batch.device)));

        // The retoucher matches colours, more or less: the part's mean is moved towards what it covers.
        var area = mask.sum([2, 3], keepdim: true);
        var difference = ((target - donor) * mask).sum([2, 3], keepdim: true) / area;
        using var match = tensor(draws.Select(d => (float)d.Match).ToArray(), [draws.Length, 1, 1, 1], device: batch.device);
        using var tint = tensor(draws.SelectMany(d => d.Tint).ToArray(), [draws.Length, 3, 1, 1], device: batch.device);
        var blended = target + (donor + difference * match + tint - target) * mask;
        return batch.clone().index_copy_(0, rows, blended.round_().clamp_(0, 255).to(ScalarType.Byte)).MoveToOuterDisposeScope();
    }

    private sealed class Draw
    {
        public readonly int? Donor;
        public readonly double Angle, MoveX, MoveY, Zoom, Match;
        public readonly float[] Tint;
        private readonly (double X, double Y, double RadiusX, double RadiusY, double Turn)[] ellipses;
        private readonly double softness, strength;

        public Draw(ulong seed, int[] donors)
        {
            var random = new SeededRandom(seed);
            Donor = donors.Length > 0 && random.NextDouble() < 0.6 ? donors[random.Next(donors.Length)] : null;
            Angle = random.Symmetric(8);
            (MoveX, MoveY) = (random.Symmetric(0.04), random.Symmetric(0.04));
            Zoom = Math.Exp(random.Symmetric(0.12));
            Match = Donor is null ? random.NextDouble() : 0.5 + 0.5 * random.NextDouble();
            Tint = [(float)random.Symmetric(12), (float)random.Symmetric(12), (float)random.Symmetric(12)];
            ellipses = new (double, double, double, double, double)[1 + random.Next(3)];
            for (var i = 0; i < ellipses.Length; i++)
                ellipses[i] = (0.5 + random.Symmetric(0.25), 0.55 + random.Symmetric(0.25), 0.09 + 0.17 * random.NextDouble(), 0.07 + 0.12 * random.NextDouble(), random.Symmetric(0.4));
            softness = 0.04 + 0.3 * random.NextDouble();
            strength = 0.75 + 0.25 * random.NextDouble();
        }

        /// <summary>float32 [1, H, W]: how much of each pixel is the donor's.</summary>
        public Tensor Mask(long height, long width, Device device)
        {
            using var scope = NewDisposeScope();
            var (y, x) = (((arange(height, device: device) + 0.5) / height).unsqueeze(1), ((arange(width, device: device) + 0.5) / width).unsqueeze(0));
            var mask = zeros([height, width], device: device);
            foreach (var e in ellipses)
            {
                var (sin, cos) = Math.SinCos(e.Turn);
                var (dx, dy) = (x - e.X, y - e.Y);
                var distance = (((dx * cos + dy * sin) / e.RadiusX).square() + ((dy * cos - dx * sin) / e.RadiusY).square()).sqrt();
                mask = maximum(mask, ((1 - distance) / softness).sigmoid());
            }
            return (mask * strength).to(ScalarType.Float32).unsqueeze(0).MoveToOuterDisposeScope();
        }
    }
}
