using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace DeepfakeLab.Tests;

[CollectionDefinition("environment", DisableParallelization = true)]
public class EnvironmentCollection;

/// <summary>Downloads from a server on this machine that misbehaves in the ways that servers and networks do.</summary>
[Collection("environment")]
public sealed class DownloadTests : IDisposable
{
    private static readonly byte[] content = [.. Enumerable.Range(0, 300_000).Select(i => (byte)(i * 31 + i / 251))];
    private static readonly string hash = Convert.ToHexStringLower(SHA256.HashData(content));

    private readonly TemporaryFolder folder = TestSupport.Folder();
    private readonly Downloader quick = new() { Pause = TimeSpan.FromMilliseconds(5), Stall = TimeSpan.FromMilliseconds(500), Attempts = 3 };

    private string Target => folder["model-" + hash[..8] + ".pth"];

    public void Dispose() => folder.Dispose();

    private void Download(TestServer server, string file = "file") => quick.Download(server.Address(file), Target, hash[..8], default);

    [Fact]
    public void A_download_that_is_cut_goes_on_where_it_stopped()
    {
        using var server = new TestServer((request, connection) =>
        {
            var from = request.From ?? 0;
            connection.Head(from == 0 ? "200 OK" : "206 Partial Content", content.Length - from,
                from == 0 ? "" : $"Content-Range: bytes {from}-{content.Length - 1}/{content.Length}\r\n");
            connection.Body(content.AsSpan(from, Math.Min(100_000, content.Length - from))); // and the connection closes
        });
        Download(server);
        Assert.Equal(content, File.ReadAllBytes(Target));
        Assert.Equal([null, 100_000, 200_000], server.Requests.Select(r => r.From));
        Assert.Single(Directory.GetFiles(folder.Path));
    }

    [Theory, InlineData(true), InlineData(false)]
    public void A_file_that_changes_between_two_parts_is_fetched_anew(bool knowsIfRange)
    {
        var old = new byte[content.Length + 5];
        var times = 0;
        using var server = new TestServer((request, connection) =>
        {
            if (++times == 1)
            {
                connection.Head("200 OK", old.Length, "ETag: \"old\"\r\n");
                connection.Body(old.AsSpan(0, 100_000));
            }
            else if (knowsIfRange && request.IfRange != "\"new\"" || request.From is not { } from)
            {
                connection.Head("200 OK", content.Length, "ETag: \"new\"\r\n");
                connection.Body(content);
            }
            else
            {
                connection.Head("206 Partial Content", content.Length - from, $"Content-Range: bytes {from}-{content.Length - 1}/{content.Length}\r\n");
                connection.Body(content.AsSpan(from));
            }
        });
        quick.Download(server.Address("file"), Target, "", default); // no hash is known, as of Kaggle's archive
        Assert.Equal(content, File.ReadAllBytes(Target));
        Assert.Equal("\"old\"", server.Requests[1].IfRange);
        Assert.Equal(knowsIfRange ? [null, 100_000] : [null, 100_000, null], server.Requests.Select(r => r.From));
    }

    [Fact]
    public void A_server_that_knows_no_ranges_is_asked_for_the_whole_again()
    {
        var times = 0;
        using var server = new TestServer((_, connection) =>
        {
            connection.Head("200 OK", content.Length);
            connection.Body(content.AsSpan(0, ++times == 1 ? 50_000 : content.Length));
        });
        Download(server);
        Assert.Equal(content, File.ReadAllBytes(Target));
    }

    [Fact]
    public void What_a_killed_process_left_is_used_and_what_was_left_of_another_file_is_not()
    {
        using var server = new TestServer(TestServer.Ranges(content));
        File.WriteAllBytes(Target + ".partial", content[..250_000]);
        Download(server);
        Assert.Equal(250_000, server.Requests.Single().From);
        File.Delete(Target);
        File.WriteAllBytes(Target + ".partial", new byte[1000]);
        Download(server);
        Assert.Equal(content, File.ReadAllBytes(Target));
        File.Delete(Target);
        File.WriteAllBytes(Target + ".partial", new byte[content.Length + 5]);
        Download(server);
        Assert.Equal(content, File.ReadAllBytes(Target));
    }

