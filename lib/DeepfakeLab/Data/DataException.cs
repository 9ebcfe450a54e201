namespace DeepfakeLab;

/// <summary>A data folder or a split that cannot be used as it is.</summary>
public sealed class DataException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);

/// <summary>An image file that cannot be read: broken, empty, of another type, or larger than is sensible.</summary>
public sealed class ImageException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner)
{
    /// <summary>What is wrong, without the file's name.</summary>
    public string Problem { get; } = problem;
}
