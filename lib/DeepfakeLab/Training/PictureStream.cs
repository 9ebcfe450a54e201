using System.Collections.Concurrent;
using System.Diagnostics;
using System.IO.Enumeration;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>What a model says about one picture, or why it says nothing.</summary>
/// <param name="Picture">The file or address as it was given or found.</param>
/// <param name="Probabilities">One a class; null where <paramref name="Error"/> says why not.</param>
public sealed record PictureAnswer(string Picture, double[]? Probabilities, string? Error);

/// <summary>Runs a model over any number of pictures: one core decodes and resizes the next ones while the model runs on the others.</summary>
public static class PictureStream
{
    private const int BatchSize = 32, Ahead = 64;

    /// <summary>Pictures that torch's own layers take at a time on a processor: of 32 the widest activations would be most of the memory that is ever needed.</summary>
    private const int LayersBatchSize = 8;

    /// <summary>How long a batch waits for pictures that are being decoded. Small batches cost more a picture, and while it waits all cores decode.</summary>
    private static readonly TimeSpan gathering = TimeSpan.FromMilliseconds(200);

    private static readonly string[] endings = [".jpg", ".jpeg", ".png", ".webp", ".bmp"];
    private static readonly char[] separators = [Path.DirectorySeparatorChar, Path.AltDirectorySeparatorChar];

    private static readonly HttpClient http = new(new SocketsHttpHandler { ConnectTimeout = TimeSpan.FromSeconds(10), MaxAutomaticRedirections = 5 })
    {
        Timeout = Timeout.InfiniteTimeSpan, // each picture has its own
        DefaultRequestHeaders = { { "User-Agent", "DeepfakeLab" } },
    };