    [Fact]
    public void A_server_that_falls_silent_ends_in_an_error_and_the_part_is_kept()
    {
        using var server = new TestServer((_, connection) =>
        {
            connection.Head("200 OK", content.Length);
            connection.Body(content.AsSpan(0, 10));
            connection.WaitForClient();
        });
        Assert.Throws<DownloadFailure>(() => Download(server));
        Assert.False(File.Exists(Target));
        Assert.InRange(new FileInfo(Target + ".partial").Length, 10, content.Length - 1);
    }

    [Fact]
    public void A_slow_server_is_waited_for()
    {
        using var server = new TestServer((request, connection) =>
        {
            Thread.Sleep(100);
            connection.Head("200 OK", content.Length);
            foreach (var piece in content.Chunk(100_000))
            {
                Thread.Sleep(100);
                connection.Body(piece);
            }
        });
        new Downloader { Stall = TimeSpan.FromSeconds(10), Attempts = 1 }.Download(server.Address("file"), Target, hash[..8], default);
        Assert.Equal(content, File.ReadAllBytes(Target));
    }

    [Fact]
    public void Redirects_are_followed_and_a_circle_of_them_is_an_error()
    {
        using var server = new TestServer((request, connection) =>
        {
            if (request.Path == "/file")
                TestServer.Ranges(content)(request, connection);
            else
                connection.Head("302 Found", 0, $"Location: {(request.Path == "/circle" ? "/circle" : "/file")}\r\n");
        });
        Download(server, "moved");
        Assert.Equal(content, File.ReadAllBytes(Target));
        File.Delete(Target);
        Assert.Throws<DownloadFailure>(() => Download(server, "circle"));
    }

    [Fact]
    public void A_server_that_announces_more_than_it_sends_ends_in_an_error()
    {
        using var server = new TestServer((request, connection) =>
        {
            connection.Head("200 OK", content.Length + 1000);
            connection.Body(content);
        });
        Assert.Throws<DownloadFailure>(() => Download(server));
        Assert.False(File.Exists(Target));
    }

    [Fact]
    public void A_server_that_announces_less_than_the_file_has_gives_no_file()
    {
        using var server = new TestServer((_, connection) =>
        {
            connection.Head("200 OK", 1000);
            connection.Body(content);
        });
        Assert.Contains(hash[..8], Assert.Throws<DownloadFailure>(() => Download(server)).Message);
        Assert.Empty(Directory.GetFiles(folder.Path));
    }

    [Theory, InlineData(true), InlineData(false)]
    public void A_file_without_end_is_stopped(bool announced)
    {
        using var server = new TestServer((_, connection) =>
        {
            connection.Head("200 OK", announced ? 1L << 50 : null);
            for (var i = 0; i < 100; i++)
                connection.Body(content);
        });
        var small = new Downloader { Pause = quick.Pause, Stall = quick.Stall, Attempts = 2, Largest = 1_000_000 };
        Assert.Contains("far more than such a file has", Assert.Throws<DownloadFailure>(() => small.Download(server.Address("x"), Target, hash[..8], default)).Message);
        Assert.False(File.Exists(Target));
    }

    [Fact]
    public void A_wrong_file_never_takes_the_name()
    {
        using var server = new TestServer(TestServer.Ranges([1, 2, 3]));
        var error = Assert.Throws<DownloadFailure>(() => Download(server));
        Assert.Contains("is another file", error.Message);
        Assert.Empty(Directory.GetFiles(folder.Path));
    }

