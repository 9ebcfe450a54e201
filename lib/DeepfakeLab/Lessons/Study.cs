using System.Globalization;
using System.Net;
using System.Text;

namespace DeepfakeLab;

/// <summary>A figure that the original study reported.</summary>
/// <param name="Name">The figure as <see cref="EvaluationReport.Figures"/> calls it; null where nothing here measures the same.</param>
/// <param name="What">On which images, in words.</param>
/// <param name="Value">As reported, from 0 to 1.</param>
/// <param name="Note">What has to be known about it.</param>
public sealed record ReportedFigure(string? Name, string What, double Value, string Note = "");

/// <summary>One notebook of the original study: what it reported, and its experiment in two forms.</summary>
/// <param name="Name">The notebook's name, which <see cref="StudyRecipes.Find"/> takes.</param>
/// <param name="Title">The architecture as its paper calls it.</param>
/// <param name="Reported">Its figures.</param>
public sealed record Study(string Name, string Title, params IReadOnlyList<ReportedFigure> Reported)
{
    public static Study EfficientNet { get; } = new("efficientnet", "EfficientNet-B0",
        new("accuracy", "test", 0.746, "printed as 0.748; its matrix [[134, 58], [46, 171]] gives 0.746"),
        new("recall", "test, fake is positive", 0.70), new("f1", "test", 0.72), new(null, "validation accuracy", 0.70));

    public static Study MnaNet { get; } = new("mna-net", "MNASNet 0.75", new ReportedFigure("accuracy", "test", 0.619));

    public static Study MobileNet { get; } = new("mobilenet", "MobileNetV2",
        new("accuracy", "test", 0.623), new(null, "the best epoch's accuracy", 0.672, "chosen on the images it was measured on"),
        new(null, "accuracy in the folds", 0.81, "the folds leak: one model is trained on through all of them"));

    public static Study ResNet { get; } = new("resnet", "ResNet-18",
        new("accuracy", "validation", 0.50, "no test figure was reported"), new(null, "best epoch, validation", 0.555));

    public static Study ResNext { get; } = new("resnext", "ResNeXt-50 32x4d",
        new("accuracy", "test, fine-tuned", 0.66), new(null, "test, frozen", 0.53), new(null, "400 pixels, lowest", 0.65), new(null, "400 pixels, highest", 0.68));

    public static Study Vgg16 { get; } = new("vgg16", "VGG16",
        new("accuracy", "test", 0.613), new(null, "test, second run", 0.589), new(null, "folds, validation, lowest", 0.71, "the folds leak"),
        new(null, "folds, validation, highest", 0.73, "the folds leak"));

    /// <summary>The experiment as the study did it, its mistakes included.</summary>
    public StudyRecipe Published => StudyRecipes.Find(Name + "-published");

    /// <summary>The same without the mistakes.</summary>
    public StudyRecipe Corrected => StudyRecipes.Find(Name);

    /// <summary>What was reported beside what was measured here, and on which images and weights.</summary>
    /// <param name="runs">What was trained, in words, and its test report.</param>
    public StudyTable Beside(FaceDataset data, VisionModel model, params IReadOnlyList<(string Name, EvaluationReport Report)> runs) =>
        new(this, data, model.WeightsOrigin.Description, runs);
}

/// <summary>Reported beside reproduced.</summary>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed record StudyTable(Study Study, FaceDataset Data, string Weights, IReadOnlyList<(string Name, EvaluationReport Report)> Runs)
{
    private string Where => $"{Runs[0].Report.N} test images of {Data.Images.Count}; weights: {Weights}.";

    private string Warning => Data.IsSample ? "What was measured here is of painted faces, the sample. It says nothing about photographs and cannot be compared with what was reported." : "";

    private IEnumerable<string> Head => ["figure", "reported", .. Runs.Select(r => r.Name + " (95 % interval)"), "remark"];

    private IEnumerable<string[]> Rows => Study.Reported.Select(figure => (string[])[
        $"{(figure.Name is null ? "" : figure.Name + ", ")}{figure.What}", figure.Value.ToString("0.000", CultureInfo.InvariantCulture),
        .. Runs.Select(run => run.Report.Figures.Where(f => f.Name == figure.Name).Select(f => f.Estimate.ToString()).FirstOrDefault() ?? ""), figure.Note]);

    public override string ToString() => string.Join('\n', (string[])[Where, string.Join(" | ", Head), .. Rows.Select(row => string.Join(" | ", row)), Warning]).TrimEnd();

    public string ToHtml()
    {
        var html = new StringBuilder($"<p>{WebUtility.HtmlEncode(Where)} <strong>{WebUtility.HtmlEncode(Warning)}</strong></p>");
        EvaluationHtml.Table(html, $"{Study.Title}: reported beside reproduced", Head, Rows);
        return html.ToString();
    }
}
