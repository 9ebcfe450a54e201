using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

/// <summary>The committed notebooks: complete, with pictures, and the same code in every language.</summary>
public partial class NotebookContentTests
{
    private static readonly Study[] studies = [Study.EfficientNet, Study.MnaNet, Study.MobileNet, Study.ResNet, Study.ResNext, Study.Vgg16];

    internal static string Folder => Path.Combine(TestSupport.Root, "notebooks");

    public static TheoryData<string> All => [.. Names(SearchOption.AllDirectories)];

    internal static IEnumerable<string> Names(SearchOption where) =>
        Directory.GetFiles(Folder, "*.ipynb", where).Select(f => Path.GetRelativePath(Folder, f).Replace('\\', '/')).Order(StringComparer.Ordinal);

    public static TheoryData<string> English => [.. Names(SearchOption.TopDirectoryOnly)];

    [Theory]
    [MemberData(nameof(All))]
    public void Every_figure_is_there_as_a_static_image_too(string name)
    {
        var file = Path.Combine(Folder, name);
        var notebook = Notebook.Read(file);
        var code = notebook.Cells.Where(c => c.Kind == CellKind.Code).ToList();
        Assert.Equal(Enumerable.Range(1, code.Count).Select(i => (int?)i), code.Select(c => c.ExecutionCount)); // one run, from the top
        var shown = code.SelectMany(c => c.Outputs).Select(o => o switch { DisplayOutput d => d.Data, ResultOutput r => r.Data, _ => [] })
            .Where(d => d.GetValueOrDefault(MimeBundle.Html, "").Contains("<svg", StringComparison.Ordinal) || d.ContainsKey(MimeBundle.Plotly)).ToList();
        Assert.NotEmpty(shown);
        Assert.All(shown, d => Assert.StartsWith("iVBORw0KGgo", d.GetValueOrDefault(MimeBundle.Png)));
        Assert.All(notebook.Cells.SelectMany(c => Picture().Matches(c.Source)), link => Assert.True(File.Exists(Path.GetFullPath(link.Groups[1].Value, Path.GetDirectoryName(file)!)), link.Value));
        Assert.DoesNotContain(code.SelectMany(c => c.Outputs), o => o is ErrorOutput);
        Assert.InRange(new FileInfo(file).Length, 1, 3_000_000);
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Every_language_has_the_same_code(string name)
    {
        var (here, english) = (Path.Combine(Folder, name), Path.Combine(Folder, Path.GetFileName(name)));
        Assert.Equal(Code(english), Code(here));

        static IEnumerable<string> Code(string file) =>
            Notebook.Read(file).Cells.Where(c => c.Kind == CellKind.Code).Select(c => c.Source.Replace("#r \"../../", "#r \"../", StringComparison.Ordinal));
    }

    public static TheoryData<string> Translated => [.. All.Select(row => (string)row.Data).Where(name => name.Contains('/', StringComparison.Ordinal))];

    /// <summary>A translation that was not taken along when the English notebook changed, or that lost a figure, a formula or a link on the way.</summary>
    [Theory]
    [MemberData(nameof(Translated))]
    public void A_translation_shows_the_same_results_numbers_formulas_and_links(string name)
    {
        var (english, here) = (Cells(Path.Combine(Folder, Path.GetFileName(name))), Cells(Path.Combine(Folder, name)));
        Assert.Equal(english.Select(Kind), here.Select(Kind));
        foreach (var (original, translated) in english.Zip(here))
        {
            if (Kind(original) == "code")
            {
                Assert.True(JsonNode.DeepEquals(original!["outputs"], translated!["outputs"]), $"{name}: outputs of {original["id"]} are not those of the English run");
                continue;
            }
            var (from, to) = (Prose(original), Prose(translated));
            Assert.NotEqual(from, to);
            Assert.Equal(Each(Number(), Thousands().Replace(from, "")), Each(Number(), Thousands().Replace(to, "")));
            Assert.All([Formula(), Link(), InlineCode()], kind => Assert.Equal(Each(kind, from), Each(kind, to)));
        }

        static JsonArray Cells(string file) => JsonNode.Parse(File.ReadAllText(file))!["cells"]!.AsArray();
        static string Kind(JsonNode? cell) => (string)cell!["cell_type"]!;
        static string Prose(JsonNode? cell) => string.Concat(cell!["source"]!.AsArray().Select(line => (string)line!));
        static IEnumerable<string> Each(Regex kind, string prose) => kind.Matches(prose).Select(m => Words().Replace(m.Value, "")).Distinct().Order(StringComparer.Ordinal);
    }

    /// <summary>What each notebook about an architecture shows, from the idea to a picture of one's own.</summary>
    private static readonly string[] Shown =
    [
        "FaceDataset.Open()", "Weights.Auto", "WeightsOrigin.Description", // 1: and says which it found
        "Charts.Faces(", "Lesson.ReplacedParts(", "Charts.SamePhotos(", "Lesson.PhotosTorn(faces, Lesson.RandomSplit(faces))", // 2
        "Lesson.Sees(", "Charts.FeatureMaps(", "Embeddings.Tsne(", // 3
        "Recipe.HeadOnly()", ".Published;", "LiveCurves", "FindLearningRate(", "var run = Train(all)", // 4
        "MistakeComparison.Measure(", // 5
        ".Beside(faces, model, (", "Charts.Confusion(", "Charts.RocAndPrecisionRecall(", "Charts.Reliability(", "report.ByDifficulty", "report.ByPart", // 6
        "Charts.WhereItLooks(", "report.MostConfidentMistakes(", // 7
        "RunFolder.Save(", "RunFolder.Open(", // 8
    ];

    [Fact]
    public void Six_architectures_and_a_comparison_are_there_each_with_a_mistake_of_its_own()
    {
        string[] architectures = ["efficientnet", "mna-net", "mobilenet", "resnet", "resnext", "vgg16"];
        var files = Directory.GetFiles(Folder, "*.ipynb").Select(f => Path.GetFileNameWithoutExtension(f)).Order(StringComparer.Ordinal);
        Assert.Equal(["compare", .. architectures], files);
        var mistakes = new List<string>();
        foreach (var name in architectures)
        {
            var code = Text(name, CellKind.Code);
            var prose = Text(name, CellKind.Markdown);
            Assert.All(Shown, shown => Assert.Contains(shown, code));
            mistakes.Add(Mistake().Match(code).Value);
            Assert.Contains("$$", prose);
            Assert.Contains("](https://arxiv.org/abs/", prose);
            Assert.Matches(@"!\[[^\]]+\]\(images/[\w-]+\.svg\)", prose);
            Assert.Matches(@"(?s)## Exercises\s+1\. .+\n2\. .+\n3\. .+<details><summary>\w+</summary>\n<ol>\n(<li>.+?</li>\n){3}</ol>\n</details>.+\*\*Read next:\*\*", prose);
            Assert.Equal(Enumerable.Range(1, 8).Select(i => $"## {i}."), Section().Matches(prose).Select(m => m.Value));
        }
        Assert.All(mistakes, Assert.NotEmpty);
        Assert.Equal(6, mistakes.Distinct().Count());

        var ranking = Text("compare", CellKind.Code);
        Assert.All(architectures, name => Assert.Contains($"\"{StudyRecipes.Find(name).Model}\"", ranking));
        Assert.All((string[])["Significance.McNemar(", "ParameterCount", "CountMultiplyAdds(", "Speed(model)", "Report.Accuracy", "Together(entrants)"], shown => Assert.Contains(shown, ranking));
        Assert.Contains("What cannot be concluded", Text("compare", CellKind.Markdown));

        static string Text(string name, CellKind kind) =>
            string.Join('\n', Notebook.Read(Path.Combine(Folder, name + ".ipynb")).Cells.Where(c => c.Kind == kind).Select(c => c.Source));
    }

    /// <summary>What is folded is HTML without an empty line: Markdown in there is shown as it was typed by nbconvert before 7.</summary>
    [Theory]
    [MemberData(nameof(All))]
    public void What_is_folded_needs_no_Markdown(string name) =>
        Assert.All(Notebook.Read(Path.Combine(Folder, name)).Cells.Where(c => c.Kind == CellKind.Markdown).SelectMany(c => Folded().Matches(c.Source)),
            folded => Assert.DoesNotMatch(@"\n\n|`|\*\w|\$|(?m)^(\d\.|-) ", folded.Value));

    /// <summary>What the study reported and how it trained, as the library holds it, and how long the network's feature vectors are (VGG16's notebook prints that).</summary>
    private static IEnumerable<double> OfTheStudy(Study study)
    {
        var (recipe, model) = (study.Published.Recipe, study.Published.Model);
        using var network = model == "vgg16" ? null : Models.Create(model);
        return [.. study.Reported.Select(r => r.Value), recipe.L2, recipe.BatchSize, recipe.LearningRate, network?.FeatureCount ?? double.NaN];
    }

    /// <summary>What the prose says beyond the cells' results: answers to exercises and the like, computed here.</summary>
    private static IEnumerable<double> ComputedHere(string notebook) => notebook switch
    {
        "efficientnet.ipynb" => [Math.Log(400 / 224.0) / Math.Log(1.15)], // the exercise's phi
        "mna-net.ipynb" => [1280 * 4 * 4], // maps of 4 x 4 places at 128 pixels, not averaged
        "resnext.ipynb" => [Math.Sqrt(2 * Math.Log(10)), Math.Sqrt(2 * Math.Log(100)), LargestOfNormal(10), LargestOfNormal(100)],
        "vgg16.ipynb" => [138_357_544 - 25088 * 4096 + 512 * 4096, new[] { 3, 3, 2, 2 }.Aggregate(1, (field, convolutions) => 2 * field + 2 * convolutions)],
        _ => [],
    };

    /// <summary>The expectation of the largest of n normal draws.</summary>
    private static double LargestOfNormal(int n)
    {
        var (below, sum) = (0.0, 0.0);
        for (var x = -8.0; x < 8; x += 1e-3)
        {
            var chance = Math.Exp(-x * x / 2) / Math.Sqrt(2 * Math.PI) * 1e-3;
            sum += x * n * chance * Math.Pow(below += chance, n - 1);
        }
        return sum;
    }

    /// <summary>
    /// A number in prose is, as it is rounded there, among the results or in the code of the notebook, or a percentage or so many millions
    /// of one; or it is the year of a work that is cited, or <see cref="OfTheStudy"/>, or <see cref="ComputedHere"/>. A cell that says with which command
    /// or weights its figures were made is left out.
    /// </summary>
    [Theory]
    [MemberData(nameof(English))]
    public void Every_number_in_prose_is_computed_or_cited(string name)
    {
        var cells = Notebook.Read(Path.Combine(Folder, name)).Cells;
        var prose = cells.Where(c => c.Kind == CellKind.Markdown && !MadeElsewhere().IsMatch(c.Source)).Select(c => WordList().Replace(c.Source, "")).ToList();
        var shown = cells.Where(c => c.Kind == CellKind.Code).SelectMany(c => c.Outputs.Select(o => o switch
        {
            StreamOutput s => s.Text,
            DisplayOutput d => d.Data.GetValueOrDefault(MimeBundle.Plain, ""),
            ResultOutput r => r.Data.GetValueOrDefault(MimeBundle.Plain, ""),
            _ => "",
        }).Prepend(c.Source)).Concat(prose.SelectMany(p => InlineCode().Matches(p)).Select(m => m.Value));
        double[] known = [.. shown.SelectMany(text => Value().Matches(Thousands().Replace(text, ""))).Select(m => double.Parse(m.Value, CultureInfo.InvariantCulture)), .. ComputedHere(name),
            .. studies.Where(study => study.Name + ".ipynb" == name).SelectMany(OfTheStudy)];
        foreach (var text in prose.Select(p => NotANumber().Replace(Thousands().Replace(p, ""), " ")))
        {
            foreach (Match number in Quantity().Matches(text))
            {
                var (value, decimals) = (double.Parse(number.Groups[1].Value, CultureInfo.InvariantCulture), number.Groups[1].Value.Split('.') is [_, var after] ? after.Length : 0);
                var unit = number.Groups[2].Value switch { "" => 1, "%" => 100, _ => 1e-6 };
                var rounding = decimals == 0 && unit == 1 ? 0 : 0.5001 * Math.Pow(10, -decimals);
                Assert.True(CitedYear().IsMatch(number.Value) || known.Any(k => k == value || Math.Abs(k * unit - value) <= rounding),
                    $"{name}: {number.Value.Trim()} is neither computed nor cited: …{text[Math.Max(0, number.Index - 60)..Math.Min(text.Length, number.Index + 40)]}…");
            }
        }
    }

    /// <summary>What ImageNet's weights say of the sample's first real face: the notebooks tell it, as the stored run had no such weights.</summary>
    [Fact]
    public void The_prose_tells_what_ImageNets_weights_say_of_the_painted_face()
    {
        using var model = Models.MobileNetV2(Weights.File(TestSupport.Shared("weights", "mobilenet_v2-imagenet1k-int8-dequantized.pth")));
        var faces = FaceDataset.Open(PaintedSample.Ensure());
        var face = faces.Split(test: 0.2, validation: 0.16, seed: 42).Train.First(f => f.Label != faces.FakeClass);
        using var pixels = Preprocessing.Square(224).ToBatch(ImageReader.Read(face.Path));
        var seen = Lesson.Sees(model, pixels);
        Assert.Equal(5, seen.Count);
        foreach (var study in studies)
        {
            var prose = Notebook.Read(Path.Combine(Folder, study.Name + ".ipynb")).Cells.Single(c => c.Source.StartsWith("## 3.", StringComparison.Ordinal)).Source;
            Assert.All(seen, s => Assert.Matches($@"{s.Answer}\*? (\(|\| ){s.Value}", prose));
        }
    }

    [GeneratedRegex(@"!\[[^\]]*\]\(([^)\s]+)\)")]
    private static partial Regex Picture();

    [GeneratedRegex(@"\d+(\.\d+)?")]
    private static partial Regex Number();

    /// <summary>What stands between the thousands: a comma in English, a space that does not break in Spanish.</summary>
    [GeneratedRegex(@"(?<=\d)[,\u00a0](?=\d{3}\b)")]
    private static partial Regex Thousands();

    [GeneratedRegex(@"\$\$.+?\$\$", RegexOptions.Singleline)]
    private static partial Regex Formula();

    /// <summary>The words within a formula.</summary>
    [GeneratedRegex(@"\\text\{[^}]*\}")]
    private static partial Regex Words();

    [GeneratedRegex(@"https?://[^)\s]+")]
    private static partial Regex Link();

    [GeneratedRegex("`[^`]+`|<code>[^<]+</code>")]
    private static partial Regex InlineCode();

    [GeneratedRegex(@"(?<=MistakeComparison\.Measure\([^)]*)StudyMistakes\.\w+")]
    private static partial Regex Mistake();

    [GeneratedRegex(@"<details>.*?</details>", RegexOptions.Singleline)]
    private static partial Regex Folded();

    /// <summary>The list of words in the first cell, which defines and reports nothing.</summary>
    [GeneratedRegex(@"<details><summary>Words.*?</details>", RegexOptions.Singleline)]
    private static partial Regex WordList();

    /// <summary>Formulas, code, links, the numbers of headings and lists, names.</summary>
    [GeneratedRegex(@"\$\$.+?\$\$|\$[^$\n]+\$|`[^`]+`|<code>[^<]+</code>|!?\[[^\]]*\]\([^)]*\)|(?m:^#+ \d+\.|^\d+\. )|MNASNet 0\.75|\w*[A-Za-z]-?\d[\w.]*", RegexOptions.Singleline)]
    private static partial Regex NotANumber();

    [GeneratedRegex(@"\d+(\.\d+)?|\.\d+")]
    private static partial Regex Value();

    /// <summary>A number and what it counts: percent or millions.</summary>
    [GeneratedRegex(@"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)(?![\w]) ?(%|million|M\b|)")]
    private static partial Regex Quantity();

    [GeneratedRegex(@"^(19|20)\d\d ?$")]
    private static partial Regex CitedYear();

    [GeneratedRegex("`train --data|`DEEPFAKELAB_WEIGHTS=")]
    private static partial Regex MadeElsewhere();

    [GeneratedRegex(@"(?m)^## \d\.")]
    private static partial Regex Section();
}
