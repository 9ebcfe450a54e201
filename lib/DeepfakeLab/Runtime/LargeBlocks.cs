using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace DeepfakeLab;

/// <summary>
/// The memory of libtorch's large tensors on an x64 processor under GNU/Linux, and of our own large blocks: one range of addresses that is theirs alone, in which
/// <see cref="Gaps"/> finds them a place. It stays resident, as what glibc holds does. Elsewhere, and where libtorch is not built as this expects, nothing is done.
/// </summary>
/// <remarks>
/// glibc cuts a block that shall begin at a cache line out of a larger one, and small blocks settle in what is left at its ends: once freed, its place is a few bytes
/// too small for the next of its size. The heap of a training step grew to half as much again as it ever held (ResNeXt-50 3.3 GB for 2.0). libtorch lets its allocator be replaced
/// (<c>c10::SetCPUAllocator</c>), for which an object like its own is laid out here, of six functions; whether they are those that are expected is
/// looked at first. Small tensors, and what finds no place, go to libtorch's own by a few instructions of machine code: through a function of
/// .NET's its C++ exceptions could not pass.
/// </remarks>
internal static unsafe partial class LargeBlocks
{
    /// <summary>Bytes from which on a block is large.</summary>
    public const int Least = 256 << 10;

    private const int Allocating = 2, Comparing = 3, Deleting = 4, Functions = 6; // of c10::Allocator, behind two destructors
    private const int ReadWrite = 3, ReadExecute = 5, PrivateAnonymousUnreserved = 0x4022; // PROT_ and MAP_ of <sys/mman.h>
    private static readonly Lock gate = new();
    private static Gaps? gaps; // null where libtorch's own allocator stays
    private static byte* begin;
    private static long size;
    private static nint own; // what frees libtorch's own blocks
    private static short device; // that a block says it is on

    [ThreadStatic]
    private static bool leaves;

    /// <summary>Has this thread's large blocks come from glibc: threads that each compute whole images find their last ones there, still in their own cache (MobileNetV2's features in bfloat16 by 1 to 4 %).</summary>
    public static void LeaveThread() => leaves = true;

    /// <summary>Whether libtorch's large tensors lie here.</summary>
    public static bool AreHere => gaps is not null;

    /// <summary>Bytes that are in use, and the most that ever were from the first to the last.</summary>
    public static (long Used, long Extent) State
    {
        get
        {
            lock (gate)
                return (gaps?.Used ?? 0, gaps?.Extent ?? 0);
        }
    }

    /// <summary>To be called once, when libtorch is loaded and before it makes tensors.</summary>
    public static void TryInstall()
    {
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64 || !GnuLibrary.IsConfigured || !NativeLibrary.TryLoad("libc10.so", out var library)
            || !NativeLibrary.TryGetExport(library, "_ZN3c1015GetCPUAllocatorEv", out var get) || !NativeLibrary.TryGetExport(library, "_ZN3c1015SetCPUAllocatorEPNS_9AllocatorEh", out var set)
            || !NativeLibrary.TryGetExport(library, "_ZNK3c109Allocator18is_simple_data_ptrERKNS_7DataPtrE", out var compare))
            return;
        var theirs = ((delegate* unmanaged<nint*>)get)();
        var functions = (nint*)*theirs;
        if (functions[Comparing] != compare)
            return;
        own = ((delegate* unmanaged<nint*, nint>)functions[Deleting])(theirs);
        var block = stackalloc nint[8]; // a c10::DataPtr: where the numbers are, what frees them, what that is told, and the device
        ((delegate* unmanaged<nint*, nint*, nuint, nint*>)functions[Allocating])(block, theirs, 64);
        var known = own != 0 && block[1] == own && block[0] != 0 && block[2] == block[0];
        device = (short)block[3];
        if (!known)
            return;
        ((delegate* unmanaged<nint, void>)own)(block[0]);

