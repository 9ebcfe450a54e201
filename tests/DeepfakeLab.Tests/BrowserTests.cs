namespace DeepfakeLab.Tests;

/// <summary>Reports and figures as a browser without a network shows them. Screenshots are kept under artifacts/screenshots.</summary>
public class BrowserTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_report_opens_offline_with_every_figure_drawn_and_nothing_to_complain_about(bool dark)
    {
        using var browser = new Browser();
        using var folder = TestSupport.Folder();
        Figure[] figures = [.. ChartTests.All()];
        var section = new ReportSection("Figures");
        foreach (var figure in figures)
            section.Add(figure);
        HtmlReport.Write(folder["report.html"], "A run", [section, new ReportSection("Test").Add(ChartTests.Report())]);

        browser.Open(folder["report.html"], dark);
        Keep(browser, dark ? "report-dark.png" : "report-light.png");
        Assert.Empty(browser.Complaints);
        // Drawn: each figure takes up room, and each of its marks and images does so within it.
        var drawn = browser.Evaluate("""
            [...document.querySelectorAll('figure svg')].map(svg => {
              const box = svg.getBoundingClientRect();
              const inside = e => { const b = e.getBoundingClientRect(); return b.left >= box.left - 2 && b.right <= box.right + 2 && b.top >= box.top - 2 && b.bottom <= box.bottom + 2; };
              const marks = [...svg.querySelectorAll('polyline,rect,circle,polygon,text,image')].filter(e => getComputedStyle(e).display != 'none');
              return { width: box.width, height: box.height, marks: marks.length, outside: marks.filter(e => !inside(e)).map(e => e.outerHTML.slice(0, 120)) };
            })
            """)!.AsArray();
        Assert.Equal(figures.Length, drawn.Count);
        foreach (var (figure, seen) in figures.Zip(drawn))
        {
            Assert.True((double)seen!["width"]! > 200 && (double)seen["height"]! > 100, figure.Title);
            Assert.True((int)seen["marks"]! > 5, figure.Title);
            Assert.True(seen["outside"]!.AsArray().Count == 0, $"{figure.Title}: {seen["outside"]!.ToJsonString()}");
        }
        Assert.True((bool)browser.Evaluate("[...document.querySelectorAll('svg image')].every(i => i.href.baseVal.startsWith('data:'))")!);
        Assert.Equal(dark ? "rgb(22, 22, 26)" : "rgb(255, 255, 255)", (string?)browser.Evaluate("getComputedStyle(document.body).backgroundColor"));
    }

    private static void Keep(Browser browser, string name)
    {
        var folder = Directory.CreateDirectory(Path.Combine(TestSupport.Root, "artifacts", "screenshots")).FullName;
        File.WriteAllBytes(Path.Combine(folder, name), browser.Screenshot());
    }
}
