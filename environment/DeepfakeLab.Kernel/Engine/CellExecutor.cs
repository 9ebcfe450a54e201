using System.Collections.Concurrent;

namespace DeepfakeLab.Notebooks;

/// <summary>How a cell's code ended. <paramref name="Result"/>: what its last expression shows. <paramref name="Abandoned"/>: it did not stop when it was told to.</summary>
internal sealed record CellOutcome(MimeBundle? Result, Exception? Error, bool Abandoned);

/// <summary>The thread that cells run on: one for all, because torch keeps settings and worker threads for each calling thread.</summary>
/// <remarks>
/// An interrupt goes in steps. At once: the cell's cancellation token, which library loops and the checks in cell code see. Then
/// <see cref="Thread.Interrupt"/>, which wakes a sleep or a wait. At last the cell is given up, which is all that can be done about
/// native code. (.NET's own ControlledExecution was tried: it kills the process when it meets some compiled code, on .NET 10 for Linux.)
/// </remarks>
internal sealed class CellExecutor : IDisposable
{
    private static readonly TimeSpan wakeAfter = TimeSpan.FromSeconds(0.7), giveUpAfter = TimeSpan.FromSeconds(1.7);
    private const int StackSize = 16 << 20; // recursive code in notebooks is common, and overflowing kills the process

    private readonly BlockingCollection<Action> work = [];
    private readonly Thread thread;

    public CellExecutor()
    {
        thread = new Thread(Loop, StackSize) { IsBackground = true, Name = "notebook cells" };
        thread.Start();
    }

    public async Task<CellOutcome> RunAsync(Func<Task<MimeBundle?>> cell, CellContext context)
    {
        var finished = new TaskCompletionSource<CellOutcome>(TaskCreationOptions.RunContinuationsAsynchronously);
        var waking = 0; // 1 while the thread may be interrupted
        var flow = ExecutionContext.Capture()!;
        work.Add(() =>
        {
            Volatile.Write(ref waking, 1);
            try
            {
                ExecutionContext.Run(flow, _ => Execute(cell, finished), null);
            }
            finally
            {
                Volatile.Write(ref waking, 0);
            }
        });

        using var watch = new CancellationTokenSource();
        var givenUp = context.Cancellation.CanBeCanceled ? Escalate() : Task.Delay(Timeout.Infinite, watch.Token);
        var previous = AppContext.GetData(CancellationKey);
        AppContext.SetData(CancellationKey, context.Cancellation);
        try
        {
            if (await Task.WhenAny(finished.Task, givenUp) == finished.Task)
                return await finished.Task;
            work.CompleteAdding(); // this thread ends when the cell does
            return new CellOutcome(null, null, Abandoned: true);
        }
        finally
        {
            AppContext.SetData(CancellationKey, previous);
            await watch.CancelAsync();
        }

        async Task Escalate()
        {
            var interrupted = new TaskCompletionSource();
            await using var registration = context.Cancellation.Register(interrupted.SetResult);
            await Task.WhenAny(interrupted.Task, finished.Task);
            if (finished.Task.IsCompleted)
            {
                await Task.Delay(Timeout.Infinite, watch.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                return;
            }
            CellInterrupt.Begin();
            try
            {
                await Task.Delay(wakeAfter, watch.Token);
                if (Volatile.Read(ref waking) == 1)
                    thread.Interrupt();
                await Task.Delay(giveUpAfter - wakeAfter, watch.Token);
            }
            catch (OperationCanceledException)
            {
                CellInterrupt.End(); // the cell has ended; one that is given up finds its checks on when it comes back to them
            }
        }
    }

    /// <summary>The library's <c>LabProgress.CancellationKey</c>; the two meet by this name only.</summary>
    private const string CancellationKey = "DeepfakeLab.Cancellation";

    private static void Execute(Func<Task<MimeBundle?>> cell, TaskCompletionSource<CellOutcome> finished)
    {
        Task<MimeBundle?>? running = null;
        Exception? failure = null;
        try
        {
            running = cell();
        }
        catch (Exception e)
        {
            failure = e;
        }
        try
        {
            Thread.Sleep(0); // takes up an interrupt that arrived too late to wake anything
        }
        catch (ThreadInterruptedException)
        {
        }
        if (failure is not null || running is null)
        {
            finished.TrySetResult(new CellOutcome(null, failure ?? new OperationCanceledException(), Abandoned: false));
            return;
        }
        running.ContinueWith(done => finished.TrySetResult(done.IsCompletedSuccessfully
            ? new CellOutcome(done.Result, null, Abandoned: false)
            : new CellOutcome(null, done.Exception?.InnerException ?? new OperationCanceledException(), Abandoned: false)), TaskScheduler.Default);
    }

    private void Loop()
    {
        while (!work.IsCompleted)
        {
            try
            {
                if (work.TryTake(out var action, Timeout.Infinite))
                    action();
            }
            catch (ThreadInterruptedException)
            {
                // meant for a cell that had just ended
            }
        }
    }

    public void Dispose()
    {
        if (!work.IsAddingCompleted)
            work.CompleteAdding();
    }
}
