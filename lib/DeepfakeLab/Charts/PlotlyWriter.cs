using System.Text.Json.Nodes;

namespace DeepfakeLab;

/// <summary>Writes a figure as Plotly's figure JSON (plotly.js reference: traces scatter, bar, heatmap; layout.images).</summary>
/// <remarks>
/// Ours, and not Plotly.NET's builders: its version 6.0 is compiled against FSharp.Core 10.1, and a host that has loaded 10.0, such as
/// .NET Interactive, cannot load it. In a load context of its own it could be reached by reflection only, every call and every F# option
/// type of it, for what is a page of JSON here. So Plotly.NET brings plotly.js (<see cref="PlotlyPage"/>), and plotly.js itself judges
/// what is written here: a test has its <c>Plotly.validate</c> look at every kind of figure.
/// </remarks>
internal static class PlotlyWriter
{
    private const string Grey = "#75757d";

    public static JsonObject Write(Figure figure)
    {
        var (data, images, notes) = (new JsonArray(), new JsonArray(), new JsonArray());
        var layout = new JsonObject
        {
            ["title"] = new JsonObject { ["text"] = figure.Title, ["x"] = 0, ["xanchor"] = "left" },
            ["width"] = figure.Width,
            ["height"] = figure.Height + 60,
            ["meta"] = new JsonObject { ["alt"] = figure.AltText },
            // grey ink on a clear ground reads on light (4.6:1) and on dark pages; pages of ours put their own ink in its place
            ["paper_bgcolor"] = "rgba(0,0,0,0)",
            ["plot_bgcolor"] = "rgba(0,0,0,0)",
            ["font"] = new JsonObject { ["color"] = Grey },
            // the panels' own places leave room for everything, so that Plotly must not take more
            ["margin"] = new JsonObject { ["l"] = 0, ["r"] = 0, ["t"] = 30, ["b"] = 30 },
            ["images"] = images,
            ["annotations"] = notes,
            ["hovermode"] = "closest",
        };
        var number = 0;
        foreach (var (panel, x, y) in figure.Places())
        {
            var suffix = ++number == 1 ? "" : $"{number}";
            double left = (x + 58) / figure.Width, right = (x + panel.Width - 14) / figure.Width;
            double top = 1 - (y + 40) / figure.Height, bottom = 1 - (y + panel.Height - 46) / figure.Height;
            if (panel.Layers is [Tiles tiles])
            {
                AddTiles(images, notes, tiles, figure, x + 8, y + 28);
                continue;
            }
            layout["xaxis" + suffix] = AxisOf(panel.X!, left, right, "y" + suffix);
            layout["yaxis" + suffix] = AxisOf(panel.Y!, bottom, top, "x" + suffix);
            if (figure.Panels.Count > 1)
                notes.Add((JsonNode)Note(panel.Title, (left + right) / 2, top, "bottom"));
            foreach (var layer in panel.Layers)
            {
                var trace = Trace(layer);
                (trace["xaxis"], trace["yaxis"]) = ("x" + suffix, "y" + suffix);
                data.Add((JsonNode)trace);
            }
        }
        if (data.Any(t => (bool)t!["showlegend"]!))
            layout["legend"] = new JsonObject { ["orientation"] = "h", ["x"] = 0, ["y"] = 0, ["yanchor"] = "top" };
        if (figure.Panels.All(p => p.X is null))
            (layout["xaxis"], layout["yaxis"]) = (new JsonObject { ["visible"] = false }, new JsonObject { ["visible"] = false }); // else Plotly draws a pair
        return new JsonObject { ["data"] = data, ["layout"] = layout, ["config"] = new JsonObject { ["responsive"] = true, ["displaylogo"] = false } };
    }

    private static JsonObject AxisOf(Axis axis, double from, double to, string anchor)
    {
        var json = new JsonObject
        {
            ["title"] = new JsonObject { ["text"] = axis.Title },
            ["domain"] = new JsonArray(from, to),
            ["anchor"] = anchor,
            ["type"] = axis.Log ? "log" : "linear",
            ["range"] = axis.Log ? new JsonArray(Math.Log10(axis.Min), Math.Log10(axis.Max)) : new JsonArray(axis.Min, axis.Max),
            ["gridcolor"] = "rgba(128,128,136,0.2)",
            ["zeroline"] = false,
        };
        if (axis.Names is { } names)
        {
            json["tickvals"] = new JsonArray([.. Enumerable.Range(0, names.Length).Select(i => (JsonNode)i)]);
            json["ticktext"] = Strings(names);
        }
        return json;
    }

