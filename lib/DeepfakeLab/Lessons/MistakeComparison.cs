using System.Text;

namespace DeepfakeLab;

/// <summary>One experiment of the study run twice a seed: with one of its mistakes and without any.</summary>
/// <param name="Mistake">Which one.</param>
/// <param name="With">The runs with it, a seed each.</param>
/// <param name="Without">The same seeds without it.</param>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed record MistakeComparison(StudyMistakes Mistake, IReadOnlyList<StudyRun> With, IReadOnlyList<StudyRun> Without)
{
    /// <summary>Runs the experiment with and without one mistake. What the frozen layers make of the images is computed once where both see the same.</summary>
    /// <param name="study">The experiment; its other mistakes are left out.</param>
    /// <param name="mistake">The one to measure.</param>
    /// <param name="seeds">Each draws split, head and order anew, the same for both.</param>
    /// <exception cref="TrainingException">As for <see cref="Trainer.Fit"/>.</exception>
    public static MistakeComparison Measure(
        StudyRecipe study, StudyMistakes mistake, FaceDataset data, Weights weights, IReadOnlyList<long>? seeds = null, CancellationToken cancellation = default)
    {
        var (with, without) = (new List<StudyRun>(), new List<StudyRun>());
        foreach (var seed in LabRuntime.Quick ? (seeds ?? [1, 2, 3]).Take(1) : seeds ?? [1, 2, 3])
        {
            without.Add(Run(StudyMistakes.None));
            with.Add(Run(mistake));

            StudyRun Run(StudyMistakes mistakes)
            {
                var run = (study with { Mistakes = mistakes }).Run(data, weights, seed, cancellation: cancellation);
                run.Run.Model.Dispose(); // its figures are what is compared
                return run;
            }
        }
        return new MistakeComparison(mistake, with, without);
    }

    /// <summary>What each way of working would report, the mean over the seeds with its 95 % t interval, which ends where the figure does.</summary>
    public IEnumerable<(string Figure, Estimate With, Estimate Without, Estimate Difference)> Rows =>
    [
        Row("validation accuracy", r => r.Folds.Count > 0 ? r.Folds.Average(f => f.ValidationAccuracy) : r.Run.Best.ValidationAccuracy),
        Row("test accuracy", r => r.Test.Accuracy.Value),
        Row("test AUC", r => r.Test.Auc.Value),
        Row("test recall", r => r.Test.Recall.Value),
    ];

    private (string, Estimate, Estimate, Estimate) Row(string name, Func<StudyRun, double> figure) =>
        (name, Within(0, With.Select(figure)), Within(0, Without.Select(figure)), Within(-1, With.Zip(Without, (a, b) => figure(a) - figure(b))));

    /// <summary>Few seeds make an interval that is wider than a share can be: it is cut off at <paramref name="least"/> and 1.</summary>
    private static Estimate Within(double least, IEnumerable<double> values)
    {
        var mean = StudentT.Mean(values);
        return mean with { Low = Math.Max(mean.Low, least), High = Math.Min(mean.High, 1) };
    }

    private string Words => Mistake switch
    {
        StudyMistakes.ScoresInTrainingMode => "scored in training mode (no eval())",
        StudyMistakes.WrongStd => "std .299 for .229",
        StudyMistakes.FoldsShareOneModel => "one model through all folds",
        StudyMistakes.CopiesOnBothSides => "copies on both sides of the split",
        StudyMistakes.TestChoosesEpoch => "the test images choose the epoch",
        StudyMistakes.SamePhotosOnBothSides => "the same photo on both sides",
        _ => Mistake.ToString(),
    };

    private string Caption => $"{Words}: {With.Count} {(With.Count == 1 ? "seed" : "seeds")}, mean and 95 % t interval over them, cut off where a share ends";

    public override string ToString() =>
        Caption + "\n" + string.Join('\n', Rows.Select(r => $"{r.Figure,-20} with {r.With}   without {r.Without}   difference {r.Difference}"));

    public string ToHtml()
    {
        var html = new StringBuilder();
        EvaluationHtml.Table(html, Caption, ["what would be reported", "with the mistake", "without", "difference"],
            Rows.Select(r => (string[])[r.Figure, r.With.ToString(), r.Without.ToString(), r.Difference.ToString()]));
        return html.ToString();
    }
}
