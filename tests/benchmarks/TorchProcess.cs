using System.Diagnostics;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Benchmarks;

/// <summary>One Python process with Debian's torch, which measures what it is told to.</summary>
internal sealed class TorchProcess : IDisposable
{
    private readonly Process process;
    private readonly string variant;

    /// <param name="variant">"eager", "channels_last" or "optimized".</param>
    /// <param name="tuned">Whether it gets the malloc setting that the library gives itself.</param>
    public TorchProcess(string variant, bool tuned, int threads)
    {
        this.variant = variant;
        var start = new ProcessStartInfo("/usr/bin/python3", [Path.Combine(AppContext.BaseDirectory, "torch_side.py"), $"{threads}"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        foreach (var name in (string[])["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "OMP_WAIT_POLICY"])
            start.Environment.Remove(name);
        if (tuned)
            start.Environment["GLIBC_TUNABLES"] = $"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={int.MaxValue}:glibc.malloc.top_pad={64 << 20}";
        process = Process.Start(start)!;
    }

    public JsonObject Versions() => Ask(new JsonObject { ["do"] = "versions" });

    public void Prepare(JsonObject job)
    {
        job = (JsonObject)job.DeepClone();
        (job["do"], job["variant"]) = ("prepare", variant);
        Ask(job);
    }

    /// <summary>Images a second.</summary>
    public double Measure(int times) => Ask(new JsonObject { ["do"] = "measure", ["variant"] = variant, ["times"] = times })["rate"]!.GetValue<double>();

    private JsonObject Ask(JsonObject question)
    {
        process.StandardInput.WriteLine(question.ToJsonString());
        process.StandardInput.Flush();
        return (JsonObject)JsonNode.Parse(process.StandardOutput.ReadLine() ?? throw new InvalidOperationException("the Python side ended; its error is above"))!;
    }

    public void Dispose()
    {
        process.StandardInput.Close();
        if (!process.WaitForExit(10_000))
            process.Kill();
        process.Dispose();
    }
}
