using System.Runtime.InteropServices;

namespace DeepfakeLab;

/// <summary>Settings of the GNU C library that libtorch's speed depends on. Does nothing where that library is not.</summary>
/// <remarks>
/// glibc hands large blocks back to the kernel at each free, and page faults then dominate: keeping them gained 25 % (ResNet-18)
/// to 160 % (MobileNetV2) of forward speed, for up to 45 % more peak memory. A user's own MALLOC_ or GLIBC_TUNABLES setting stands.
/// </remarks>
internal static partial class GnuLibrary
{
    private const int TrimThreshold = -1, TopPad = -2, MmapMax = -4; // M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of <malloc.h>

    public static void TryConfigure()
    {
        if (!OperatingSystem.IsLinux())
            return;
        try
        {
            if (Environment.GetEnvironmentVariable("GLIBC_TUNABLES") is null && Environment.GetEnvironmentVariable("MALLOC_TRIM_THRESHOLD_") is null)
            {
                mallopt(MmapMax, 0);
                mallopt(TrimThreshold, int.MaxValue);
                mallopt(TopPad, 64 << 20);
            }
            // Waiting OpenMP threads that sleep leave the cores to the threads that decode images. libgomp reads this when it loads;
            // .NET's own setter would not reach it.
            setenv("OMP_WAIT_POLICY", "passive", overwrite: 0);
        }
        catch (Exception e) when (e is EntryPointNotFoundException or DllNotFoundException)
        {
            // another C library (musl): it has neither the problem nor the setting
        }
    }

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);
}
