using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>As many threads as torch computes with, on each of which torch computes alone: whole pieces of work side by side, where else threads would share and wait for each other in every layer.</summary>
internal static class TorchWorkers
{
    private static readonly Lazy<BlockingCollection<Task>> queue = new(Start);

    /// <summary>Runs <paramref name="work"/> for 0 to <paramref name="count"/> - 1, without gradients and in a dispose scope of its own; the first error is thrown when all have ended.</summary>
    public static void ForEach(int count, Action<int> work)
    {
        Task[] tasks = [.. Enumerable.Range(0, count).Select(i => new Task(() =>
        {
            using var scope = NewDisposeScope();
            using var none = inference_mode();
            work(i);
        }))];
        Array.ForEach(tasks, queue.Value.Add);
        try
        {
            Task.WaitAll(tasks);
        }
        catch (AggregateException e)
        {
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }
    }

    private static BlockingCollection<Task> Start()
    {
        var (tasks, count) = (new BlockingCollection<Task>(), LabRuntime.Threads);
        using var set = new CountdownEvent(count);
        for (var i = 0; i < count; i++)
            new Thread(() =>
            {
                _ = get_num_threads(); // else torch would set it once more when this thread first computes
                set_num_threads(1); // of this thread, but also of all that begin to compute later
                LargeBlocks.LeaveThread();
                set.Signal();
                foreach (var task in tasks.GetConsumingEnumerable())
                    task.RunSynchronously();
            })
            { IsBackground = true, Name = "torch worker" }.Start();
        set.Wait();
        set_num_threads(count); // so that is taken back
        return tasks;
    }
}
