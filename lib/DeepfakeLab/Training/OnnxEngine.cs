using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace DeepfakeLab;

/// <summary>The layers before a cut, run by ONNX Runtime, which computes float32 convolutions on the CPU faster than libtorch does.</summary>
internal sealed class OnnxEngine : IFrozenEngine
{
    /// <summary>Images at a time, at most, on one thread: what few of them make stays in the cache, and no layer waits for another thread (a seventh faster than 8 on all threads).</summary>
    private const int Part = 2;

    private static readonly Lazy<string?> missing = new(Try);
    private readonly InferenceSession session;

    /// <param name="model">In float32 on the CPU; its weights are copied.</param>
    public OnnxEngine(VisionModel model, string cut, int height, int width)
    {
        using var options = new SessionOptions { IntraOpNumThreads = 1, InterOpNumThreads = 1, GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL };
        session = new InferenceSession(OnnxExport.Prefix(model, cut, height, width), options);
    }

    /// <summary>Why ONNX Runtime cannot be loaded; null where it can.</summary>
    public static string? Missing => missing.Value;

    /// <summary>float32 [N, 3, H, W] on the CPU to what enters the cut.</summary>
    public unsafe Tensor Run(Tensor images)
    {
        using var scope = NewDisposeScope();
        var dense = images.contiguous();
        var (count, one) = ((int)dense.shape[0], dense.shape[1..]);
        fixed (byte* pixels = dense.bytes)
        {
            var (from, length) = ((IntPtr)pixels, dense.stride(0) * sizeof(float));
            var part = Math.Clamp(count / LabRuntime.Threads, 1, Part);
            var results = new OrtValue[(count + part - 1) / part];
            try
            {
                TorchWorkers.ForEach(results.Length, i =>
                {
                    var own = Math.Min(part, count - i * part);
                    using var options = new RunOptions();
                    using var input = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [own, .. one], from + (nint)(i * part * length), own * length);
                    results[i] = session.Run(options, ["image"], [input], ["features"])[0];
                });
                var all = empty([count, .. results[0].GetTensorTypeAndShape().Shape[1..]], ScalarType.Float32);
                foreach (var (i, result) in results.Index())
                    MemoryMarshal.AsBytes(result.GetTensorDataAsSpan<float>()).CopyTo(all.narrow(0, i * part, Math.Min(part, count - i * part)).bytes);
                return all.MoveToOuterDisposeScope();
            }
            finally
            {
                Array.ForEach(results, r => r?.Dispose());
            }
        }
    }

    public void Dispose() => session.Dispose();

    private static string? Try()
    {
        try
        {
            _ = OrtEnv.Instance().GetAvailableProviders();
            return null;
        }
        catch (Exception e) when (e.GetBaseException() is DllNotFoundException or EntryPointNotFoundException or BadImageFormatException or OnnxRuntimeException)
        {
            return e.GetBaseException().Message.Split('\n')[0];
        }
    }
}
