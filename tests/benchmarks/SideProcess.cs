using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Benchmarks;

/// <summary>One side of a row in a process of its own, ours or Python's, which measures what it is told to. Both speak the same lines of JSON.</summary>
internal sealed class SideProcess : IDisposable
{
    private readonly Process process;
    private readonly string variant;

    /// <param name="variant">A name that <see cref="Describe"/> knows. All but the plain one get the malloc setting that the library gives itself.</param>
    public SideProcess(string variant, int threads, string folder)
    {
        this.variant = variant;
        var start = Ours
            ? new ProcessStartInfo(Environment.ProcessPath!, ["side", variant])
            : new ProcessStartInfo("/usr/bin/python3", [Path.Combine(AppContext.BaseDirectory, "torch_side.py"), $"{threads}"]);
        (start.RedirectStandardInput, start.RedirectStandardOutput) = (true, true);
        foreach (var name in (string[])["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
            start.Environment.Remove(name);
        if (!Ours && variant is not ("eager" or "original"))
            start.Environment["GLIBC_TUNABLES"] = $"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={int.MaxValue}:glibc.malloc.top_pad={64 << 20}";
        start.Environment["DEEPFAKELAB_CACHE"] = Path.Combine(folder, "cache");
        process = Process.Start(start)!;
    }

    private bool Ours => variant.StartsWith("here", StringComparison.Ordinal) || variant == "onnxruntime";

    /// <summary>The highest resident memory so far, in bytes; 0 where the system does not tell.</summary>
    public long Peak => Status("VmHWM:");

    public long Resident => Status("VmRSS:");

    public static string Describe(string variant) => variant switch
    {
        "here-float32" => "this library, float32",
        "here-bfloat16" => "this library, bfloat16",
        "onnxruntime" => "ONNX Runtime alone, whole batch, its defaults",
        "eager" => "torch eager, as its user has it",
        "channels_last" => "torch channels last, malloc tuned",
        "optimized" => "torch optimize_for_inference, channels last, malloc tuned",
        "original" => "torch, the original's way",
        _ => variant,
    };

    public JsonObject Versions() => Ask(new JsonObject { ["do"] = "versions" });

    public JsonObject Prepare(JsonObject job)
    {
        job = (JsonObject)job.DeepClone();
        (job["do"], job["variant"]) = ("prepare", variant);
        return Ask(job);
    }

    /// <summary>"rate", and what else the side has to say. About a second, or once where that takes longer.</summary>
    public JsonObject Measure() => Ask(new JsonObject { ["do"] = "measure" });

    private JsonObject Ask(JsonObject question)
    {
        process.StandardInput.WriteLine(question.ToJsonString());
        process.StandardInput.Flush();
        return (JsonObject)JsonNode.Parse(process.StandardOutput.ReadLine() ?? throw new InvalidOperationException($"the side {variant} ended; its error is above"))!;
    }

    private long Status(string key)
    {
        var file = $"/proc/{process.Id}/status";
        return File.Exists(file) && File.ReadLines(file).FirstOrDefault(l => l.StartsWith(key, StringComparison.Ordinal)) is { } line
            ? long.Parse(line[key.Length..].Replace("kB", "", StringComparison.Ordinal), CultureInfo.InvariantCulture) << 10 : 0;
    }

    public void Dispose()
    {
        process.StandardInput.Close();
        if (!process.WaitForExit(10_000))
            process.Kill();
        process.Dispose();
    }
}
