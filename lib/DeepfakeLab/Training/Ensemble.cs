namespace DeepfakeLab;

/// <summary>A finished ensemble.</summary>
/// <param name="Members">Their trainings. Each had other images of <paramref name="Split"/>'s first two parts to learn from and to be chosen by.</param>
/// <param name="Split">What was divided among them; its test images were not looked at.</param>
/// <param name="Seed">What the members' seeds were drawn from.</param>
public sealed record EnsembleRun(IReadOnlyList<TrainingRun> Members, Recipe Recipe, DataSplit Split, long Seed) : IDisposable
{
    /// <summary>What <see cref="Predictor"/> takes.</summary>
    public IReadOnlyList<VisionModel> Models => [.. Members.Select(m => m.Model)];

    /// <summary>What images go through before the models.</summary>
    public Preprocessing Preprocessing => Members[0].Preprocessing;

    /// <summary>Whether it was cancelled before its end; it then has fewer members.</summary>
    public bool Stopped { get; init; }

    /// <summary>Disposes of the models.</summary>
    public void Dispose()
    {
        foreach (var member in Members)
            member.Model.Dispose();
    }

    /// <summary>Each validation image of a member, scored by that member, which has not learned from it: what a threshold can be chosen by.</summary>
    public IReadOnlyList<Prediction> OutOfFold(int fakeClass, CancellationToken cancellation = default) =>
        [.. Members.SelectMany(m => Predictor.Predict(m.Model, m.Split.Validation, m.Preprocessing, fakeClass, Recipe.MirrorScores, cancellation))];
}

/// <summary>An ensemble was cancelled. Those members that were finished are ready for use; of a first one its best weights so far.</summary>
public sealed class EnsembleStoppedException(EnsembleRun run, OperationCanceledException cause)
    : OperationCanceledException($"The ensemble was stopped; it has {run.Members.Count} of {run.Recipe.Members} members.", cause, cause.CancellationToken)
{
    /// <summary>What was done until then.</summary>
    public EnsembleRun Run { get; } = run;
}

/// <summary>
/// Several trainings from the same pretrained weights whose probabilities are averaged (Lakshminarayanan et al., "Simple and Scalable
/// Predictive Uncertainty Estimation using Deep Ensembles", 2017). Their errors differ, so that the mean errs less than one of them does.
/// Predicting takes as many times as long.
/// </summary>
public static class Ensemble
{
    /// <summary>Each member's validation images are one of so many folds, a tenth of what there is, unless there are more members.</summary>
    private const int Folds = 10;

    /// <summary>Trains <see cref="Recipe.Members"/> models.</summary>
    /// <param name="model">Makes a model with its pretrained weights and head; called for each member.</param>
    /// <param name="split">
    /// Its training and validation images together are divided anew for each member, so that members validate on different images and
    /// all images are learned from by most of them. The test images are not looked at.
    /// </param>
    /// <param name="options">As for <see cref="Trainer.Fit"/>. Each member has a seed drawn from this one, and a checkpoint of its own beside
    /// this one, which stays, so that a stopped ensemble goes on in the midst of a member (<see cref="DeleteCheckpoints"/>).</param>
    /// <param name="onEpoch">Called with the member (from 1) and each epoch's figures as it ends.</param>
    /// <exception cref="TrainingException">As for <see cref="Trainer.Fit"/>.</exception>
    /// <exception cref="EnsembleStoppedException">It was cancelled after the first epoch of the first member.</exception>
    public static EnsembleRun Fit(
        Func<VisionModel> model, DataSplit split, Recipe recipe, FitOptions? options = null, Action<int, EpochFigures>? onEpoch = null,
        CancellationToken cancellation = default)
    {
        options ??= new FitOptions();
        recipe.Check();
        var (members, done) = (new List<TrainingRun>(), false);
        VisionModel? fresh = null;
        try
        {
            for (var member = 1; member <= recipe.Members; member++)
            {
                var number = member;
                var own = options with
                {
                    Seed = (long)(SeededRandom.Combine(options.Seed, member) >> 1),
                    CheckpointFile = options.CheckpointFile is { } file ? CheckpointOf(file, member) : null,
                };
                LabRuntime.Seed(own.Seed); // the new head's first weights
                fresh = model();
                members.Add(Trainer.Fit(fresh, Part(split, recipe.Members, member), recipe with { Members = 1 }, own, e => onEpoch?.Invoke(number, e), cancellation));
                fresh = null;
            }
            done = true;
        }
        catch (OperationCanceledException e) when (members.Count > 0 || e is TrainingStoppedException)
        {
            if (members.Count == 0)
                (members, fresh) = ([((TrainingStoppedException)e).Run], null);
            done = true;
            throw new EnsembleStoppedException(new(members, recipe, split, options.Seed) { Stopped = true }, e);
        }
        finally
        {
            fresh?.Dispose();
            if (!done)
                members.ForEach(m => m.Model.Dispose());
        }
        return new(members, recipe, split, options.Seed);
    }

    /// <summary>Removes the checkpoints that <see cref="Fit"/> has left beside this one.</summary>
    public static void DeleteCheckpoints(string file, Recipe recipe)
    {
        for (var member = 1; member <= recipe.Members; member++)
            File.Delete(CheckpointOf(file, member));
    }

    /// <summary>What a member (from 1) learns from and is chosen by.</summary>
    internal static DataSplit Part(DataSplit split, int members, int member)
    {
        var fold = Protocol.Folds([.. split.Train, .. split.Validation], Math.Max(Folds, members), 0, split.Seed)[member - 1];
        return split with { Train = fold.Train, Validation = fold.Test };
    }

    private static string CheckpointOf(string file, int member) => Path.ChangeExtension(file, FormattableString.Invariant($"member-{member}") + Path.GetExtension(file));
}
