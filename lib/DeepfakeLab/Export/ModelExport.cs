using System.Text.Json;
using System.Text.Json.Nodes;
using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Takes a finished run out of here: weights for Python, or a whole model for ONNX Runtime, each with a model card beside it.</summary>
public static class ModelExport
{
    /// <summary>Writes torchvision's state dict as PyTorch's <c>.pth</c> or as <c>.safetensors</c>, as the file's name tells.</summary>
    /// <param name="run">The folder of a finished run.</param>
    /// <returns>The model card's path, <c>FILE.md</c>.</returns>
    /// <exception cref="TrainingException">The folder holds no finished run.</exception>
    /// <exception cref="CheckpointException">The file's name ends in something else.</exception>
    public static string WriteWeights(string run, string path) => Write(run, path, (saved, record) =>
    {
        using var state = StateDict.Of(saved.Model);
        state.Metadata = new Dictionary<string, string>(Metadata(saved, record)) { ["format"] = "pt", ["model"] = saved.Model.Name };
        if (Path.GetExtension(path).Equals(".safetensors", StringComparison.OrdinalIgnoreCase))
            SafeTensors.Write(path, state.Select(e => (e.Key, e.Value)), state.Metadata);
        else
            Checkpoint.Write(path, state);
    });

    /// <summary>Writes an ONNX file; see <see cref="OnnxExport"/>.</summary>
    /// <inheritdoc cref="WriteWeights"/>
    /// <exception cref="ExportException">The model or its preprocessing has a part that ONNX export does not know.</exception>
    public static string WriteOnnx(string run, string path, OnnxOptions? options = null) => Write(run, path, (saved, record) =>
        OnnxExport.Write(path, saved.Model, saved.Preprocessing, saved.Classes, options, Metadata(saved, record)), options ?? new OnnxOptions());

    private static string Write(string run, string path, Action<SavedRun, JsonNode> write, OnnxOptions? onnx = null)
    {
        var card = path + ".md";
        With(run, (saved, record) =>
        {
            write(saved, record);
            AtomicFile.WriteText(card, ModelCard.Write(saved, record, Path.GetFileName(path), onnx));
        });
        return card;
    }

    /// <summary>Opens a run and its record for the time of an action.</summary>
    internal static void With(string run, Action<SavedRun, JsonNode> action)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using var saved = RunFolder.Open(run);
        _ = saved.Model; // says what to do where the run is an ensemble
        var record = JsonNode.Parse(File.ReadAllText(Path.Combine(run, RunFolder.RecordFile)))!; // Open has looked at it
        action(saved, record);
    }

    internal static Dictionary<string, string> Metadata(SavedRun saved, JsonNode record) => new()
    {
        ["classes"] = JsonSerializer.Serialize(saved.Classes),
        ["fakeClass"] = saved.Classes[saved.FakeClass],
        ["preprocessing"] = JsonSerializer.Serialize(saved.Preprocessing),
        ["weights"] = ModelCard.Text(record["weights"]?["origin"]),
        ["source"] = $"DeepfakeLab {ModelCard.Text(record["versions"]?["deepfakelab"])}, data {ModelCard.Text(record["data"]?["origin"])}, fingerprint {ModelCard.Text(record["data"]?["fingerprint"])}",
        ["licence"] = ModelCard.Licence,
    };
}
