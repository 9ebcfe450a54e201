using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>
/// Makes the embedded weights: a model learns to tell what a painted face shows (hair, glasses, pose, light …), each attribute by its own
/// softmax over one shared head. It never sees a manipulated face, so that telling those is left to transfer learning.
/// </summary>
/// <remarks>Each image is painted once, on another thread while the last batch is learned from, and seen once: nothing can be memorised.</remarks>
public static class PaintedPretraining
{
    private const int BatchSize = 32;

    /// <summary>Trains a model of this name from random initialisation and writes it in half precision or in eight bits.</summary>
    /// <param name="model">torchvision's name.</param>
    /// <param name="images">Faces to paint and learn from.</param>
    /// <param name="size">Pixels a side at which they are learned.</param>
    /// <param name="learningRate">AdamW's highest rate, one cycle.</param>
    /// <param name="seed">Decides faces and first weights.</param>
    /// <param name="file">The safetensors file.</param>
    /// <param name="eightBits">Half the bytes, at a 127th of each channel's largest weight.</param>
    /// <param name="cancellation">Stops the work; nothing is written then.</param>
    /// <returns>For each attribute, the share of a thousand other painted faces that is told right.</returns>
    public static IReadOnlyList<(string Attribute, int Classes, double Accuracy)> Run(
        string model, int images, int size, double learningRate, long seed, string file, bool eightBits = false, CancellationToken cancellation = default)
    {
        using var linked = CancellationTokenSource.CreateLinkedTokenSource(cancellation, LabProgress.Interrupt);
        LabRuntime.Seed(seed);
        using var network = Models.Create(model, Weights.None, FaceTraits.Heads.Sum(h => h.Classes));
        network.to(LabRuntime.Device);
        Train(network, images, size, learningRate, seed, linked.Token);
        if (eightBits)
            EightBits.Round(network); // statistics and accuracy are to be those of what is stored
        Settle(network, size, seed, linked.Token);
        var accuracy = Test(network, size, seed, linked.Token);
        using (NewDisposeScope())
        using (var state = StateDict.Of(network))
            SafeTensors.Write(file, eightBits ? EightBits.Pack(state) : state.Select(e => (e.Key, e.Value.is_floating_point() ? e.Value.to(ScalarType.Float16) : e.Value)),
                new Dictionary<string, string>
                {
                    ["format"] = "pt",
                    ["model"] = model,
                    ["task"] = "attributes of faces painted by DeepfakeLab's FacePainter; no manipulated face and no photograph was seen",
                    ["recipe"] = string.Create(CultureInfo.InvariantCulture, $"images {images}, size {size}, AdamW one cycle {learningRate}, batch {BatchSize}, seed {seed}"),
                    ["accuracy"] = string.Join(", ", accuracy.Select(a => string.Create(CultureInfo.InvariantCulture, $"{a.Attribute} {a.Accuracy:0.000}"))),
                });
        return accuracy;
    }

