using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>Fetches CIPLAB's collection through Kaggle's public API.</summary>
public static class Kaggle
{
    /// <summary>The collection on Kaggle.</summary>
    public const string Dataset = "ciplab/real-and-fake-face-detection";

    private static readonly Uri api = new("https://www.kaggle.com/api/v1/");

    /// <summary>Downloads the archive (beside <paramref name="folder"/>, going on where an earlier attempt was cut), installs it and removes it.</summary>
    /// <param name="folder">Where the images shall be; see <see cref="FaceArchive.Install"/>.</param>
    /// <returns>Who asked: "as NAME", "with a token" or "anonymously".</returns>
    /// <exception cref="DataException">Kaggle refuses, the archive is not the collection, or the folder is taken.</exception>
    public static string Get(string folder, CancellationToken cancellation = default) => Get(folder, api, new Downloader(), cancellation);

    internal static string Get(string folder, Uri server, Downloader settings, CancellationToken cancellation)
    {
        folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        FaceArchive.CheckFree(folder);
        var (authorization, who) = Credentials();
        var archive = folder + ".zip";
        var downloader = new Downloader
        {
            Attempts = settings.Attempts,
            Pause = settings.Pause,
            Stall = settings.Stall,
            LongestWait = settings.LongestWait,
            Largest = 4L << 30,
            Authorization = authorization,
        };
        var existed = File.Exists(archive); // from an earlier attempt, or put there by hand
        try
        {
            if (!existed)
                downloader.Download(new Uri(server, $"datasets/download/{Dataset}"), archive, hashPrefix: "", cancellation);
        }
        catch (DownloadFailure e)
        {
            var remedy = e.Status switch
            {
                401 => "Make a new token at kaggle.com/settings and put it into KAGGLE_API_TOKEN or kaggle.json",
                403 => $"Sign in at kaggle.com/datasets/{Dataset}, accept its terms, and give a token in KAGGLE_API_TOKEN or kaggle.json",
                404 => "Look for where the collection has moved to, download it in a browser, and run: deepfakelab data get file ARCHIVE",
                429 => "Wait an hour, or download it in a browser and run: deepfakelab data get file ARCHIVE",
                _ => "Check the network and run the same again, which goes on where it stopped; or download it in a browser and run: deepfakelab data get file ARCHIVE",
            };
            throw new DataException($"Kaggle's archive did not come ({who}): {e.Message}", Dataset, remedy, e);
        }
        try
        {
            FaceArchive.Install(archive, folder, cancellation);
        }
        catch (Exception e) when (e is DataException or ImageException && !existed)
        {
            File.Delete(archive); // what came is not it, and would be in the way of the next attempt
            throw;
        }
        if (!existed)
            File.Delete(archive);
        return who;
    }

    /// <summary>What Kaggle's own tools read, in their order; the token itself is never shown.</summary>
    internal static (AuthenticationHeaderValue?, string Who) Credentials()
    {
        static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value.Trim() : null;
        if (Variable("KAGGLE_API_TOKEN") is { } token)
            return (Header("Bearer", token, "KAGGLE_API_TOKEN"), "with the token of KAGGLE_API_TOKEN");
        if (Variable("KAGGLE_USERNAME") is { } name && Variable("KAGGLE_KEY") is { } key)
            return (Basic(name, key), $"as {name}");
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        string?[] folders = Variable("KAGGLE_CONFIG_DIR") is { } only ? [only]
            : [Path.Combine(home, ".kaggle"), Path.Combine(Variable("XDG_CONFIG_HOME") ?? Path.Combine(home, ".config"), "kaggle")];
        if (folders.Select(f => Path.Combine(f!, "kaggle.json")).FirstOrDefault(File.Exists) is not { } file)
            return (null, "anonymously");
        try
        {
            var json = JsonNode.Parse(File.ReadAllText(file))!;
            var user = json["username"]!.GetValue<string>();
            return (Basic(user, json["key"]!.GetValue<string>()), $"as {user}");
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or NullReferenceException or IOException or UnauthorizedAccessException)
        {
            throw new DataException("The file with Kaggle's token cannot be read", file, "Make a new one at kaggle.com/settings, or remove it to ask anonymously", e);
        }
    }

    private static AuthenticationHeaderValue Basic(string name, string key) => new("Basic", Convert.ToBase64String(Encoding.UTF8.GetBytes($"{name}:{key}")));

    private static AuthenticationHeaderValue Header(string scheme, string token, string source) =>
        token.All(c => c is > ' ' and < '\u007f') ? new(scheme, token) : throw new DataException("The token has characters that no token has", source, "Copy it again from kaggle.com/settings");
}
