namespace DeepfakeLab.Notebooks;

/// <summary>An error about a notebook, its file or the kernel's installation that a user can act on.</summary>
/// <remarks>The same shape as the library's errors (problem, subject, remedy), which this assembly does not reference.</remarks>
public sealed class NotebookException(string problem, string? subject, string remedy, Exception? inner = null)
    : Exception(subject is null ? $"{problem}. {remedy}." : $"{problem}: {subject}. {remedy}.", inner)
{
    /// <summary>The file or value at fault; null when the problem has none.</summary>
    public string? Subject { get; } = subject;

    /// <summary>What to do about it.</summary>
    public string Remedy { get; } = remedy;
}
