using System.Diagnostics;
using System.Text.Json.Nodes;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

/// <summary>Jupyter's own notebook page in headless Chromium: what a person sees and clicks. Screenshots go to artifacts/screenshots.</summary>
[Collection(nameof(JupyterPageTests))]
public class JupyterPageTests(InstalledKernel kernel)
{
    [Fact]
    public void A_notebook_runs_in_the_page_with_moving_curves_an_interrupt_and_a_restart()
    {
        kernel.Need(["notebook"], "jupyter-notebook");
        using var folder = TestSupport.Folder();
        TrainingTests.PaintImages(folder["faces"], 40);
        Training(Path.GetRelativePath(folder.Path, kernel.Library).Replace('\\', '/')).Write(folder["training.ipynb"]);
        using var server = new JupyterServer(folder, kernel.Environment);
        using var browser = new Browser(local: true);

        browser.Open($"http://127.0.0.1:{server.Port}/notebooks/training.ipynb?token={JupyterServer.Token}");
        Wait(browser, "window.Jupyter && Jupyter.notebook && Jupyter.notebook.kernel && Jupyter.notebook.kernel.is_connected() && Jupyter.notebook.kernel.info_reply.status == 'ok'");
        browser.Evaluate("Jupyter.notebook.execute_all_cells()");

        // The curve is drawn anew while its cell still runs: more than one picture is seen before the cell is done.
        Wait(browser, "document.querySelectorAll('.output svg').length > 0");
        browser.Evaluate("""
            window.curves = new Set();
            new MutationObserver(() => {
              const busy = Jupyter.notebook.get_cell(2).input_prompt_number == '*';
              const svg = document.querySelector('.output svg');
              if (busy && svg) window.curves.add(svg.outerHTML);
            }).observe(document.getElementById('notebook'), { childList: true, subtree: true }); 1
            """);
        Wait(browser, "window.curves.size >= 3");
        Keep(browser, "jupyter-training.png");

        // The confusion matrix is drawn, then the last cell trains, and would for hours.
        Wait(browser, "Jupyter.notebook.get_cell(4).input_prompt_number == '*' && Jupyter.notebook.get_cell(3).element.find('.output svg').length > 0");
        Keep(browser, "jupyter-confusion.png");
        browser.Evaluate("document.querySelector('[data-jupyter-action=\"jupyter-notebook:interrupt-kernel\"]').click()");
        Wait(browser, "Jupyter.notebook.get_cell(4).element.find('.output_error').text().includes('interrupted')");
        Assert.Contains("what earlier cells declared is still there", (string?)browser.Evaluate("Jupyter.notebook.get_cell(4).element.find('.output_error').text()"));
        Keep(browser, "jupyter-interrupted.png");

        // State survived the interrupt, and does not survive a restart.
        Run("curve.Count");
        Wait(browser, "Jupyter.notebook.get_cell(5).element.find('.output_result').text().trim() == '12'");
        browser.Evaluate("document.querySelector('[data-jupyter-action=\"jupyter-notebook:confirm-restart-kernel\"]').click()");
        Wait(browser, "document.querySelector('.modal.in .btn-danger') != null");
        browser.Evaluate("window.restarted = false; Jupyter.notebook.events.on('kernel_ready.Kernel', () => window.restarted = true); document.querySelector('.modal.in .btn-danger').click()");
        Wait(browser, "window.restarted && Jupyter.notebook.kernel.is_connected()");
        Run("curve.Count");
        Wait(browser, "Jupyter.notebook.get_cell(5).element.find('.output_error').text().includes('CS0103')");
        Keep(browser, "jupyter-restarted.png");

        void Run(string code) => browser.Evaluate($"Jupyter.notebook.get_cell(5).set_text({JsonValue.Create(code).ToJsonString()}); Jupyter.notebook.get_cell(5).execute(); 1");
    }

