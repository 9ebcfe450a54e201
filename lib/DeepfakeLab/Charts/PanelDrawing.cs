using System.Globalization;

namespace DeepfakeLab;

/// <summary>Draws one panel: title, legend, axes, then its layers in order.</summary>
internal static class PanelDrawing
{
    private const double Left = 58, Right = 14, Top = 48, Bottom = 46;

    public static void Draw(Canvas canvas, Panel panel, double x, double y)
    {
        canvas.Text(x + 8, y + 18, panel.Title, 14);
        if (panel.Layers is [Tiles tiles])
        {
            DrawTiles(canvas, tiles, x + 8, y + 28);
            return;
        }
        var frame = new Frame(panel.X!, panel.Y!, x + Left, y + Top, panel.Width - Left - Right, panel.Height - Top - Bottom);
        DrawLegend(canvas, panel, x + 8, y + 36);
        DrawAxes(canvas, frame, panel.Layers.Any(l => l is Heat));
        foreach (var layer in panel.Layers)
            DrawLayer(canvas, frame, layer);
    }

    /// <summary>The plotting area, and the way from values to pixels. Values beyond an axis are drawn at its end.</summary>
    private sealed record Frame(Axis XAxis, Axis YAxis, double X, double Y, double Width, double Height)
    {
        public (double, double) At(double x, double y) => (AtX(x), AtY(y));

        public double AtX(double x) => X + Width * Math.Clamp(XAxis.Place(x), 0, 1);

        public double AtY(double y) => Y + Height * (1 - Math.Clamp(YAxis.Place(y), 0, 1));
    }

    private static void DrawLegend(Canvas canvas, Panel panel, double x, double y)
    {
        foreach (var layer in panel.Layers.Where(l => l.Name.Length > 0 && l is not Heat))
        {
            switch (layer)
            {
                case Curve c:
                    canvas.Line([(x, y - 4), (x + 18, y - 4)], Palette.Hex(c.Color), 2, c.Dashed, c.Color < 0 ? 0.5 : 1);
                    break;
                case Bars b:
                    canvas.Rectangle(x + 4, y - 9, 10, 10, Palette.Hex(b.Color), b.Color < 0 ? 0.25 : 1);
                    break;
                case Dots d:
                    canvas.Circle(x + 9, y - 4, 4, Palette.Hex(d.Color));
                    break;
            }
            canvas.Text(x + 23, y, layer.Name, 11, opacity: 0.85);
            x += 23 + layer.Name.Length * 6.1 + 14;
        }
    }

    private static void DrawAxes(Canvas canvas, Frame f, bool bare)
    {
        foreach (var (value, text) in f.XAxis.Ticks())
        {
            if (!bare && f.XAxis.Names is null)
                canvas.Line([(f.AtX(value), f.Y), (f.AtX(value), f.Y + f.Height)], Canvas.Ink, 1, opacity: 0.12);
            canvas.Text(f.AtX(value), f.Y + f.Height + 15, text, 11, Align.Centre, opacity: 0.8);
        }
        foreach (var (value, text) in f.YAxis.Ticks())
        {
            if (!bare)
                canvas.Line([(f.X, f.AtY(value)), (f.X + f.Width, f.AtY(value))], Canvas.Ink, 1, opacity: 0.12);
            canvas.Text(f.X - 6, f.AtY(value) + 4, text, 11, Align.Right, opacity: 0.8);
        }
        if (!bare)
            canvas.Line([(f.X, f.Y), (f.X, f.Y + f.Height), (f.X + f.Width, f.Y + f.Height)], Canvas.Ink, 1, opacity: 0.6);
        canvas.Text(f.X + f.Width / 2, f.Y + f.Height + 34, f.XAxis.Title, 12, Align.Centre);
        canvas.Text(f.X - 44, f.Y + f.Height / 2, f.YAxis.Title, 12, Align.Centre, upright: true);
    }

    private static void DrawLayer(Canvas canvas, Frame f, Layer layer)
    {
        switch (layer)
        {
            case Curve curve:
                DrawCurve(canvas, f, curve);
                break;
            case Bars bars:
                DrawBars(canvas, f, bars);
                break;
            case Heat heat:
                DrawHeat(canvas, f, heat);
                break;
            case Dots dots:
                // the last drawn is on top: thumbnails shown on hovering must not lie under later points, so each rides on its point
                for (var i = 0; i < dots.X.Length; i++)
                    canvas.Circle(f.AtX(dots.X[i]), f.AtY(dots.Y[i]), 4, Palette.Hex(dots.Color), dots.Labels[i], dots.Thumbnails?[i]);
                break;
        }
    }

