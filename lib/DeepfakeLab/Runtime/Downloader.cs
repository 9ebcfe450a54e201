using System.Globalization;
using System.Net;
using System.Net.Http.Headers;

namespace DeepfakeLab;

/// <summary>Why a download did not come to an end. Whoever wanted the file says what to do about it.</summary>
/// <param name="status">The server's answer, where that is the reason; else 0.</param>
internal sealed class DownloadFailure(string message, Exception? inner = null, int status = 0) : Exception(message, inner)
{
    public int Status { get; } = status;
}

/// <summary>Fetches one file over HTTP: with progress, going on after a cut, checked before it takes its name.</summary>
/// <remarks>
/// What has come so far lies beside the destination as <c>NAME.partial</c>, locked against other processes that want the same file;
/// they wait, and find it done. Redirects and proxies are followed as .NET's own client does, never from https to http.
/// </remarks>
internal sealed class Downloader
{
    private const string RetryAfter = nameof(RetryAfter);
    private const int SharingViolation = unchecked((int)0x80070020), LinuxAgain = 11, MacAgain = 35; // how the systems say "in use"

    private static readonly HttpClient client = new(new SocketsHttpHandler
    {
        ConnectTimeout = TimeSpan.FromSeconds(15),
        MaxAutomaticRedirections = 8,
        AutomaticDecompression = DecompressionMethods.None,
    })
    { Timeout = Timeout.InfiniteTimeSpan, DefaultRequestHeaders = { { "User-Agent", "DeepfakeLab" } } };

    /// <summary>How often to try again without any new byte having come.</summary>
    public int Attempts { get; init; } = 5;

    /// <summary>The pause before the second attempt; each further one is twice as long.</summary>
    public TimeSpan Pause { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>How long no byte may come before the connection counts as cut.</summary>
    public TimeSpan Stall { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Sent to the first server only: .NET's client drops it when it is redirected.</summary>
    public AuthenticationHeaderValue? Authorization { get; init; }

    /// <summary>The longest that a server's Retry-After is waited for.</summary>
    public TimeSpan LongestWait { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>The largest file that is taken; torchvision's largest is half a gigabyte.</summary>
    public long Largest { get; init; } = 2L << 30;

    /// <summary>Downloads <paramref name="address"/> to <paramref name="path"/>.</summary>
    /// <param name="hashPrefix">The first digits of the file's SHA-256.</param>
    /// <exception cref="DownloadFailure">It cannot be had, or is another file. Nothing is then at <paramref name="path"/>.</exception>
    public void Download(Uri address, string path, string hashPrefix, CancellationToken cancel) =>
        Task.Run(() => DownloadAsync(address, path, hashPrefix, cancel), CancellationToken.None).GetAwaiter().GetResult();

    private async Task DownloadAsync(Uri address, string path, string hashPrefix, CancellationToken cancel)
    {
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            var part = path + ".partial";
            string hash;
            bool resumed;
            await using (var file = await Lock(part, cancel))
            {
                if (File.Exists(path))
                {
                    file.Close();
                    File.Delete(part);
                    return; // another process was faster
                }
                resumed = file.Length > 0;
                await Fill(file, address, Path.GetFileName(path), cancel);
                file.Position = 0;
                hash = Convert.ToHexStringLower(await System.Security.Cryptography.SHA256.HashDataAsync(file, cancel));
                if (!hash.StartsWith(hashPrefix, StringComparison.Ordinal))
                    file.SetLength(0);
                else
                    file.Flush(flushToDisk: true);
            }
            if (hash.StartsWith(hashPrefix, StringComparison.Ordinal))
                Take(part, path);
            else if (resumed)
                await DownloadAsync(address, path, hashPrefix, cancel); // the earlier part was of another file; begin anew
            else
            {
                File.Delete(part);
                throw new DownloadFailure($"{address} is another file: its SHA-256 begins with {hash[..Math.Min(hash.Length, 8)]}, not {hashPrefix}");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DownloadFailure($"the cache folder cannot be written: {e.Message}", e);
        }
    }

    private static void Take(string part, string path)
    {
        try
        {
            File.Move(part, path, overwrite: true);
        }
        catch (FileNotFoundException) when (File.Exists(path))
        {
            // another process that found the part complete was faster
        }
    }

    /// <summary>Opens the partial file for us alone, waiting while another process has it.</summary>
    private static async Task<FileStream> Lock(string path, CancellationToken cancel)
    {
        while (true)
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException e) when (e.HResult is SharingViolation or LinuxAgain or MacAgain)
            {
                await Task.Delay(200, cancel);
            }
    }

    private async Task Fill(FileStream file, Uri address, string name, CancellationToken cancel)
    {
        ProgressTask? progress = null;
        var version = new Version();
        for (var failures = 0; ;)
        {
            var before = file.Length;
            try
            {
                await Continue(file, address, version, total => progress ??= Begin(name, total, file.Length), n => progress?.Advance(n), cancel);
                return;
            }
            catch (Exception e) when (IsPassing(e, cancel))
            {
                failures = file.Length > before ? 1 : failures + 1;
                var status = (int?)(e as HttpRequestException)?.StatusCode ?? 0;
                if (failures >= Attempts)
                    throw new DownloadFailure($"{address}: {e.GetBaseException().Message.TrimEnd('.')}", e, status);
                var asked = e.Data[RetryAfter] as TimeSpan? ?? default;
                if (asked > LongestWait)
                    throw new DownloadFailure($"{address}: {e.Message}, and asks for {asked.TotalMinutes:0} minutes of patience", e, status);
                var pause = Pause * Math.Pow(2, failures - 1);
                await Task.Delay(asked > pause ? asked : pause, cancel);
            }
        }
    }

    /// <summary>By what the server tells one version of the file from another; a part of one and the rest of another are no file.</summary>
    private sealed class Version
    {
        public RangeConditionHeaderValue? Validator { get; set; }

        public long? Length { get; set; }
    }

    /// <summary>One request for what is still missing, appended to the file.</summary>
    private async Task Continue(FileStream file, Uri address, Version version, Action<long> begin, Action<long> advance, CancellationToken cancel)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, address);
        request.Headers.Authorization = Authorization;
        if (file.Length > 0)
        {
            request.Headers.Range = new RangeHeaderValue(file.Length, null);
            request.Headers.IfRange = version.Validator; // a server with another version sends it whole
        }
        using var stall = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        stall.CancelAfter(Stall);
        using var response = await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, stall.Token);
        var code = (int)response.StatusCode;
        if (code == 416) // nothing behind what we have: either it is whole, which the hash will tell, or of another file
        {
            if (response.Content.Headers.ContentRange?.Length == file.Length)
                return;
            file.SetLength(0);
            throw new HttpRequestException("the server no longer has the rest of the file");
        }
        if (code is 408 or 429 or >= 500)
        {
            var wait = response.Headers.RetryAfter;
            throw new HttpRequestException($"the server answers {code}", null, response.StatusCode)
            {
                Data = { [RetryAfter] = wait?.Delta ?? (wait?.Date - DateTimeOffset.UtcNow) },
            };
        }
        if (code is not (200 or 206))
            throw new DownloadFailure($"{address}: the server answers {code}", status: code);
        var from = code == 206 ? response.Content.Headers.ContentRange?.From ?? -1 : 0;
        if (from != 0 && from != file.Length)
            throw new DownloadFailure($"{address}: the server sends another part than was asked for");
        var whole = code == 206 ? response.Content.Headers.ContentRange?.Length : response.Content.Headers.ContentLength;
        if (code == 206 && version.Length is { } before && whole is not null && whole != before)
        {
            file.SetLength(0);
            (version.Validator, version.Length) = (null, null);
            throw new HttpRequestException("the file has changed on the server meanwhile");
        }
        version.Length = whole ?? version.Length;
        version.Validator = response.Headers.ETag is { IsWeak: false } tag ? new RangeConditionHeaderValue(tag)
            : response.Content.Headers.LastModified is { } date ? new RangeConditionHeaderValue(date) : null;
        file.SetLength(from); // a server that knows no ranges sends the file from its start
        file.Position = from;
        var total = from + (response.Content.Headers.ContentLength ?? 0);
        CheckSize(total);
        begin(response.Content.Headers.ContentLength is null ? 0 : total);