    private static JsonObject Trace(Layer layer)
    {
        var trace = new JsonObject { ["name"] = layer.Name, ["showlegend"] = layer.Name.Length > 0 && layer is not Heat };
        switch (layer)
        {
            case Curve curve:
                trace["type"] = "scatter";
                trace["mode"] = curve.Points ? "lines+markers" : "lines";
                var none = curve.X.Length == 0; // Plotly would leave the trace out, and its axes with it
                (trace["x"], trace["y"]) = none ? (Numbers([double.NaN]), Numbers([double.NaN])) : (Numbers(curve.X), Numbers(curve.Y));
                trace["line"] = new JsonObject { ["color"] = Colour(curve.Color), ["dash"] = curve.Dashed ? "dash" : "solid" };
                if (curve is { Low: { } low, High: { } high })
                    trace["error_y"] = Whiskers(curve.Y, low, high);
                break;
            case Bars bars:
                trace["type"] = "bar";
                (trace["x"], trace["y"]) = (Numbers(bars.X), Numbers(bars.Values.Select(v => v.Value)));
                trace["width"] = bars.BarWidth;
                trace["marker"] = new JsonObject { ["color"] = Colour(bars.Color), ["opacity"] = bars.Color < 0 ? 0.3 : 0.85 };
                if (bars.Values.Any(v => double.IsFinite(v.Low)))
                    trace["error_y"] = Whiskers([.. bars.Values.Select(v => v.Value)], [.. bars.Values.Select(v => v.Low)], [.. bars.Values.Select(v => v.High)]);
                break;
            case Heat heat:
                trace["type"] = "heatmap";
                trace["z"] = Rows(heat.Shade, v => v);
                trace["text"] = Rows(heat.Text, v => v.Replace("\n", "<br>", StringComparison.Ordinal));
                trace["texttemplate"] = "%{text}";
                trace["showscale"] = false;
                (trace["zmin"], trace["zmax"], trace["colorscale"]) = (0, 1, "Cividis");
                break;
            case Dots dots:
                trace["type"] = "scatter";
                trace["mode"] = "markers";
                (trace["x"], trace["y"], trace["text"]) = (Numbers(dots.X), Numbers(dots.Y), Strings(dots.Labels.Select(Escape)));
                trace["hoverinfo"] = "text";
                if (dots.Thumbnails is { } thumbnails)
                    trace["customdata"] = Strings(thumbnails.Select(t => PlotlyPage.ImageStart + Convert.ToBase64String(t))); // shown by the page's script
                trace["marker"] = new JsonObject { ["color"] = Colour(dots.Color), ["size"] = 7, ["opacity"] = 0.85 };
                trace["cliponaxis"] = false; // points on the frame stay whole
                break;
        }
        return trace;
    }

    private static void AddTiles(JsonArray images, JsonArray notes, Tiles tiles, Figure figure, double left, double top)
    {
        for (var i = 0; i < tiles.Images.Count; i++)
        {
            var (x, y) = (left + i % tiles.Columns * (tiles.Size + 10), top + i / tiles.Columns * tiles.Pitch);
            images.Add((JsonNode)new JsonObject
            {
                ["source"] = PlotlyPage.ImageStart + Convert.ToBase64String(tiles.Images[i].Jpeg),
                ["xref"] = "paper",
                ["yref"] = "paper",
                ["x"] = x / figure.Width,
                ["y"] = 1 - y / figure.Height,
                ["sizex"] = tiles.Size / figure.Width,
                ["sizey"] = tiles.Size / figure.Height,
            });
            notes.Add((JsonNode)Note(tiles.Images[i].Caption, (x + tiles.Size / 2) / figure.Width, 1 - (y + tiles.Size) / figure.Height, "top"));
        }
    }

    private static JsonObject Note(string text, double x, double y, string anchor) => new()
    {
        ["text"] = Escape(text).Replace("\n", "<br>", StringComparison.Ordinal),
        ["xref"] = "paper",
        ["yref"] = "paper",
        ["x"] = x,
        ["y"] = y,
        ["xanchor"] = "center",
        ["yanchor"] = anchor,
        ["showarrow"] = false,
        ["font"] = new JsonObject { ["size"] = 10 },
    };

    private static JsonObject Whiskers(double[] values, double[] low, double[] high) => new()
    {
        ["type"] = "data",
        ["symmetric"] = false,
        ["array"] = Numbers(values.Zip(high, (v, h) => h - v)),
        ["arrayminus"] = Numbers(values.Zip(low, (v, l) => v - l)),
    };

    /// <summary>Plotly reads a little HTML in texts; file names must not write any.</summary>
    private static string Escape(string text) => System.Net.WebUtility.HtmlEncode(text);

    private static string Colour(int color) => color < 0 ? Grey : Palette.Hex(color);

    private static JsonArray Numbers(IEnumerable<double> values) => new([.. values.Select(v => Estimate.Number(v))]);

    private static JsonArray Strings(IEnumerable<string> values) => new([.. values.Select(v => (JsonNode?)v)]);

    /// <summary>Plotly counts rows from below.</summary>
    private static JsonArray Rows<T>(T[,] cells, Func<T, JsonNode?> node) =>
        new([.. Enumerable.Range(0, cells.GetLength(0)).Reverse().Select(r => (JsonNode?)new JsonArray([.. Enumerable.Range(0, cells.GetLength(1)).Select(c => node(cells[r, c]))]))]);
}
