using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace DeepfakeLab;

/// <summary>The layers before a cut, run by ONNX Runtime, which computes float32 convolutions on the CPU faster than libtorch does.</summary>
internal sealed class OnnxEngine : IFrozenEngine
{
    /// <summary>Images at a time: a whole batch's activations would not fit the cache, and would take several times the memory.</summary>
    private const int Part = 8;

    private static readonly Lazy<string?> missing = new(Try);
    private readonly InferenceSession session;

    /// <param name="model">In float32 on the CPU; its weights are copied.</param>
    public OnnxEngine(VisionModel model, string cut, int height, int width)
    {
        using var options = new SessionOptions { IntraOpNumThreads = LabRuntime.Threads, InterOpNumThreads = 1, GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL };
        session = new InferenceSession(OnnxExport.Prefix(model, cut, height, width), options);
    }

    /// <summary>Why ONNX Runtime cannot be loaded; null where it can.</summary>
    public static string? Missing => missing.Value;

    /// <summary>float32 [N, 3, H, W] on the CPU to what enters the cut.</summary>
    public unsafe Tensor Run(Tensor images)
    {
        using var scope = NewDisposeScope();
        using var options = new RunOptions();
        var dense = images.contiguous();
        Tensor? all = null;
        for (long from = 0, count; from < dense.shape[0]; from += count)
        {
            count = Math.Min(Part, dense.shape[0] - from);
            var bytes = dense.narrow(0, from, count).bytes;
            fixed (byte* pixels = bytes)
            {
                using var input = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [count, .. dense.shape[1..]], (IntPtr)pixels, bytes.Length);
                using var results = session.Run(options, ["image"], [input], ["features"]);
                all ??= empty([dense.shape[0], .. results[0].GetTensorTypeAndShape().Shape[1..]], ScalarType.Float32);
                MemoryMarshal.AsBytes(results[0].GetTensorDataAsSpan<float>()).CopyTo(all.narrow(0, from, count).bytes);
            }
        }
        return all!.MoveToOuterDisposeScope();
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
