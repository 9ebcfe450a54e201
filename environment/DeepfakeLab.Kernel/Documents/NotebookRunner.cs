namespace DeepfakeLab.Notebooks;

/// <summary>What happens while a notebook runs. <paramref name="Number"/> counts code cells from 1.</summary>
public abstract record NotebookEvent(NotebookCell Cell, int Number)
{
    public sealed record Started(NotebookCell Cell, int Number, int Count) : NotebookEvent(Cell, Number);

    public sealed record Output(NotebookCell Cell, int Number, CellOutput Content) : NotebookEvent(Cell, Number);

    public sealed record Finished(NotebookCell Cell, int Number, CellResult Result) : NotebookEvent(Cell, Number);
}

/// <summary>The cell that stopped a run, and why.</summary>
public sealed record NotebookFailure(int CellNumber, ErrorOutput Error);

/// <summary>Runs all cells of a notebook in order and keeps what they show in it.</summary>
public static class NotebookRunner
{
    /// <summary>Runs to the end or to the first cell that fails; the notebook then holds the outputs so far.</summary>
    /// <remarks>
    /// A cell tagged <c>raises-exception</c> must fail, and the run goes on after it. A cell tagged <c>assert</c> must end in the value true.
    /// </remarks>
    /// <returns>The failure; null when there was none.</returns>
    public static async Task<NotebookFailure?> RunAsync(
        Notebook notebook, SessionOptions options, Action<NotebookEvent>? listen = null, CancellationToken cancellation = default)
    {
        notebook.Clean();
        using var session = new CSharpSession(options);
        var cells = notebook.Cells.Where(c => c.Kind == CellKind.Code).ToList();
        for (var i = 0; i < cells.Count; i++)
        {
            var (cell, number) = (cells[i], i + 1);
            listen?.Invoke(new NotebookEvent.Started(cell, number, cells.Count));
            cell.ExecutionCount = number;
            var result = await session.RunAsync(Source(cell), $"cell {number}", output =>
            {
                Keep(notebook, cell, output);
                listen?.Invoke(new NotebookEvent.Output(cell, number, output));
            }, cancellation);
            listen?.Invoke(new NotebookEvent.Finished(cell, number, result));
            if (Judge(cell, number, result) is { } error)
                return new NotebookFailure(number, error);
        }
        return null;
    }

    private static ErrorOutput? Judge(NotebookCell cell, int number, CellResult result)
    {
        if (cell.Tags.Contains("raises-exception"))
            return result.Succeeded ? Expected("an error, as its tag raises-exception says, but none came") : null;
        if (result.Succeeded && cell.Tags.Contains("assert")
            && cell.Outputs.OfType<ResultOutput>().LastOrDefault()?.Data.GetValueOrDefault(MimeBundle.Plain) != "True")
            return Expected("the value true, as its tag assert says");
        return result.Error;

        ErrorOutput Expected(string what)
        {
            var message = $"cell {number} was to end in {what}";
            return new ErrorOutput("AssertionFailed", message, [message]);
        }
    }

    /// <summary>Cells of the other languages that .NET Interactive knows become what their language line would make them.</summary>
    private static string Source(NotebookCell cell)
    {
        var language = (cell.Metadata["polyglot_notebook"]?["kernelName"] ?? cell.Metadata["dotnet_interactive"]?["language"])?.ToString();
        return language is "markdown" or "html" ? $"#!{language}\n{cell.Source}" : cell.Source;
    }

    private static void Keep(Notebook notebook, NotebookCell cell, CellOutput output)
    {
        switch (output)
        {
            case StreamOutput stream when cell.Outputs is [.., StreamOutput last] && last.Name == stream.Name:
                cell.Outputs[^1] = last with { Text = last.Text + stream.Text };
                break;
            case DisplayUpdate update:
                foreach (var outputs in notebook.Cells.Select(c => c.Outputs))
                    for (var i = 0; i < outputs.Count; i++)
                        if (outputs[i] is DisplayOutput shown && shown.DisplayId == update.DisplayId)
                            outputs[i] = shown with { Data = update.Data };
                break;
            default:
                cell.Outputs.Add(output);
                break;
        }
    }
}
