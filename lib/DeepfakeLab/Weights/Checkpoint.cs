using static TorchSharp.torch;

namespace DeepfakeLab;

/// <summary>Reads and writes checkpoint files: <c>.safetensors</c> and what <c>torch.save</c> writes.</summary>
/// <remarks>Files are taken as hostile: nothing in them is run, and nothing is allocated that the file's own size does not warrant.</remarks>
public static class Checkpoint
{
    /// <summary>Reads all tensors of a file; its content, not its name, tells the format.</summary>
    /// <remarks>
    /// Read are <c>.safetensors</c> and PyTorch's zip archive (since 1.6), pickle with a magic number (0.1.10 to 1.5) and tar archive
    /// (before). Tensors under <c>state_dict</c>, <c>model_state_dict</c> or <c>model</c> are found, and a <c>module.</c> prefix that all
    /// keys have is taken off.
    /// </remarks>
    /// <exception cref="CheckpointException">The file is missing, damaged, of another format, or holds more than tensors.</exception>
    public static StateDict Read(string path) => Open(path, stream => Read(stream, path));

    /// <summary>Writes a state dict in the format that the name's ending tells; either the whole file appears or none.</summary>
    /// <param name="path">A name that ends in <c>.safetensors</c>, <c>.pth</c> or <c>.pt</c>; the latter two open in Python with torch.load, weights_only too.</param>
    /// <exception cref="CheckpointException">The ending is another one.</exception>
    public static void Write(string path, StateDict state)
    {
        switch (Path.GetExtension(path).ToLowerInvariant())
        {
            case ".safetensors": SafeTensors.Write(path, state); break;
            case ".pth" or ".pt": TorchZip.Write(path, state); break;
            default: throw new CheckpointException("The file's name does not tell its format", path, "End it in .safetensors, .pth or .pt");
        }
    }

    internal static StateDict Read(Stream stream, string source)
    {
        Span<byte> first = stackalloc byte[300];
        var length = stream.ReadAtLeast(first, first.Length, throwOnEndOfStream: false);
        stream.Position = 0;
        first = first[..length];
        if (first.StartsWith("PK\u0003\u0004"u8))
            return TorchZip.Read(stream, source);
        if (LegacyCheckpoint.IsMagicPickle(first))
            return LegacyCheckpoint.ReadMagicPickle(stream, source);
        if (LegacyCheckpoint.IsTar(first))
            return LegacyCheckpoint.ReadTar(stream, source);
        if (length > 8 && first[8] == '{')
            return SafeTensors.Read(stream, source);
        throw new InvalidDataException("its first bytes are of no format that is known here");
    }

    /// <summary>Opens a file and has it read, so that whatever is wrong with it ends in one kind of error that names it.</summary>
    internal static StateDict Open(string path, Func<Stream, StateDict> read)
    {
        try
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 1 << 16);
            return Guard(path, () => read(stream));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"The weights cannot be opened ({e.Message.TrimEnd('.')})", path, "Check the path and its permissions", e);
        }
    }

    internal static StateDict Guard(string source, Func<StateDict> read)
    {
        LabRuntime.Start();
        try
        {
            using var scope = NewDisposeScope(); // frees what a failed reading leaves behind; a finished one is taken out of it
            using var frozen = no_grad();
            var state = read();
            foreach (var tensor in state.Values)
                tensor.DetachFromDisposeScope();
            return state;
        }
        catch (Exception e) when (RawTensors.IsBadContent(e))
        {
            throw new CheckpointException($"The file is no checkpoint that can be read here: {e.Message.TrimEnd('.')}", source,
                "Give a .safetensors file or a state dict that torch.save wrote; fetch it again if it was cut or damaged", e);
        }
    }
}
