using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using System.Text.RegularExpressions;

namespace DeepfakeLab;

/// <summary>One training of a sweep. It depends on no other.</summary>
/// <param name="Index">From 0; a Slurm array's task number, a Kubernetes Job's completion index.</param>
/// <param name="Recipe">Its name is the one that the file gives it.</param>
/// <param name="Fold">From 1; 1 without folds.</param>
public sealed record SweepTask(int Index, string Model, Recipe Recipe, long Seed, int Fold)
{
    /// <summary>"mobilenet_v2-full-s1-f2", which names its folder too.</summary>
    public string Id => FormattableString.Invariant($"{Model}-{Recipe.Name}-s{Seed}-f{Fold}");
}

/// <summary>How tasks are handed to Slurm; what is left out is left to the cluster.</summary>
public sealed record SlurmSettings
{
    public string? Partition { get; init; }

    public string? Account { get; init; }

    /// <summary>Longest time of a task, such as "04:00:00".</summary>
    public string? Time { get; init; }

    /// <summary>Such as "8G".</summary>
    public string? Memory { get; init; }

    /// <summary>Processors a task, and threads that it computes with; 0 for the cluster's default.</summary>
    public int Cpus { get; init; }

    /// <summary>Graphics cards a task.</summary>
    public int Gpus { get; init; }

    /// <summary>Tasks at a time; 0 for as many as there is room for.</summary>
    public int Parallel { get; init; }

    /// <summary>How often a killed task goes back into the queue.</summary>
    public int Retries { get; init; } = 3;

    /// <summary>Further options of sbatch, such as "--constraint=avx512".</summary>
    public IReadOnlyList<string> Options { get; init; } = [];

    /// <summary>Shell lines before the task, such as "module load dotnet".</summary>
    public IReadOnlyList<string> Setup { get; init; } = [];

    /// <summary>The program and its first arguments; null for the one that writes the script.</summary>
    public IReadOnlyList<string>? Command { get; init; }
}

/// <summary>How tasks are handed to Kubernetes.</summary>
public sealed record KubernetesSettings
{
    /// <summary>The container image, which holds the program.</summary>
    public string? Image { get; init; }

    /// <summary>The program in the image and its first arguments.</summary>
    public IReadOnlyList<string> Command { get; init; } = ["deepfakelab"];

    public string? Namespace { get; init; }

    /// <summary>The Job's name; null makes one of the file's.</summary>
    public string? Name { get; init; }

    /// <summary>Pods at a time.</summary>
    public int Parallel { get; init; } = 4;

    /// <summary>How often a task is tried again.</summary>
    public int Retries { get; init; } = 3;

    /// <summary>Processors a pod, such as "4"; a whole number is the number of threads too.</summary>
    public string? Cpu { get; init; }

    /// <summary>Such as "8Gi".</summary>
    public string? Memory { get; init; }

    /// <summary>Graphics cards a pod (nvidia.com/gpu).</summary>
    public int Gpus { get; init; }

    /// <summary>The PersistentVolumeClaim with the images; null for images that the container finds by itself.</summary>
    public string? DataClaim { get; init; }

    /// <summary>The PersistentVolumeClaim for results, which all pods can write to.</summary>
    public string? OutClaim { get; init; }

    /// <summary>Environment variables of the container.</summary>
    public IReadOnlyDictionary<string, string> Env { get; init; } = new Dictionary<string, string>();
}

/// <summary>A sweep file: recipes x models x seeds x folds on one set of images.</summary>
public sealed partial class SweepFile
{
    private const int LargestFile = 1 << 20, MostTasks = 10_000;

