using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab.Tests;

public sealed class LargeBlocksTests
{
    /// <summary>A new libtorch whose allocator is laid out otherwise would be left alone, and this would tell.</summary>
    [Fact]
    public unsafe void Large_tensors_lie_in_memory_of_their_own_and_small_ones_do_not()
    {
        TestSupport.SkipUnlessGnuLinuxX64();
        if (!TestSupport.Alone())
            return;
        LabRuntime.Start();
        Assert.True(LargeBlocks.AreHere);
        var before = LargeBlocks.State.Used;
        using (var small = zeros(LargeBlocks.Least / 4 - 1))
            Assert.Equal(before, LargeBlocks.State.Used);
        const long bytes = LargeBlocks.Least + 1024;
        Tensor row;
        using (var large = ones(bytes / 1024, 256))
        {
            Assert.Equal(before + bytes, LargeBlocks.State.Used);
            Assert.Equal(0, (nint)TensorLayout.Pointer(large) % 64);
            row = large[3];
        }
        Assert.Equal(before + bytes, LargeBlocks.State.Used); // which the row holds
        Assert.Equal(256, row.sum().item<float>());
        row.Dispose();
        using (new Floats(bytes / sizeof(float)))
            Assert.Equal(before + bytes, LargeBlocks.State.Used);
        Assert.Equal(before, LargeBlocks.State.Used);
        Assert.Contains("memory", Assert.ThrowsAny<ExternalException>(() => empty(1L << 55)).Message, StringComparison.Ordinal); // libtorch's own error comes through
        Assert.Equal(before, LargeBlocks.State.Used);
    }

    /// <summary>Maps of a step, among small tensors that stay: what glibc makes holes of.</summary>
    [Fact]
    public void What_is_freed_makes_room_for_as_much()
    {
        TestSupport.SkipUnlessGnuLinuxX64();
        if (!TestSupport.Alone(("DEEPFAKELAB_THREADS", "2")))
            return;
        LabRuntime.Start();
        var kept = new List<Tensor>();
        for (var step = 0; step < 10; step++)
        {
            var maps = Enumerable.Range(0, 40).Select(i => { kept.Add(zeros(8 + i)); return zeros(1 << (18 + i % 3)); }).ToList();
            foreach (var map in step % 2 == 0 ? maps : Enumerable.Reverse(maps))
                map.Dispose();
        }
        Assert.Equal(92L << 20, LargeBlocks.State.Extent);
        Assert.Equal(0, LargeBlocks.State.Used);
        Parallel.For(0, 8, new ParallelOptions { MaxDegreeOfParallelism = 8 }, worker =>
        {
            for (var i = 1; i < 50; i++)
            {
                using var scope = NewDisposeScope();
                using var x = full((i + 1) << 15, worker); // on other threads than it was made on, too, as finalizers are
                Assert.Equal(worker * (double)x.numel(), x.sum(ScalarType.Float64).item<double>());
            }
        });
        Assert.Equal(0, LargeBlocks.State.Used);
    }

    [Fact]
    public void A_users_own_setting_stands()
    {
        TestSupport.SkipUnlessGnuLinuxX64();
        if (!TestSupport.Alone(("MALLOC_TRIM_THRESHOLD_", "131072")))
            return;
        LabRuntime.Start();
        Assert.False(LargeBlocks.AreHere);
        using var x = ones(1 << 20);
        using var floats = new Floats(1 << 20);
        Assert.Equal(1 << 20, x.sum().item<float>());
    }

    [Fact]
    public void Gaps_hold_what_fits_never_twice_and_become_one_again()
    {
        const long size = 10_000;
        var random = new Random(1);
        for (var round = 0; round < 20; round++)
        {
            var gaps = new Gaps(size);
            var held = new List<(long At, long Size)>();
            for (var i = 0; i < 300; i++)
                if (held.Count > 0 && random.Next(2) == 0)
                {
                    var at = random.Next(held.Count);
                    gaps.Return(held[at].At);
                    held.RemoveAt(at);
                }
                else
                {
                    var wanted = random.Next(1, 1500);
                    var places = held.Order().ToList();
                    var free = places.Select(h => h.At).Append(size / 64 * 64).Zip(places.Select(h => h.At + h.Size).Prepend(0), (next, end) => next - end).ToList();
                    var rounded = (wanted + 63L) / 64 * 64;
                    if (gaps.Take(wanted) is { } place)
                    {
                        Assert.Equal(0, place % 64);
                        Assert.True(place >= 0 && place + rounded <= size);
                        Assert.DoesNotContain(held, h => h.At < place + rounded && place < h.At + h.Size);
                        held.Add((place, rounded));
                    }
                    else
                        Assert.True(free.Max() < rounded);
                    Assert.Equal(held.Sum(h => h.Size), gaps.Used);
                }
            Assert.True(gaps.Extent <= size);
            held.ForEach(h => gaps.Return(h.At));
            Assert.Equal(0, gaps.Used);
            Assert.Equal(0, gaps.Take(size / 64 * 64));
            Assert.Null(gaps.Take(1));
            Assert.Throws<InvalidOperationException>(() => gaps.Return(64));
        }
        var best = new Gaps(640);
        long?[] blocks = [best.Take(128), best.Take(64), best.Take(64), best.Take(64)];
        best.Return(blocks[0]!.Value);
        best.Return(blocks[2]!.Value);
        Assert.Equal(blocks[2], best.Take(1)); // the smallest that holds it
        Assert.Equal(blocks[0], best.Take(1));
    }
}
