using System.Text.Json.Nodes;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

public class NotebookTests
{
    private static string Fixture => Path.Combine(TestSupport.Root, "tests", "DeepfakeLab.Tests", "Notebooks", "fixtures", "tiny.ipynb");

    private static SessionOptions Options => new() { HostAssemblies = [typeof(LabException).Assembly] };

    [Fact]
    public async Task A_notebook_runs_cell_by_cell_and_keeps_its_outputs()
    {
        var notebook = Notebook.Read(Fixture);
        var events = new List<NotebookEvent>();
        Assert.Null(await NotebookRunner.RunAsync(notebook, Options, events.Add));
        var code = notebook.Cells.Where(c => c.Kind == CellKind.Code).ToList();
        Assert.Equal([1, 2, 3, 4, 5], code.Select(c => c.ExecutionCount));
        Assert.Equal(new StreamOutput("stdout", "step 0\nstep 1\nstep 2\n"), code[1].Outputs[0]);
        Assert.Equal("<b>done</b>", Assert.IsType<DisplayOutput>(Assert.Single(code[2].Outputs)).Data[MimeBundle.Html]);
        Assert.Equal("on purpose", Assert.IsType<ErrorOutput>(Assert.Single(code[3].Outputs)).Message);
        Assert.Equal(5, events.OfType<NotebookEvent.Finished>().Count());
        Assert.All(events.OfType<NotebookEvent.Started>(), e => Assert.Equal(5, e.Count));
    }

    [Theory]
    [InlineData("throw new Exception(\"x\");", "", 2)]
    [InlineData("1 == 2", "assert", 2)]
    [InlineData("1", "raises-exception", 2)]
    public async Task A_run_stops_at_the_cell_that_fails(string code, string tag, int failing)
    {
        var notebook = new Notebook
        {
            Cells = [Code("var ok = 1;"), Code(code, tag), Code("Console.Write(\"not run\");")],
        };
        var failure = await NotebookRunner.RunAsync(notebook, Options);
        Assert.Equal(failing, failure?.CellNumber);
        Assert.Empty(notebook.Cells[2].Outputs);
    }