        size = Math.Max(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes, 1L << 30) * 4; // addresses only
        var (range, code) = (mmap(0, (nuint)size, ReadWrite, PrivateAnonymousUnreserved, -1, 0), mmap(0, 4096, ReadWrite, PrivateAnonymousUnreserved, -1, 0));
        if (range == -1 || code == -1)
            return;
        Assemble(new Span<byte>((void*)code, 64), functions[Allocating]);
        if (mprotect(code, 4096, ReadExecute) != 0)
            return;
        var ours = (nint*)NativeMemory.AllocZeroed(1 + Functions, (nuint)sizeof(nint)); // for as long as the process lives
        new Span<nint>(functions, Functions).CopyTo(new Span<nint>(ours + 1, Functions));
        ours[0] = (nint)(ours + 1);
        ours[1 + Allocating] = code;
        ours[1 + Deleting] = (nint)(delegate* unmanaged<nint, nint>)&Deleter;
        begin = (byte*)range;
        gaps = new Gaps(size);
        ((delegate* unmanaged<nint*, byte, void>)set)(ours, 1);
    }

    /// <summary>A large block that begins at a cache line; null where there is none to be had, or it would be a small one.</summary>
    public static void* Take(long bytes)
    {
        if (bytes < Least || gaps is null || leaves)
            return null;
        lock (gate)
            return gaps.Take(bytes) is { } at ? begin + at : null;
    }

    /// <summary>Gives back what <see cref="Take"/> gave; false for any other block.</summary>
    public static bool TryReturn(void* block)
    {
        if (gaps is null || block < begin || block >= begin + size)
            return false;
        lock (gate)
            gaps.Return((byte*)block - begin);
        return true;
    }

    /// <summary>As <c>c10::Allocator::allocate</c>, but that it may say 0: nothing was done.</summary>
    [UnmanagedCallersOnly]
    private static int Allocate(nint* result, nint self, nuint bytes)
    {
        var block = bytes > (nuint)size ? 0 : (nint)Take((long)bytes);
        if (block == 0)
            return 0;
        (result[0], result[1], result[2]) = (block, (nint)(delegate* unmanaged<nint, void>)&Free, block);
        *(short*)(result + 3) = device;
        return 1;
    }

    [UnmanagedCallersOnly]
    private static void Free(nint block)
    {
        if (!TryReturn((void*)block))
            ((delegate* unmanaged<nint, void>)own)(block);
    }

    [UnmanagedCallersOnly]
    private static nint Deleter(nint self) => (nint)(delegate* unmanaged<nint, void>)&Free;

    /// <summary>allocate(result: rdi, self: rsi, bytes: rdx): <see cref="Allocate"/> if it is a large block and finds a place, else <paramref name="theirs"/>.</summary>
    private static void Assemble(Span<byte> code, nint theirs)
    {
        ReadOnlySpan<byte> all =
        [
            0x48, 0x81, 0xFA, 0, 0, 0, 0, //             cmp rdx, Least
            0x72, 26, //                                 jb  theirs
            0x57, 0x56, 0x52, //                         push rdi, rsi, rdx: the stack is at a multiple of 16 then
            0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, //       mov rax, Allocate
            0xFF, 0xD0, //                               call rax
            0x5A, 0x5E, 0x5F, //                         pop rdx, rsi, rdi
            0x85, 0xC0, //                               test eax, eax
            0x74, 4, //                                  jz  theirs
            0x48, 0x89, 0xF8, //                         mov rax, rdi
            0xC3, //                                     ret
            0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, // theirs: mov rax, ...
            0xFF, 0xE0, //                               jmp rax
        ];
        all.CopyTo(code);
        BinaryPrimitives.WriteInt32LittleEndian(code[3..], Least);
        BinaryPrimitives.WriteInt64LittleEndian(code[14..], (nint)(delegate* unmanaged<nint*, nint, nuint, int>)&Allocate);
        BinaryPrimitives.WriteInt64LittleEndian(code[37..], theirs);
    }

    [LibraryImport("libc")]
    private static partial nint mmap(nint address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc")]
    private static partial int mprotect(nint address, nuint length, int protection);
}

/// <summary>Places for blocks in a range: each gets the smallest gap that holds it, the first of these, and gaps that touch become one. For one thread at a time.</summary>
/// <param name="size">Of the range.</param>
internal sealed class Gaps(long size)
{
    /// <summary>What blocks' sizes are rounded up to: a cache line.</summary>
    private const int Unit = 64;

    private readonly record struct Block(long At, long Size, bool IsGap)
    {
        public long End => At + Size;
    }

    private readonly List<Block> blocks = [new(0, size / Unit * Unit, true)]; // in their order, without anything between: some hundreds, which are looked through

    public long Used { get; private set; }

    /// <summary>The farthest that a block reached.</summary>
    public long Extent { get; private set; }

    /// <summary>Where there is room for a block; null for nowhere.</summary>
    public long? Take(long bytes)
    {
        var (rounded, best) = ((Math.Max(bytes, 1) + Unit - 1) / Unit * Unit, -1);
        var all = CollectionsMarshal.AsSpan(blocks);
        for (var i = 0; i < all.Length; i++)
            if (all[i].IsGap && all[i].Size >= rounded && (best < 0 || all[i].Size < all[best].Size))
                best = i;
        if (best < 0)
            return null;
        var gap = blocks[best];
        blocks[best] = new(gap.At, rounded, false);
        if (gap.Size > rounded)
            blocks.Insert(best + 1, new(gap.At + rounded, gap.Size - rounded, true));
        Used += rounded;
        Extent = Math.Max(Extent, gap.At + rounded);
        return gap.At;
    }

    /// <param name="at">What <see cref="Take"/> gave.</param>
    public void Return(long at)
    {
        var (low, high) = (0, blocks.Count - 1);
        while (low < high)
            if (blocks[(low + high) / 2].End > at)
                high = (low + high) / 2;
            else
                low = (low + high) / 2 + 1;
        var block = blocks[low];
        if (block.At != at || block.IsGap)
            throw new InvalidOperationException($"No block begins at {at}");
        Used -= block.Size;
        var first = low > 0 && blocks[low - 1].IsGap ? low - 1 : low;
        var last = low + 1 < blocks.Count && blocks[low + 1].IsGap ? low + 1 : low;
        blocks[first] = new(blocks[first].At, blocks[last].End - blocks[first].At, true);
        blocks.RemoveRange(first + 1, last - first);
    }
}
