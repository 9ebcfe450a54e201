namespace DeepfakeLab;

/// <summary>An error that a user can act on: what is wrong, with which file or value, and the remedy.</summary>
/// <remarks>Each area has its own sealed or derived type; the command line prints <see cref="Exception.Message"/> and exits with 1.</remarks>
public abstract class LabException : Exception
{
    /// <param name="problem">What is wrong, as a sentence without its full stop.</param>
    /// <param name="subject">The file, address or value that it is wrong with.</param>
    /// <param name="remedy">What to do about it, as a sentence without its full stop.</param>
    /// <param name="inner">The cause, if another exception is.</param>
    protected LabException(string problem, string? subject, string remedy, Exception? inner = null)
        : base(subject is null ? $"{problem}. {remedy}." : $"{problem}: {subject}. {remedy}.", inner)
    {
        Subject = subject;
        Remedy = remedy;
    }

    /// <summary>The file, address or value at fault; null when the problem has none.</summary>
    public string? Subject { get; }

    /// <summary>What to do about it.</summary>
    public string Remedy { get; }
}

/// <summary>The native libraries cannot be loaded, or a runtime setting has a value that is not understood.</summary>
public sealed class RuntimeException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);
