using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>Makes a trained model a page: one drops a picture or uses the camera, and it answers in the browser, with a heat map; no picture leaves the page.</summary>
/// <remarks>
/// The page opens from a disk as well as from a server. As browsers let a page from a disk load nothing but scripts, the model and ONNX
/// Runtime come as scripts with base64 in them; in return every connection is forbidden to the page.
/// </remarks>
public static class WebExport
{
    /// <summary>The model card's name in the site.</summary>
    public const string Card = "model-card.md";

    private const long LargestModel = 256L << 20; // a script's text must fit a string of the browser
    private const int MostPixels = 40_000_000; // four bytes each, in a canvas

    /// <summary>Writes the site's folder, whole or not at all.</summary>
    /// <param name="run">The folder of a finished run.</param>
    /// <param name="site">The folder to write; must not exist or be empty.</param>
    /// <param name="runtime">ONNX Runtime Web obtained by hand: npm's archive or the folder that it was unpacked to; null for the cache, which npm fills.</param>
    /// <exception cref="TrainingException">The folder holds no finished run.</exception>
    /// <exception cref="ExportException">The place is taken, the model cannot be exported or is too large, or ONNX Runtime Web cannot be had.</exception>
    public static void Write(string run, string site, string? runtime = null, CancellationToken cancellation = default)
    {
        site = Path.TrimEndingDirectorySeparator(Path.GetFullPath(site));
        CheckFree(site);
        ModelExport.With(run, (saved, record) =>
        {
            if (saved.Preprocessing is not { Resize.Width: > 0, CenterCrop: null })
                throw new ExportException("The page prepares pictures by an exact resize only", saved.Preprocessing.ToString(), "Train with --size, or export onnx and prepare the pictures yourself");
            var files = WebRuntime.Get(runtime, cancellation);
            var temporary = $"{site}.{Guid.NewGuid():N}.tmp";
            try
            {
                Directory.CreateDirectory(temporary);
                Fill(temporary, saved, record, files);
                CheckFree(site);
                if (Directory.Exists(site))
                    Directory.Delete(site); // empty
                Directory.Move(temporary, site);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new ExportException($"The site cannot be written ({e.Message.TrimEnd('.')})", site, "Check that the disk has room and the place can be written", e);
            }
            finally
            {
                if (Directory.Exists(temporary))
                    Directory.Delete(temporary, recursive: true);
            }
        });
    }

    private static void Fill(string folder, SavedRun run, JsonNode record, IReadOnlyDictionary<string, byte[]> runtime)
    {
        string Place(string name) => Path.Combine(folder, name);
        var options = new OnnxOptions { FoldBatchNorm = true, Preprocess = true, Softmax = true, ClassMaps = OnnxExport.HasClassMaps(run.Model) };
        var onnx = Place("model.onnx");
        OnnxExport.Write(onnx, run.Model, run.Preprocessing, run.Classes, options, ModelExport.Metadata(run, record));
        if (new FileInfo(onnx).Length > LargestModel)
            throw new ExportException($"The model has {new FileInfo(onnx).Length >> 20} MiB, too much for a page", run.Model.Name, "Train a smaller one, such as mobilenet_v2");
        WriteScript(Place("model.js"), ("model", File.ReadAllBytes(onnx)));
        File.Delete(onnx);
        WriteScript(Place("runtime.js"), ("loader", runtime[WebRuntime.Loader]), ("wasm", runtime[WebRuntime.Wasm]));
        File.WriteAllBytes(Place(WebRuntime.Script), runtime[WebRuntime.Script]);
        foreach (var name in (string[])["style.css", "app.js", "LICENCES.txt"])
            File.WriteAllText(Place(name), Resource(name));
        File.WriteAllText(Place("index.html"), Page(run, record));
        File.WriteAllText(Place(Card), ModelCard.Write(run, record, "model.js (an ONNX file in base64)", options));
    }

    private static void WriteScript(string path, params ReadOnlySpan<(string Name, byte[] Bytes)> parts)
    {
        using var script = new StreamWriter(path);
        script.Write("Object.assign(globalThis.deepfakelab ??= {}, {");
        foreach (var (name, bytes) in parts)
            script.Write($"\n{name}: \"{Convert.ToBase64String(bytes)}\",");
        script.Write("\n});\n");
    }

    private static string Page(SavedRun run, JsonNode record)
    {
        static string Escape(string text) => WebUtility.HtmlEncode(text);
        static string Items(IEnumerable<string> items) => string.Concat(items.Select(i => $"<li>{Escape(i)}</li>"));
        var settings = new JsonObject
        {
            ["classes"] = new JsonArray([.. run.Classes.Select(c => (JsonNode)c)]),
            ["fake"] = run.FakeClass,
            ["mirror"] = run.MirrorScores,
            ["height"] = run.Preprocessing.Resize!.Height,
            ["width"] = run.Preprocessing.Resize.Width,
            ["interpolation"] = run.Preprocessing.Interpolation.ToString().ToLowerInvariant(), // nearest is refused by the ONNX export
            ["mostPixels"] = MostPixels,
        };
        var page = new StringBuilder(Resource("index.html"));
        foreach (var (name, value) in new Dictionary<string, string>
        {
            ["title"] = Escape($"{run.Model.Name}: real or manipulated face"),
            ["warning"] = record["data"]?["isSample"]?.GetValue<bool>() == true ? $"<p class=\"warning\"><strong>{Escape(ModelCard.Painted)}</strong></p>" : "",
            ["classes"] = Escape(string.Join(" and ", run.Classes)),
            ["fake"] = Escape(run.Classes[run.FakeClass]),
            ["mustNot"] = Items(ModelCard.MustNot),
            ["limits"] = Items(ModelCard.Limits),
            ["figures"] = record["test"] is { } test ? Figures(test) : "<p>It was not tested: nothing is known about how often it is right.</p>",
            ["model"] = Escape(string.Create(CultureInfo.InvariantCulture,
                $"A {run.Model.Name} with {run.Model.ParameterCount:N0} parameters, trained on a part of {ModelCard.Text(record["data"]?["images"])} images and written by DeepfakeLab {ModelCard.Text(record["versions"]?["deepfakelab"])}.")),
            ["licence"] = Escape(ModelCard.Licence),
            ["runtime"] = WebRuntime.Version,
            ["settings"] = settings.ToJsonString(JsonSerializerOptions.Default), // which escapes < and &
        })
            page.Replace($"{{{{{name}}}}}", value);
        return page.ToString();

        static string Figures(JsonNode test)
        {
            var rows = ModelCard.Rows(test).Select(r => $"<tr><th scope=\"row\">{Escape(r.Name)}</th><td>{Escape(r.Value)}</td><td>{Escape(r.Interval)}</td></tr>");
            return $"<p>{Escape(ModelCard.Tested(test))}</p><table><thead><tr><th scope=\"col\">figure</th><th scope=\"col\">value</th><th scope=\"col\">interval</th></tr></thead><tbody>{string.Concat(rows)}</tbody></table>";
        }
    }

    private static string Resource(string name)
    {
        using var reader = new StreamReader(typeof(WebExport).Assembly.GetManifestResourceStream("DeepfakeLab.Web." + name)!);
        return reader.ReadToEnd();
    }

    private static void CheckFree(string site)
    {
        if (File.Exists(site) || Directory.Exists(site) && Directory.EnumerateFileSystemEntries(site).Any())
            throw new ExportException("The place for the site is taken", site, "Remove it, or give another with --out");
    }
}