    /// <summary>How long one picture may take to come over the network.</summary>
    internal static TimeSpan Patience { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>Answers in the order of the pictures, each as soon as its batch is done. A picture that cannot be read gives an error and the others go on.</summary>
    /// <param name="run">The model; stays the caller's.</param>
    /// <param name="pictures">Files and http(s) addresses; drawn from as fast as they are worked off, so a slow source still gets its answers at once.</param>
    public static IEnumerable<PictureAnswer> Predict(SavedRun run, IEnumerable<string> pictures, CancellationToken cancellation = default)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        using var queue = new BlockingCollection<Task<Decoded>>(Ahead);
        var reading = Task.Factory.StartNew(() => Read(pictures, run.Preprocessing, queue, stop.Token), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        using var model = new Answerer(run);
        try
        {
            var batch = new List<Decoded>();
            while (queue.TryTake(out var next, Timeout.Infinite, stop.Token)) // false only when there will be no more
            {
                var clock = Stopwatch.StartNew();
                do
                {
                    if (batch.Count > 0 && !Soon(next)) // a slow server must not hold back what is ready
                    {
                        foreach (var answer in model.Answer(batch))
                            yield return answer;
                        batch.Clear();
                    }
                    batch.Add(next.GetAwaiter().GetResult());
                }
                while (batch.Count < BatchSize && queue.TryTake(out next, (int)Math.Max(0, (gathering - clock.Elapsed).TotalMilliseconds), stop.Token));
                foreach (var answer in model.Answer(batch))
                    yield return answer;
                batch.Clear();
            }
            reading.GetAwaiter().GetResult(); // where the list of pictures itself could not be read, here is its error
        }
        finally
        {
            stop.Cancel();
            ((IAsyncResult)reading).AsyncWaitHandle.WaitOne(); // it ends at once, and the queue is ours to dispose
        }
    }

    /// <summary>The pictures that an argument stands for: itself for a file or address, a folder's (and its sub-folders') images, a pattern's matches.</summary>
    /// <param name="argument">A pattern has * and ? in any of its parts, and ** as a part for any sub-folders; what matches nothing stands for itself.</param>
    public static IEnumerable<string> Expand(string argument)
    {
        if (IsAddress(argument) || File.Exists(argument))
            return [argument];
        var parts = argument.Split(separators);
        var plain = Directory.Exists(argument) ? parts.Length : parts.TakeWhile(p => !IsPattern(p)).Count();
        if (plain == parts.Length && !Directory.Exists(argument))
            return [argument]; // whatever opens it will say that it is not there
        var folder = Directory.Exists(argument) ? argument : string.Join(Path.DirectorySeparatorChar, parts[..plain]);
        folder = folder.Length > 0 ? folder : Path.IsPathRooted(argument) ? Path.GetPathRoot(argument)! : ".";
        var found = Directory.Exists(folder) ? Matches(folder, plain == parts.Length ? ["**"] : parts[plain..]).Distinct().Order(StringComparer.Ordinal).ToList() : [];
        return found.Count > 0 ? found : [argument];
    }

    private static bool IsPattern(string part) => part.AsSpan().IndexOfAny('*', '?') >= 0;

    private static IEnumerable<string> Matches(string folder, string[] parts)
    {
        var (flat, deep) = (Options(false), Options(true));
        return parts switch
        {
            ["**"] => Directory.EnumerateFiles(folder, "*", deep).Where(f => endings.Contains(Path.GetExtension(f), StringComparer.OrdinalIgnoreCase)),
            ["**", .. var rest] => Directory.EnumerateDirectories(folder, "*", deep).Prepend(folder).SelectMany(f => Matches(f, rest)),
            [var last] => Directory.EnumerateFiles(folder, "*", flat).Where(f => FileSystemName.MatchesSimpleExpression(last, Path.GetFileName(f))),
            [var part, .. var rest] when IsPattern(part) => Directory.EnumerateDirectories(folder, "*", flat)
                .Where(f => FileSystemName.MatchesSimpleExpression(part, Path.GetFileName(f))).SelectMany(f => Matches(f, rest)),
            [var part, .. var rest] when Directory.Exists(Path.Combine(folder, part)) => Matches(Path.Combine(folder, part), rest),
            _ => [],
        };

        static EnumerationOptions Options(bool deep) => new() { RecurseSubdirectories = deep, AttributesToSkip = FileAttributes.ReparsePoint | FileAttributes.System };
    }

    private static bool Soon(Task task) => ((IAsyncResult)task).AsyncWaitHandle.WaitOne(TimeSpan.FromMilliseconds(50));

    private sealed record Decoded(string Picture, RgbImage? Image, string? Error);

    private static void Read(IEnumerable<string> pictures, Preprocessing preprocessing, BlockingCollection<Task<Decoded>> queue, CancellationToken stop)
    {
        try
        {
            foreach (var picture in pictures)
                queue.Add(Task.Run(() => Decode(picture, preprocessing, stop), CancellationToken.None), stop);
        }
        catch (OperationCanceledException) when (stop.IsCancellationRequested)
        {
            // nobody waits for the rest
        }
        finally
        {
            queue.CompleteAdding();
        }
    }

    private static async Task<Decoded> Decode(string picture, Preprocessing preprocessing, CancellationToken stop)
    {
        try
        {
            if (Directory.Exists(picture))
                throw new ImageException("There are no images in this folder", picture, $"Give one that holds {string.Join(", ", endings)} files");
            using var image = preprocessing.Apply(IsAddress(picture) ? ImageReader.DecodePixels(await Fetch(picture, stop), picture) : ImageReader.ReadPixels(picture));
            return new(picture, image.ToRgb(), null);
        }
        catch (Exception e) when (e is LabException or ArgumentException or NotSupportedException)
        {
            return new(picture, null, e.Message);
        }
    }

    private static bool IsAddress(string text) =>
        text.StartsWith("http://", StringComparison.OrdinalIgnoreCase) || text.StartsWith("https://", StringComparison.OrdinalIgnoreCase);

    private static async Task<byte[]> Fetch(string address, CancellationToken stop)
    {
        using var time = CancellationTokenSource.CreateLinkedTokenSource(stop);
        time.CancelAfter(Patience);
        try
        {
            using var response = await http.GetAsync(new Uri(address), HttpCompletionOption.ResponseHeadersRead, time.Token);
            if (!response.IsSuccessStatusCode)
                throw new ImageException($"The server answers {(int)response.StatusCode}", address, "Check the address");
            await using var body = await response.Content.ReadAsStreamAsync(time.Token);
            using var bytes = new MemoryStream();
            var buffer = new byte[1 << 16];
            for (int count; (count = await body.ReadAsync(buffer, time.Token)) > 0; bytes.Write(buffer, 0, count))
                if (bytes.Length + count > ImageReader.LargestFile)
                    throw new ImageException($"The server sends more than {ImageReader.LargestFile >> 20} MiB", address, "Give the address of a smaller picture");
            return bytes.ToArray();
        }
        catch (Exception e) when (e is HttpRequestException or IOException or UriFormatException or OperationCanceledException && !stop.IsCancellationRequested)
        {
            throw new ImageException(e is OperationCanceledException ? $"The picture did not come within {Patience.TotalSeconds:0} s" : $"The picture cannot be fetched ({e.GetBaseException().Message.TrimEnd('.')})",
                address, "Check the address and the network", e);
        }
    }

    /// <summary>The models, which a faster engine takes over where there is one (its features are within 1e-5 of torch's) and there are pictures enough to pay for handing it over.</summary>
    private sealed class Answerer(SavedRun run) : IDisposable
    {
        private readonly List<FrozenPrefix> fast = []; // one a member, or none
        private int answered;

        public List<PictureAnswer> Answer(List<Decoded> batch)
        {
            if (fast.Count == 0 && answered >= BatchSize && batch.Count == BatchSize && run.Preprocessing.OutputSize is not null
                && LabRuntime.Device.type == DeviceType.CPU)
                foreach (var model in run.Members)
                    fast.Add(new FrozenPrefix(model, model.Stages[^1]));
            answered += batch.Count;
            var answers = new Dictionary<Decoded, double[]>(ReferenceEqualityComparer.Instance);
            var most = IsFast || LabRuntime.Device.type != DeviceType.CPU ? BatchSize : LayersBatchSize;
            foreach (var same in batch.Where(d => d.Image is not null).GroupBy(d => (d.Image!.Width, d.Image.Height)).SelectMany(g => g.Chunk(most)))
                foreach (var (decoded, row) in same.Zip(Probabilities([.. same.Select(d => d.Image!)])))
                    answers[decoded] = row;
            return [.. batch.Select(d => new PictureAnswer(d.Picture, answers.GetValueOrDefault(d), d.Error))];
        }

        public void Dispose() => fast.ForEach(f => f.Dispose());

        private bool IsFast => fast is [{ IsFast: true }, ..];

        private double[][] Probabilities(RgbImage[] images)
        {
            using var scope = NewDisposeScope();
            using var none = inference_mode();
            var bytes = stack(images.Select(Preprocessing.ToTensor)).to(LabRuntime.Device);
            var input = run.Preprocessing.Normalize(bytes);
            Tensor[] sides = run.MirrorScores ? [input, input.flip(3)] : [input];
            return Predictor.Rows(stack(run.Members.SelectMany((model, i) => sides.Select(side => Softmax(model, i, side)))).mean([0]));
        }

        private Tensor Softmax(VisionModel model, int i, Tensor input)
        {
            var logits = IsFast ? model.ForwardFrom(fast[i].Run(input), model.Stages[^1]) : model.call(TensorLayout.ChannelsLast(input));
            return logits.to(ScalarType.Float64).softmax(1);
        }
    }
}
