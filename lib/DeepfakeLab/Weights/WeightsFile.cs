using System.Globalization;
using System.Security.Cryptography;

namespace DeepfakeLab;

/// <summary>Pretrained weights that cannot be had: no network, a wrong file, none for this model.</summary>
public sealed class WeightsException(string problem, string? subject, string remedy, Exception? inner = null)
    : LabException(problem, subject, remedy, inner);

/// <summary>Finds an official weight file in the cache that PyTorch shares, or downloads it there.</summary>
/// <remarks>
/// <c>DEEPFAKELAB_OFFLINE=1</c> forbids the network. <c>DEEPFAKELAB_WEIGHTS_MIRROR</c> is a base address to use in place of
/// torchvision's; a proxy is taken from the system or from <c>HTTPS_PROXY</c>.
/// </remarks>
internal static class WeightsFile
{
    private static readonly TimeSpan patience = TimeSpan.FromSeconds(5);

    /// <summary>torch.hub's rule: <c>TORCH_HOME</c>, else <c>XDG_CACHE_HOME/torch</c>, else <c>~/.cache/torch</c>; then <c>hub/checkpoints</c>.</summary>
    public static string CacheFolder
    {
        get
        {
            var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
            var torch = Set("TORCH_HOME") ?? Path.Combine(Set("XDG_CACHE_HOME") ?? Path.Combine(home, ".cache"), "torch");
            if (torch == "~" || torch.StartsWith("~/", StringComparison.Ordinal))
                torch = home + torch[1..];
            return Path.GetFullPath(Path.Combine(torch, "hub", "checkpoints"));
        }
    }

    public static string PathOf(PretrainedWeights weights) => Path.Combine(CacheFolder, weights.File);

    public static bool IsOffline => Set("DEEPFAKELAB_OFFLINE") is not (null or "0" or "false");

    public static Uri AddressOf(PretrainedWeights weights)
    {
        if (Set("DEEPFAKELAB_WEIGHTS_MIRROR") is not { } mirror)
            return new Uri(weights.Address);
        return Uri.TryCreate(mirror.TrimEnd('/') + "/" + weights.File, UriKind.Absolute, out var address) && address.Scheme is "http" or "https"
            ? address
            : throw new WeightsException("DEEPFAKELAB_WEIGHTS_MIRROR is not a web address", mirror, "Set it to the address of the folder that holds the files, such as https://mirror.example/models");
    }

    /// <summary>The file's path and hash, after a download if need be.</summary>
    /// <exception cref="WeightsException">It is neither cached nor to be had; the message says how to bring it by hand.</exception>
    public static (string Path, string Sha256) Get(PretrainedWeights weights, Downloader? downloader = null)
    {
        var path = PathOf(weights);
        if (!File.Exists(path))
        {
            if (IsOffline)
                throw Unavailable(weights, "DEEPFAKELAB_OFFLINE is set", null);
            try
            {
                (downloader ?? new Downloader()).Download(AddressOf(weights), path, weights.HashPrefix, LabProgress.Interrupt);
            }
            catch (DownloadFailure e)
            {
                throw Unavailable(weights, e.Message, e);
            }
        }
        var hash = Hash(path);
        return hash.StartsWith(weights.HashPrefix, StringComparison.Ordinal)
            ? (path, hash)
            : throw new WeightsException(string.Create(CultureInfo.InvariantCulture, $"The cached file is not the official one: its SHA-256 begins with {hash[..8]}, not {weights.HashPrefix}"),
                path, "Delete it and run again, or pass it as Weights.File if you mean it");
    }

    /// <summary>Whether the file's server answers within five seconds that it has it.</summary>
    public static bool IsReachable(PretrainedWeights weights, out string reason)
    {
        reason = "DEEPFAKELAB_OFFLINE is set";
        return !IsOffline && Downloader.Answers(AddressOf(weights), patience, out reason);
    }

    public static string Hash(string path)
    {
        using var stream = File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(stream));
    }

    private static WeightsException Unavailable(PretrainedWeights weights, string reason, Exception? cause) => new(
        $"The ImageNet weights {weights.Entry} of {weights.Model} are not in the cache and were not downloaded ({reason})", weights.File,
        $"Fetch {AddressOf(weights)} on a machine with network, check that its SHA-256 begins with {weights.HashPrefix}, and put it at {PathOf(weights)}; "
        + "or choose Weights.Embedded (`models list` says for which models), Weights.File or Weights.None", cause);

    private static string? Set(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}
