using System.Globalization;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>The sections that show images: mistakes, heat, and what is alike to the model.</summary>
public static partial class RunReport
{
    // bounds of what a report costs: time for the model, bytes for the page
    private const int MostNeighbours = 2000, MostPoints = 300, Occluded = 6;

    private static ReportSection AddMistakes(this ReportSection section, EvaluationReport test) => test.MostConfidentMistakes(Shown) is { Count: > 0 } wrong
        ? section.Add(Charts.Predictions("Where the model was surest and wrong", wrong, test.Threshold)) : section.Text("There are none.");

    private static ReportSection Mistakes(TrainingRun run, FaceDataset data, EvaluationReport test, Alike alike)
    {
        var section = new ReportSection("Most confident mistakes").AddMistakes(test);
        var wrong = test.MostConfidentMistakes(Occluded);
        if (wrong.Count == 0)
            return section;
        using var scope = NewDisposeScope();
        using var input = new Input(run, wrong);
        var heats = new float[wrong.Count][,];
        foreach (var group in wrong.Index().GroupBy(w => w.Item.IsFake)) // what spoke for the answer that was given: real for a missed fake
        {
            var some = input.Batch.index_select(0, tensor(group.Select(g => (long)g.Index).ToArray()));
            foreach (var (w, heat) in group.Zip(Explain.GradCam(run.Model, some, group.Key ? Other(data) : data.FakeClass, against: group.Key ? data.FakeClass : Other(data))))
                heats[w.Index] = heat;
        }
        return section
            .Add(Charts.Explanations("Grad-CAM: what spoke for the wrong answer", input.Pictures, heats, [.. wrong.Select(p => $"{Name(p.Image)}\n{(p.IsFake ? "fake, called real" : "real, called fake")}")]))
            .Text("Each mistake, and the training images that are most alike to the model (cosine of the features that its head sees).")
            .Add(alike.Neighbours(wrong));
    }

    /// <summary>Grad-CAM and occlusion of the fakes that the model found most surely, and whether the heat lies where fakes were forged.</summary>
    private static ReportSection Looks(TrainingRun run, FaceDataset data, EvaluationReport test)
    {
        var section = new ReportSection("What it looks at");
        Prediction[] fakes = [.. test.Predictions.Where(p => p.IsFake).OrderByDescending(p => p.FakeProbability).ThenBy(p => p.Image.Name, StringComparer.Ordinal)];
        Prediction[] found = [.. fakes.Where(p => p.FakeProbability >= test.Threshold).Take(Shown)];
        if (found.Length == 0)
            return section.Text("The model found no fake.");
        using (var input = new Input(run, found))
        using (var few = input.Batch.narrow(0, 0, Math.Min(Occluded, found.Length)))
        {
            string[] captions = [.. found.Select(p => Caption(p.Image))];
            var square = (int)few.shape[3] / 4;
            section
                .Text("Grad-CAM: places that speak for fake and against real, bright where they count most. These fakes were found most surely.")
                .Add(Charts.Explanations("Grad-CAM for fake", input.Pictures, Explain.GradCam(run.Model, input.Batch, data.FakeClass, against: Other(data)), captions))
                .Text("Occlusion: bright where a grey square lowers the probability of fake most.")
                .Add(Charts.Explanations("Occlusion", [.. input.Pictures.Take(Occluded)], Explain.Occlusion(run.Model, few, data.FakeClass, square, square / 2), captions));
        }
        return Localised(section, run, data, fakes);
    }

    private static ReportSection Localised(ReportSection section, TrainingRun run, FaceDataset data, Prediction[] fakes)
    {
        var known = fakes.Select(p => (Prediction: p, Mask: data.IsSample ? data.Mask(p.Image) : Localisation.CiplabMask(p.Image))).Where(k => k.Mask is not null).ToArray();
        if (known.Length < 2)
            return section;
        // chosen by its cells' size before any outcome is seen: as deep as possible, and fine enough to point at an eye
        var layer = Explain.LayerFor(run.Model, run.Preprocessing.OutputSize is var (height, _) ? height : run.Model.InputSize, Localisation.SmallestPart);
        var heats = new List<float[,]>();
        foreach (var chunk in known.Chunk(16))
        {
            using var input = new Input(run, [.. chunk.Select(k => k.Prediction)]);
            heats.AddRange(Explain.GradCam(run.Model, input.Batch, data.FakeClass, layer, Other(data)));
        }
        var found = Localisation.Of(heats, [.. known.Select(k => k.Mask)]);
        return section
            .Text($"Does Grad-CAM point at what was replaced? At {layer}, the deepest layer whose cells are no larger than an eye, over all test fakes whose replaced parts are known, {(data.IsSample ? "by their exact masks" : "by boxes where faces have those parts on average, which is rough")}:")
            .Facts([
                ("fakes", Number(found.N)),
                ("hottest place on a replaced part", Number(found.Hits)),
                ("the same by blind pointing", Number(found.Chance)),
                ("the same on the other fakes' parts", Number(found.Swapped)),
                ("share of the heat on replaced parts", Number(found.HeatInside)),
                ("maps without heat", Number(found.Cold)),
            ]);
    }

