using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

/// <summary>The notebooks in .NET Interactive, which they were written for before it was archived: its last release still installs and runs on .NET 10.</summary>
[Collection(nameof(InteractiveTests))]
public class InteractiveTests(InstalledKernel kernel)
{
    private const string Version = "1.0.712001";

    /// <summary>Looked for where <c>.ci/run</c> puts it.</summary>
    private static string Tool => Path.Combine(TestSupport.Root, "artifacts", "dotnet-interactive", OperatingSystem.IsWindows() ? "dotnet-interactive.exe" : "dotnet-interactive");

    [Theory]
    [InlineData("tests/DeepfakeLab.Tests/Notebooks/fixtures/tiny.ipynb")]
    [InlineData("notebooks/mna-net.ipynb")]
    public void A_notebook_runs_in_dotnet_interactive(string name)
    {
        if (!File.Exists(Tool))
            TestSupport.Skip($"needs .NET Interactive (dotnet tool install Microsoft.dotnet-interactive --version {Version} --tool-path artifacts/dotnet-interactive)");
        kernel.Need(["nbconvert"], "jupyter-nbconvert");
        using var folder = TestSupport.Folder();
        var environment = new Dictionary<string, string>(kernel.Quick("interactive"))
        {
            ["JUPYTER_PATH"] = folder["jupyter"],
            ["DOTNET_ROLL_FORWARD"] = "Major", // it was made for .NET 9
            ["DOTNET_INTERACTIVE_CLI_TELEMETRY_OPTOUT"] = "1",
        };
        var (code, output, error) = TestSupport.Run(Tool, ["jupyter", "install", "--path", Directory.CreateDirectory(folder["jupyter/kernels"]).FullName], environment);
        Assert.True(code == 0, output + error);
        var spec = folder["jupyter/kernels/.net-csharp/kernel.json"]; // it says "dotnet interactive", which finds tools of the user or the manifest only
        File.WriteAllText(spec, File.ReadAllText(spec).Replace("\"dotnet\",", System.Text.Json.JsonSerializer.Serialize(Tool) + ",", StringComparison.Ordinal).Replace("\"interactive\",", "", StringComparison.Ordinal));

        var library = Path.GetRelativePath(folder.Path, kernel.Library).Replace('\\', '/');
        File.WriteAllText(folder["notebook.ipynb"], File.ReadAllText(Path.Combine(TestSupport.Root, name)).Replace("../artifacts/lib", library, StringComparison.Ordinal));
        (code, output, error) = TestSupport.Run(InstalledKernel.Interpreter,
            ["-m", "nbconvert", "--to", "notebook", "--execute", "--ExecutePreprocessor.timeout=600", folder["notebook.ipynb"], "--output", folder["out.ipynb"]], environment);
        Assert.True(code == 0, output + error);
        var cells = Notebook.Read(folder["out.ipynb"]).Cells.Where(c => c.Kind == CellKind.Code).ToList();
        Assert.All(cells.Where(c => !c.Tags.Contains("raises-exception")), c => Assert.DoesNotContain(c.Outputs, o => o is ErrorOutput));
        Assert.Contains(cells, c => c.Outputs.Any(o => o is DisplayOutput or ResultOutput));
    }
}