    /// <summary>What a model with the embedded weights' own head says of a face, attribute by attribute.</summary>
    /// <param name="logits">[1, all classes of all attributes].</param>
    /// <returns>Attribute, and its most probable class in words.</returns>
    public static IReadOnlyList<(string Attribute, string Value)> Read(Tensor logits)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        return [.. Split(logits).Zip(FaceTraits.Heads, (part, head) => (head.Name, InWords(head.Name, (int)part.argmax(1).item<long>(), head.Classes)))];
    }

    /// <summary>Attributes that are kinds have names; the others are levels from few to many.</summary>
    private static string InWords(string attribute, int value, int classes) => attribute switch
    {
        "hairColour" => ((HairColour)value).ToString(),
        "hairStyle" => ((HairStyle)value).ToString(),
        "eyeColour" => ((EyeColour)value).ToString(),
        "glasses" => ((Glasses)value).ToString(),
        "headwear" => ((Headwear)value).ToString(),
        "beard" => ((Beard)value).ToString(),
        "age" => ((Age)value).ToString(),
        "mark" => ((Mark)value).ToString(),
        "markPlace" => ((string[])["none", "forehead", "mouth and chin", "left", "right", "nose"])[value],
        "scenery" => ((Scenery)value).ToString(),
        _ => $"level {value + 1} of {classes}",
    };

    private static void Train(VisionModel network, int images, int size, double learningRate, long seed, CancellationToken cancellation)
    {
        using var optimizer = optim.AdamW(network.parameters(), learningRate, weight_decay: 0.02);
        var (steps, loss) = (images / BatchSize, 0.0);
        var progress = LabProgress.Begin("pretraining on painted faces", (long)steps * BatchSize, "images");
        var next = Task.Run(() => Paint(seed, 0, size), cancellation);
        network.train();
        for (var step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            var (pixels, labels) = next.GetAwaiter().GetResult();
            if (step + 1 < steps)
            {
                var after = step + 1;
                next = Task.Run(() => Paint(seed, after, size), cancellation);
            }
            using var scope = NewDisposeScope();
            using var batch = pixels;
            foreach (var group in optimizer.ParamGroups)
                group.LearningRate = Schedule.OneCycle(learningRate, step, steps, 0.2);
            optimizer.zero_grad();
            var logits = network.call(Input(batch, size));
            var parts = Split(logits).Select((part, head) => nn.functional.cross_entropy(part, Column(labels, head))).ToArray();
            var total = stack(parts).mean();
            total.backward();
            optimizer.step();
            loss = step == 0 ? total.item<float>() : 0.98 * loss + 0.02 * total.item<float>();
            progress.Advance(BatchSize, ("loss", loss));
        }
    }

    /// <summary>
    /// Makes each batch norm's statistics the mean of those of 64 more batches: MNASNet's own change by 0.0003 a step, which is far too little
    /// for a training of hundreds of steps.
    /// </summary>
    private static void Settle(VisionModel network, int size, long seed, CancellationToken cancellation)
    {
        using var none = no_grad();
        network.train();
        const int batches = 64;
        for (var i = 0; i < batches; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            foreach (var norm in network.modules().OfType<TorchSharp.Modules.BatchNorm2d>())
                norm.momentum = 1.0 / (i + 1);
            var (pixels, _) = Paint(~seed, i + 1000, size);
            using var batch = pixels;
            network.Features(Input(batch, size));
        }
    }

    private static List<(string Attribute, int Classes, double Accuracy)> Test(VisionModel network, int size, long seed, CancellationToken cancellation)
    {
        using var none = inference_mode();
        network.eval();
        var right = new double[FaceTraits.Heads.Count];
        const int batches = 32;
        for (var i = 0; i < batches; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var (pixels, labels) = Paint(~seed, i, size);
            using var batch = pixels;
            foreach (var (head, part) in Split(network.call(Input(batch, size))).Index())
                right[head] += part.argmax(1).eq(Column(labels, head)).sum().item<long>();
        }
        return [.. FaceTraits.Heads.Select((h, i) => (h.Name, h.Classes, right[i] / (batches * BatchSize)))];
    }

    private static Tensor Input(Tensor batch, int size) => TensorLayout.ChannelsLast(Preprocessing.Square(size).Normalize(batch.to(LabRuntime.Device)));

    private static Tensor Column(int[][] labels, int head) => tensor(labels.Select(l => (long)l[head]).ToArray(), device: LabRuntime.Device);

    private static IEnumerable<Tensor> Split(Tensor logits)
    {
        var at = 0;
        foreach (var (_, classes) in FaceTraits.Heads)
        {
            yield return logits.narrow(1, at, classes);
            at += classes;
        }
    }

    /// <summary>uint8 [N, 3, size, size], outside any dispose scope, and the attributes of each face.</summary>
    private static (Tensor Pixels, int[][] Labels) Paint(long seed, int batch, int size)
    {
        var faces = Enumerable.Range(0, BatchSize).Select(i => FaceTraits.RandomMarked((long)(SeededRandom.Combine(seed, batch, i) >> 1))).ToArray();
        var tensors = faces.Select(face => Preprocessing.ToTensor(FacePainter.Paint(face, size))).ToArray();
        var pixels = stack(tensors).DetachFromDisposeScope();
        foreach (var tensor in tensors)
            tensor.Dispose();
        return (pixels, [.. faces.Select(face => face.Attributes)]);
    }
}
