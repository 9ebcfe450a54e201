namespace DeepfakeLab.Tests;

/// <summary>The committed notebooks run. A collection of its own: the cells are run in another process, so nothing here draws or counts tensors.</summary>
[Collection(nameof(NotebookRunTests))]
public class NotebookRunTests(InstalledKernel kernel)
{
    /// <summary>Those that are run: the Spanish ones have the same code, which another test sees to, so one of them stands for all.</summary>
    public static TheoryData<string> Run => [.. NotebookContentTests.Names(SearchOption.TopDirectoryOnly), "es/mobilenet.ipynb"];

    /// <summary>All of them in CI, one elsewhere.</summary>
    [Theory]
    [MemberData(nameof(Run))]
    public void It_runs_in_the_quick_check(string name)
    {
        if (Environment.GetEnvironmentVariable("CI") != "true" && name != "mobilenet.ipynb")
            Assert.Skip("run in CI; here notebook check does it with DEEPFAKELAB_QUICK=1");
        var (code, output, error) = TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), "notebook", "check", kernel.Copy(Path.Combine(NotebookContentTests.Folder, name), "check")], kernel.Quick("check"));
        Assert.True(code == 0, output + error);
    }
}
