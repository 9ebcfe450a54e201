using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;

namespace DeepfakeLab;

/// <summary>The machine under the models: native libraries, allocator, threads, device and random seed.</summary>
/// <remarks>
/// Settings are read from the environment when the library is first used: <c>DEEPFAKELAB_THREADS</c> (a count),
/// <c>DEEPFAKELAB_DEVICE</c> (<c>auto</c>, <c>cpu</c>, <c>cuda</c>, <c>cuda:N</c>, <c>mps</c>).
/// </remarks>
public static class LabRuntime
{
    private static readonly Lazy<torch.Device> device = new(() => ChooseDevice(Environment.GetEnvironmentVariable("DEEPFAKELAB_DEVICE")));
    private static readonly Lazy<bool> started = new(LoadTorch);

    /// <summary>Runs before anything else in the library does, and before TorchSharp loads libtorch.</summary>
    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "The allocator setting and the loader hook come too late in any method a user calls.")]
    internal static void Prepare()
    {
        NativeLibraryFix.Register();
        GnuLibrary.TryConfigure();
    }

    /// <summary>Loads libtorch and applies the thread count. Every part of the library that needs torch calls this; twice is harmless.</summary>
    /// <exception cref="RuntimeException">libtorch cannot be loaded, or a setting has a value that is not understood.</exception>
    public static void Start() => _ = started.Value;

    /// <summary>
    /// <c>DEEPFAKELAB_QUICK=1</c>: everything runs, nothing is learned. The painted sample has every eighth of its images, and trainings are
    /// cut to a third of theirs, 2 epochs of the head and 1 of fine-tuning. For checks that a notebook still runs; <see cref="FaceDataset.ToString"/> says it.
    /// </summary>
    public static bool Quick => Environment.GetEnvironmentVariable("DEEPFAKELAB_QUICK") is "1" or "true";

    /// <summary>Where models and batches live: <c>DEEPFAKELAB_DEVICE</c>, else CUDA, else Apple's MPS, else the CPU.</summary>
    public static torch.Device Device
    {
        get
        {
            Start();
            return device.Value;
        }
    }

    /// <summary>How many threads torch computes with.</summary>
    public static int Threads
    {
        get
        {
            Start();
            return torch.get_num_threads();
        }
    }

    /// <summary>Seeds every generator that torch holds. All else in the library derives its randomness from a seed it is given.</summary>
    public static void Seed(long seed)
    {
        Start();
        torch.manual_seed(seed).Dispose();
    }

    private static bool LoadTorch()
    {
        var threads = ReadThreads(Environment.GetEnvironmentVariable("DEEPFAKELAB_THREADS"));
        try
        {
            torch.InitializeDeviceType(DeviceType.CPU);
            torch.set_num_threads(threads);
            LargeBlocks.TryInstall();
            HiddenCaches.TryCorrect();
        }
        catch (Exception e) when (e is NotSupportedException or DllNotFoundException or TypeInitializationException)
        {
            throw new RuntimeException("libtorch does not load on this system", RuntimeInformation.RuntimeIdentifier,
                "Supported are linux-x64, win-x64 and osx-arm64; see environment/README.md. The cause was: " + e.GetBaseException().Message.Split('\n')[0], e);
        }
        return true;
    }

    internal static int ReadThreads(string? value)
    {
        if (string.IsNullOrWhiteSpace(value))
            return Math.Max(1, Environment.ProcessorCount);
        return int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out var count) && count is >= 1 and <= 1024
            ? count
            : throw new RuntimeException("DEEPFAKELAB_THREADS is not a count of threads", value, "Set it to a whole number from 1 to 1024, or unset it");
    }

    internal static torch.Device ChooseDevice(string? value)
    {
        var name = string.IsNullOrWhiteSpace(value) ? "auto" : value.Trim().ToLowerInvariant();
        if (name == "auto")
            name = CudaWorks() ? "cuda" : torch.mps_is_available() ? "mps" : "cpu";
        switch (name)
        {
            case "cpu":
                return torch.CPU;
            case "mps" when torch.mps_is_available():
            case "cuda" when CudaWorks():
                return torch.device(name);
            case "mps" or "cuda":
                throw new RuntimeException($"DEEPFAKELAB_DEVICE asks for {name}, which this system does not offer", value,
                    name == "cuda" ? "Build with -p:TorchBackend=cuda and check the driver, or set it to cpu" : "Set it to cpu");
        }
        if (name.StartsWith("cuda:", StringComparison.Ordinal)
            && int.TryParse(name.AsSpan(5), NumberStyles.None, CultureInfo.InvariantCulture, out var index)
            && CudaWorks() && index < torch.cuda.device_count())
            return torch.device(name);
        throw new RuntimeException("DEEPFAKELAB_DEVICE names no device of this system", value, "Use auto, cpu, cuda, cuda:N or mps");
    }

    /// <summary>The processor-only libtorch has no CUDA backend, and TorchSharp throws when asked to look for one.</summary>
    private static bool CudaWorks()
    {
        try
        {
            return torch.cuda_is_available();
        }
        catch (Exception e) when (e is NotSupportedException or DllNotFoundException)
        {
            return false;
        }
    }
}