    private static void DrawCurve(Canvas canvas, Frame f, Curve curve)
    {
        int[] at = [.. Enumerable.Range(0, curve.X.Length).Where(i => double.IsFinite(curve.X[i]) && double.IsFinite(curve.Y[i]))];
        if (curve is { Low: { } low, High: { } high })
            canvas.Area([.. at.Select(i => f.At(curve.X[i], low[i])), .. at.Reverse().Select(i => f.At(curve.X[i], high[i]))], Palette.Hex(curve.Color), 0.18);
        if (at.Length > 1)
            canvas.Line([.. at.Select(i => f.At(curve.X[i], curve.Y[i]))], Palette.Hex(curve.Color), 2, curve.Dashed, curve.Color < 0 ? 0.5 : 1);
        if (curve.Points || at.Length == 1)
        {
            foreach (var i in at)
                canvas.Circle(f.AtX(curve.X[i]), f.AtY(curve.Y[i]), 3, Palette.Hex(curve.Color), string.Create(CultureInfo.InvariantCulture, $"{curve.Name} {curve.Y[i]:0.####}"));
        }
    }

    private static void DrawBars(Canvas canvas, Frame f, Bars bars)
    {
        var floor = f.AtY(Math.Max(0, f.YAxis.Min));
        for (var i = 0; i < bars.X.Length; i++)
        {
            var (value, low, high) = bars.Values[i];
            if (!double.IsFinite(value))
                continue;
            var (left, right, top) = (f.AtX(bars.X[i] - bars.BarWidth / 2), f.AtX(bars.X[i] + bars.BarWidth / 2), f.AtY(value));
            canvas.Rectangle(left, Math.Min(top, floor), right - left, Math.Abs(floor - top), Palette.Hex(bars.Color), bars.Color < 0 ? 0.25 : 0.85);
            var middle = (left + right) / 2;
            if (double.IsFinite(low) && high > low)
            {
                canvas.Line([(middle, f.AtY(low)), (middle, f.AtY(high))], Canvas.Ink, 1.5);
                canvas.Line([(middle - 5, f.AtY(low)), (middle + 5, f.AtY(low))], Canvas.Ink, 1.5);
                canvas.Line([(middle - 5, f.AtY(high)), (middle + 5, f.AtY(high))], Canvas.Ink, 1.5);
            }
            if (bars.Labels)
                canvas.Text(middle, f.AtY(double.IsFinite(high) ? high : value) - 7, value.ToString("0.00", CultureInfo.InvariantCulture), 11, Align.Centre);
        }
    }

    private static void DrawHeat(Canvas canvas, Frame f, Heat heat)
    {
        var (rows, columns) = (heat.Shade.GetLength(0), heat.Shade.GetLength(1));
        var (width, height) = (f.Width / columns, f.Height / rows);
        for (var r = 0; r < rows; r++)
        {
            for (var c = 0; c < columns; c++)
            {
                // one hue, from faint to full: lightness carries the value, so no colour vision is needed
                var (x, y, shade) = (f.X + c * width, f.Y + r * height, heat.Shade[r, c]);
                canvas.Rectangle(x + 1, y + 1, width - 2, height - 2, Palette.Series[0], 0.06 + 0.94 * shade);
                var lines = heat.Text[r, c].Split('\n');
                for (var i = 0; i < lines.Length; i++)
                    canvas.Text(x + width / 2, y + height / 2 + 6 + 18 * (i - (lines.Length - 1) / 2.0), lines[i], i == 0 ? 17 : 12, Align.Centre, shade > 0.5 ? "#ffffff" : Canvas.Ink);
            }
        }
    }

    private static void DrawTiles(Canvas canvas, Tiles tiles, double x, double y)
    {
        for (var i = 0; i < tiles.Images.Count; i++)
        {
            var (jpeg, caption) = tiles.Images[i];
            var (left, top) = (x + i % tiles.Columns * (tiles.Size + 10), y + i / tiles.Columns * tiles.Pitch);
            canvas.Image(left, top, tiles.Size, tiles.Size, jpeg, caption.ReplaceLineEndings(", "));
            var lines = caption.Split('\n');
            for (var line = 0; line < lines.Length; line++)
                canvas.Text(left, top + tiles.Size + 12 + 12 * line, Shorten(lines[line], tiles.Size), 10, opacity: line == 0 ? 1 : 0.8);
        }
    }

    private static string Shorten(string text, double width) => text.Length <= Tiles.Characters(width) ? text : text[..Math.Max(1, Tiles.Characters(width) - 1)] + "…";
}
