using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

/// <summary>A session and what its cells have shown.</summary>
internal sealed class CellRun(SessionOptions? options = null) : IDisposable
{
    private readonly CSharpSession session = new(options);
    private int number;

    public List<CellOutput> Outputs { get; } = [];

    public string Stdout => string.Concat(Outputs.OfType<StreamOutput>().Where(s => s.Name == "stdout").Select(s => s.Text));

    public string? Value => Outputs.OfType<ResultOutput>().LastOrDefault()?.Data[MimeBundle.Plain];

    public ErrorOutput Error => Assert.Single(Outputs.OfType<ErrorOutput>());

    /// <summary>Runs a cell; its outputs replace those of the one before.</summary>
    public async Task<CellResult> Run(string code, CancellationToken cancellation = default)
    {
        Outputs.Clear();
        return await session.RunAsync(code, $"cell {++number}", output =>
        {
            lock (Outputs)
                Outputs.Add(output);
        }, cancellation);
    }

    /// <summary>Runs a cell that must succeed and returns its value as text.</summary>
    public async Task<string?> Eval(string code)
    {
        var result = await Run(code);
        Assert.True(result.Succeeded, result.Error?.Message);
        return Value;
    }

    public void Dispose() => session.Dispose();
}
