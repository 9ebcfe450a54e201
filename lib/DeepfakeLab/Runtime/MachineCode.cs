using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace DeepfakeLab;

/// <summary>
/// Functions of instructions that .NET 10 has no intrinsics for, those of AVX512-BF16, assembled by Iced. They take four pointers, return nothing and call nobody.
/// </summary>
/// <remarks>They are written through one view of memory and run through another: no page is ever both writable and executable.</remarks>
internal sealed unsafe class MachineCode : IDisposable
{
    private const int Alignment = 64;
    private static readonly Lazy<string?> refusal = new(Try);

    private readonly MemoryStream code = new();
    private MemoryMappedViewAccessor? view;
    private byte* first;

    /// <summary>Whether the processor has AVX512-BF16.</summary>
    public static bool IsSupported { get; } = X86Base.X64.IsSupported && Vector512.IsHardwareAccelerated && X86Base.CpuId(7, 0).Eax >= 1 && (X86Base.CpuId(7, 1).Eax >> 5 & 1) == 1;

    /// <summary>Why the operating system runs no functions that are made here; null where it does, and where there are none.</summary>
    public static string? Refusal => IsSupported ? refusal.Value : null;

    public static bool Runs => IsSupported && Refusal is null;

    /// <summary>Where a function finds its pointers. It may change them, rax, r10, r11 and all vectors.</summary>
    public static (AssemblerRegister64 A, AssemblerRegister64 B, AssemblerRegister64 C, AssemblerRegister64 D) Arguments { get; } =
        OperatingSystem.IsWindows() ? (rcx, rdx, r8, r9) : (rdi, rsi, rdx, rcx);

    public static AssemblerRegisterZMM Vector(int index) => new(Register.ZMM0 + index);

    /// <summary>Assembles a function. Returns its number.</summary>
    /// <param name="write">Given the assembler, and what makes of a number an operand that stands for a vector of it.</param>
    public int Add(Action<Assembler, Func<float, AssemblerMemoryOperand>> write)
    {
        var assembler = new Assembler(64) { PreferVex = false }; // which reaches only half of the registers
        var constants = new Dictionary<float, Label>();
        const int kept = 6, last = 15; // vectors that the caller's numbers may be in, on Windows
        if (OperatingSystem.IsWindows())
        {
            assembler.sub(rsp, (last - kept + 1) * 16 + 8);
            for (var i = kept; i <= last; i++)
                assembler.vmovups(__xmmword_ptr[rsp + (i - kept) * 16], new AssemblerRegisterXMM(Register.XMM0 + i));
        }
        write(assembler, number =>
        {
            if (!constants.TryGetValue(number, out var place))
                constants[number] = place = assembler.CreateLabel();
            return __dword_bcst[place];
        });
        if (OperatingSystem.IsWindows())
        {
            for (var i = kept; i <= last; i++)
                assembler.vmovups(new AssemblerRegisterXMM(Register.XMM0 + i), __xmmword_ptr[rsp + (i - kept) * 16]);
            assembler.add(rsp, (last - kept + 1) * 16 + 8);
        }
        assembler.vzeroupper();
        assembler.ret();
        foreach (var number in constants.Keys)
        {
            var place = constants[number];
            assembler.Label(ref place);
            assembler.dd(number);
        }
        code.SetLength(code.Position = (code.Length + Alignment - 1) / Alignment * Alignment);
        var at = (int)code.Position;
        assembler.Assemble(new StreamCodeWriter(code), (ulong)at);
        return at;
    }

    /// <summary>Instructions that are done so many times; they may not change <paramref name="counter"/>.</summary>
    public static void Loop(Assembler assembler, AssemblerRegister32 counter, int times, Action write)
    {
        assembler.mov(counter, times);
        var begin = assembler.CreateLabel();
        assembler.Label(ref begin);
        write();
        assembler.dec(counter);
        assembler.jne(begin);
    }

    /// <summary>Makes the functions ready to be called; no other can be added.</summary>
    public void Seal()
    {
        using var file = MemoryMappedFile.CreateNew(null, code.Length, MemoryMappedFileAccess.ReadWriteExecute);
        using (var writing = file.CreateViewStream(0, code.Length, MemoryMappedFileAccess.ReadWrite))
            code.WriteTo(writing);
        view = file.CreateViewAccessor(0, code.Length, MemoryMappedFileAccess.ReadExecute);
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref first);
        first += view.PointerOffset;
    }

    /// <summary>Without telling the garbage collector: a function takes a few microseconds at most.</summary>
    public void Call(int function, void* a, void* b, void* c, void* d) => ((delegate* unmanaged[SuppressGCTransition]<void*, void*, void*, void*, void>)(first + function))(a, b, c, d);

    public void Dispose()
    {
        if (first != null)
            view!.SafeMemoryMappedViewHandle.ReleasePointer();
        first = null;
        view?.Dispose();
    }

    private static string? Try()
    {
        try
        {
            using var code = new MachineCode();
            var function = code.Add((c, _) => c.mov(__dword_ptr[Arguments.A], 1));
            code.Seal();
            var done = 0;
            code.Call(function, &done, null, null, null);
            return done == 1 ? null : "a first function of machine code did not run";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ExternalException or NotSupportedException)
        {
            return e.Message;
        }
    }
}