        await using var body = await response.Content.ReadAsStreamAsync(stall.Token);
        var buffer = new byte[1 << 16];
        while (true)
        {
            stall.CancelAfter(Stall);
            var count = await body.ReadAsync(buffer, stall.Token);
            if (count == 0)
                return; // .NET's client throws where fewer bytes came than were announced
            CheckSize(file.Position + count);
            await file.WriteAsync(buffer.AsMemory(0, count), cancel);
            await file.FlushAsync(cancel);
            advance(count);
        }
    }

    private void CheckSize(long length)
    {
        if (length > Largest)
            throw new DownloadFailure(string.Create(CultureInfo.InvariantCulture, $"the server sends {length:N0} bytes or more, far more than such a file has"));
    }

    private static ProgressTask Begin(string name, long total, long done)
    {
        var task = LabProgress.Begin($"downloading {name}", total, "bytes");
        if (done > 0)
            task.Advance(done);
        return task;
    }

    /// <summary>Faults of the way, which may pass; the file's own faults are <see cref="DownloadFailure"/>s.</summary>
    private static bool IsPassing(Exception e, CancellationToken cancel) =>
        e is HttpRequestException or HttpIOException || e is OperationCanceledException && !cancel.IsCancellationRequested;

    /// <summary>Whether a server answers within a time that it has the file.</summary>
    public static bool Answers(Uri address, TimeSpan within, out string reason)
    {
        try
        {
            using var time = CancellationTokenSource.CreateLinkedTokenSource(LabProgress.Interrupt);
            time.CancelAfter(within);
            using var request = new HttpRequestMessage(HttpMethod.Head, address);
            using var response = Task.Run(() => client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, time.Token)).GetAwaiter().GetResult();
            reason = $"{address.Host} answers {(int)response.StatusCode}";
            return response.IsSuccessStatusCode;
        }
        catch (Exception e) when (e is HttpRequestException or OperationCanceledException && !LabProgress.Interrupt.IsCancellationRequested)
        {
            reason = e is OperationCanceledException ? $"{address.Host} did not answer within {within.TotalSeconds} s" : e.GetBaseException().Message;
            return false;
        }
    }
}
