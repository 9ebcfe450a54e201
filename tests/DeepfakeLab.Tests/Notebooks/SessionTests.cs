using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

public class SessionTests
{
    [Fact]
    public async Task Variables_types_and_usings_last_across_cells_and_can_be_declared_anew()
    {
        using var run = new CellRun();
        await run.Eval("using System.Globalization; var x = 2; record P(int A); int Twice(int n) => n * 2;");
        Assert.Equal("5.00", await run.Eval("new P(Twice(x) + 1).A.ToString(\"0.00\", CultureInfo.InvariantCulture)"));
        await run.Eval("var x = \"new\"; record P(string B);");
        Assert.Equal("new!", await run.Eval("new P(x + \"!\").B"));
    }

    [Fact]
    public async Task A_cell_may_hold_nothing_to_run()
    {
        using var run = new CellRun();
        foreach (var code in (string[])["", "// a comment", "using System.IO;", "#!markdown\ntext", "using System.Threading;\n"])
            Assert.Null(await run.Eval(code));
        Assert.Equal("a True", await run.Eval("Path.GetFileName(\"x/a\") + \" \" + Thread.CurrentThread.IsBackground"));
    }

    [Fact]
    public async Task A_last_expression_is_shown_and_a_statement_is_not()
    {
        using var run = new CellRun();
        Assert.Equal("42", await run.Eval("var a = 41;\na + 1"));
        Assert.Null(await run.Eval("a++;"));
        Assert.Equal("null", await run.Eval("(string)null"));
        Assert.Equal("7", await run.Eval("await Task.FromResult(7)"));
        Assert.Equal("3", await run.Eval("await Task.Delay(5);\nvar late = 3;\nlate"));
    }

    [Fact]
    public async Task A_compile_error_names_line_and_column_and_changes_nothing()
    {
        using var run = new CellRun();
        await run.Eval("var kept = 1;");
        Assert.False((await run.Run("for (;;) { int y = 5; kept = 2;\n  Nowhere.Call(); break; }")).Succeeded);
        Assert.Equal("CompilationError", run.Error.Name);
        Assert.StartsWith("cell 2, line 2, column 3: error CS0103", run.Error.Message);
        Assert.False((await run.Run("foreach (var i in new[] { 1 }) { undefined1(i); }")).Succeeded);
        Assert.StartsWith("cell 3, line 1, column 34: error CS0103", run.Error.Message);
        Assert.Equal("1", await run.Eval("kept"));
    }

    [Fact]
    public async Task A_runtime_error_names_its_line_and_keeps_what_came_before_it()
    {
        using var run = new CellRun();
        Assert.False((await run.Run("using System.IO;\nvar before = 8;\nint Fail(int n)\n{\n  return 1 / (n - n);\n}\nFail(before);")).Succeeded);
        Assert.Equal("DivideByZeroException", run.Error.Name);
        Assert.Contains("  in cell 1, line 5: return 1 / (n - n);", run.Error.Traceback);
        Assert.Contains("  in cell 1, line 7: Fail(before);", run.Error.Traceback);
        Assert.Equal("8 a", await run.Eval("before + \" \" + Path.GetFileName(\"x/a\")"));
    }

