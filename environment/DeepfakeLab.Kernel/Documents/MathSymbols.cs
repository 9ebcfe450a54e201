using System.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>LaTeX's names for signs and letters.</summary>
internal static class MathSymbols
{
    public static readonly HashSet<string> Limits =
    [
        @"\sum", @"\prod", @"\min", @"\max", @"\lim", @"\arg\min", @"\arg\max", @"\argmin", @"\argmax", @"\sup", @"\inf", @"\bigcup", @"\bigcap", @"\operatorname*",
    ];

    public static readonly HashSet<string> Functions =
    [
        "log", "ln", "exp", "sin", "cos", "tan", "tanh", "sinh", "cosh", "max", "min", "lim", "sup", "inf", "arg", "argmin", "argmax", "det", "dim", "Pr", "softmax",
        "gcd", "deg", "ker", "sgn",
    ];

    public static readonly Dictionary<string, string> Accents = new()
    {
        ["hat"] = "^",
        ["widehat"] = "^",
        ["tilde"] = "~",
        ["widetilde"] = "~",
        ["vec"] = "→",
        ["dot"] = "˙",
        ["ddot"] = "¨",
    };

    public static readonly Dictionary<string, string> Spaces = new()
    {
        [","] = "0.17em",
        [":"] = "0.22em",
        [";"] = "0.28em",
        ["!"] = "-0.17em",
        [" "] = "0.33em",
        ["quad"] = "1em",
        ["qquad"] = "2em",
        ["hspace"] = "0.5em",
    };

    public static readonly Dictionary<string, string> Identifiers = Pairs("""
        alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ
        sigma σ tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Phi Φ Psi Ψ Omega Ω
        infty ∞ partial ∂ nabla ∇ ell ℓ hbar ℏ emptyset ∅ varnothing ∅ Re ℜ Im ℑ aleph ℵ forall ∀ exists ∃ top ⊤ bot ⊥
        """);

    public static readonly Dictionary<string, string> Operators = Pairs("""
        times × cdot ⋅ div ÷ pm ± mp ∓ ast ∗ star ⋆ circ ∘ bullet ∙ oplus ⊕ otimes ⊗ odot ⊙ le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ approx ≈ equiv ≡ sim ∼ simeq ≃
        propto ∝ ll ≪ gg ≫ in ∈ notin ∉ ni ∋ subset ⊂ subseteq ⊆ supset ⊃ cup ∪ cap ∩ setminus ∖ to → rightarrow → leftarrow ← leftrightarrow ↔ mapsto ↦
        Rightarrow ⇒ Leftarrow ⇐ Leftrightarrow ⇔ implies ⟹ iff ⟺ uparrow ↑ downarrow ↓ longrightarrow ⟶ gets ← land ∧ wedge ∧ lor ∨ vee ∨ neg ¬ lnot ¬
        sum ∑ prod ∏ int ∫ oint ∮ bigcup ⋃ bigcap ⋂ ldots … dots … cdots ⋯ vdots ⋮ ddots ⋱ mid ∣ parallel ∥ perp ⊥ langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉
        lvert | rvert | vert | lVert ‖ rVert ‖ Vert ‖ { { } } | ‖ % % _ _ & & # # $ $ colon : prime ′ dagger † triangleq ≜ lbrace { rbrace } backslash \
        """);

    private static Dictionary<string, string> Pairs(string text)
    {
        var words = text.Split((char[])[' ', '\n', '\r'], StringSplitOptions.RemoveEmptyEntries);
        return Enumerable.Range(0, words.Length / 2).ToDictionary(i => words[2 * i], i => words[2 * i + 1]);
    }

    /// <summary>Letters in Unicode's mathematical alphabets, since MathML Core has no other way; null where the alphabet has none.</summary>
    public static string? Styled(string letters, string font)
    {
        // Starts of A-Z and a-z in the Mathematical Alphanumeric Symbols block.
        var (upper, lower, digit) = font switch
        {
            "mathbf" or "bm" or "boldsymbol" => (0x1D400, 0x1D41A, 0x1D7CE),
            "mathbb" => (0x1D538, 0x1D552, 0x1D7D8),
            "mathcal" or "mathscr" => (0x1D49C, 0x1D4B6, 0),
            "mathfrak" => (0x1D504, 0x1D51E, 0),
            "mathsf" => (0x1D5A0, 0x1D5BA, 0x1D7E2),
            _ => (0, 0, 0),
        };
        var styled = new StringBuilder();
        foreach (var c in letters)
        {
            if (Exceptions.TryGetValue((font == "mathscr" ? "mathcal" : font, c), out var early))
                styled.Append(early);
            else if (char.IsAsciiLetterUpper(c) && upper > 0)
                styled.Append(char.ConvertFromUtf32(upper + c - 'A'));
            else if (char.IsAsciiLetterLower(c) && lower > 0)
                styled.Append(char.ConvertFromUtf32(lower + c - 'a'));
            else if (char.IsAsciiDigit(c) && digit > 0)
                styled.Append(char.ConvertFromUtf32(digit + c - '0'));
            else
                return null;
        }
        return styled.ToString();
    }

    /// <summary>Letters that Unicode had before it had the alphabets.</summary>
    private static readonly Dictionary<(string, char), string> Exceptions = new()
    {
        [("mathbb", 'R')] = "ℝ",
        [("mathbb", 'N')] = "ℕ",
        [("mathbb", 'Z')] = "ℤ",
        [("mathbb", 'Q')] = "ℚ",
        [("mathbb", 'C')] = "ℂ",
        [("mathbb", 'P')] = "ℙ",
        [("mathbb", 'H')] = "ℍ",
        [("mathcal", 'B')] = "ℬ",
        [("mathcal", 'E')] = "ℰ",
        [("mathcal", 'F')] = "ℱ",
        [("mathcal", 'H')] = "ℋ",
        [("mathcal", 'I')] = "ℐ",
        [("mathcal", 'L')] = "ℒ",
        [("mathcal", 'M')] = "ℳ",
        [("mathcal", 'R')] = "ℛ",
        [("mathcal", 'e')] = "ℯ",
        [("mathcal", 'g')] = "ℊ",
        [("mathcal", 'o')] = "ℴ",
        [("mathfrak", 'C')] = "ℭ",
        [("mathfrak", 'H')] = "ℌ",
        [("mathfrak", 'I')] = "ℑ",
        [("mathfrak", 'R')] = "ℜ",
        [("mathfrak", 'Z')] = "ℨ",
    };
}
