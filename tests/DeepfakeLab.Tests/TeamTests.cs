namespace DeepfakeLab.Tests;

public class TeamTests
{
    /// <summary>Each piece once, whoever asks: one after the other, from within, from several threads at once, after pauses in which the threads fall asleep.</summary>
    [Fact]
    public void Each_piece_is_done_once_and_errors_arrive()
    {
        if (!TestSupport.Alone(("DEEPFAKELAB_THREADS", "3")))
            return;
        LabRuntime.Start();
        Assert.Equal(3, LabRuntime.Threads);
        Count(0);
        for (var i = 0; i < 20_000; i++)
            Count(i % 7);
        for (var i = 0; i < 50; i++)
        {
            Thread.Sleep(2);
            Count(100);
        }
        Thread[] askers = [.. Enumerable.Range(0, 4).Select(_ => new Thread(() =>
        {
            for (var i = 0; i < 2_000; i++)
                Count(5);
        }))];
        Array.ForEach(askers, t => t.Start());
        Array.ForEach(askers, t => t.Join());
        Team.ForEach(10, _ => Count(10));

        using var all = new Barrier(3);
        Team.ForEach(3, _ => Assert.True(all.SignalAndWait(TimeSpan.FromMinutes(1)), "fewer than three threads at once"));

        var done = 0;
        var error = Assert.Throws<InvalidOperationException>(() => Team.ForEach(20, i =>
        {
            Interlocked.Increment(ref done);
            if (i == 7)
                throw new InvalidOperationException("seven");
        }));
        Assert.Equal(("seven", 20), (error.Message, done));
        Count(9);

        static void Count(int pieces)
        {
            var times = new int[pieces];
            Team.ForEach(pieces, i => Interlocked.Increment(ref times[i]));
            Assert.All(times, t => Assert.Equal(1, t));
        }
    }
}
