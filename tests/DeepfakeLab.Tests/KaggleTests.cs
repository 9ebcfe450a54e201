using System.IO.Compression;

namespace DeepfakeLab.Tests;

/// <summary>The collection from a server that behaves as Kaggle does, and archives that are not what they say.</summary>
[Collection("environment")]
public sealed class KaggleTests : IDisposable
{
    private static readonly byte[] jpeg = Jpeg();
    private static readonly Lazy<byte[]> whole = new(() => Zip(Names()));

    private readonly TemporaryFolder folder = TestSupport.Folder();
    private readonly Downloader quick = new() { Pause = TimeSpan.FromMilliseconds(5), Stall = TimeSpan.FromSeconds(2), Attempts = 3 };
    private readonly (string Name, string? Was)[] environment =
        [.. ((string[])["KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"]).Select(n => (n, Environment.GetEnvironmentVariable(n)))];

    public KaggleTests()
    {
        foreach (var (name, _) in environment)
            Environment.SetEnvironmentVariable(name, null);
        Environment.SetEnvironmentVariable("KAGGLE_CONFIG_DIR", folder.Path);
    }

    public void Dispose()
    {
        foreach (var (name, was) in environment)
            Environment.SetEnvironmentVariable(name, was);
        folder.Dispose();
    }

    private string Target => folder["faces"];

    private string Get(TestServer server) => Kaggle.Get(Target, server.Address("api/v1/"), quick, default);

    [Fact]
    public void The_collection_comes_through_a_redirect_a_pause_and_a_cut()
    {
        var (refused, cut) = (false, false);
        var watch = System.Diagnostics.Stopwatch.StartNew();
        using var server = new TestServer((request, connection) =>
        {
            if (request.Path.StartsWith("/api/", StringComparison.Ordinal))
                connection.Head("302 Found", 0, "Location: /storage\r\n");
            else if (!refused)
            {
                refused = true;
                connection.Head("429 Too Many Requests", 0, "Retry-After: 1\r\n");
            }
            else if (!cut)
            {
                cut = true;
                connection.Head("200 OK", whole.Value.Length);
                connection.Body(whole.Value.AsSpan(0, whole.Value.Length / 2));
            }
            else
                TestServer.Ranges(whole.Value)(request, connection);
        });
        Environment.SetEnvironmentVariable("KAGGLE_API_TOKEN", "secret");
        Assert.DoesNotContain("secret", Get(server));
        Assert.InRange(watch.ElapsedMilliseconds, 1000, 60_000); // Retry-After was kept
        Assert.Equal(whole.Value.Length / 2, server.Requests[^1].From);
        Assert.Equal(1081, Directory.GetFiles(Path.Combine(Target, "training_real")).Length);
        Assert.Equal(960, Directory.GetFiles(Path.Combine(Target, "training_fake")).Length);
        Assert.Equal([Target], Directory.GetFileSystemEntries(folder.Path)); // neither archive nor temporary folder is left
        Assert.All(server.Requests, r => Assert.Equal(r.Path.StartsWith("/api/", StringComparison.Ordinal) ? "Bearer secret" : null, r.Authorization));
    }

    [Theory]
    [InlineData("401 Unauthorized", "new token"), InlineData("403 Forbidden", "accept its terms"), InlineData("404 Not Found", "moved"), InlineData("429 Too Many Requests", "an hour")]
    public void A_refusal_says_what_to_do(string status, string remedy)
    {
        using var server = new TestServer((_, connection) => connection.Head(status, 0));
        File.WriteAllText(folder["kaggle.json"], """{"username":"someone","key":"secret"}""");
        var error = Assert.Throws<DataException>(() => Get(server));
        Assert.Contains(remedy, error.Remedy);
        Assert.Contains("as someone", error.Message);
        Assert.DoesNotContain("secret", error.ToString());
        Assert.Equal("Basic c29tZW9uZTpzZWNyZXQ=", server.Requests[0].Authorization);
        Assert.False(Directory.Exists(Target));
    }

