namespace DeepfakeLab;

/// <summary>Labels or scores that no honest figure can be computed from: none at all, of unequal number, NaN, out of range.</summary>
public sealed class EvaluationException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);