    [Fact]
    public async Task An_error_after_an_await_has_its_line_too()
    {
        using var run = new CellRun();
        await run.Run("await Task.Yield();\nthrow new InvalidOperationException(\"no\");");
        Assert.Equal("no", run.Error.Message);
        Assert.Contains(run.Error.Traceback, l => l.StartsWith("  in cell 1, line 2", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Both_streams_arrive_as_they_are_written_also_from_other_threads()
    {
        using var run = new CellRun();
        await run.Eval("Console.Write(\"a\"); Console.Error.WriteLine(\"e\"); await Task.Run(() => Console.Write(1.5));");
        Assert.Equal([new StreamOutput("stdout", "a"), new StreamOutput("stderr", "e\n"), new StreamOutput("stdout", "1.5")], run.Outputs);
    }

    [Fact]
    public async Task Two_sessions_at_once_keep_their_outputs_apart()
    {
        using var one = new CellRun();
        using var two = new CellRun();
        await Task.WhenAll(
            one.Eval("for (int i = 0; i < 50; i++) { Console.Write('1'); await Task.Delay(1); }"),
            two.Eval("for (int i = 0; i < 50; i++) { Console.Write('2'); await Task.Delay(1); }"));
        Assert.Equal((new string('1', 50), new string('2', 50)), (one.Stdout, two.Stdout));
    }

    [Fact]
    public async Task Sessions_that_compile_at_once_do_not_mix_up_their_types() => await Task.WhenAll(Enumerable.Range(0, 6).Select(async i =>
    {
        using var run = new CellRun(new SessionOptions { Folder = AppContext.BaseDirectory });
        await run.Eval("#r \"DeepfakeLab.dll\"\nusing DeepfakeLab;");
        await run.Eval("KernelInvocationContext.Current.Display(1); Estimate known = default;");
        Assert.Equal("0", await run.Eval("using DeepfakeLab;\nKernelInvocationContext.Current.Display(new Estimate()); known.Value"));
    }));

    /// <summary>Whatever showing a value runs belongs to the cell: its failure is the cell's error, and the session goes on.</summary>
    [Theory]
    [InlineData("Enumerable.Range(0, 10).Select(i => 1 / (i - 5))", "DivideByZeroException", "divide by zero")]
    [InlineData("class A { public string ToHtml() => throw new NullReferenceException(\"html\"); }\nnew A()", "NullReferenceException", "html")]
    [InlineData("class B { public override string ToString() => throw new Exception(\"text\"); }\nnew B()", "Exception", "text")]
    [InlineData("class C { public string ToPlotlyJson() => \"{not json\"; }\nnew C()", "NotebookException", "What a C offers as application/vnd.plotly.v1+json is not JSON")]
    [InlineData("class D { public byte[] ToPng() => throw new System.IO.IOException(\"png\"); }\nawait Task.FromResult(new D())", "IOException", "png")]
    [InlineData("new Dictionary<string, Lazy<int>> { [\"k\"] = new(() => throw new Exception(\"lazy\")) }.Select(p => p.Value.Value)", "Exception", "lazy")]
    [InlineData("class E { public override string ToString() => $\"{this}\"; }\nnew E()", "InsufficientExecutionStackException", "")]
    [InlineData("int F(int n) => F(n + 1) + 1;\nF(0)", "InsufficientExecutionStackException", "")]
    [InlineData("class G { public int P { get { return P; } } public int Q => Q + 1; }\nnew G().P + new G().Q", "InsufficientExecutionStackException", "")]
    [InlineData("record Node { public Node Next { get; set; } }\nvar node = new Node(); node.Next = node;\nnode", "InsufficientExecutionStackException", "")]
    public async Task A_value_that_cannot_be_shown_is_an_error_of_its_cell(string code, string error, string message)
    {
        using var run = new CellRun();
        await run.Eval("var kept = 5;");
        var (declarations, value) = code.LastIndexOf('\n') is >= 0 and var at ? (code[..(at + 1)], code[(at + 1)..]) : ("", code);
        foreach (var cell in (string[])[code, $"{declarations}display({value});", $"{declarations}display(0).Update({value});"])
        {
            Assert.False((await run.Run(cell)).Succeeded);
            Assert.Equal(error, run.Error.Name);
            Assert.Contains(message, run.Error.Message, StringComparison.Ordinal);
            Assert.Empty(run.Outputs.OfType<ResultOutput>());
            Assert.InRange(run.Error.Traceback.Count, 1, 20);
        }
        Assert.Equal("6", await run.Eval("kept + 1"));
    }

    [Fact]
    public async Task Code_that_the_compiler_itself_gives_up_on_is_an_error_of_its_cell()
    {
        using var run = new CellRun();
        await run.Run(string.Concat(Enumerable.Repeat("if (true) { ", 20_000)) + string.Concat(Enumerable.Repeat("}", 20_000)));
        Assert.NotEmpty(run.Error.Message);
        await run.Run("var sum = 1" + string.Concat(Enumerable.Repeat(" + sum", 50_000)) + ";");
        Assert.NotEmpty(run.Error.Message);
        Assert.Equal("2", await run.Eval("1 + 1"));
    }

    [Fact]
    public async Task A_form_that_a_value_has_not_is_left_out()
    {
        using var run = new CellRun();
        Assert.Equal("text", await run.Eval("class A { public string ToHtml() => null; public byte[] ToPng() => null; public override string ToString() => \"text\"; }\nnew A()"));
        Assert.Equal([MimeBundle.Plain], run.Outputs.OfType<ResultOutput>().Single().Data.Keys);
    }

    [Fact]
    public async Task A_display_can_be_updated()
    {
        using var run = new CellRun();
        await run.Eval("var shown = display(1); shown.Update(2); \"x\".Display(); KernelInvocationContext.Current.Display(HTML(\"<b>\")).Update(HTML(\"<i>\"));");
        var displays = run.Outputs.OfType<DisplayOutput>().ToList();
        var updates = run.Outputs.OfType<DisplayUpdate>().ToList();
        Assert.Equal(["1", "x", "<b>"], displays.Select(d => d.Data[MimeBundle.Plain]));
        Assert.Equal((displays[0].DisplayId, "2"), (updates[0].DisplayId, updates[0].Data[MimeBundle.Plain]));
        Assert.Equal((displays[2].DisplayId, "<i>"), (updates[1].DisplayId, updates[1].Data[MimeBundle.Html]));
    }

    [Fact]
    public async Task Live_curves_update_in_place_at_most_four_times_a_second()
    {
        using var run = new CellRun(new SessionOptions { HostAssemblies = [typeof(LiveCurves).Assembly] });
        await run.Eval("#r \"DeepfakeLab.dll\"\nusing DeepfakeLab;");
        var result = await run.Run("""
            using (var live = LiveCurves.InNotebook())
                for (var epoch = 1; epoch <= 60; epoch++)
                {
                    live.Add(new EpochFigures("head", epoch, 0.7 / epoch, 0.8 / epoch, 0.5, 0.6, 1e-3, 0.02));
                    await Task.Delay(20);
                }
            """);
        Assert.True(result.Succeeded, result.Error?.Message);
        var display = Assert.Single(run.Outputs.OfType<DisplayOutput>());
        var updates = run.Outputs.OfType<DisplayUpdate>().ToList();
        Assert.InRange(updates.Count, 3, 2 + (int)(result.Elapsed.TotalSeconds * 4));
        Assert.All(updates, u => Assert.Equal(display.DisplayId, u.DisplayId));
        Assert.All(updates, u => Assert.True(u.Data.ContainsKey(MimeBundle.Plotly) && u.Data.ContainsKey(MimeBundle.Html) && u.Data.ContainsKey(MimeBundle.Png)));
        Assert.Contains("60 epochs", updates[^1].Data[MimeBundle.Html], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Language_lines_time_and_unknown_directives()
    {
        using var run = new CellRun();
        Assert.Equal("4", await run.Eval("#!time\nvar n = 3;\n#!markdown\n# Title\n*text*\n#!html\n<b>x</b>\n#!csharp\nn + 1"));
        var shown = run.Outputs.OfType<DisplayOutput>().ToList();
        Assert.Equal("# Title\n*text*", shown[0].Data[MimeBundle.Markdown]);
        Assert.Equal("<b>x</b>", shown[1].Data[MimeBundle.Html]);
        Assert.StartsWith("Wall time:", shown[2].Data[MimeBundle.Plain]);
        Assert.Equal("#!time\n", await run.Eval("\"\"\"\n#!time\n\n\"\"\""));
        await run.Run("var a = 1;\n#!fsharp");
        Assert.StartsWith("cell 3, line 2: this kernel knows no '#!fsharp'", run.Error.Message);
    }

    [Fact]
    public async Task An_import_runs_in_its_place_and_its_error_fails_the_cell()
    {
        using var folder = TestSupport.Folder();
        Directory.CreateDirectory(folder["sub"]);
        File.WriteAllText(folder["sub/a.cs"], "#load \"b.csx\"\nint A() => B() + seen;");
        File.WriteAllText(folder["sub/b.csx"], "int B() => 40;");
        File.WriteAllText(folder["bad.cs"], "int ok = 1;\nok.Missing();");
        File.WriteAllText(folder["self.cs"], "#!import self.cs");
        using var run = new CellRun(new SessionOptions { Folder = folder.Path });
        Assert.Equal("42", await run.Eval("int seen = 2;\n#!import \"sub/a.cs\"\nA()"));
        await run.Run("#!import bad.cs");
        Assert.StartsWith("bad.cs, line 2, column 4: error CS1061", run.Error.Message);
        await run.Run("\n#!import none.cs");
        Assert.StartsWith("cell 3, line 2: There is no such file", run.Error.Message);
        await run.Run("#load \"self.cs\"");
        Assert.Contains("imports itself", run.Error.Message);
    }

    [Fact]
    public async Task An_r_means_the_hosts_assembly_where_the_host_has_it()
    {
        var host = new SessionOptions { HostAssemblies = [typeof(LabException).Assembly] };
        using var run = new CellRun(host);
        Assert.Equal("DeepfakeLab.Cancellation", await run.Eval("#r \"../artifacts/lib/DeepfakeLab.dll\"\nDeepfakeLab.LabProgress.CancellationKey"));
        Assert.Equal(typeof(LabException).Assembly.Location, await run.Eval("typeof(DeepfakeLab.LabException).Assembly.Location"));
        Assert.Equal("True", await run.Eval("#r \"../artifacts/lib/TorchSharp.dll\"\ntypeof(TorchSharp.torch).Assembly == typeof(DeepfakeLab.LabRuntime).Assembly.GetReferencedAssemblies().Select(a => System.Reflection.Assembly.Load(a)).First(a => a.GetName().Name == \"TorchSharp\")"));
    }

    [Fact]
    public async Task An_r_is_relative_to_the_notebook_and_an_absent_file_is_explained()
    {
        using var folder = TestSupport.Folder();
        File.Copy(typeof(Markdig.Markdown).Assembly.Location, folder["Markdig.dll"]);
        using var run = new CellRun(new SessionOptions { Folder = folder["notebooks"], ExplainMissing = _ => "Run this command" });
        await run.Run("1\n#r \"../none.dll\"");
        Assert.Equal("cell 1, line 2: The file of this #r does not exist: ../none.dll. Run this command.", run.Error.Message);
        Assert.Equal("<p>x</p>\n", await run.Eval("#r \"../Markdig.dll\"\nMarkdig.Markdown.ToHtml(\"x\")"));
        Assert.Equal(folder["Markdig.dll"], await run.Eval("typeof(Markdig.Markdown).Assembly.Location"));
    }

    [Fact]
    public async Task Cells_and_the_library_share_one_TorchSharp_though_the_host_has_another()
    {
        using var run = new CellRun(new SessionOptions { Folder = AppContext.BaseDirectory });
        await run.Eval("#r \"DeepfakeLab.dll\"\n#r \"TorchSharp.dll\"\nusing DeepfakeLab; using TorchSharp;");
        Assert.Equal("True", await run.Eval("typeof(LabRuntime).GetProperty(\"Device\").PropertyType == typeof(torch.Device)"));
        Assert.Equal("False", await run.Eval("System.Runtime.Loader.AssemblyLoadContext.Default == System.Runtime.Loader.AssemblyLoadContext.GetLoadContext(typeof(torch).Assembly)"));
    }

    /// <summary>These packages are ones that the project restores anyway, so the test asks no more of a mirror than the build does.</summary>
    [Fact]
    public async Task A_package_is_restored_by_the_SDK_and_remembered()
    {
        using var folder = TestSupport.Folder();
        using var run = new CellRun(new SessionOptions { CacheFolder = folder.Path });
        Assert.Equal("a few words", await run.Eval("#r \"nuget: Humanizer.Core, 2.14.1\"\nusing Humanizer;\n\"AFewWords\".Humanize(LetterCasing.LowerCase)"));
        var answer = Assert.Single(Directory.GetFiles(folder.Path, "answer.json", SearchOption.AllDirectories));
        File.Delete(Path.Combine(Path.GetDirectoryName(answer)!, "packages.csproj"));
        using (var again = new CellRun(new SessionOptions { CacheFolder = folder.Path }))
            await again.Eval("#r \"nuget: Humanizer.Core, 2.14.1\"");
        Assert.False(File.Exists(Path.Combine(Path.GetDirectoryName(answer)!, "packages.csproj"))); // nothing was restored a second time

        await run.Run("#r \"nuget: Humanizer.Core, 2.14.0\"");
        Assert.Contains("Another version of this package is loaded already: Humanizer.Core 2.14.1", run.Error.Message);
        await run.Run("\n#r \"nuget: ../evil\"");
        Assert.StartsWith("cell 3, line 2: This is no package reference", run.Error.Message);
        Assert.Equal("a b", await run.Eval("\"AB\".Humanize(LetterCasing.LowerCase).Length > 0 ? \"a b\" : null"));
    }

    [Fact]
    public async Task A_data_frame_is_a_table()
    {
        using var run = new CellRun(new SessionOptions { HostAssemblies = [typeof(LabException).Assembly] });
        await run.Eval("#r \"Microsoft.Data.Analysis.dll\"\nusing Microsoft.Data.Analysis;\nnew DataFrame(new StringDataFrameColumn(\"who\", new[] { \"<ann>\" }), new PrimitiveDataFrameColumn<double>(\"score\", new[] { 0.5 }))");
        Assert.Contains("<th>who</th><th>score</th>", run.Outputs.OfType<ResultOutput>().Single().Data[MimeBundle.Html]);
        Assert.Contains("&lt;ann&gt;</td><td style=\"text-align:right\">0.5</td>", run.Outputs.OfType<ResultOutput>().Single().Data[MimeBundle.Html]);
    }
}