    [Fact]
    public void The_token_comes_from_the_usual_places_in_their_order()
    {
        Assert.Equal((null, "anonymously"), Kaggle.Credentials());
        File.WriteAllText(folder["kaggle.json"], """{"username":"filed","key":"secret"}""");
        Assert.Equal("as filed", Kaggle.Credentials().Who);
        Environment.SetEnvironmentVariable("KAGGLE_USERNAME", "named");
        Assert.Equal("as filed", Kaggle.Credentials().Who); // a name without a key is none
        Environment.SetEnvironmentVariable("KAGGLE_KEY", "secret");
        Assert.Equal(("Basic bmFtZWQ6c2VjcmV0", "as named"), Kaggle.Credentials() is var (basic, who) ? (basic!.ToString(), who) : default);
        Environment.SetEnvironmentVariable("KAGGLE_API_TOKEN", "token");
        Assert.Equal("Bearer token", Kaggle.Credentials().Item1!.ToString());
        Environment.SetEnvironmentVariable("KAGGLE_API_TOKEN", null);
        Environment.SetEnvironmentVariable("KAGGLE_KEY", null);
        File.WriteAllText(folder["kaggle.json"], "{");
        Assert.Equal(folder["kaggle.json"], Assert.Throws<DataException>(() => Kaggle.Credentials()).Subject);
    }

    [Fact]
    public void What_is_no_archive_is_removed_so_that_the_next_attempt_can_succeed()
    {
        var page = true;
        using var server = new TestServer((request, connection) => TestServer.Ranges(page ? "<html>sign in</html>"u8.ToArray() : whole.Value)(request, connection));
        Assert.Contains("no zip", Assert.Throws<DataException>(() => Get(server)).Message);
        Assert.Empty(Directory.GetFileSystemEntries(folder.Path));
        page = false;
        Assert.Equal("anonymously", Get(server));
        Assert.Throws<DataException>(() => Get(server)); // the place is taken now
    }

