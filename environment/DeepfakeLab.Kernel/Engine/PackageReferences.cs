using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace DeepfakeLab.Notebooks;

/// <summary>What a package and those it needs bring.</summary>
internal sealed record RestoredPackages(IReadOnlyList<string> Assemblies, IReadOnlyList<string> NativeFolders);

/// <summary>
/// Packages named by <c>#r "nuget: Name, Version"</c>, restored by the SDK itself: a small project is written and evaluated, so the
/// user's own sources, credentials and package cache apply. All packages of a session are restored together, as a project's are.
/// </summary>
internal sealed partial class PackageReferences(string cacheFolder) : IDisposable
{
    private readonly SortedDictionary<string, string> asked = new(StringComparer.OrdinalIgnoreCase);
    private readonly SemaphoreSlim gate = new(1);

    /// <param name="reference"><c>Name, Version</c>, or only <c>Name</c> for the newest stable version.</param>
    /// <exception cref="NotebookException">The text is no package, or the restore fails.</exception>
    public async Task<RestoredPackages> AddAsync(string reference, CancellationToken cancellation)
    {
        var parts = reference.Split(',', StringSplitOptions.TrimEntries);
        if (parts.Length > 2 || !Name().IsMatch(parts[0]) || (parts.Length == 2 && !Version().IsMatch(parts[1])))
            throw new NotebookException("This is no package reference", $"nuget:{reference}", "Write #r \"nuget: Name, Version\"");
        var version = parts.Length == 2 ? parts[1] : "*";
        await gate.WaitAsync(cancellation);
        try
        {
            if (asked.TryGetValue(parts[0], out var before) && before != version && version != "*")
                throw new NotebookException("Another version of this package is loaded already", $"{parts[0]} {before}", "Restart the kernel to take another");
            asked.TryAdd(parts[0], version);
            try
            {
                return await RestoreAsync(cancellation);
            }
            catch
            {
                if (before is null)
                    asked.Remove(parts[0]);
                throw;
            }
        }
        finally
        {
            gate.Release();
        }
    }

    private async Task<RestoredPackages> RestoreAsync(CancellationToken cancellation)
    {
        var project = Project();
        var key = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(project)))[..16];
        var folder = Path.Combine(cacheFolder, "packages", key);
        var answer = Path.Combine(folder, "answer.json");
        if (File.Exists(answer) && Read(await File.ReadAllTextAsync(answer, cancellation)) is { } cached
            && cached.Assemblies.All(File.Exists) && cached.NativeFolders.All(Directory.Exists))
            return cached;

        Directory.CreateDirectory(folder);
        // These keep the user's own build files, in some folder above, out of it.
        foreach (var file in (string[])["Directory.Build.props", "Directory.Build.targets", "Directory.Packages.props"])
            BoundedFile.WriteText(Path.Combine(folder, file), "<Project />");
        BoundedFile.WriteText(Path.Combine(folder, "packages.csproj"), project);
        var (code, output, error) = await DotnetAsync(folder,
            ["msbuild", "packages.csproj", "-restore", "-nologo", "-v:quiet", "-t:ResolvePackageAssets",
             "-getItem:RuntimeCopyLocalItems", "-getItem:NativeCopyLocalItems"], cancellation);
        if (code != 0 || Read(output) is not { } restored)
            throw new NotebookException("The packages could not be restored", string.Join(", ", asked.Select(p => $"{p.Key} {p.Value}")),
                "Check the name, the version and the package sources. The SDK said: " + Reason(output + "\n" + error));
        BoundedFile.WriteText(answer, output);
        return restored;
    }

    private string Project() => $"""
        <Project Sdk="Microsoft.NET.Sdk">
          <PropertyGroup>
            <TargetFramework>net{Environment.Version.Major}.0</TargetFramework>
            <RuntimeIdentifier>{RuntimeInformation.RuntimeIdentifier}</RuntimeIdentifier>
            <SelfContained>false</SelfContained>
            <UseAppHost>false</UseAppHost>
            <NoWarn>$(NoWarn);NU1603;NU1701;NU1900;NU1901;NU1902;NU1903;NU1904</NoWarn>
          </PropertyGroup>
          <ItemGroup>
        {string.Join('\n', asked.Select(p => $"    <PackageReference Include=\"{p.Key}\" Version=\"{p.Value}\" />"))}
          </ItemGroup>
        </Project>
        """;

    private static RestoredPackages? Read(string json)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            var items = document.RootElement.GetProperty("Items");
            string[] Paths(string name) => items.TryGetProperty(name, out var list)
                ? [.. list.EnumerateArray().Select(i => i.GetProperty("FullPath").GetString()!)]
                : [];
            return new RestoredPackages(
                [.. Paths("RuntimeCopyLocalItems").Where(p => p.EndsWith(".dll", StringComparison.OrdinalIgnoreCase))],
                [.. Paths("NativeCopyLocalItems").Select(p => Path.GetDirectoryName(p)!).Distinct()]);
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            return null;
        }
    }

    /// <summary>The first error of the SDK's output, without its file and project.</summary>
    private static string Reason(string output)
    {
        var line = output.Split('\n').FirstOrDefault(l => l.Contains("error", StringComparison.OrdinalIgnoreCase))?.Trim() ?? "nothing";
        var at = line.IndexOf("error", StringComparison.OrdinalIgnoreCase);
        line = at > 0 ? line[at..] : line;
        return (line.EndsWith(']') && line.LastIndexOf('[') is > 0 and var end ? line[..end] : line).Trim().TrimEnd('.');
    }

    private static async Task<(int Code, string Output, string Error)> DotnetAsync(string folder, string[] arguments, CancellationToken cancellation)
    {
        var start = new ProcessStartInfo(Environment.GetEnvironmentVariable("DOTNET_HOST_PATH") ?? "dotnet", arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        // A kernel started by `dotnet run` or a test runner must not hand their build settings on.
        foreach (var name in (string[])["MSBUILD_EXE_PATH", "MSBuildSDKsPath", "MSBuildExtensionsPath"])
            start.Environment.Remove(name);
        using var process = Process.Start(start) ?? throw new NotebookException("The SDK could not be started", "dotnet", "Put dotnet on the PATH");
        try
        {
            var output = process.StandardOutput.ReadToEndAsync(cancellation);
            var error = process.StandardError.ReadToEndAsync(cancellation);
            await process.WaitForExitAsync(cancellation);
            return (process.ExitCode, await output, await error);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }
    }

    public void Dispose() => gate.Dispose();

    [GeneratedRegex(@"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
    private static partial Regex Name();

    [GeneratedRegex(@"^[0-9A-Za-z.*+-]{1,64}$")]
    private static partial Regex Version();
}
