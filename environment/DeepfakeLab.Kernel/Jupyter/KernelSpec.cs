using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab.Notebooks;

/// <summary>The entry by which Jupyter and VS Code find the kernel: a folder <c>.net-csharp</c> with a <c>kernel.json</c>.</summary>
public static class KernelSpec
{
    /// <summary>The name that .NET Interactive's kernel has, so that notebooks written for it open with this one.</summary>
    public const string Name = ".net-csharp";

    private const string Mark = "deepfakelab"; // in the metadata of the entries that we wrote

    /// <summary>Where kernels of this user, or of the installation under <paramref name="prefix"/>, are listed.</summary>
    public static string Folder(string? prefix) => Path.Combine(
        prefix is null ? UserData() : Path.Combine(Path.GetFullPath(prefix), "share", "jupyter"), "kernels", Name);

    private static string UserData()
    {
        if (Environment.GetEnvironmentVariable("JUPYTER_DATA_DIR") is { Length: > 0 } chosen)
            return Path.GetFullPath(chosen);
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        if (OperatingSystem.IsWindows())
            return Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.ApplicationData), "jupyter");
        if (OperatingSystem.IsMacOS())
            return Path.Combine(home, "Library", "Jupyter");
        return Path.Combine(Environment.GetEnvironmentVariable("XDG_DATA_HOME") is { Length: > 0 } xdg ? xdg : Path.Combine(home, ".local", "share"), "jupyter");
    }

    /// <summary>Writes the entry. One that another product wrote is replaced only when <paramref name="force"/> is set.</summary>
    /// <param name="arguments">The command that starts the kernel, without the connection file.</param>
    /// <exception cref="NotebookException">Another product's entry is there.</exception>
    public static string Install(string? prefix, IReadOnlyList<string> arguments, bool force)
    {
        var folder = Folder(prefix);
        var path = Path.Combine(folder, "kernel.json");
        if (File.Exists(path) && !IsOurs(path) && !force)
            throw new NotebookException("Another program's kernel has this name already", folder, "Add --force to replace it, or uninstall .NET Interactive first");
        var json = new JsonObject
        {
            ["argv"] = new JsonArray([.. arguments.Append("--connection-file").Append("{connection_file}").Select(a => (JsonNode)a)]),
            ["display_name"] = ".NET (C#)",
            ["language"] = "C#",
            ["interrupt_mode"] = "message",
            ["metadata"] = new JsonObject { ["debugger"] = false, [Mark] = true },
        };
        BoundedFile.WriteText(path, json.ToJsonString(new JsonSerializerOptions { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) + "\n");
        return path;
    }

    /// <summary>Removes our entry.</summary>
    /// <returns>Whether there was one.</returns>
    /// <exception cref="NotebookException">The entry is another program's.</exception>
    public static bool Uninstall(string? prefix)
    {
        var folder = Folder(prefix);
        var path = Path.Combine(folder, "kernel.json");
        if (!File.Exists(path))
            return false;
        if (!IsOurs(path))
            throw new NotebookException("This kernel is another program's", folder, "Remove it with that program");
        Directory.Delete(folder, recursive: true);
        return true;
    }

    /// <summary>The program file that our entry starts; null when there is no entry of ours.</summary>
    public static string? Program(string? prefix)
    {
        var path = Path.Combine(Folder(prefix), "kernel.json");
        return File.Exists(path) && IsOurs(path) && JsonNode.Parse(BoundedFile.ReadText(path))?["argv"] is JsonArray { Count: > 1 } arguments ? (string?)arguments[1] : null;
    }

    private static bool IsOurs(string path)
    {
        try
        {
            return (JsonNode.Parse(BoundedFile.ReadText(path)) as JsonObject)?["metadata"]?[Mark] is not null;
        }
        catch (JsonException)
        {
            return false;
        }
    }
}
