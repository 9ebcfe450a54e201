using System.Net;
using System.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>LaTeX formulas as MathML, which every browser draws without a script or a font from elsewhere.</summary>
/// <remarks>
/// Ours because the .NET packages that do this draw pictures, and KaTeX needs a script engine. It knows what notebooks about learning
/// use: fractions, roots, scripts, big operators, accents, fonts, delimiters, matrices, cases, aligned lines. A command it does not
/// know is shown by its name, so that nothing is lost.
/// </remarks>
public static class MathMl
{
    public static string Convert(string latex, bool display)
    {
        var body = new Parser(latex).ParseAll();
        var attributes = display ? " display=\"block\"" : "";
        return $"<math{attributes}><semantics><mrow>{body}</mrow><annotation encoding=\"application/x-tex\">{WebUtility.HtmlEncode(latex.Trim())}</annotation></semantics></math>";
    }

    private ref struct Parser(string text)
    {
        private const int Deepest = 64;
        private int at;
        private int depth;

        public string ParseAll()
        {
            var all = new StringBuilder();
            while (at < text.Length)
            {
                all.Append(Row());
                if (at < text.Length)
                    at++; // a closing brace or an ampersand without its partner
            }
            return all.ToString();
        }

        /// <summary>Everything up to a closing brace, an alignment mark, a line end or the end of an environment.</summary>
        private string Row()
        {
            if (++depth > Deepest)
            {
                at = text.Length;
                return "";
            }
            var row = new StringBuilder();
            while (at < text.Length && text[at] is not ('}' or '&') && !Ahead(@"\\") && !Ahead(@"\end") && !Ahead(@"\right"))
                row.Append(Scripted());
            depth--;
            return row.ToString();
        }

        private readonly bool Ahead(string word) =>
            text.AsSpan(at).StartsWith(word, StringComparison.Ordinal) && (word == @"\\" || at + word.Length >= text.Length || !char.IsLetter(text[at + word.Length]));

        /// <summary>One element with its subscript and superscript.</summary>
        private string Scripted()
        {
            if (char.IsWhiteSpace(text[at]))
            {
                at++;
                return "";
            }
            var start = at;
            var element = text[at] is '^' or '_' ? "<mrow></mrow>" : Element();
            var command = text[start..at].Trim();
            string? below = null, above = null;
            while (at < text.Length)
            {
                if (char.IsWhiteSpace(text[at]))
                    at++;
                else if (text[at] == '_' && below is null)
                    below = Argument(skip: 1);
                else if (text[at] == '^' && above is null)
                    above = Argument(skip: 1);
                else if (text[at] == '\'' && above is null)
                {
                    at++;
                    above = "<mo>′</mo>";
                }
                else if (Ahead(@"\limits"))
                    at += @"\limits".Length;
                else
                    break;
            }
            if (below is null && above is null)
                return element;
            var limits = MathSymbols.Limits.Contains(command) || command.StartsWith(@"\operatorname*", StringComparison.Ordinal) || command.StartsWith(@"\underbrace", StringComparison.Ordinal);
            return (below, above, limits) switch
            {
                (not null, null, false) => $"<msub>{element}{below}</msub>",
                (null, not null, false) => $"<msup>{element}{above}</msup>",
                (not null, not null, false) => $"<msubsup>{element}{below}{above}</msubsup>",
                (not null, null, true) => $"<munder>{element}{below}</munder>",
                (null, not null, true) => $"<mover>{element}{above}</mover>",
                _ => $"<munderover>{element}{below}{above}</munderover>",
            };
        }

        /// <summary>What a command or a script applies to: a group in braces or a single element.</summary>
        private string Argument(int skip = 0)
        {
            at += skip;
            while (at < text.Length && char.IsWhiteSpace(text[at]))
                at++;
            return at >= text.Length || text[at] is '}' or '&' ? "<mrow></mrow>" : Element();
        }

        private string Element()
        {
            var c = text[at];
            if (c == '{')
            {
                at++;
                var inner = Row();
                if (at < text.Length && text[at] == '}')
                    at++;
                return $"<mrow>{inner}</mrow>";
            }
            if (c == '\\')
                return Command();
            if (char.IsAsciiDigit(c))
            {
                var start = at;
                while (at < text.Length && (char.IsAsciiDigit(text[at]) || (text[at] == '.' && at + 1 < text.Length && char.IsAsciiDigit(text[at + 1]))))
                    at++;
                return $"<mn>{text[start..at]}</mn>";
            }
            at++;
            if (char.IsLetter(c))
                return $"<mi>{c}</mi>";
            return c switch
            {
                '-' => "<mo>−</mo>",
                '*' => "<mo>∗</mo>",
                '~' => "<mspace width=\"0.33em\"/>",
                '(' or ')' or '[' or ']' or '|' => $"<mo stretchy=\"false\">{c}</mo>",
                _ => $"<mo>{WebUtility.HtmlEncode(c.ToString())}</mo>",
            };
        }

        private string Name()
        {
            var start = ++at;
            while (at < text.Length && char.IsAsciiLetter(text[at]))
                at++;
            if (at == start && at < text.Length)
                at++; // \, \{ \| and their like
            return text[start..at];
        }

        private string Command()
        {
            var name = Name();
            switch (name)
            {
                case "frac" or "dfrac" or "tfrac":
                    return $"<mfrac>{Argument()}{Argument()}</mfrac>";
                case "binom":
                    return $"<mrow><mo>(</mo><mfrac linethickness=\"0\">{Argument()}{Argument()}</mfrac><mo>)</mo></mrow>";
                case "sqrt":
                    var degree = Optional();
                    return degree is null ? $"<msqrt>{Argument()}</msqrt>" : $"<mroot>{Argument()}<mrow>{new Parser(degree).ParseAll()}</mrow></mroot>";
                case "text" or "textrm" or "mathrm" or "textbf" or "textit" or "operatorname" or "mathit" or "texttt" or "mathtt":
                    if (at < text.Length && text[at] == '*')
                        at++;
                    var words = Raw();
                    return name.StartsWith("text", StringComparison.Ordinal)
                        ? $"<mtext>{WebUtility.HtmlEncode(words.Replace("\\_", "_", StringComparison.Ordinal).Replace("\\%", "%", StringComparison.Ordinal))}</mtext>"
                        : $"<mi mathvariant=\"normal\">{WebUtility.HtmlEncode(words.Replace("\\", "", StringComparison.Ordinal))}</mi>";
                case "mathbf" or "boldsymbol" or "bm" or "mathbb" or "mathcal" or "mathscr" or "mathsf" or "mathfrak":
                    return Styled(name);
                case "left":
                    return Delimited();
                case "begin":
                    return Environment();
                case "overline" or "bar":
                    return $"<mover accent=\"true\">{Argument()}<mo>¯</mo></mover>";
                case "underline":
                    return $"<munder>{Argument()}<mo>_</mo></munder>";
                case "underbrace":
                    return $"<munder>{Argument()}<mo>⏟</mo></munder>";
                case "overbrace":
                    return $"<mover>{Argument()}<mo>⏞</mo></mover>";
                case "displaystyle" or "textstyle" or "nonumber" or "notag" or "big" or "Big" or "bigl" or "bigr" or "Bigl" or "Bigr" or "limits" or "nolimits":
                    return "";
                case "not":
                    return Argument().Replace("</", "\u0338</", StringComparison.Ordinal);
            }
            if (MathSymbols.Accents.TryGetValue(name, out var accent))
                return $"<mover accent=\"true\">{Argument()}<mo>{accent}</mo></mover>";
            if (MathSymbols.Spaces.TryGetValue(name, out var width))
                return $"<mspace width=\"{width}\"/>";
            if (MathSymbols.Functions.Contains(name))
                return $"<mi>{name}</mi><mo>&#x2061;</mo>";
            if (MathSymbols.Identifiers.TryGetValue(name, out var letter))
                return $"<mi>{letter}</mi>";
            if (MathSymbols.Operators.TryGetValue(name, out var sign))
                return $"<mo>{WebUtility.HtmlEncode(sign)}</mo>";
            return $"<mtext>\\{WebUtility.HtmlEncode(name)}</mtext>";
        }

        private string Styled(string name)
        {
            var start = at;
            var inner = Argument();
            var letters = text[start..at].Trim().Trim('{', '}');
            if (letters.Length > 0 && letters.All(char.IsAsciiLetterOrDigit) && MathSymbols.Styled(letters, name) is { } styled)
                return $"<mi>{styled}</mi>";
            return name is "mathbf" or "boldsymbol" or "bm" ? $"<mrow style=\"font-weight:bold\">{inner}</mrow>" : inner;
        }

        /// <summary>The text of a group, as it stands.</summary>
        private string Raw()
        {
            while (at < text.Length && char.IsWhiteSpace(text[at]))
                at++;
            if (at >= text.Length || text[at] != '{')
                return at < text.Length ? text[at++].ToString() : "";
            var (start, open) = (++at, 1);
            for (; at < text.Length; at++)
            {
                open += text[at] == '{' ? 1 : text[at] == '}' ? -1 : 0;
                if (open == 0)
                    return text[start..at++];
            }
            return text[start..];
        }

        private string? Optional()
        {
            if (at >= text.Length || text[at] != '[' || text.IndexOf(']', at) is not (> 0 and var end))
                return null;
            var inner = text[(at + 1)..end];
            at = end + 1;
            return inner;
        }

        private string Delimited()
        {
            var open = Delimiter();
            var inner = Row();
            var close = "";
            if (Ahead(@"\right"))
            {
                at += @"\right".Length;
                close = Delimiter();
            }
            return $"<mrow>{open}{inner}{close}</mrow>";
        }

        private string Delimiter()
        {
            while (at < text.Length && char.IsWhiteSpace(text[at]))
                at++;
            if (at >= text.Length)
                return "";
            var sign = text[at] == '\\' ? Name() : text[at++].ToString();
            sign = MathSymbols.Operators.GetValueOrDefault(sign, sign);
            return sign == "." ? "" : $"<mo stretchy=\"true\">{WebUtility.HtmlEncode(sign)}</mo>";
        }

        /// <summary>Matrices, cases and aligned lines: a table, with the environment's delimiters.</summary>
        private string Environment()
        {
            var name = Raw().TrimEnd('*');
            if (name == "array")
                Raw();
            var (open, close) = name switch
            {
                "pmatrix" => ("(", ")"),
                "bmatrix" => ("[", "]"),
                "vmatrix" => ("|", "|"),
                "Bmatrix" or "cases" => ("{", name == "cases" ? "" : "}"),
                _ => ("", ""),
            };
            var alignment = name is "aligned" or "align" or "split" ? " columnalign=\"right left\" columnspacing=\"0.2em\"" : name == "cases" ? " columnalign=\"left left\"" : "";
            var table = new StringBuilder("<mtr><mtd>");
            while (at < text.Length && !Ahead(@"\end"))
            {
                table.Append(Row());
                if (at >= text.Length || Ahead(@"\end"))
                    break;
                if (Ahead(@"\\"))
                {
                    at += 2;
                    table.Append("</mtd></mtr><mtr><mtd>");
                }
                else
                {
                    if (text[at] == '&')
                        table.Append("</mtd><mtd>");
                    at += Ahead(@"\right") ? @"\right".Length : 1;
                }
            }
            if (Ahead(@"\end"))
            {
                at += @"\end".Length;
                Raw();
            }
            table.Append("</mtd></mtr>").Replace("<mtr><mtd></mtd></mtr>", "");
            return $"<mrow>{Fence(open)}<mtable{alignment}>{table}</mtable>{Fence(close)}</mrow>";
        }

        private static string Fence(string sign) => sign.Length == 0 ? "" : $"<mo stretchy=\"true\">{sign}</mo>";
    }
}