    [Fact]
    public void A_busy_server_is_asked_again_and_one_without_the_file_is_not()
    {
        var times = 0;
        using var server = new TestServer((request, connection) =>
        {
            if (request.Path == "/none")
                connection.Head("404 Not Found", 0);
            else if (++times < 3)
                connection.Head("503 Service Unavailable", 0);
            else
                TestServer.Ranges(content)(request, connection);
        });
        Download(server);
        Assert.Equal(3, server.Requests.Count);
        File.Delete(Target);
        Assert.Contains("404", Assert.Throws<DownloadFailure>(() => Download(server, "none")).Message);
        Assert.Equal(4, server.Requests.Count);
    }

    [Fact]
    public async Task Two_that_want_the_same_file_fetch_it_once()
    {
        using var server = new TestServer(TestServer.Ranges(content));
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() => Download(server))));
        Assert.Equal(content, File.ReadAllBytes(Target));
        Assert.Single(server.Requests);
    }

    [Fact]
    public void An_interrupt_stops_the_download()
    {
        using var server = new TestServer((_, connection) => connection.WaitForClient());
        using var cancel = new CancellationTokenSource(50);
        Assert.ThrowsAny<OperationCanceledException>(() => new Downloader().Download(server.Address("x"), Target, hash, cancel.Token));
    }

    [Fact]
    public void Progress_counts_every_byte_once()
    {
        using var server = new TestServer(TestServer.Ranges(content));
        var last = new ProgressUpdate("", 0, 0, "", default, []);
        void Listen(ProgressUpdate update) => last = update.Task.Contains(hash[..8]) ? update : last;
        LabProgress.Changed += Listen;
        Download(server);
        LabProgress.Changed -= Listen;
        Assert.Equal((content.Length, content.Length, "bytes"), (last.Done, last.Total, last.Unit));
    }

    [Fact]
    public void The_cache_is_torchs_own_and_a_mirror_is_used()
    {
        using var server = new TestServer(TestServer.Ranges(content));
        using var _ = new Variables(("TORCH_HOME", folder.Path), ("DEEPFAKELAB_WEIGHTS_MIRROR", server.Address("").ToString()));
        var weights = new PretrainedWeights("m", "V1", $"model-{hash[..8]}.pth", 0, 0, 256, 224);
        var (path, sha256) = WeightsFile.Get(weights, quick);
        Assert.Equal(Path.Combine(folder.Path, "hub", "checkpoints", weights.File), path);
        Assert.Equal(hash, sha256);
        WeightsFile.Get(weights, quick);
        Assert.Single(server.Requests); // the second time it was cached
        File.AppendAllText(path, "x");
        Assert.Contains("not the official one", Assert.Throws<WeightsException>(() => WeightsFile.Get(weights, quick)).Message);
    }

    [Fact]
    public void Offline_the_error_says_what_to_fetch_and_where_to_put_it()
    {
        using var _ = new Variables(("TORCH_HOME", folder.Path), ("DEEPFAKELAB_OFFLINE", "1"), ("DEEPFAKELAB_WEIGHTS_MIRROR", null));
        var message = Assert.Throws<WeightsException>(() => Models.MobileNetV2(Weights.ImageNet)).Message;
        Assert.Contains("mobilenet_v2-7ebf99e0.pth", message);
        Assert.Contains("https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth", message);
        Assert.Contains("begins with 7ebf99e0", message);
        Assert.Contains(Path.Combine(folder.Path, "hub", "checkpoints", "mobilenet_v2-7ebf99e0.pth"), message);
    }

    [Theory, InlineData("ftp://example.com"), InlineData("no address")]
    public void A_mirror_that_is_no_web_address_is_refused(string mirror)
    {
        using var _ = new Variables(("TORCH_HOME", folder.Path), ("DEEPFAKELAB_WEIGHTS_MIRROR", mirror));
        Assert.Equal(mirror, Assert.Throws<WeightsException>(() => Models.MobileNetV2(Weights.ImageNet)).Subject);
    }

    [Fact]
    public void Auto_says_which_weights_it_took_and_why()
    {
        using var silent = new TestServer((_, connection) => connection.Head("500 Broken", 0));
        using var _ = new Variables(("TORCH_HOME", folder.Path), ("DEEPFAKELAB_WEIGHTS", null), ("DEEPFAKELAB_WEIGHTS_MIRROR", silent.Address("").ToString()));
        if (typeof(Weights).Assembly.GetManifestResourceInfo("DeepfakeLab.EmbeddedWeights.mobilenet_v2") is null)
            Assert.Throws<WeightsException>(() => Models.MobileNetV2(Weights.Embedded));
        else
        {
            using var model = Models.MobileNetV2(Weights.Auto);
            Assert.Contains("embedded", model.WeightsOrigin.Description);
            Assert.Equal(Pretrained.Everything, model.WeightsOrigin.Pretrained);
            Assert.Contains("answers 500", model.WeightsOrigin.Description);
            Assert.Equal(64, model.WeightsOrigin.Sha256!.Length);
        }
    }

    [Fact]
    public void Auto_takes_what_comes_with_the_library_and_else_says_that_it_starts_from_nothing()
    {
        using var _ = new Variables(("TORCH_HOME", folder.Path), ("DEEPFAKELAB_WEIGHTS", null), ("DEEPFAKELAB_OFFLINE", "1"));
        using var packaged = Models.ResNet18(Weights.Auto);
        Assert.Contains("trained with CNTK", packaged.WeightsOrigin.Description);
        Assert.Contains("DEEPFAKELAB_OFFLINE is set", packaged.WeightsOrigin.Description);
        using var random = Models.MobileNetV3Small(Weights.Auto);
        Assert.StartsWith("random initialisation: ImageNet's are not in the cache, and DEEPFAKELAB_OFFLINE is set", random.WeightsOrigin.Description);
        Assert.Contains("training from scratch", random.WeightsOrigin.Description);
        Assert.Null(random.WeightsOrigin.Sha256);
        Assert.Equal((Pretrained.Features, Pretrained.Nothing), (packaged.WeightsOrigin.Pretrained, random.WeightsOrigin.Pretrained));
        Assert.Contains("mobilenet_v3_small", Assert.Throws<WeightsException>(() => Models.MobileNetV3Small(Weights.Embedded)).Message);
    }

    [Fact]
    public void DEEPFAKELAB_WEIGHTS_names_a_file_or_a_folder_with_a_file_a_model()
    {
        using (var small = Models.MobileNetV3Small())
        using (var state = StateDict.Of(small))
        {
            Checkpoint.Write(folder["mobilenet_v3_small-mine.pth"], state);
            Checkpoint.Write(folder["mobilenet_v3_large.safetensors"], state); // of another model
        }
        using var _ = new Variables(("TORCH_HOME", folder["torch"]), ("DEEPFAKELAB_WEIGHTS", folder.Path), ("DEEPFAKELAB_OFFLINE", "1"));
        using (var model = Models.MobileNetV3Small(Weights.Auto))
            Assert.Equal(folder["mobilenet_v3_small-mine.pth"], model.WeightsOrigin.Path);
        using (var model = Models.MnasNet0_5(Weights.Auto))
            Assert.Contains($"the folder {folder.Path} has no file for mnasnet0_5", model.WeightsOrigin.Description);
        var error = Assert.Throws<WeightsException>(() => Models.MobileNetV3Large(Weights.Auto));
        Assert.Contains("weights that mobilenet_v3_large cannot take", error.Message);
        Assert.Equal(folder["mobilenet_v3_large.safetensors"], error.Subject);
        File.WriteAllText(folder["mobilenet_v3_small.pt"], "");
        Assert.Contains("several files for mobilenet_v3_small", Assert.Throws<WeightsException>(() => Models.MobileNetV3Small(Weights.Auto)).Message);
    }

    /// <summary>Environment variables for the time of a test.</summary>
    private sealed class Variables : IDisposable
    {
        private readonly (string Name, string? Was)[] old;

        public Variables(params (string Name, string? Value)[] values)
        {
            old = [.. values.Select(v => (v.Name, Environment.GetEnvironmentVariable(v.Name)))];
            foreach (var (name, value) in values)
                Environment.SetEnvironmentVariable(name, value);
        }

        public void Dispose()
        {
            foreach (var (name, was) in old)
                Environment.SetEnvironmentVariable(name, was);
        }
    }
}