    [Fact]
    public async Task A_notebook_is_written_as_Jupyter_writes_it_and_read_back()
    {
        using var folder = TestSupport.Folder();
        var notebook = Notebook.Read(Fixture);
        notebook.Write(folder["same.ipynb"]);
        Assert.Equal(File.ReadAllText(Fixture), File.ReadAllText(folder["same.ipynb"]));

        await NotebookRunner.RunAsync(notebook, Options);
        notebook.Write(folder["run.ipynb"]);
        var read = Notebook.Read(folder["run.ipynb"]);
        Assert.Equal(notebook.Cells.Select(c => c.Outputs.Count), read.Cells.Select(c => c.Outputs.Count));
        Assert.Single(Directory.GetFiles(folder.Path), f => f.EndsWith("run.ipynb", StringComparison.Ordinal));
        read.Clean();
        read.Write(folder["run.ipynb"]);
        Assert.Equal(File.ReadAllText(Fixture), File.ReadAllText(folder["run.ipynb"]));
    }

    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("[]")]
    [InlineData("{\"nbformat\":3,\"cells\":[]}")]
    [InlineData("{\"nbformat\":4}")]
    [InlineData("{\"nbformat\":4,\"cells\":[7]}")]
    [InlineData("{\"nbformat\":4,\"cells\":[{\"cell_type\":\"odd\"}]}")]
    [InlineData("{\"nbformat\":4,\"cells\":[{\"cell_type\":\"code\",\"source\":{}}]}")]
    [InlineData("{\"nbformat\":4,\"cells\":[{\"cell_type\":\"code\",\"source\":\"\",\"outputs\":[{\"output_type\":\"x\"}]}]}")]
    public void A_file_that_is_no_notebook_is_refused_by_name(string text)
    {
        using var folder = TestSupport.Folder();
        File.WriteAllText(folder["bad.ipynb"], text);
        Assert.Contains("bad.ipynb", Assert.Throws<NotebookException>(() => Notebook.Read(folder["bad.ipynb"])).Subject);
        File.WriteAllText(folder["deep.ipynb"], new string('[', 100_000));
        Assert.Throws<NotebookException>(() => Notebook.Read(folder["deep.ipynb"]));
    }

    [Fact]
    public async Task The_page_needs_nothing_from_elsewhere()
    {
        using var folder = TestSupport.Folder();
        File.WriteAllBytes(folder["dot.png"], [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]);
        var notebook = Notebook.Read(Fixture);
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, "![a dot](dot.png)"));
        await NotebookRunner.RunAsync(notebook, Options);
        notebook.WritePage(folder["page.html"], folder.Path);
        var html = File.ReadAllText(folder["page.html"]);
        Assert.Contains("<title>A tiny notebook</title>", html);
        Assert.Contains("<math display=\"block\">", html);
        Assert.Contains("<td style=\"text-align: right;\">1</td>", html);
        Assert.Contains("<span class=\"keyword\">var</span>", html);
        Assert.Contains("src=\"data:image/png;base64,iVBORw0KGgo=\"", html);
        Assert.Contains("<b>done</b>", html);
        Assert.DoesNotContain("http", html);
        Assert.DoesNotContain("<script", html);
        Assert.DoesNotContain(folder.Path, html);
    }

    [Fact]
    public void The_command_runs_a_notebook_and_names_what_it_wrote()
    {
        using var folder = TestSupport.Folder();
        var cli = Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll");
        var (code, output, error) = TestSupport.Run("dotnet", [cli, "notebook", "run", Fixture, "--out", folder["out"]]);
        Assert.True(code == 0, error);
        Assert.Equal([folder["out/tiny.ipynb"], folder["out/tiny.html"]], output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.DoesNotContain('\u001b', error);
        Assert.Contains("ok     cell  1", error);
        Assert.Equal(0, TestSupport.Run("dotnet", [cli, "notebook", "html", folder["out/tiny.ipynb"], "--out", folder["pages"]]).Code);
        Assert.Contains("<b>done</b>", File.ReadAllText(folder["pages/tiny.html"]));
        Assert.Equal(0, TestSupport.Run("dotnet", [cli, "notebook", "clean", folder["out"]]).Code);
        Assert.Equal(File.ReadAllText(Fixture), File.ReadAllText(folder["out/tiny.ipynb"]));

        var failing = new Notebook { Cells = [Code("int.Parse(\"no\")")] };
        failing.Write(folder["failing.ipynb"]);
        (code, output, error) = TestSupport.Run("dotnet", [cli, "notebook", "check", folder["failing.ipynb"]]);
        Assert.Equal((1, true), (code, output.StartsWith("FAILED", StringComparison.Ordinal)));
        Assert.Contains("cell 1 failed", error);
        Assert.Contains("FormatException", error);
        Assert.Equal(2, TestSupport.Run("dotnet", [cli, "notebook", "run"]).Code);
        Assert.Equal(1, TestSupport.Run("dotnet", [cli, "notebook", "run", "absent.ipynb"]).Code);
    }

    /// <summary>The second notebook's progress went into its cells' outputs: the first one's session still stood before the terminal.</summary>
    [Fact]
    public void Progress_of_a_second_notebook_goes_to_the_terminal()
    {
        using var folder = TestSupport.Folder();
        var library = Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.dll");
        foreach (var name in (string[])["first", "second"])
            new Notebook { Cells = [Code($"#r \"{library}\"\nusing DeepfakeLab;\nLabProgress.Begin(\"counting\", 2, \"images\").Advance(1);\n1 + 1")] }.Write(folder[$"{name}.ipynb"]);
        var (code, _, error) = TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"),
            "--progress", "json", "notebook", "run", folder["first.ipynb"], folder["second.ipynb"], "--out", folder["out"]]);
        Assert.True(code == 0, error);
        Assert.Equal(2, error.Split('\n').Count(line => line.Contains("\"task\":\"counting\"", StringComparison.Ordinal)));
        foreach (var name in (string[])["first", "second"])
            Assert.DoesNotContain("stream", File.ReadAllText(folder[$"out/{name}.ipynb"]));
    }

    private static NotebookCell Code(string source, string tag = "") =>
        new(CellKind.Code, source, metadata: tag.Length == 0 ? null : new JsonObject { ["tags"] = new JsonArray(tag) });
}
