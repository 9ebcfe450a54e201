using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using TorchSharp;

namespace DeepfakeLab.Tests;

public class RuntimeTests
{
    [Theory]
    [InlineData("0"), InlineData("-1"), InlineData("two"), InlineData("99999")]
    public void A_thread_count_that_is_none_is_refused_with_its_value(string value) =>
        Assert.Equal(value, Assert.Throws<RuntimeException>(() => LabRuntime.ReadThreads(value)).Subject);

    [Theory]
    [InlineData("3", 3), InlineData("1", 1)]
    public void A_thread_count_is_taken(string value, int expected) => Assert.Equal(expected, LabRuntime.ReadThreads(value));

    [Fact]
    public void The_output_folder_holds_nothing_for_systems_that_the_library_does_not_serve()
    {
        var natives = Path.Combine(AppContext.BaseDirectory, "runtimes");
        string[] served = ["unix", "win", "win-x64", "win-arm64", "linux", "linux-x64", "linux-arm64", "osx", "osx-x64", "osx-arm64"];
        string[] files = [.. Directory.GetFiles(natives, "*", SearchOption.AllDirectories).Select(f => Path.GetRelativePath(natives, f))];
        Assert.DoesNotContain(files, f => !served.Contains(f.Split(Path.DirectorySeparatorChar)[0]) || Path.GetExtension(f) is ".pdb" or ".lib");
        Assert.Contains(Path.Combine("win-x64", "native", "onnxruntime.dll"), files);
    }

    /// <summary>Directory.Build.targets says why; whether a native call meets a freed scalar otherwise is chance.</summary>
    [Fact]
    public void TorchSharps_methods_keep_their_arguments() =>
        Assert.True(typeof(torch).Assembly.GetCustomAttribute<DebuggableAttribute>()!.IsJITOptimizerDisabled);