/// <summary>A web server on this machine whose every answer a test writes byte by byte; one request a connection.</summary>
internal sealed class TestServer : IDisposable
{
    public sealed record Request(string Method, string Path, int? From, string? Authorization = null, string? IfRange = null);

    private readonly TcpListener listener = new(IPAddress.Loopback, 0);
    private readonly List<Request> requests = [];
    private readonly CancellationTokenSource stop = new();

    public TestServer(Action<Request, Connection> answer)
    {
        listener.Start();
        _ = Task.Run(async () =>
        {
            while (!stop.IsCancellationRequested)
            {
                var client = await listener.AcceptTcpClientAsync(stop.Token);
                _ = Task.Run(() => Serve(client, answer));
            }
        });
    }

    public IReadOnlyList<Request> Requests
    {
        get
        {
            lock (requests)
                return [.. requests];
        }
    }

    public Uri Address(string file) => new($"http://127.0.0.1:{((IPEndPoint)listener.LocalEndpoint).Port}/{file}");

    /// <summary>An honest server of one file.</summary>
    public static Action<Request, Connection> Ranges(byte[] file) => (request, connection) =>
    {
        var from = request.From ?? 0;
        if (from >= file.Length)
        {
            connection.Head("416 Range Not Satisfiable", 0, $"Content-Range: bytes */{file.Length}\r\n");
            return;
        }
        connection.Head(request.From is null ? "200 OK" : "206 Partial Content", file.Length - from,
            request.From is null ? "" : $"Content-Range: bytes {from}-{file.Length - 1}/{file.Length}\r\n");
        connection.Body(file.AsSpan(from));
    };