    /// <summary>
    /// The notebooks of the six architectures, unchanged but for where the library lies, opened one after another, run from the page's menu and saved. All of
    /// them in CI, in the quick mode; elsewhere the small one, which takes seconds.
    /// </summary>
    [Fact]
    public void Every_notebook_runs_in_the_page()
    {
        kernel.Need(["notebook"], "jupyter-notebook");
        var all = Environment.GetEnvironmentVariable("CI") == "true";
        string[] files =
        [
            Path.Combine(TestSupport.Root, "tests", "DeepfakeLab.Tests", "Notebooks", "fixtures", "tiny.ipynb"),
            .. (all ? Directory.GetFiles(Path.Combine(TestSupport.Root, "notebooks"), "*.ipynb") : []).Where(f => Path.GetFileName(f) != "compare.ipynb").Order(StringComparer.Ordinal),
        ];
        using var folder = TestSupport.Folder();
        var library = Path.GetRelativePath(folder.Path, kernel.Library).Replace('\\', '/');
        using var server = new JupyterServer(folder, kernel.Quick("page"));
        using var browser = new Browser(local: true);
        foreach (var file in files)
        {
            var name = Path.GetFileName(file);
            var notebook = Notebook.Read(file);
            notebook.Clean(); // so that what is seen afterwards was made here
            notebook.Write(folder[name]);
            File.WriteAllText(folder[name], File.ReadAllText(folder[name]).Replace("../artifacts/lib", library, StringComparison.Ordinal));

            browser.Open($"http://127.0.0.1:{server.Port}/notebooks/{name}?token={JupyterServer.Token}");
            Wait(browser, "window.Jupyter && Jupyter.notebook && Jupyter.notebook.kernel && Jupyter.notebook.kernel.is_connected() && Jupyter.notebook.kernel.info_reply.status == 'ok'");
            browser.Evaluate("""
                window.codes = () => Jupyter.notebook.get_cells().filter(c => c.cell_type == 'code' && c.get_text().trim());
                window.failed = () => codes().some(c => !(c.metadata.tags || []).includes('raises-exception') && c.output_area.outputs.some(o => o.output_type == 'error'));
                document.querySelector('#run_all_cells a').click(); 1
                """);
            Wait(browser, "failed() || codes().every(c => Number.isInteger(c.input_prompt_number))", minutes: 15);
            Keep(browser, $"notebook-{Path.GetFileNameWithoutExtension(name)}.png");
            browser.Evaluate("Jupyter.notebook.save_notebook().then(() => 1)");
            browser.Evaluate("new Promise(done => Jupyter.notebook.session.delete(() => done(1), () => done(0)))"); // one kernel's memory at a time

            var saved = Notebook.Read(folder[name]);
            var code = saved.Cells.Where(c => c.Kind == CellKind.Code).ToList();
            Assert.All(code.Where(c => !c.Tags.Contains("raises-exception")), c => Assert.DoesNotContain(c.Outputs, o => o is ErrorOutput));
            Assert.Equal(Enumerable.Range(1, code.Count).Select(n => (int?)n), code.Select(c => c.ExecutionCount));
            Assert.Contains(code, c => c.Outputs.Count > 0);
            if (file != files[0])
                Assert.True((int)browser.Evaluate("document.querySelectorAll('.output svg, .output img').length")! >= 3, $"{name} draws no figures");
        }
    }

