namespace DeepfakeLab;

/// <summary>Where the library keeps what it can make again.</summary>
public static class LabFolders
{
    /// <summary>
    /// The cache: <c>DEEPFAKELAB_CACHE</c>, else <c>deepfakelab</c> in the system's own cache folder
    /// (<c>XDG_CACHE_HOME</c> or <c>~/.cache</c>, <c>~/Library/Caches</c>, <c>%LOCALAPPDATA%</c>).
    /// </summary>
    public static string Cache
    {
        get
        {
            if (Environment.GetEnvironmentVariable("DEEPFAKELAB_CACHE") is { Length: > 0 } chosen)
                return Path.GetFullPath(chosen);
            return Path.Combine(SystemCache(), "deepfakelab");
        }
    }

    private static string SystemCache()
    {
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        if (OperatingSystem.IsWindows())
            return Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData);
        if (home.Length == 0)
            return Path.GetTempPath();
        if (OperatingSystem.IsMacOS())
            return Path.Combine(home, "Library", "Caches");
        return Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } xdg ? xdg : Path.Combine(home, ".cache");
    }
}