    [Theory]
    [InlineData("../../evil.jpg"), InlineData("/etc/evil.jpg"), InlineData("a\\..\\..\\evil.jpg"), InlineData("C:/evil.jpg"), InlineData("link")]
    public void An_archive_that_reaches_outside_is_refused_whole(string evil)
    {
        File.WriteAllBytes(folder["a.zip"], Zip(Names().Append(evil)));
        Assert.Contains("refused", Assert.Throws<DataException>(() => FaceArchive.Install(folder["a.zip"], Target, TestContext.Current.CancellationToken)).Message);
        Assert.Equal([folder["a.zip"]], Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public void An_incomplete_archive_a_broken_image_and_a_bomb_leave_nothing_behind()
    {
        File.WriteAllBytes(folder["a.zip"], Zip(Names().Skip(1)));
        Assert.Contains("1080 real images of 1081", Assert.Throws<DataException>(() => FaceArchive.Install(folder["a.zip"], Target, TestContext.Current.CancellationToken)).Message);
        File.WriteAllBytes(folder["a.zip"], Zip(Names(), broken: "training_fake/easy_7_1111.jpg"));
        Assert.Contains("easy_7_1111.jpg", Assert.Throws<ImageException>(() => FaceArchive.Install(folder["a.zip"], Target, TestContext.Current.CancellationToken)).Message);
        File.WriteAllBytes(folder["a.zip"], Zip(Names(), bomb: "training_fake/easy_7_1111.jpg"));
        Assert.Contains("64 MiB", Assert.Throws<DataException>(() => FaceArchive.Install(folder["a.zip"], Target, TestContext.Current.CancellationToken)).Message);
        Assert.Equal([folder["a.zip"]], Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public void Crops_are_the_middle_pixel_by_pixel_under_the_same_names()
    {
        TrainingTests.PaintImages(folder["images"], 2);
        var data = FaceDataset.Open(folder["images"]);
        Assert.Equal(4, FaceCrop.Write(data, folder["crops"], 0.5, TestContext.Current.CancellationToken));
        var (whole, crop) = (ImageReader.Read(data.Images[0].Path), ImageReader.Read(Path.Combine(folder["crops"], data.Images[0].Name)));
        Assert.Equal(Math.Min(whole.Width, whole.Height) / 2, crop.Width);
        var (left, top) = ((whole.Width - crop.Width) / 2, (whole.Height - crop.Height) / 2);
        Assert.Equal(whole.Pixels.AsSpan(3 * ((top + 1) * whole.Width + left), 3 * crop.Width).ToArray(), crop.Pixels.AsSpan(3 * crop.Width, 3 * crop.Width).ToArray());
        Assert.Throws<DataException>(() => FaceCrop.Write(data, folder["crops"], 0.5, TestContext.Current.CancellationToken)); // the place is taken
    }

    [Fact]
    public void The_commands_install_an_archive_and_crop_and_say_how()
    {
        File.WriteAllBytes(folder["a.zip"], whole.Value);
        Assert.Equal(0, ExportTests.TrainedRun.Command("data", "get", "file", folder["a.zip"], "--out", Target));
        Assert.Equal(2041, Directory.GetFiles(Target, "*.jpg", SearchOption.AllDirectories).Length);
        Assert.Equal(1, ExportTests.TrainedRun.Command("data", "get", "file", folder["a.zip"], "--out", Target)); // the place is taken

        TrainingTests.PaintImages(folder["images"], 2);
        var was = Console.Out;
        using var output = new StringWriter();
        Console.SetOut(output);
        try
        {
            Assert.Equal(0, ExportTests.TrainedRun.Command("data", "crop", folder["images"], "--out", folder["crops"], "--keep", "50"));
        }
        finally
        {
            Console.SetOut(was);
        }
        Assert.Contains($"4 in {folder["crops"]} (central square; no face detector", output.ToString());
        Assert.Equal(16, ImageReader.Read(Directory.GetFiles(folder["crops"], "*.png", SearchOption.AllDirectories)[0]).Width);
    }

    /// <summary>The collection's names under one folder, and a part of them under another, as Kaggle's archive has them twice.</summary>
    private static IEnumerable<string> Names() =>
    [
        .. Enumerable.Range(1, 1081).Select(i => $"real_and_fake_face/training_real/real_{i:00000}.jpg"),
        .. Fakes("easy", 240), .. Fakes("mid", 480), .. Fakes("hard", 240),
        "again/real_and_fake_face/training_real/real_00001.jpg",
    ];

    private static IEnumerable<string> Fakes(string kind, int count) =>
        Enumerable.Range(1, count).Select(i => $"real_and_fake_face/training_fake/{kind}_{i}_1111.jpg");

    private static byte[] Zip(IEnumerable<string> names, string? broken = null, string? bomb = null)
    {
        using var bytes = new MemoryStream();
        using (var zip = new ZipArchive(bytes, ZipArchiveMode.Create, leaveOpen: true))
            foreach (var name in names)
            {
                var entry = zip.CreateEntry(name, CompressionLevel.Fastest);
                if (name == "link")
                    entry.ExternalAttributes = unchecked((int)0xA1FF0000);
                using var stream = entry.Open();
                if (bomb is not null && name.EndsWith(bomb, StringComparison.Ordinal))
                    for (var i = 0; i < 65; i++)
                        stream.Write(new byte[1 << 20]);
                else
                    stream.Write(broken is not null && name.EndsWith(broken, StringComparison.Ordinal) ? jpeg.AsSpan(0, jpeg.Length / 2) : jpeg);
            }
        return bytes.ToArray();
    }

    private static byte[] Jpeg()
    {
        using var bitmap = new SkiaSharp.SKBitmap(24, 24);
        bitmap.Erase(SkiaSharp.SKColors.SandyBrown);
        using var data = bitmap.Encode(SkiaSharp.SKEncodedImageFormat.Jpeg, 90);
        return data.ToArray();
    }
}