    /// <summary>A small notebook of the kind that the project's are: a real training, its curves redrawn as it goes on, and one that would take hours.</summary>
    private static Notebook Training(string library) => new()
    {
        Metadata = new JsonObject
        {
            ["kernelspec"] = new JsonObject { ["name"] = ".net-csharp", ["display_name"] = ".NET (C#)", ["language"] = "C#" },
            ["language_info"] = new JsonObject { ["name"] = "polyglot-notebook" },
        },
        Cells =
        [
            new NotebookCell(CellKind.Markdown, "# Training\n\nThe loss is $\\mathcal{L} = -\\log \\hat{p}_y$."),
            new NotebookCell(CellKind.Code, $$"""
                #r "{{library}}/DeepfakeLab.dll"
                using DeepfakeLab;
                var faces = FaceDataset.Open("faces");
                var split = faces.Split(seed: 1);
                var options = new FitOptions { Seed = 1, Preprocessing = Preprocessing.Square(32) };
                var recipe = Recipe.Full() with { HeadEpochs = 0, BatchSize = 8, Patience = 0 };
                var model = Models.MobileNetV2(Weights.None).WithHead(classes: 2);
                """),
            new NotebookCell(CellKind.Code, """
                var curve = new List<EpochFigures>();
                TrainingRun run;
                using (var live = LiveCurves.InNotebook())
                    run = Trainer.Fit(model, split, recipe with { Epochs = 12 }, options, epoch => { curve.Add(epoch); live.Add(epoch); });
                """),
            new NotebookCell(CellKind.Code, "Charts.Confusion(EvaluationReport.From(Predictor.Predict(run.Model, split.Test, run.Preprocessing, faces.FakeClass, false)).Confusion)"),
            new NotebookCell(CellKind.Code, "Trainer.Fit(model, split, recipe with { Epochs = 10_000 }, options);"),
            new NotebookCell(CellKind.Code, "0"),
        ],
    };

    private static void Wait(Browser browser, string condition, double minutes = 3)
    {
        var clock = Stopwatch.StartNew();
        while (browser.Evaluate($"Boolean({condition})") is not JsonValue value || !value.GetValue<bool>())
        {
            if (clock.Elapsed > TimeSpan.FromMinutes(minutes))
                Assert.Fail($"not seen: {condition}\n{browser.Evaluate("document.body.innerText")}");
            Thread.Sleep(200);
        }
    }

    private static void Keep(Browser browser, string name)
    {
        var folder = Directory.CreateDirectory(Path.Combine(TestSupport.Root, "artifacts", "screenshots")).FullName;
        File.WriteAllBytes(Path.Combine(folder, name), browser.Screenshot());
    }
}

/// <summary>A notebook server on a free port, with settings of its own.</summary>
internal sealed class JupyterServer : IDisposable
{
    public const string Token = "only-for-this-test";
    private readonly Process process;

    public JupyterServer(TemporaryFolder folder, IDictionary<string, string> environment)
    {
        var start = new ProcessStartInfo(InstalledKernel.Interpreter,
            ["-m", "notebook", "--no-browser", "--allow-root", "--ip=127.0.0.1", $"--port={FreePort()}", "--port-retries=50", $"--NotebookApp.token={Token}", $"--notebook-dir={folder.Path}"])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (var (key, value) in environment)
            start.Environment[key] = value;
        start.Environment["JUPYTER_CONFIG_DIR"] = folder["config"];
        start.Environment["JUPYTER_RUNTIME_DIR"] = folder["runtime"];
        start.Environment["JUPYTER_DATA_DIR"] = folder["data"];
        process = Process.Start(start)!;
        process.OutputDataReceived += (_, _) => { };
        process.ErrorDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        var clock = Stopwatch.StartNew();
        while (Port == 0)
        {
            Assert.True(clock.Elapsed < TimeSpan.FromMinutes(2) && !process.HasExited, "the notebook server does not start");
            Thread.Sleep(200);
            if (Directory.Exists(folder["runtime"]) && Directory.GetFiles(folder["runtime"], "nbserver-*.json").FirstOrDefault() is { } file)
                Port = ReadPort(file);
        }
    }

    public int Port { get; }

    /// <summary>Port 0 would do, but this server then does not say which it got; from here on it looks for a free one itself.</summary>
    private static int FreePort()
    {
        using var listener = new System.Net.Sockets.TcpListener(System.Net.IPAddress.Loopback, 0);
        listener.Start();
        return ((System.Net.IPEndPoint)listener.LocalEndpoint).Port;
    }

    private static int ReadPort(string file)
    {
        try
        {
            return (int?)JsonNode.Parse(File.ReadAllText(file))?["port"] ?? 0;
        }
        catch (Exception e) when (e is System.Text.Json.JsonException or IOException)
        {
            return 0; // it is just being written
        }
    }

    public void Dispose()
    {
        process.Kill(entireProcessTree: true);
        process.WaitForExit();
        process.Dispose();
    }
}
