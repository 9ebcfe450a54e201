using System.Diagnostics;
using System.Globalization;

namespace DeepfakeLab;

/// <summary>Runs tasks of a sweep. Each can be run again, anywhere: what is done stays, what was begun goes on.</summary>
public static class Sweep
{
    /// <summary>Kept open while a task runs, so that no other process runs it too.</summary>
    private const string LockFile = "lock";

    /// <summary>Why a task failed, for <see cref="SweepTable"/>.</summary>
    internal const string ErrorFile = "error.txt";

    /// <summary>Runs these tasks one after the other; one that fails does not stop the others.</summary>
    /// <param name="log">Called with each line that tells what happens.</param>
    /// <returns>How many of them have no result now.</returns>
    /// <exception cref="LabException">The images cannot be opened.</exception>
    public static int Run(SweepFile file, IReadOnlyList<SweepTask> tasks, Action<string>? log = null, CancellationToken cancellation = default)
    {
        var data = FaceDataset.Open(file.Data);
        log?.Invoke($"data      {data}");
        var missing = 0;
        foreach (var task in tasks)
        {
            cancellation.ThrowIfCancellationRequested();
            if (!Run(file, task, data, text => log?.Invoke(string.Create(CultureInfo.InvariantCulture, $"{"[" + task.Index + "]",-9} {task.Id}: {text}")), cancellation))
                missing++;
        }
        return missing;
    }

    private static bool Run(SweepFile file, SweepTask task, FaceDataset data, Action<string> log, CancellationToken cancellation)
    {
        var folder = file.Folder(task);
        try
        {
            if (IsDone())
                return true;
            Directory.CreateDirectory(folder);
            using var held = Lock(folder);
            if (held is null)
            {
                log("another process is at it");
                return false;
            }
            if (IsDone()) // while this one waited for the lock
                return true;
            File.Delete(Path.Combine(folder, ErrorFile));
            if (SweepResult.Exists(file, task))
                log("its result is of other settings or images, or damaged; anew");
            var clock = Stopwatch.StartNew();
            var result = Train(file, task, data, folder, log, cancellation);
            result.Write(folder, clock.Elapsed);
            foreach (var old in Directory.GetFiles(folder, "checkpoint-*.safetensors"))
                File.Delete(old);
            log(string.Create(CultureInfo.InvariantCulture,
                $"accuracy {result.Run.Test.Accuracy.Value:0.000}, AUC {result.Run.Test.Auc.Value:0.000}, threshold {result.Run.Threshold:0.000}, {result.Run.Kept}, {clock.Elapsed.TotalSeconds:0.0} s"));
            return true;
        }
        catch (Exception e) when (e is not OperationCanceledException) // torch's own errors too, such as too little memory
        {
            log("failed. " + e.Message);
            try
            {
                AtomicFile.WriteText(Path.Combine(folder, ErrorFile), e.Message + "\n");
            }
            catch (Exception second) when (second is IOException or UnauthorizedAccessException)
            {
                log("and that cannot be written there. " + second.Message);
            }
            return false;
        }

        bool IsDone()
        {
            if (!SweepResult.IsDone(file, task, data.Fingerprint))
                return false;
            log("done already");
            return true;
        }
    }

    private static SweepResult Train(SweepFile file, SweepTask task, FaceDataset data, string folder, Action<string> log, CancellationToken cancellation)
    {
        var (hash, origin) = (file.SettingsHash(task), (WeightsOrigin?)null);
        var split = file.Folds > 0
            ? Protocol.Folds(data.Images, file.Folds, Protocol.FoldValidationShare, task.Seed)[task.Fold - 1]
            : data.Split(Protocol.TestShare, Protocol.ValidationShare, task.Seed);
        // the trainer knows images by their names; by this one they are known by content too
        var own = Path.Combine(folder, $"checkpoint-{hash[..12]}-{data.Fingerprint[..12]}");
        var checkpoint = own + ".safetensors"; // an ensemble's members have theirs beside it
        foreach (var old in Directory.GetFiles(folder, "checkpoint-*.safetensors").Where(f => !f.StartsWith(own + ".", StringComparison.Ordinal)))
            File.Delete(old);
        log("begins");
        var options = new FitOptions
        {
            Seed = task.Seed,
            Preprocessing = Preprocessing.Square(file.Size),
            CheckpointFile = checkpoint,
            Resume = true,
            OnResumed = epochs => log($"goes on after epoch {epochs}"),
        };
        var run = Protocol.Train(data, split, task.Fold, NewModel, task.Recipe, options, e =>
        {
            if (e.Phase == "fine-tune")
                log(string.Create(CultureInfo.InvariantCulture, $"epoch {e.Epoch} of {task.Recipe.Epochs}, train loss {e.TrainLoss:0.000}, validation AUC {e.ValidationAuc:0.000}"));
        }, cancellation);
        return new SweepResult(task.Id, hash, data.Fingerprint, data.IsSample, origin!.Sha256 ?? origin.Description, run);

        VisionModel NewModel()
        {
            var model = Models.Create(task.Model, file.NewWeights());
            origin = model.WeightsOrigin;
            return model.WithHead(data.Classes.Count, task.Recipe.Head);
        }
    }

    /// <summary>Null where another process holds it. The system lets go of it when its holder ends, however it ends.</summary>
    private static FileStream? Lock(string folder)
    {
        try
        {
            return new FileStream(Path.Combine(folder, LockFile), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException) when (File.Exists(Path.Combine(folder, LockFile)))
        {
            return null;
        }
    }
}
