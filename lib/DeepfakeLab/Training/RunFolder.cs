using System.Runtime.InteropServices;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;

namespace DeepfakeLab;

/// <summary>A trained model on disk: <c>model.safetensors</c> and <c>run.json</c>, all that is needed to use it and to say how it came to be.</summary>
public static class RunFolder
{
    /// <summary>The weights, by torchvision's state-dict keys.</summary>
    public const string ModelFile = "model.safetensors";

    /// <summary>Settings, versions, data, split, history and figures.</summary>
    public const string RecordFile = "run.json";

    private const long LargestRecord = 256L << 20;
    private static readonly JsonSerializerOptions json = new()
    {
        WriteIndented = true,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = System.Text.Json.Serialization.JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };

    /// <summary>Writes both files, each whole or not at all; the record last, so that a folder with a record is a finished run.</summary>
    /// <param name="folder">Created if absent.</param>
    /// <param name="run">The training.</param>
    /// <param name="data">The dataset that its split came from.</param>
    /// <param name="test">The figures on the split's test images; null where there are none.</param>
    public static void Save(string folder, TrainingRun run, FaceDataset data, EvaluationReport? test)
    {
        using (var state = StateDict.Of(run.Model))
            SafeTensors.Write(Path.Combine(folder, ModelFile), state, new Dictionary<string, string>
            {
                ["format"] = "pt",
                ["model"] = run.Model.Name,
                ["classes"] = string.Join(",", data.Classes),
            });
        AtomicFile.WriteText(Path.Combine(folder, RecordFile), Record(run, data, test).ToJsonString(json) + "\n");
    }

    /// <summary>Writes an ensemble: its members, each a finished run in a folder of its own (<see cref="MemberFolder"/>), and last the record of all.</summary>
    /// <param name="test">The ensemble's figures on the split's test images; null where there are none.</param>
    /// <param name="members">Each member's figures on them.</param>
    public static void Save(string folder, EnsembleRun run, FaceDataset data, EvaluationReport? test, IReadOnlyList<EvaluationReport>? members = null)
    {
        foreach (var (i, member) in run.Members.Index())
            Save(MemberFolder(folder, i + 1), member, data, members?[i]);
        var record = Record(run.Members[0] with { Recipe = run.Recipe, Split = run.Split, Seed = run.Seed, Stopped = run.Stopped }, data, test);
        record.Remove("history");
        record.Remove("best");
        record["members"] = run.Members.Count;
        AtomicFile.WriteText(Path.Combine(folder, RecordFile), record.ToJsonString(json) + "\n");
    }

    /// <summary>Where an ensemble's member lies.</summary>
    /// <param name="member">From 1.</param>
    public static string MemberFolder(string folder, int member) => Path.Combine(folder, FormattableString.Invariant($"member-{member}"));

    /// <summary>Opens a finished run: the model with its weights (or those of an ensemble's members), in eval mode, on <see cref="LabRuntime.Device"/>.</summary>
    /// <exception cref="TrainingException">The folder holds no finished run.</exception>
    public static SavedRun Open(string folder)
    {
        var record = Read(folder);
        if (record["members"] is not { } members)
            return Open(folder, record);
        var file = Path.Combine(folder, RecordFile);
        if (members is not JsonValue value || !value.TryGetValue<int>(out var count) || count is < 1 or > Recipe.MostMembers)
            throw new TrainingException("The run's record is damaged", file, "Train again");
        var opened = new List<SavedRun>();
        try
        {
            for (var member = 1; member <= count; member++)
            {
                var own = Read(MemberFolder(folder, member));
                if (own["members"] is not null || !((string[])["model", "data", "preprocessing"]).All(part => JsonNode.DeepEquals(own[part], record[part])))
                    throw new TrainingException("A member is not of this ensemble", MemberFolder(folder, member), "Train again");
                opened.Add(Open(MemberFolder(folder, member), own));
            }
            return opened[0] with { Members = [.. opened.SelectMany(o => o.Members)], Seen = opened.SelectMany(o => o.Seen).ToHashSet() };
        }
        catch
        {
            opened.ForEach(o => o.Dispose());
            throw;
        }
    }

    private static JsonNode Read(string folder)
    {
        var file = Path.Combine(folder, RecordFile);
        if (!File.Exists(file))
            throw new TrainingException("There is no finished run in this folder", folder, $"Give the --out folder of a training that ended; it holds {RecordFile}");
        if (new FileInfo(file).Length > LargestRecord)
            throw new TrainingException("The run's record is far too large", file, "Train again");
        try
        {
            return JsonNode.Parse(File.ReadAllText(file)) as JsonObject ?? throw new JsonException();
        }
        catch (JsonException e)
        {
            throw new TrainingException("The run's record is damaged", file, "Train again", e);
        }
    }

    private static SavedRun Open(string folder, JsonNode record)
    {
        var file = Path.Combine(folder, RecordFile);
        try
        {
            var classes = record["data"]!["classes"]!.AsArray().Select(c => c!.GetValue<string>()).ToList();
            var fake = record["data"]!["fakeClass"]!.GetValue<int>();
            if (classes.Count < 2 || fake < 0 || fake >= classes.Count)
                throw new TrainingException("The run's record names no classes", file, "Train again");
            var model = Models.Create(record["model"]!["name"]!.GetValue<string>(), Weights.None)
                .WithHead(classes.Count, record["model"]!["head"].Deserialize<HeadRecipe>(json));
            using (var weights = Checkpoint.Read(Path.Combine(folder, ModelFile)))
                weights.LoadInto(model);
            model.to(LabRuntime.Device);
            model.eval();
            var seen = record["split"]!["contentOfTrainAndValidation"]!.AsArray().Select(h => h!.GetValue<string>()).ToHashSet();
            return new SavedRun([model], record["preprocessing"].Deserialize<Preprocessing>(json)!, classes, fake,
                record["recipe"]![nameof(Recipe.MirrorScores)]!.GetValue<string>() == bool.TrueString, seen);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or NullReferenceException or FormatException)
        {
            throw new TrainingException("The run's record is damaged", file, "Train again", e);
        }
    }