    private static int Other(FaceDataset data) => data.FakeClass == 0 ? 1 : 0;

    private static string Name(FaceImage image) => image.Name.Split('/')[^1];

    private static string Caption(FaceImage image) => $"{Name(image)}\n{image.ReplacedInWords}";

    /// <summary>So many, evenly over all.</summary>
    private static IEnumerable<T> Spread<T>(IReadOnlyList<T> all, int count) =>
        all.Count <= count ? all : Enumerable.Range(0, count).Select(i => all[(int)((long)i * all.Count / count)]);

    /// <summary>Images as pictures, and as a batch for the model.</summary>
    private sealed class Input : IDisposable
    {
        public Input(TrainingRun run, IReadOnlyList<Prediction> predictions)
        {
            Pictures = [.. predictions.Select(p => run.Preprocessing.Apply(ImageReader.Read(p.Image.Path)))];
            using var scope = NewDisposeScope();
            Batch = run.Preprocessing.Normalize(stack([.. Pictures.Select(Preprocessing.ToTensor)])).MoveToOuterDisposeScope();
        }

        public RgbImage[] Pictures { get; }

        public Tensor Batch { get; }

        public void Dispose() => Batch.Dispose();
    }

    /// <summary>The features of test and training images: which are alike to the model.</summary>
    private sealed class Alike : IDisposable
    {
        private readonly FaceImage[] training;
        private readonly EvaluationReport test;
        private readonly Tensor ofTraining, ofTest;

        public Alike(TrainingRun run, EvaluationReport test)
        {
            this.test = test;
            training = [.. Spread(run.Split.Train, MostNeighbours)];
            using var scope = NewDisposeScope();
            ofTraining = Features(training).MoveToOuterDisposeScope();
            ofTest = Features([.. test.Predictions.Select(p => p.Image)]).MoveToOuterDisposeScope();

            Tensor Features(IReadOnlyList<FaceImage> images)
            {
                using var store = new ImageStore(images, run.Preprocessing, LabProgress.Interrupt);
                return Predictor.Run(run.Model, store, run.Preprocessing, mirror: false, x => run.Model.Features(x).to(float32), "features", LabProgress.Interrupt).cpu();
            }
        }

        /// <summary>A row for each: itself, then the training images nearest to it.</summary>
        public Figure Neighbours(IReadOnlyList<Prediction> some)
        {
            using var scope = NewDisposeScope();
            var places = some.Select(p => (long)test.Predictions.Index().First(t => t.Item.Image.Name == p.Image.Name).Index).ToArray();
            var nearest = Embeddings.Nearest(ofTest.index_select(0, tensor(places)), ofTraining, count: 5);
            return Charts.ImageGrid("Nearest training images",
                [.. some.Zip(nearest).SelectMany(row => ((RgbImage, string)[])
                [
                    (ImageReader.Read(row.First.Image.Path), $"{Name(row.First.Image)}\ntest: {(row.First.IsFake ? "fake" : "real")}, wrong"),
                    .. row.Second.Select(n => (ImageReader.Read(training[n.Index].Path),
                        string.Create(CultureInfo.InvariantCulture, $"{Name(training[n.Index])}\n{Kind(training[n.Index], row.First)}, cosine {n.Similarity:0.000}"))),
                ])], columns: 1 + nearest[0].Count);

            static string Kind(FaceImage image, Prediction of) => image.Label == of.Image.Label == of.IsFake ? "fake" : "real";
        }

        /// <summary>The test images in the plane of greatest variance.</summary>
        public ReportSection Plane()
        {
            int[] kept = [.. Spread([.. Enumerable.Range(0, test.N)], MostPoints)];
            if (kept.Length < 3)
                return new ReportSection("What is alike to it").Text("There are too few test images.");
            using var scope = NewDisposeScope();
            Prediction[] some = [.. kept.Select(i => test.Predictions[i])];
            RgbImage[] thumbnails = [.. some.AsParallel().AsOrdered().Select(p => Preprocessing.Square(72).Apply(ImageReader.Read(p.Image.Path)))];
            return new ReportSection("What is alike to it")
                .Text($"{some.Length} test images by what the model's last layer sees of them, in the two directions in which they differ most (principal components). Point at one to see it.")
                .Add(Charts.Embedding("Test images, as the model sees them", Embeddings.Pca(ofTest.index_select(0, tensor(kept.Select(i => (long)i).ToArray()))),
                    [.. some.Select(p => p.IsFake)],
                    [.. some.Select(p => string.Create(CultureInfo.InvariantCulture, $"{Name(p.Image)}: {(p.IsFake ? "fake" : "real")}, {p.FakeProbability:0.00} fake"))], thumbnails));
        }

        public void Dispose()
        {
            ofTraining.Dispose();
            ofTest.Dispose();
        }
    }
}
