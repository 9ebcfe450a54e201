namespace DeepfakeLab.Notebooks;

/// <summary>The cell that runs on this thread, or that started the work that does.</summary>
internal sealed class CellContext(Action<CellOutput> output, CancellationToken cancellation)
{
    private static readonly AsyncLocal<CellContext?> current = new();
    private readonly Lock gate = new();

    public static CellContext? Current
    {
        get => current.Value;
        set => current.Value = value;
    }

    public CancellationToken Cancellation => cancellation;

    /// <summary>Hands an output on, one at a time: a cell may write from several threads.</summary>
    public void Show(CellOutput shown)
    {
        lock (gate)
            output(shown);
    }
}

/// <summary>Sends what code writes to the console to the cell it belongs to; everything else goes where it went before.</summary>
internal sealed class ConsoleRouter(TextWriter original, string name) : TextWriter
{
    private static readonly Lock gate = new();
    private static bool installed;

    /// <summary>Puts the routers in place, once for the process.</summary>
    public static void Install()
    {
        lock (gate)
        {
            if (installed)
                return;
            installed = true;
            Console.SetOut(new ConsoleRouter(Console.Out, "stdout"));
            Console.SetError(new ConsoleRouter(Console.Error, "stderr"));
        }
    }

    public override System.Text.Encoding Encoding => original.Encoding;

    public override void Write(char value) => Write(value.ToString());

    public override void Write(char[] buffer, int index, int count) => Write(new string(buffer, index, count));

    public override void Write(ReadOnlySpan<char> buffer) => Write(new string(buffer));

    public override void Write(string? value)
    {
        if (string.IsNullOrEmpty(value))
            return;
        if (CellContext.Current is { } cell)
            cell.Show(new StreamOutput(name, value));
        else
            original.Write(value);
    }

    public override void WriteLine() => Write("\n");

    public override void WriteLine(string? value) => Write(value + "\n");

    public override void Flush() => original.Flush();
}
