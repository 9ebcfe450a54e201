using System.IO.Enumeration;

namespace DeepfakeLab;

/// <summary>Finds a dataset's folder, its class folders and the files in them. Opens no file.</summary>
internal static class FaceFolder
{
    public const string EnvironmentVariable = "DEEPFAKELAB_DATA";
    private static readonly string usual = Path.Combine("data", "real_and_fake_face");

    /// <summary>The folder that the user means and how it was chosen; null when only the sample is left.</summary>
    public static (string Root, string Origin)? Choose(string? path) =>
        Choose(path, Environment.GetEnvironmentVariable(EnvironmentVariable), Directory.GetCurrentDirectory());

    internal static (string Root, string Origin)? Choose(string? path, string? environment, string workingFolder)
    {
        if (path is not null)
            return (Existing(path, "the argument"), "the folder given");
        if (environment is { Length: > 0 })
            return (Existing(environment, EnvironmentVariable), $"the folder that {EnvironmentVariable} names");
        for (var folder = new DirectoryInfo(workingFolder); folder is not null; folder = folder.Parent)
            if (Directory.Exists(Path.Combine(folder.FullName, usual)))
                return (Path.Combine(folder.FullName, usual), $"{usual.Replace('\\', '/')} in {folder.FullName}");
        return null;
    }

    private static string Existing(string path, string source) =>
        Directory.Exists(path) ? Path.GetFullPath(path)
            : throw new DataException($"{source} names no folder", path, "Give the folder that holds one sub-folder a class, such as training_fake and training_real");

    /// <summary>Kaggle's archive wraps the two class folders, once or twice; this unwraps them.</summary>
    public static string Unwrap(string root)
    {
        foreach (var inner in (string[])["", "real_and_fake_face", Path.Combine("real_and_fake_face_detection", "real_and_fake_face")])
            if (Directory.Exists(Path.Combine(root, inner, "training_fake")) && Directory.Exists(Path.Combine(root, inner, "training_real")))
                return Path.Combine(root, inner);
        return root;
    }

    /// <summary>The class folders in ordinal order. Hidden ones are passed over.</summary>
    public static List<string> ClassFolders(string root) =>
        [.. Directory.EnumerateDirectories(root).Select(f => Path.GetFileName(f)!).Where(f => f[0] != '.').Order(StringComparer.Ordinal)];

    /// <summary>All files below a class folder, as names relative to <paramref name="root"/> with '/'. Linked folders are not entered.</summary>
    public static List<string> Files(string root, string classFolder)
    {
        var start = Path.Combine(root, classFolder);
        var options = new EnumerationOptions { RecurseSubdirectories = true, AttributesToSkip = FileAttributes.None };
        var files = new FileSystemEnumerable<string>(start, (ref FileSystemEntry e) => e.ToFullPath(), options)
        {
            ShouldIncludePredicate = (ref FileSystemEntry e) => !e.IsDirectory && e.FileName[0] != '.',
            ShouldRecursePredicate = (ref FileSystemEntry e) => e.FileName[0] != '.' && (e.Attributes & FileAttributes.ReparsePoint) == 0,
        };
        return [.. files.Select(file => Path.GetRelativePath(root, file).Replace(Path.DirectorySeparatorChar, '/')).Order(StringComparer.Ordinal)];
    }
}
