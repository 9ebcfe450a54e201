using System.Text.Json.Nodes;

namespace DeepfakeLab.Tests;

/// <summary>The kernel as Debian's Jupyter sees it: its own programs and clients drive it, over real sockets.</summary>
[Collection(nameof(JupyterTests))]
public class JupyterTests(InstalledKernel kernel)
{
    [Fact]
    public void Jupyters_own_kernel_test_passes() => Assert.Contains("OK", kernel.Python(["jupyter_kernel_test"], "python3-jupyter-kernel-test", "conformance.py").Error);

    [Fact]
    public void Outputs_interrupts_aborts_and_the_library_work_as_the_protocol_says()
    {
        var (output, _) = kernel.Python(["jupyter_client"], "python3-jupyter-client", "protocol.py", kernel.Library);
        var times = JsonNode.Parse(output)!;
        Assert.InRange((double)times["idle memory, MB"]!, 1, 300);
        TestContext.Current.SendDiagnosticMessage(output);
    }

    [Fact]
    public void A_thousand_messages_that_are_none_do_no_harm() => kernel.Python(["jupyter_client"], "python3-jupyter-client", "abuse.py", "1000");

    /// <summary>DEEPFAKELAB_RESTARTS=200 is the full measure (5 to 6 minutes on 2 cores); fewer are enough to see a leak or a stray process.</summary>
    [Fact]
    public void A_kernel_can_be_restarted_again_and_again() => TestContext.Current.SendDiagnosticMessage(
        kernel.Python(["jupyter_client"], "python3-jupyter-client", "restarts.py", Environment.GetEnvironmentVariable("DEEPFAKELAB_RESTARTS")
            ?? (Environment.GetEnvironmentVariable("CI") == "true" ? "40" : "10")).Output);

    [Fact]
    public void Nbconvert_executes_a_notebook()
    {
        kernel.Need(["nbconvert"], "jupyter-nbconvert");
        using var folder = TestSupport.Folder();
        kernel.CopyTiny(folder["tiny.ipynb"]);
        var (code, _, error) = TestSupport.Run(InstalledKernel.Interpreter,
            ["-m", "nbconvert", "--to", "notebook", "--execute", folder["tiny.ipynb"], "--output", folder["out.ipynb"]], kernel.Environment);
        Assert.True(code == 0, error);
        var notebook = Notebooks.Notebook.Read(folder["out.ipynb"]);
        Assert.DoesNotContain(Notebooks.NotebookRules.Violations(notebook), v => v.Contains("metadata", StringComparison.Ordinal));
        Assert.Equal("<b>done</b>", Assert.IsType<Notebooks.DisplayOutput>(Assert.Single(notebook.Cells[3].Outputs)).Data["text/html"]);
    }

    [Fact]
    public void Nbclient_executes_a_notebook()
    {
        using var folder = TestSupport.Folder();
        kernel.CopyTiny(folder["tiny.ipynb"]);
        kernel.Python(["nbclient", "nbformat"], "python3-nbclient", "execute.py", folder["tiny.ipynb"], folder["out.ipynb"]);
        var notebook = Notebooks.Notebook.Read(folder["out.ipynb"]);
        Assert.Equal("<b>done</b>", Assert.IsType<Notebooks.DisplayOutput>(Assert.Single(notebook.Cells[3].Outputs)).Data["text/html"]);
    }

    [Fact]
    public void Install_spares_another_programs_kernel_and_uninstall_removes_only_ours()
    {
        using var folder = TestSupport.Folder();
        var spec = Path.Combine(folder.Path, "share", "jupyter", "kernels", ".net-csharp", "kernel.json");
        Directory.CreateDirectory(Path.GetDirectoryName(spec)!);
        File.WriteAllText(spec, "{\"argv\":[\"dotnet\",\"interactive\"]}");
        Assert.Equal(1, InstalledKernel.Cli("kernel", "install", "--prefix", folder.Path, "--lib", kernel.Library).Code);
        Assert.Equal(1, InstalledKernel.Cli("kernel", "uninstall", "--prefix", folder.Path).Code);
        Assert.Equal(0, InstalledKernel.Cli("kernel", "install", "--force", "--prefix", folder.Path, "--lib", kernel.Library).Code);
        Assert.Equal("message", (string?)JsonNode.Parse(File.ReadAllText(spec))!["interrupt_mode"]);
        Assert.Equal(0, InstalledKernel.Cli("kernel", "uninstall", "--prefix", folder.Path).Code);
        Assert.False(File.Exists(spec));
        Assert.Contains("MISSING  kernel", InstalledKernel.Cli("kernel", "doctor", "--prefix", folder.Path).Output);
        Assert.Equal(2, InstalledKernel.Cli("kernel", "install", "--user", "--prefix", folder.Path).Code);
    }

