namespace DeepfakeLab.Tests;

/// <summary>Every notebook in Debian's nbconvert, whose executor is nbclient's client: what runs here runs in both.</summary>
[Collection(nameof(NbconvertTests))]
public class NbconvertTests(InstalledKernel kernel)
{
    public static TheoryData<string> English => NotebookContentTests.English;

    [Theory]
    [MemberData(nameof(English))]
    public void It_runs_under_nbconvert(string name)
    {
        if (Environment.GetEnvironmentVariable("CI") != "true")
            Assert.Skip("run in CI");
        kernel.Need(["nbconvert"], "jupyter-nbconvert");
        using var folder = TestSupport.Folder();
        var (code, _, error) = TestSupport.Run(InstalledKernel.Interpreter, ["-m", "nbconvert", "--to", "notebook", "--execute", "--ExecutePreprocessor.timeout=600",
            kernel.Copy(Path.Combine(TestSupport.Root, "notebooks", name), "nbconvert"), "--output-dir", folder.Path], kernel.Quick("nbconvert"));
        Assert.True(code == 0, error);
    }
}
