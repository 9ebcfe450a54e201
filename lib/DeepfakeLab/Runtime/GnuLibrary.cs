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

    /// <summary>Whether memory is managed as this library wants it, not as a user's own setting says.</summary>
    public static bool IsConfigured { get; private set; }

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
                IsConfigured = true;
            }
            // OpenMP threads wait awake between two pieces of work for a thousand turns, some ten microseconds: asleep, they took an eighth of a
            // training step to wake. Four thousand gained 3 % more, and lost a third where other programs were busy: libgomp's own number is
            // in the hundred thousands. "active" keeps the thousand where several threads call torch. libgomp reads this when it loads; .NET's
            // own setter would not reach it.
            if (Environment.GetEnvironmentVariable("OMP_WAIT_POLICY") is null && setenv("GOMP_SPINCOUNT", "1000", overwrite: 0) == 0)
                setenv("OMP_WAIT_POLICY", "active", overwrite: 0);
        }
        catch (Exception e) when (e is EntryPointNotFoundException or DllNotFoundException)
        {
            // another C library (musl): it has neither the problem nor the setting
        }
    }

    /// <summary>Hands free memory back to the system, which is else kept for good: for where one piece of work ends and another of other sizes begins.</summary>
    public static void Trim()
    {
        if (IsConfigured)
            malloc_trim(0);
    }

    [LibraryImport("libc")]
    private static partial int malloc_trim(nuint pad);

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);
}