    [Fact]
    public void Doctor_says_what_is_missing_and_how_to_get_it_and_finds_a_kernel_of_the_user()
    {
        using var folder = TestSupport.Folder();
        (int Code, string Output, string Error) Lab(Dictionary<string, string> environment, params string[] arguments) =>
            TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), "kernel", .. arguments], environment);
        var user = new Dictionary<string, string> { ["JUPYTER_DATA_DIR"] = folder["user"], ["HOME"] = folder.Path };
        var (code, output, _) = Lab(new(user) { ["PATH"] = folder.Path }, "doctor"); // a machine with nothing
        Assert.Equal(1, code);
        foreach (var line in (string[])["MISSING  Jupyter: .*pip install jupyterlab", "MISSING  kernel: run: dotnet run .*kernel install",
            "without  VS Code: .*code --install-extension ms-toolsai.jupyter", "without  CUDA: no NVIDIA driver answers"])
            Assert.Matches(line, output);
        var (installed, _, error) = Lab(user, "install", "--user", "--lib", kernel.Library);
        Assert.True(installed == 0, error);
        Assert.True(File.Exists(folder["user/kernels/.net-csharp/kernel.json"]));
        (_, output, _) = Lab(user, "doctor");
        Assert.Contains($"ok       kernel: {folder["user"]}", output);
        Assert.Contains($"ok       library: {kernel.Library}", output);
    }

    [Fact]
    public void Another_address_is_listened_on_only_where_that_is_allowed_and_messages_are_signed()
    {
        using var folder = TestSupport.Folder();
        const string ports = "\"shell_port\":1,\"control_port\":2,\"iopub_port\":3,\"stdin_port\":4,\"hb_port\":5}";
        File.WriteAllText(folder["keyless.json"], "{\"ip\":\"*\"," + ports);
        File.WriteAllText(folder["keyed.json"], "{\"ip\":\"*\",\"key\":\"k\"," + ports);
        Assert.Equal(System.Net.IPAddress.Any, Notebooks.ConnectionFile.Read(folder["keyed.json"], allowRemote: true).Address);
        foreach (var (file, allowed) in ((string, bool)[])[("keyed.json", false), ("keyless.json", true)])
            Assert.Throws<Notebooks.NotebookException>(() => Notebooks.ConnectionFile.Read(folder[file], allowed));
    }

    [Theory]
    [InlineData("{\"ip\":\"0.0.0.0\",\"key\":\"k\",\"shell_port\":1,\"control_port\":1,\"iopub_port\":1,\"stdin_port\":1,\"hb_port\":1}", "listens on this machine only")]
    [InlineData("{\"transport\":\"ipc\"}", "not tcp")]
    [InlineData("{\"shell_port\":99999}", "it has no shell_port")]
    [InlineData("[]", "no Jupyter connection file")]
    public void A_connection_file_that_asks_for_too_much_is_refused(string text, string expected)
    {
        using var folder = TestSupport.Folder();
        File.WriteAllText(folder["connection.json"], text);
        var (code, _, error) = InstalledKernel.Cli("kernel", "start", "--connection-file", folder["connection.json"]);
        Assert.Equal(1, code);
        Assert.Contains(expected, error);
    }
}

/// <summary>A kernel installed under a temporary prefix when it is first asked for, and the Python programs that drive it.</summary>
public sealed class InstalledKernel : IDisposable
{
    public const string Interpreter = "/usr/bin/python3"; // Debian's own, for which its Jupyter is installed
    private readonly Lazy<TemporaryFolder> folder = new(() =>
    {
        var made = TestSupport.Folder();
        var (code, _, error) = Cli("kernel", "install", "--prefix", made.Path, "--lib", made["lib"]);
        Assert.True(code == 0, error);
        return made;
    });

    public string Library => folder.Value["lib"];

    public IDictionary<string, string> Environment => new Dictionary<string, string> { ["JUPYTER_PATH"] = Path.Combine(folder.Value.Path, "share", "jupyter") };

    /// <summary>For a notebook that is only to run: few images, one epoch, no network. Notebooks save under the temporary folder, so each line of tests has its own.</summary>
    public Dictionary<string, string> Quick(string line)
    {
        var temporary = Directory.CreateDirectory(Path.Combine(folder.Value.Path, line, "tmp")).FullName;
        return new(Environment) { ["DEEPFAKELAB_QUICK"] = "1", ["DEEPFAKELAB_OFFLINE"] = "1", ["TMPDIR"] = temporary, ["TMP"] = temporary };
    }

    /// <summary>A committed notebook in a folder of this line of tests, where the library that it names is the one just built.</summary>
    public string Copy(string notebook, string line)
    {
        var copy = Path.Combine(Directory.CreateDirectory(Path.Combine(folder.Value.Path, line)).FullName, Path.GetFileName(notebook));
        File.WriteAllText(copy, File.ReadAllText(notebook).Replace("../../artifacts/lib", "../lib", StringComparison.Ordinal).Replace("../artifacts/lib", "../lib", StringComparison.Ordinal));
        return copy;
    }

    public static (int Code, string Output, string Error) Cli(params string[] arguments) =>
        TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), .. arguments]);

    public void Need(string[] modules, string package)
    {
        if (!File.Exists(Interpreter) || TestSupport.Run(Interpreter, ["-c", "import " + string.Join(",", modules)]).Code != 0)
            TestSupport.Skip($"needs Debian's python3 with {string.Join(", ", modules)} (apt install {package})");
    }

    public (string Output, string Error) Python(string[] modules, string package, string script, params string[] arguments)
    {
        Need(modules, package);
        var path = Path.Combine(TestSupport.Root, "tests", "DeepfakeLab.Tests", "Notebooks", "jupyter", script);
        var (code, output, error) = TestSupport.Run(Interpreter, [path, .. arguments], Environment);
        Assert.True(code == 0, output + error);
        return (output, error);
    }

    /// <summary>Writes the small notebook of the tests, with the path of the library that is installed here.</summary>
    public void CopyTiny(string file)
    {
        var text = File.ReadAllText(Path.Combine(TestSupport.Root, "tests", "DeepfakeLab.Tests", "Notebooks", "fixtures", "tiny.ipynb"));
        File.WriteAllText(file, text.Replace("../artifacts/lib", Path.GetRelativePath(Path.GetDirectoryName(file)!, Library).Replace('\\', '/'), StringComparison.Ordinal));
    }

    public void Dispose()
    {
        if (folder.IsValueCreated)
            folder.Value.Dispose();
    }
}