    private static JsonObject Record(TrainingRun run, FaceDataset data, EvaluationReport? test) => new()
    {
        ["format"] = 1,
        ["versions"] = new JsonObject
        {
            ["deepfakelab"] = typeof(RunFolder).Assembly.GetName().Version?.ToString(3),
            ["torchsharp"] = typeof(torch).Assembly.GetName().Version?.ToString(3),
            ["libtorch"] = torch.__version__,
            ["dotnet"] = RuntimeInformation.FrameworkDescription,
            ["system"] = RuntimeInformation.RuntimeIdentifier,
        },
        ["device"] = LabRuntime.Device.ToString(),
        ["threads"] = LabRuntime.Threads,
        ["seed"] = run.Seed,
        ["stopped"] = run.Stopped,
        ["model"] = new JsonObject { ["name"] = run.Model.Name, ["parameters"] = run.Model.ParameterCount, ["head"] = JsonSerializer.SerializeToNode(run.Model.HeadRecipe, json) },
        ["weights"] = new JsonObject { ["origin"] = run.Model.WeightsOrigin.Description, ["sha256"] = run.Model.WeightsOrigin.Sha256 },
        ["data"] = new JsonObject
        {
            ["origin"] = data.Origin,
            ["isSample"] = data.IsSample,
            ["images"] = data.Images.Count,
            ["leftOut"] = Names(data.Problems.Select(p => p.ToString())),
            ["classes"] = Names(data.Classes),
            ["fakeClass"] = data.FakeClass,
            ["fingerprint"] = data.Fingerprint,
        },
        ["preprocessing"] = JsonSerializer.SerializeToNode(run.Preprocessing, json),
        ["recipe"] = new JsonObject(run.Recipe.Settings().Select(s => KeyValuePair.Create(s.Name, (JsonNode?)s.Value))),
        ["split"] = new JsonObject
        {
            ["seed"] = run.Split.Seed,
            ["train"] = Names(run.Split.Train.Select(i => i.Name)),
            ["validation"] = Names(run.Split.Validation.Select(i => i.Name)),
            ["test"] = Names(run.Split.Test.Select(i => i.Name)),
            ["contentOfTrainAndValidation"] = Names(ContentOf(data, run.Split.Train.Concat(run.Split.Validation))),
        },
        ["history"] = JsonSerializer.SerializeToNode(run.History, json),
        ["best"] = JsonSerializer.SerializeToNode(run.Best, json),
        ["test"] = test?.ToJson(),
    };

    private static JsonArray Names(IEnumerable<string> names) => [.. names.Select(n => (JsonNode)n)];

    /// <summary>Enough of each image's SHA-256 to know it again under another name.</summary>
    private static IEnumerable<string> ContentOf(FaceDataset data, IEnumerable<FaceImage> images)
    {
        var hashes = data.Images.Zip(data.Index).ToDictionary(p => p.First.Name, p => p.Second.Hash);
        return images.Select(i => ContentId(hashes.GetValueOrDefault(i.Name) ?? ImageReader.Hash(i.Path)));
    }

    private static string ContentId(string hash) => hash[..16];

    /// <summary>The images of a dataset that the run was neither trained on nor chosen by, whatever they are called there.</summary>
    /// <exception cref="DataException">The dataset has other classes than the run.</exception>
    public static IReadOnlyList<FaceImage> Unseen(SavedRun run, FaceDataset data)
    {
        if (!data.Classes.SequenceEqual(run.Classes))
            throw new DataException("The folder's classes are not those of the run", string.Join(", ", data.Classes),
                "Give a folder whose classes are " + string.Join(", ", run.Classes));
        return [.. data.Images.Zip(data.Index).Where(p => !run.Seen.Contains(ContentId(p.Second.Hash))).Select(p => p.First)];
    }
}

/// <summary>A run opened for use.</summary>
/// <param name="Members">In eval mode: the one model, or those of an ensemble, whose probabilities are averaged.</param>
/// <param name="Preprocessing">What its images must go through.</param>
/// <param name="Classes">What its outputs mean, in order.</param>
/// <param name="FakeClass">The index of the positive class.</param>
/// <param name="MirrorScores">Whether scores are averaged over an image and its mirror image.</param>
/// <param name="Seen">Content of the images it was trained on or chosen by.</param>
public sealed record SavedRun(
    IReadOnlyList<VisionModel> Members, Preprocessing Preprocessing, IReadOnlyList<string> Classes, int FakeClass, bool MirrorScores, IReadOnlySet<string> Seen) : IDisposable
{
    /// <summary>The one model.</summary>
    /// <exception cref="TrainingException">The run is an ensemble.</exception>
    public VisionModel Model => Members.Count == 1 ? Members[0] : throw new TrainingException("The run is an ensemble, where one model is needed",
        FormattableString.Invariant($"{Members.Count} members"), $"Give the folder of one of its members, such as {RunFolder.MemberFolder("RUN", 1)}");

    /// <summary>Disposes of the models.</summary>
    public void Dispose()
    {
        foreach (var model in Members)
            model.Dispose();
    }
}