    private void Serve(TcpClient client, Action<Request, Connection> answer)
    {
        using (client)
            try
            {
                using var reader = new StreamReader(client.GetStream(), Encoding.ASCII, leaveOpen: true);
                var first = reader.ReadLine()!.Split(' ');
                int? from = null;
                string? authorization = null, ifRange = null;
                for (var line = reader.ReadLine(); !string.IsNullOrEmpty(line); line = reader.ReadLine())
                    if (line.StartsWith("Range: bytes=", StringComparison.OrdinalIgnoreCase))
                        from = int.Parse(line["Range: bytes=".Length..].TrimEnd('-'), System.Globalization.CultureInfo.InvariantCulture);
                    else if (line.StartsWith("Authorization: ", StringComparison.OrdinalIgnoreCase))
                        authorization = line["Authorization: ".Length..];
                    else if (line.StartsWith("If-Range: ", StringComparison.OrdinalIgnoreCase))
                        ifRange = line["If-Range: ".Length..];
                var request = new Request(first[0], first[1], from, authorization, ifRange);
                lock (requests)
                    requests.Add(request);
                answer(request, new Connection(client.GetStream()));
            }
            catch (Exception e) when (e is IOException or ObjectDisposedException)
            {
                // the client went away, which some tests want
            }
    }

    public void Dispose()
    {
        stop.Cancel();
        listener.Stop();
    }

    internal sealed class Connection(NetworkStream stream)
    {
        public void Head(string status, long? length, string headers = "") =>
            stream.Write(Encoding.ASCII.GetBytes($"HTTP/1.1 {status}\r\nConnection: close\r\n{(length is null ? "" : $"Content-Length: {length}\r\n")}{headers}\r\n"));

        public void Body(ReadOnlySpan<byte> bytes) => stream.Write(bytes);

        public void WaitForClient() => stream.ReadByte(); // returns when the client closes
    }
}