    /// <summary>The variable is there for a process that the command line started itself as; arguments and streams are as they were.</summary>
    [Fact]
    public void The_command_line_keeps_one_memory_arena_and_its_arguments()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "the setting is the GNU C library's");
        using var folder = TestSupport.Folder();
        var notebook = Path.Combine(folder.Path, "a \"notebook\".ipynb");
        File.WriteAllText(notebook, """
            {"cells":[{"cell_type":"code","execution_count":null,"id":"a","metadata":{},"outputs":[],"source":["Environment.GetEnvironmentVariable(\"MALLOC_ARENA_MAX\")"]}],
            "metadata":{"kernelspec":{"display_name":".NET (C#)","language":"C#","name":".net-csharp"}},"nbformat":4,"nbformat_minor":5}
            """);
        foreach (var (set, expected) in ((string?, string)[])[(null, "1"), ("3", "3")])
        {
            var (code, output, error) = TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), "notebook", "run", notebook, "--out", Path.Combine(folder.Path, "out")],
                new Dictionary<string, string> { ["MALLOC_ARENA_MAX"] = set! });
            Assert.True(code == 0, output + error);
            Assert.Contains($"\"{expected}\"\n", File.ReadAllText(Path.Combine(folder.Path, "out", Path.GetFileName(notebook))));
        }
    }

    [Fact]
    public void Without_a_thread_count_all_cores_are_used() => Assert.Equal(Environment.ProcessorCount, LabRuntime.ReadThreads(null));

    [Theory]
    [InlineData("gpu"), InlineData("cuda:x"), InlineData("cuda:99"), InlineData("tpu")]
    public void A_device_that_this_system_lacks_is_refused_with_its_name(string value)
    {
        LabRuntime.Start();
        Assert.Equal(value, Assert.Throws<RuntimeException>(() => LabRuntime.ChooseDevice(value)).Subject);
    }

    [Fact]
    public void The_processor_can_be_chosen_and_torch_computes_on_it()
    {
        LabRuntime.Start();
        Assert.Equal(DeviceType.CPU, LabRuntime.ChooseDevice("CPU").type);
        using var three = torch.ones(3).sum();
        Assert.Equal(3, three.item<float>());
    }

    [Fact]
    public void One_seed_gives_the_same_numbers()
    {
        LabRuntime.Seed(5);
        using var first = torch.randn(4);
        LabRuntime.Seed(5);
        using var second = torch.randn(4);
        Assert.True(first.eq(second).all().ToBoolean());
    }

    [Fact]
    public void The_repair_changes_two_bytes_of_the_shipped_library_and_no_others()
    {
        var shipped = ShippedLibrary();
        var repaired = (byte[])shipped.Clone();
        Assert.True(NativeLibraryFix.TryWeaken(repaired, "GLIBCXX_3.4.32"));
        Assert.InRange(shipped.Zip(repaired).Count(pair => pair.First != pair.Second), 1, 2);
        Assert.False(NativeLibraryFix.TryWeaken((byte[])shipped.Clone(), "GLIBCXX_9.9.99"));
    }

    [Fact]
    public void A_truncated_or_foreign_library_is_left_alone()
    {
        var shipped = ShippedLibrary();
        foreach (var length in (int[])[0, 10, 63, 64, 200, 4096, 100_000])
            Assert.False(NativeLibraryFix.TryWeaken(shipped.AsSpan(0, length).ToArray(), "GLIBCXX_3.4.32"));
        Assert.False(NativeLibraryFix.TryWeaken(new byte[4096], "GLIBCXX_3.4.32"));
    }

    [Fact]
    public void A_half_written_earlier_copy_is_replaced_and_a_whole_one_is_kept()
    {
        using var folder = TestSupport.Folder();
        var bytes = new byte[5000];
        new Random(1).NextBytes(bytes);
        var path = NativeLibraryFix.WriteCopy(bytes, [folder.Path]);
        File.WriteAllBytes(path, bytes[..1234]);
        Assert.Equal(path, NativeLibraryFix.WriteCopy(bytes, [folder.Path]));
        Assert.Equal(bytes, File.ReadAllBytes(path));
        var written = File.GetLastWriteTimeUtc(path);
        NativeLibraryFix.WriteCopy(bytes, [folder.Path]);
        Assert.Equal(written, File.GetLastWriteTimeUtc(path));
        Assert.Single(Directory.GetFiles(Path.GetDirectoryName(path)!));
    }

    [Fact]
    public void A_folder_that_cannot_be_written_is_passed_over_and_named_if_none_can()
    {
        using var folder = TestSupport.Folder();
        var blocked = folder["file"];
        File.WriteAllText(blocked, ""); // a file where a folder is needed: it refuses root too
        Assert.StartsWith(folder["good"], NativeLibraryFix.WriteCopy([1, 2, 3], [blocked, folder["good"]]), StringComparison.Ordinal);
        var error = Assert.Throws<RuntimeException>(() => NativeLibraryFix.WriteCopy([1, 2, 3], [blocked]));
        Assert.Contains(blocked, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Writers_at_the_same_time_all_end_with_the_whole_copy()
    {
        using var folder = TestSupport.Folder();
        var bytes = new byte[300_000];
        new Random(2).NextBytes(bytes);
        var paths = new string[8];
        Parallel.For(0, paths.Length, i => paths[i] = NativeLibraryFix.WriteCopy(bytes, [folder.Path]));
        Assert.Single(paths.Distinct());
        Assert.Equal(bytes, File.ReadAllBytes(paths[0]));
    }

    [Fact]
    public void Two_processes_start_at_once_with_an_empty_cache_and_both_load_torch()
    {
        using var folder = TestSupport.Folder();
        TrainingTests.PaintImages(folder["images"], 8);
        var environment = new Dictionary<string, string> { ["DEEPFAKELAB_CACHE"] = folder["cache"] };
        var runs = new (int Code, string Output, string Error)[2];
        Parallel.For(0, 2, i => runs[i] = TestSupport.Run("dotnet",
            [typeof(Cli.Program).Assembly.Location, "train", "--data", folder["images"], "--weights", "none", "--size", "32", "--epochs", "0", "--out", folder[$"run-{i}"]],
            environment));
        Assert.All(runs, run => Assert.True(run.Code == 0, run.Error));
    }

    [Fact]
    public void A_failed_write_leaves_the_old_file_and_nothing_else()
    {
        using var folder = TestSupport.Folder();
        AtomicFile.WriteText(folder["a.txt"], "old");
        Assert.Throws<InvalidOperationException>(() => AtomicFile.Write(folder["a.txt"], stream =>
        {
            stream.WriteByte(1);
            throw new InvalidOperationException();
        }));
        Assert.Equal("old", File.ReadAllText(folder["a.txt"]));
        Assert.Single(Directory.GetFiles(folder.Path));
    }

    private static byte[] ShippedLibrary()
    {
        if (!OperatingSystem.IsLinux())
            TestSupport.Skip("the repair is for Linux");
        var platform = "linux-" + RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();
        return File.ReadAllBytes(Path.Combine(AppContext.BaseDirectory, "runtimes", platform, "native", "libLibTorchSharp.so"));
    }
}
