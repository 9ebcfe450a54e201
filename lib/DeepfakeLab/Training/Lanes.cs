using System.Runtime.Intrinsics;

namespace DeepfakeLab;

/// <summary>A register of float32 numbers, so that a kernel is written once and made for eight of them and for sixteen, with the same bits.</summary>
/// <remarks>.NET has such an interface (ISimdVector) and keeps it to itself. As there, what is compared becomes all ones or zeros, and of a number and NaN NaN is the least and the greatest if it comes second.</remarks>
internal unsafe interface ILanes<T> where T : struct, ILanes<T>
{
    static abstract int Count { get; }

    static abstract T Load(float* from);

    void Store(float* to);

    /// <summary>Past the cache, to where a whole register lies.</summary>
    void StorePast(float* to);

    static abstract T Create(float value);

    static abstract T operator +(T a, T b);

    static abstract T operator -(T a, T b);

    static abstract T operator *(T a, T b);

    static abstract T operator /(T a, T b);

    static abstract T operator &(T a, T b);

    static abstract T operator >(T a, T b);

    static abstract T operator <(T a, T b);

    /// <summary>a b + c.</summary>
    static abstract T FusedMultiplyAdd(T a, T b, T c);

    static abstract T Min(T a, T b);

    static abstract T Max(T a, T b);

    static abstract T Select(T condition, T a, T b);

    /// <summary>2^n of the whole number n that lies in the lowest bits: infinity for 128.</summary>
    static abstract T PowerOfTwo(T bits);
}

internal readonly unsafe struct Eight(Vector256<float> all) : ILanes<Eight>
{
    private readonly Vector256<float> all = all;

    public static int Count => 8;

    public static Eight Load(float* from) => new(Vector256.Load(from));

    public void Store(float* to) => all.Store(to);

    public void StorePast(float* to) => all.StoreAlignedNonTemporal(to);

    public static Eight Create(float value) => new(Vector256.Create(value));

    public static Eight operator +(Eight a, Eight b) => new(a.all + b.all);

    public static Eight operator -(Eight a, Eight b) => new(a.all - b.all);

    public static Eight operator *(Eight a, Eight b) => new(a.all * b.all);

    public static Eight operator /(Eight a, Eight b) => new(a.all / b.all);

    public static Eight operator &(Eight a, Eight b) => new(a.all & b.all);

    public static Eight operator >(Eight a, Eight b) => new(Vector256.GreaterThan(a.all, b.all));

    public static Eight operator <(Eight a, Eight b) => new(Vector256.LessThan(a.all, b.all));

    public static Eight FusedMultiplyAdd(Eight a, Eight b, Eight c) => new(Vector256.FusedMultiplyAdd(a.all, b.all, c.all));

    public static Eight Min(Eight a, Eight b) => new(Vector256.MinNative(a.all, b.all));

    public static Eight Max(Eight a, Eight b) => new(Vector256.MaxNative(a.all, b.all));

    public static Eight Select(Eight condition, Eight a, Eight b) => new(Vector256.ConditionalSelect(condition.all, a.all, b.all));

    public static Eight PowerOfTwo(Eight bits) => new((Vector256.ShiftLeft(bits.all.AsInt32(), 23) + Vector256.Create(0x3F800000)).AsSingle());
}

internal readonly unsafe struct Sixteen(Vector512<float> all) : ILanes<Sixteen>
{
    private readonly Vector512<float> all = all;

    public static implicit operator Vector512<float>(Sixteen lanes) => lanes.all;

    /// <summary>Whether rows of so many channels are read sixteen at a time.</summary>
    public static bool Fits(int channels) => Vector512.IsHardwareAccelerated && channels % 16 == 0;

    public static int Count => 16;

    public static Sixteen Load(float* from) => new(Vector512.Load(from));

    public void Store(float* to) => all.Store(to);

    public void StorePast(float* to) => all.StoreAlignedNonTemporal(to);

    public static Sixteen Create(float value) => new(Vector512.Create(value));

    public static Sixteen operator +(Sixteen a, Sixteen b) => new(a.all + b.all);

    public static Sixteen operator -(Sixteen a, Sixteen b) => new(a.all - b.all);

    public static Sixteen operator *(Sixteen a, Sixteen b) => new(a.all * b.all);

    public static Sixteen operator /(Sixteen a, Sixteen b) => new(a.all / b.all);

    public static Sixteen operator &(Sixteen a, Sixteen b) => new(a.all & b.all);

    public static Sixteen operator >(Sixteen a, Sixteen b) => new(Vector512.GreaterThan(a.all, b.all));

    public static Sixteen operator <(Sixteen a, Sixteen b) => new(Vector512.LessThan(a.all, b.all));

    public static Sixteen FusedMultiplyAdd(Sixteen a, Sixteen b, Sixteen c) => new(Vector512.FusedMultiplyAdd(a.all, b.all, c.all));

    public static Sixteen Min(Sixteen a, Sixteen b) => new(Vector512.MinNative(a.all, b.all));

    public static Sixteen Max(Sixteen a, Sixteen b) => new(Vector512.MaxNative(a.all, b.all));

    public static Sixteen Select(Sixteen condition, Sixteen a, Sixteen b) => new(Vector512.ConditionalSelect(condition.all, a.all, b.all));

    public static Sixteen PowerOfTwo(Sixteen bits) => new((Vector512.ShiftLeft(bits.all.AsInt32(), 23) + Vector512.Create(0x3F800000)).AsSingle());
}
