using System.Xml.Linq;
using DeepfakeLab.Notebooks;

namespace DeepfakeLab.Tests;

public class MathMlTests
{
    [Theory]
    [InlineData(@"\frac{1}{2}", "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>")]
    [InlineData("x_i^2", "<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>")]
    [InlineData(@"\sum_{i}^{N}", "<munderover><mo>∑</mo><mrow><mi>i</mi></mrow><mrow><mi>N</mi></mrow></munderover>")]
    [InlineData(@"\mathbb{R}^{3.5}", "<msup><mi>ℝ</mi><mrow><mn>3.5</mn></mrow></msup>")]
    [InlineData(@"\text{a b} < \sqrt[3]{y}", "<mtext>a b</mtext><mo>&lt;</mo><mroot><mrow><mi>y</mi></mrow><mrow><mn>3</mn></mrow></mroot>")]
    [InlineData(@"\left( a \right)", "<mrow><mo stretchy=\"true\">(</mo><mi>a</mi><mo stretchy=\"true\">)</mo></mrow>")]
    [InlineData(@"\unknowncommand", @"<mtext>\unknowncommand</mtext>")]
    public void Formulas_become_MathML(string latex, string expected) => Assert.Contains(expected, MathMl.Convert(latex, display: false));

    [Theory]
    [InlineData(@"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}", 2)]
    [InlineData(@"\begin{bmatrix} a & b \\ c & d \end{bmatrix}", 2)]
    [InlineData(@"\begin{aligned} a &= b \\ &= c \end{aligned}", 2)]
    public void Environments_become_tables(string latex, int rows) =>
        Assert.Equal(rows, XElement.Parse(MathMl.Convert(latex, display: true)).Descendants("mtr").Count());

    [Theory]
    [InlineData("{{{"), InlineData("}}&&"), InlineData(@"\"), InlineData(@"\frac"), InlineData(@"\left("), InlineData(@"\right)"), InlineData("^"), InlineData("_^_"),
     InlineData(@"\begin{cases} & \\"), InlineData(@"\end{cases}"), InlineData("x_"), InlineData(@"\sqrt["), InlineData(@"\text{a"), InlineData("<script>"), InlineData("a\\\\b&c")]
    public void Broken_formulas_still_give_well_formed_MathML(string latex) => XElement.Parse(MathMl.Convert(latex, display: true));

    [Fact]
    public void Endless_nesting_is_cut_short() => XElement.Parse(MathMl.Convert(new string('{', 100_000), display: false));
}
