namespace DeepfakeLab.Tests;

/// <summary>The interrupt reaches the library through a setting of the whole process, so nothing runs beside these tests.</summary>
[CollectionDefinition(nameof(InterruptTests), DisableParallelization = true)]
[Collection(nameof(InterruptTests))]
public class InterruptTests
{
    [Theory]
    [InlineData("while (true) { }")]
    [InlineData("for (long i = 0; ; i++) ;")]
    [InlineData("do try { throw new Exception(); } catch { } while (true);")]
    [InlineData("again: goto again;")]
    [InlineData("await Task.Run(() => { while (true) { } });")]
    [InlineData("await Task.Delay(60000);")]
    [InlineData("Task.Run(() => System.Threading.Thread.Sleep(60000)).Wait();")]
    [InlineData("await Task.Delay(60000, KernelInvocationContext.Current.CancellationToken);")]
    [InlineData("System.Threading.Thread.Sleep(60000);")]
    [InlineData("Enumerable.Range(0, int.MaxValue).SelectMany(i => Enumerable.Range(0, int.MaxValue)).Sum(i => i % 2)")]
    [InlineData("int Fib(int n) => n < 2 ? n : Fib(n - 1) + Fib(n - 2); Fib(90)")]
    [InlineData("#r \"DeepfakeLab.dll\"\nwhile (!DeepfakeLab.LabProgress.Interrupt.IsCancellationRequested) System.Threading.Thread.Sleep(1);\nDeepfakeLab.LabProgress.Interrupt.ThrowIfCancellationRequested();")]
    public async Task A_running_cell_stops_and_the_state_survives(string code)
    {
        using var run = new CellRun(new Notebooks.SessionOptions { HostAssemblies = [typeof(LabProgress).Assembly] });
        await run.Eval("var kept = 5;");
        using var interrupt = new CancellationTokenSource();
        var running = run.Run(code + "\n", interrupt.Token);
        await Task.Delay(600);
        Assert.False(running.IsCompleted);
        await interrupt.CancelAsync();
        Assert.False((await running).Succeeded);
        Assert.Equal("Interrupted", run.Error.Name);
        Assert.DoesNotContain("background", run.Error.Message); // what does not stop is given up after 1.7 seconds
        Assert.Equal("5", await run.Eval("kept"));
        Assert.False(LabProgress.Interrupt.CanBeCanceled);
    }

    [Fact]
    public async Task What_cannot_be_stopped_is_given_up_and_the_session_goes_on()
    {
        using var run = new CellRun();
        await run.Eval("var kept = 5;");
        using var interrupt = new CancellationTokenSource();
        var running = run.Run("Enumerable.Range(0, int.MaxValue).Select(Convert.ToDouble).Select(Math.Sqrt).Select(Math.Sqrt).Sum()", interrupt.Token);
        await Task.Delay(300);
        await interrupt.CancelAsync();
        await running;
        Assert.Contains("goes on in the background", run.Error.Message);
        Assert.Equal("6", await run.Eval("kept + 1"));
    }
}
