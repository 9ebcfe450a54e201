using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

public class FormatterTests
{
    private static readonly byte[] png = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A, 0];

    [Fact]
    public void Plain_values_are_plain_text_in_the_invariant_culture()
    {
        Assert.Equal("0.5", ValueFormatter.Format(0.5)[MimeBundle.Plain]);
        Assert.Equal("text", ValueFormatter.Format("text")[MimeBundle.Plain]);
        Assert.Equal("(1, a)", ValueFormatter.Format((1, "a"))[MimeBundle.Plain]);
        Assert.Equal("<b>x</b>", Assert.Single(ValueFormatter.Format("<b>x</b>", [MimeBundle.Html])).Value);
    }

    [Fact]
    public void A_type_is_shown_by_its_own_methods()
    {
        var bundle = ValueFormatter.Format(new Figure());
        Assert.Equal("<svg/>", bundle[MimeBundle.Html]);
        Assert.Equal("{\"data\":[]}", bundle[MimeBundle.Plotly]);
        Assert.Equal(Convert.ToBase64String(png), bundle[MimeBundle.Png]);
        Assert.Equal("a figure", bundle[MimeBundle.Plain]);
        Assert.Equal(Convert.ToBase64String(png), Assert.Single(ValueFormatter.Format(png), f => f.Key == MimeBundle.Png).Value);
    }

    [Fact]
    public void A_formatter_source_is_found_by_the_name_of_its_attribute()
    {
        var bundle = ValueFormatter.Format(new Marked());
        Assert.Equal("<i>marked</i>", bundle[MimeBundle.Html]);
    }

    [Fact]
    public void Sequences_are_tables_of_bounded_length_and_escaped()
    {
        var rows = Enumerable.Range(0, 1000).Select(i => new Row($"<{i}>", i)).ToList();
        var html = ValueFormatter.Format(rows)[MimeBundle.Html];
        Assert.Contains("<th>Name</th><th>Count</th>", html);
        Assert.Contains("&lt;24&gt;", html);
        Assert.DoesNotContain("&lt;25&gt;", html);
        Assert.Contains("25 of 1000 rows", html);
        Assert.Equal("[ 1, 2, 3 ]", ValueFormatter.Format(new[] { 1, 2, 3 })[MimeBundle.Plain]);
        Assert.Contains("<td>k</td><td style=\"text-align:right\">1</td>", ValueFormatter.Format(new Dictionary<string, int> { ["k"] = 1 })[MimeBundle.Html]);
        Assert.Contains("the first 25 rows", ValueFormatter.Format(Endless())[MimeBundle.Html]);
    }

    [Fact]
    public void A_tensor_is_its_shape_type_and_figures_and_leaks_nothing()
    {
        LabRuntime.Start();
        using var large = TorchSharp.torch.arange(10_000).reshape(100, 100);
        var before = TorchSharp.torch.Tensor.TotalCount;
        var text = ValueFormatter.Format(large)[MimeBundle.Plain];
        Assert.Equal("Tensor shape [100, 100], dtype Int64, device cpu, min 0, mean 4999.5, max 9999", text);
        using var small = TorchSharp.torch.tensor(new[] { 1.5f, -2 });
        Assert.Contains("values 1.5, -2", ValueFormatter.Format(small)[MimeBundle.Plain]);
        Assert.Contains("<th>shape</th><td>[2]</td>", ValueFormatter.Format(small)[MimeBundle.Html]);
        Assert.Equal(before + 1, TorchSharp.torch.Tensor.TotalCount);
    }

    private static IEnumerable<int> Endless()
    {
        for (var i = 0; ; i++)
            yield return i;
    }

    private sealed record Row(string Name, int Count);

    private sealed class Figure
    {
        public string ToHtml() => "<svg/>";

        public string ToPlotlyJson() => "{\"data\":[]}";

        public byte[] ToPng() => png;

        public override string ToString() => "a figure";
    }

    [TypeFormatterSource(typeof(Source))]
    private sealed class Marked;

    [AttributeUsage(AttributeTargets.Class)]
    private sealed class TypeFormatterSourceAttribute(Type type) : Attribute
    {
        public Type FormatterSourceType { get; } = type;
    }

    private sealed class Source
    {
        public IEnumerable<object> CreateTypeFormatters() => [new Formatter()];
    }

    private sealed class Formatter
    {
        public string MimeType => "text/html";

        public bool Format(object instance, TextWriter writer)
        {
            writer.Write("<i>marked</i>");
            return true;
        }
    }
}
