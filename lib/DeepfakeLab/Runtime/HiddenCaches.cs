using System.Globalization;
using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// Virtual machines that say nothing of an AMD processor's caches: those under Firecracker answer CPUID's leaf 0x8000001D with zeros. libtorch's oneDNN 3.7 makes caches of one byte from
/// that, plans badly, and divides by zero for some 1x1 convolutions in channels-last layout (512 to 1024 channels, so any ResNeXt-50), which ends the process. Here it is told that it
/// knows of no cache, and assumes sizes of its own. NNPACK does not start there and says so at each convolution that it might compute, so libtorch is told not to ask it.
/// </summary>
/// <remarks>
/// oneDNN has no setting for it. What it has read lies in a variable that the library's symbol table names, and is changed only if it is what that mistake makes of it. Elsewhere nothing
/// is done. The same mistake for other processors: github.com/uxlfoundation/oneDNN/pull/5314.
/// </remarks>
internal static unsafe class HiddenCaches
{
    internal const string Library = "libtorch_cpu.so", Processor = "_ZZN4dnnl4impl3cpu3x643cpuEvE4cpu_"; // dnnl::impl::cpu::x64::cpu()::cpu_

    // Of Xbyak::util::Cpu, in numbers of 32 bits: a size for each level, how many cores share it, how many levels are known.
    private const int MostLevels = 10, Sizes = 7, Levels = Sizes + 2 * MostLevels;
    private const uint LeastSize = 1024;

    private static bool AreHidden => OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64 && X86Base.IsSupported
        && X86Base.CpuId(0, 0).Ebx == 0x68747541 // "Auth"enticAMD
        && (uint)X86Base.CpuId(unchecked((int)0x80000000), 0).Eax >= 0x8000001D && X86Base.CpuId(unchecked((int)0x8000001D), 0) == (0, 0, 0, 0);

    /// <summary>To be called once, when libtorch is loaded and before it computes anything. Does nothing where the processor tells its caches.</summary>
    public static void TryCorrect()
    {
        if (!AreHidden)
            return;
        if (NativeLibrary.TryLoad(Library, out var library) && NativeLibrary.TryGetExport(library, "_ZN2at13globalContextEv", out var context)
            && NativeLibrary.TryGetExport(library, "_ZN2at7Context20setUserEnabledNNPACKEb", out var enable))
            ((delegate* unmanaged<nint, byte, void>)enable)(((delegate* unmanaged<nint>)context)(), 0);
        Ask();
        if (Find() is var processor && processor != null && processor[Levels] is > 0 and <= MostLevels && processor[Sizes] < LeastSize)
            processor[Levels] = 0;
    }

    /// <summary>The levels that oneDNN knows and the bytes of the first; null where its variable is not found.</summary>
    internal static (uint Levels, uint Bytes)? Known
    {
        get
        {
            Ask();
            var processor = Find();
            return processor == null ? null : (processor[Levels], processor[Sizes]);
        }
    }

    /// <summary>Has oneDNN look at the processor, which it does once.</summary>
    private static void Ask()
    {
        using var scope = NewDisposeScope();
        nn.functional.conv2d(ones(2, 1, 1, 1), ones(1, 1, 1, 1)); // of two images, as libtorch computes one small one by itself
    }

    private static uint* Find()
    {
        try
        {
            foreach (var line in File.ReadLines("/proc/self/maps")) // begin-end rights offset device file path
                if (line.EndsWith('/' + Library, StringComparison.Ordinal) && line.Split(' ', StringSplitOptions.RemoveEmptyEntries) is [var range, _, "00000000", ..])
                    return Address(line[line.IndexOf('/', StringComparison.Ordinal)..], Processor) is { } address
                        ? (uint*)(nuint.Parse(range.AsSpan(0, range.IndexOf('-', StringComparison.Ordinal)), NumberStyles.HexNumber, CultureInfo.InvariantCulture) + address) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // without /proc, or with a library that may be run and not read, all stays as it is
        }
        return null;
    }

    /// <summary>Where a 64-bit little-endian ELF file's symbol table has this symbol; null where it has none.</summary>
    internal static nuint? Address(string path, string symbol)
    {
        using var file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        using var view = file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        byte* begin = null;
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref begin);
        try
        {
            return Address(new ReadOnlySpan<byte>(begin, checked((int)new FileInfo(path).Length)), symbol);
        }
        catch (Exception e) when (e is ArgumentOutOfRangeException or IndexOutOfRangeException or OverflowException)
        {
            return null; // a truncated or foreign file
        }
        finally
        {
            view.SafeMemoryMappedViewHandle.ReleasePointer();
        }
    }

    private static nuint? Address(ReadOnlySpan<byte> elf, string symbol)
    {
        if (!NativeLibraryFix.IsElf(elf))
            return null;
        var sections = MemoryMarshal.Cast<byte, Section>(elf[checked((int)MemoryMarshal.Read<ulong>(elf[40..]))..])[..MemoryMarshal.Read<ushort>(elf[60..])];
        foreach (var table in sections)
            if (table.Type == 2) // SHT_SYMTAB
            {
                var strings = sections[checked((int)table.Link)];
                var name = elf.Slice(checked((int)strings.Offset), checked((int)strings.Size)).IndexOf(Encoding.ASCII.GetBytes('\0' + symbol + '\0')) + 1;
                if (name == 0)
                    return null;
                foreach (var entry in MemoryMarshal.Cast<byte, Symbol>(elf.Slice(checked((int)table.Offset), checked((int)table.Size))))
                    if (entry.Name == name)
                        return (nuint)entry.Value;
            }
        return null;
    }

    private readonly record struct Section(uint Name, uint Type, ulong Flags, ulong Address, ulong Offset, ulong Size, uint Link, uint Info, ulong Alignment, ulong EntrySize);

    private readonly record struct Symbol(uint Name, uint Kind, ulong Value, ulong Size);
}