    /// <summary>How settings are written, and read without forgiveness.</summary>
    internal static JsonSerializerOptions Json { get; } = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        AllowDuplicateProperties = false,
        RespectNullableAnnotations = true,
        ReadCommentHandling = JsonCommentHandling.Skip,
        AllowTrailingCommas = true,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.CamelCase, allowIntegerValues: false) },
    };

    private sealed record Content
    {
        public string? Data { get; init; }

        public int Size { get; init; } = 224;

        public string? Weights { get; init; } = "auto";

        public IReadOnlyList<string>? Models { get; init; }

        public IReadOnlyList<JsonObject>? Recipes { get; init; } = [new JsonObject { ["name"] = "full" }];

        public IReadOnlyList<long>? Seeds { get; init; } = [42];

        public int Folds { get; init; }

        public string? Out { get; init; }

        public SlurmSettings? Slurm { get; init; }

        public KubernetesSettings? Kubernetes { get; init; }
    }

    private SweepFile() { }

    /// <summary>Its absolute path.</summary>
    public required string Path { get; init; }

    /// <summary>The file as it is.</summary>
    public required string Text { get; init; }

    /// <summary>The folder of images; null for the one that the library finds.</summary>
    public string? Data { get; private init; }

    /// <summary>Where results go.</summary>
    public required string Out { get; init; }

    /// <summary>Pixels a side of the models' input.</summary>
    public int Size { get; private init; }

    /// <summary>0 for a fixed split of each seed.</summary>
    public int Folds { get; private init; }

    /// <summary>Which weights models begin with, as the file says it.</summary>
    public string Weights { get; private init; } = "auto";

    /// <summary>By recipe, model, seed, fold.</summary>
    public IReadOnlyList<SweepTask> Tasks { get; private init; } = [];

    public SlurmSettings Slurm { get; private init; } = new();

    public KubernetesSettings Kubernetes { get; private init; } = new();

    /// <param name="path">JSON; comments and trailing commas are allowed. Paths in it are relative to its own folder.</param>
    /// <param name="data">Another folder of images than the file names.</param>
    /// <param name="output">Another folder for results than the file names.</param>
    /// <exception cref="SweepException">There is no such file, or something in it makes no sense.</exception>
    public static SweepFile Read(string path, string? data = null, string? output = null)
    {
        path = System.IO.Path.GetFullPath(path);
        try
        {
            if (new FileInfo(path).Length > LargestFile)
                throw new SweepException("A sweep file of more than a megabyte is none", path, "Give a file of recipes, models and seeds");
            var text = File.ReadAllText(path);
            return Check(path, text, data, output, JsonSerializer.Deserialize<Content>(text, Json) ?? throw new JsonException("it is empty"));
        }
        catch (JsonException e)
        {
            throw new SweepException("The sweep file cannot be understood", $"{path}: {e.Message.TrimEnd('.')}",
                "Its keys are data, size, weights, models, recipes, seeds, folds, out, slurm and kubernetes; 'deepfakelab sweep --help' shows one", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new SweepException("The sweep file cannot be read", path, "Name a file that is there", e);
        }
    }

    private static SweepFile Check(string path, string text, string? data, string? output, Content content)
    {
        var folder = System.IO.Path.GetDirectoryName(path)!;
        if (content.Models is not { Count: > 0 } models)
            throw Bad("models", "none", "Name one of torchvision's models at least, such as [\"mobilenet_v2\"]");
        foreach (var model in models)
            if (!Models.Names.Contains(model))
                throw Bad("models", model ?? "null", "'deepfakelab models list' lists the names");
        if (content.Seeds is not { Count: > 0 } seeds)
            throw Bad("seeds", "none", "Give one at least, such as [1, 2, 3], or leave the key out for 42");
        if (content.Recipes is not { Count: > 0 } given)
            throw Bad("recipes", "none", "Give one at least, such as [{ \"name\": \"full\" }], or leave the key out");
        if (content.Size is < 32 or > 1024)
            throw Bad("size", content.Size, "Use 32 to 1024 pixels");
        if (content.Folds is not 0 and (< 2 or > 100))
            throw Bad("folds", content.Folds, "Use 2 to 100, or 0 for a fixed split");
        if (string.IsNullOrWhiteSpace(content.Weights))
            throw Bad("weights", "empty", "Use auto, imagenet, embedded, none, an entry's name or a file");
        if ((output ?? content.Out) is not { Length: > 0 } results)
            throw Bad("out", "none", "Name the folder for results");
        var recipes = given.Select((r, i) => ReadRecipe(path, $"recipes[{i}]", r)).ToList();
        Distinct("models", models);
        Distinct("seeds", seeds.Select(s => FormattableString.Invariant($"{s}")));
        Distinct("recipes", recipes.Select(r => r.Name));
        var count = (long)recipes.Count * models.Count * seeds.Count * Math.Max(1, content.Folds);
        if (count > MostTasks)
            throw Bad("recipes x models x seeds x folds", count, $"Use {MostTasks} tasks at most");
        var tasks = from recipe in recipes from model in models from seed in seeds from fold in Enumerable.Range(1, Math.Max(1, content.Folds)) select (recipe, model, seed, fold);
        return new SweepFile
        {
            Path = path,
            Text = text,
            Data = data is not null ? System.IO.Path.GetFullPath(data) : content.Data is null ? null : System.IO.Path.GetFullPath(content.Data, folder),
            Out = output is not null ? System.IO.Path.GetFullPath(output) : System.IO.Path.GetFullPath(results, folder),
            Size = content.Size,
            Folds = content.Folds,
            Weights = content.Weights,
            Tasks = [.. tasks.Select((t, i) => new SweepTask(i, t.model, t.recipe, t.seed, t.fold))],
            Slurm = content.Slurm ?? new(),
            Kubernetes = content.Kubernetes ?? new(),
        };

        SweepException Bad(string key, object value, string remedy) =>
            new($"The sweep file's {key} makes no sense", FormattableString.Invariant($"{value} in {path}"), remedy);

        void Distinct(string key, IEnumerable<string> values)
        {
            // folders of tasks must differ where the file system does not tell letters' cases apart, too
            if (values.GroupBy(v => v, StringComparer.OrdinalIgnoreCase).FirstOrDefault(g => g.Count() > 1) is { } twice)
                throw Bad(key, twice.Key + " twice", "Name each once");
        }
    }

    /// <summary>name, base, and any setting of <see cref="Recipe"/> under its own name.</summary>
    private static Recipe ReadRecipe(string path, string key, JsonObject? given)
    {
        if (given?["name"] is not JsonValue named || !named.TryGetValue<string>(out var name) || !RecipeName().IsMatch(name))
            throw new SweepException($"The sweep file's {key}.name makes no sense", $"{given?["name"]?.ToJsonString() ?? "none"} in {path}", "Name each recipe with 1 to 40 letters, digits, '.', '_' or '-'");
        if ((given["base"] ?? named) is not JsonValue chosen || !chosen.TryGetValue<string>(out var basis))
            throw new SweepException($"The sweep file's {key}.base makes no sense", $"{given["base"]!.ToJsonString()} in {path}", "Use full, head-only, gradual or an experiment of the study");
        var settings = JsonSerializer.SerializeToNode(Base(path, key, basis), Json)!.AsObject();
        Merge(settings, given, key);
        settings["name"] = name;
        try
        {
            return settings.Deserialize<Recipe>(Json)!.Check();
        }
        catch (Exception e) when (e is JsonException or TrainingException)
        {
            throw new SweepException($"The sweep file's {key} makes no sense", $"{name} in {path}: {e.Message.TrimEnd('.')}", "Give each setting a value of its kind", e);
        }

        void Merge(JsonObject into, JsonObject from, string at)
        {
            foreach (var (setting, value) in from)
                if (at == key && setting is "name" or "base")
                    continue;
                else if (!into.ContainsKey(setting))
                    throw new SweepException($"The sweep file's {at} has a key that is not known", $"{setting} in {path}", $"Use {string.Join(", ", into.Select(p => p.Key))}{(at == key ? ", base" : "")}");
                else if (value is JsonObject part && into[setting] is JsonObject whole)
                    Merge(whole, part, $"{at}.{setting}");
                else
                    into[setting] = value?.DeepClone();
        }
    }

    private static Recipe Base(string path, string key, string name) => name switch
    {
        "full" => Recipe.Full(),
        "head-only" => Recipe.HeadOnly(),
        "gradual" => Recipe.Gradual(),
        _ when StudyRecipes.Corrected.FirstOrDefault(r => r.Name == name) is { } study => study.Recipe,
        _ when StudyRecipes.Names.Contains(name) => throw new SweepException($"The sweep file's {key}.base repeats the study's mistakes", $"{name} in {path}",
            $"Run it by itself, with 'deepfakelab train --recipe {name}', or use {name.Replace("-published", "", StringComparison.Ordinal)}"),
        _ => throw new SweepException($"The sweep file's {key}.base makes no sense", $"{name} in {path}",
            $"Use full, head-only, gradual, {string.Join(", ", StudyRecipes.Corrected.Select(r => r.Name))}"),
    };

    /// <summary>A task by its number or its name.</summary>
    /// <exception cref="SweepException">There is none.</exception>
    public SweepTask Find(string indexOrId) =>
        int.TryParse(indexOrId, System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out var index) && index < Tasks.Count ? Tasks[index]
        : Tasks.FirstOrDefault(t => t.Id == indexOrId)
            ?? throw new SweepException("The sweep has no such task", $"{indexOrId} of {Path}", $"Use 0 to {Tasks.Count - 1}, or a name that 'sweep list' prints");

    /// <summary>Where a task keeps its state and its result.</summary>
    public string Folder(SweepTask task) => System.IO.Path.Combine(Out, "tasks", task.Id);

    /// <summary>SHA-256 over everything that decides a task's result but the images.</summary>
    internal string SettingsHash(SweepTask task) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(new JsonObject
    {
        ["model"] = task.Model,
        ["weights"] = Weights,
        ["size"] = Size,
        ["seed"] = task.Seed,
        ["folds"] = Folds,
        ["fold"] = task.Fold,
        ["recipe"] = JsonSerializer.SerializeToNode(task.Recipe, Json),
    }.ToJsonString())));

    internal Weights NewWeights() => DeepfakeLab.Weights.Parse(IsWeightsFile ? System.IO.Path.GetFullPath(Weights, System.IO.Path.GetDirectoryName(Path)!) : Weights);

    internal bool IsWeightsFile => Weights is not ("auto" or "imagenet" or "embedded" or "none") && !Weights.StartsWith("IMAGENET1K_", StringComparison.Ordinal);

    [GeneratedRegex(@"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}\z", RegexOptions.CultureInvariant)]
    private static partial Regex RecipeName();
}

/// <summary>A sweep file, or what it asks for, makes no sense.</summary>
public sealed class SweepException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);
