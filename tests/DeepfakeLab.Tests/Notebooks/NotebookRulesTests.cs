using System.Runtime.Loader;
using System.Text.Json.Nodes;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

/// <summary>The notebooks run in other kernels too; each rule of theirs that was met is checked.</summary>
public class NotebookRulesTests
{
    [Fact]
    public void Every_notebook_holds_to_all_rules()
    {
        var folder = Path.Combine(TestSupport.Root, "notebooks");
        var files = Directory.Exists(folder) ? Directory.GetFiles(folder, "*.ipynb").Order(StringComparer.Ordinal) : Enumerable.Empty<string>();
        Assert.Empty(files.SelectMany(f => NotebookRules.Violations(Notebook.Read(f)).Select(v => $"{Path.GetFileName(f)}: {v}")));
    }

    [Theory]
    [InlineData("#r \"../artifacts/lib/DeepfakeLab.dll\"\nusing DeepfakeLab;", "")]
    [InlineData("#r \"nuget: Some.Package, 1.2.3\"", "")]
    [InlineData("KernelInvocationContext.Current.Display(1);", "names KernelInvocationContext")]
    [InlineData("#!import helper.cs", "")]
    [InlineData("var url = \"https://example.org/home/x\";", "")]
    [InlineData("#r \"..\\lab\\DeepfakeLab.dll\"", "neither relative")]
    [InlineData("#r \"/opt/lab/DeepfakeLab.dll\"", "neither relative")]
    [InlineData("#r \"nuget: Some.Package\"", "neither relative")]
    [InlineData("#!import \"helper.cs\"", "Verso does not know")]
    [InlineData("#!time\n1", "Verso does not know")]
    [InlineData("#load \"a.csx\"", "uses #load")]
    [InlineData("using TorchSharp;", "uses TorchSharp without")]
    [InlineData("#r \"../artifacts/lib/TorchSharp.dll\"\nusing TorchSharp;", "")]
    [InlineData("display(1);", "calls display()")]
    [InlineData("var h = HTML(\"<b>\");", "calls display()")]
    [InlineData("var f = \"/home/ann/x.jpg\";", "path of one machine")]
    [InlineData("1;\n2;\n3;\n4;\n5;\n6;\n7;\n8;\n9;\n10;\n11;\n12;\n13;\n14;\n15;\n16;", "has 16 lines")]
    public void A_rule_that_is_broken_is_named(string code, string expected)
    {
        var broken = NotebookRules.Violations(Sample(code)).ToList();
        if (expected.Length == 0)
            Assert.Empty(broken);
        else
            Assert.Contains(expected, Assert.Single(broken));
    }

    [Fact]
    public void Outputs_and_metadata_have_rules_too()
    {
        var notebook = Sample("1");
        notebook.Cells[1].Outputs.Add(new StreamOutput("stdout", "written to /home/ann/run.json\n"));
        Assert.Contains("in its output", Assert.Single(NotebookRules.Violations(notebook)));
        var bare = new Notebook { Cells = [new NotebookCell(CellKind.Code, "1")] };
        Assert.Equal(4, NotebookRules.Violations(bare).Count());
    }

    [Fact]
    public async Task The_library_loads_in_a_host_that_holds_FSharp_Core_10_0()
    {
        var sdk = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(typeof(object).Assembly.Location)!, "..", "..", "..", "sdk"));
        var core = Directory.GetFiles(sdk, "FSharp.Core.dll", SearchOption.AllDirectories).Order(StringComparer.Ordinal).Last();
        var held = AssemblyLoadContext.Default.LoadFromAssemblyPath(core);
        Assert.Equal(10, held.GetName().Version!.Major);
        // Loaded from its file into the session's own context, as a notebook's #r does it, and everything it needs with it.
        using var run = new CellRun(new SessionOptions { Folder = AppContext.BaseDirectory });
        await run.Eval("#r \"DeepfakeLab.dll\"\nusing DeepfakeLab;");
        Assert.Equal("False", await run.Eval("typeof(LabException).Assembly == System.Runtime.Loader.AssemblyLoadContext.Default.Assemblies.FirstOrDefault(a => a.GetName().Name == \"DeepfakeLab\")"));
        Assert.Equal("0", await run.Eval("typeof(LabException).Assembly.GetReferencedAssemblies().Select(System.Runtime.Loader.AssemblyLoadContext.GetLoadContext(typeof(LabException).Assembly).LoadFromAssemblyName).SelectMany(a => a.GetReferencedAssemblies()).Count(a => a.Name == \"FSharp.Core\" && a.Version > new Version(10, 0, 0, 0))"));
    }

    private static Notebook Sample(string code) => new()
    {
        Metadata = new JsonObject
        {
            ["kernelspec"] = new JsonObject { ["name"] = ".net-csharp" },
            ["language_info"] = new JsonObject { ["name"] = "polyglot-notebook" },
        },
        Cells =
        [
            new NotebookCell(CellKind.Markdown, "# Title"),
            new NotebookCell(CellKind.Code, code, metadata: new JsonObject
            {
                ["dotnet_interactive"] = new JsonObject { ["language"] = "csharp" }, ["polyglot_notebook"] = new JsonObject { ["kernelName"] = "csharp" },
            }),
        ],
    };
}
