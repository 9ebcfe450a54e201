using DeepfakeLab.Notebooks;

namespace Microsoft.DotNet.Interactive;

/// <summary>The running cell, as .NET Interactive lets cells see it.</summary>
public sealed class KernelInvocationContext
{
    public static KernelInvocationContext Current { get; } = new();

    /// <summary>Interrupts when the running cell is interrupted.</summary>
    public CancellationToken CancellationToken => CellContext.Current?.Cancellation ?? default;
}

/// <summary>.NET Interactive's other way to show a value, the one whose updates arrive there.</summary>
public static class KernelInvocationContextExtensions
{
    /// <inheritdoc cref="NotebookFunctions.display"/>
    public static DisplayedValue Display(this KernelInvocationContext context, object? value, params string[] mimeTypes) => DisplayedValue.Show(value, mimeTypes);
}
