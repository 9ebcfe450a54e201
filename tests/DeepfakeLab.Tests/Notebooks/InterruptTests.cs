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
    [InlineData("IEnumerable<int> Slow() { while (true) { System.Threading.Thread.Sleep(300); yield return 1; } }\nSlow()")]
    [InlineData("class Slow { public int Number { get { System.Threading.Thread.Sleep(60000); return 1; } } }\nnew[] { new Slow() }")]
    [InlineData("class Endless { public override string ToString() { while (true) { } } }\nnew Endless()")]
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

    /// <summary>The library's long loops, in the middle of their work: each would go on for far longer than the test.</summary>
    [Theory]
    [InlineData("Trainer.Fit(model, split, Recipe.Full() with { HeadEpochs = 0, Epochs = 10_000, BatchSize = 8, Patience = 0 }, small);", 2500)]
    [InlineData("Trainer.Fit(model, split, Recipe.FineTune(model.Stages[^2]) with { FeatureCopies = 100 }, new FitOptions { Seed = Environment.TickCount64, Preprocessing = Preprocessing.Square(160) });", 2500)]
    [InlineData("Predictor.Probabilities(model, Enumerable.Repeat(split.Train, 100).SelectMany(i => i).ToList(), Preprocessing.Square(64), true);", 2500)]
    [InlineData("FaceDataset.WriteSample(folder + \"/painted\");", 1000)]
    public async Task The_librarys_loops_stop_and_the_state_survives(string code, int after)
    {
        using var folder = TestSupport.Folder();
        TrainingTests.PaintImages(folder.Path, 24);
        using var run = new CellRun(new Notebooks.SessionOptions { HostAssemblies = [typeof(LabProgress).Assembly, typeof(TorchSharp.torch).Assembly] });
        await run.Eval($$"""
            #r "DeepfakeLab.dll"
            #r "TorchSharp.dll"
            using DeepfakeLab;
            var folder = @"{{folder.Path}}";
            LabRuntime.Start(); // before the clock: libtorch takes a second to load
            var model = Models.Create("mobilenet_v2");
            model.WithHead(2);
            var small = new FitOptions { Preprocessing = Preprocessing.Square(32) };
            var split = FaceDataset.Open(folder).Split(seed: 1);
            """);
        using var interrupt = new CancellationTokenSource();
        var running = run.Run(code, interrupt.Token);
        await Task.Delay(after);
        Assert.False(running.IsCompleted, run.Outputs.LastOrDefault()?.ToString());
        var clock = System.Diagnostics.Stopwatch.StartNew();
        await interrupt.CancelAsync();
        Assert.False((await running).Succeeded);
        Assert.Equal("Interrupted", run.Error.Name);
        Assert.DoesNotContain("background", run.Error.Message); // it stopped by itself and was not given up
        Assert.InRange(clock.Elapsed.TotalSeconds, 0, 2);
        Assert.Equal("48", await run.Eval("split.Train.Count + split.Validation.Count + split.Test.Count"));
        Assert.Equal("2", await run.Eval("Predictor.Probabilities(model, split.Test, Preprocessing.Square(32), false)[0].Length")); // the model can still be used
        Assert.Empty(Directory.GetDirectories(folder.Path, "*.tmp"));
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
