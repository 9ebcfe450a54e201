using System.Net;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace DeepfakeLab.Notebooks;

/// <summary>C# with its keywords, strings, numbers, comments, types and calls marked, as the compiler's own parser sees them.</summary>
internal static class CodeColours
{
    public static string ToHtml(string code)
    {
        var html = new StringBuilder();
        var root = CSharpSyntaxTree.ParseText(code, CellParser.ScriptOptions).GetRoot();
        foreach (var token in root.DescendantTokens())
        {
            foreach (var trivia in token.LeadingTrivia)
                Append(html, trivia);
            Append(html, token.Text, ClassOf(token));
            foreach (var trivia in token.TrailingTrivia)
                Append(html, trivia);
        }
        return html.ToString();
    }

    private static void Append(StringBuilder html, SyntaxTrivia trivia) => Append(html, trivia.ToFullString(), trivia.Kind() switch
    {
        SyntaxKind.SingleLineCommentTrivia or SyntaxKind.MultiLineCommentTrivia or SyntaxKind.SingleLineDocumentationCommentTrivia => "comment",
        _ when trivia.IsDirective => "directive",
        _ => null,
    });

    private static void Append(StringBuilder html, string text, string? kind)
    {
        if (kind is null)
            html.Append(WebUtility.HtmlEncode(text));
        else if (text.Length > 0)
            html.Append("<span class=\"").Append(kind).Append("\">").Append(WebUtility.HtmlEncode(text)).Append("</span>");
    }

    private static string? ClassOf(SyntaxToken token) => token.Kind() switch
    {
        SyntaxKind.StringLiteralToken or SyntaxKind.CharacterLiteralToken or SyntaxKind.InterpolatedStringTextToken or SyntaxKind.InterpolatedStringStartToken
            or SyntaxKind.InterpolatedStringEndToken or SyntaxKind.MultiLineRawStringLiteralToken or SyntaxKind.SingleLineRawStringLiteralToken => "string",
        SyntaxKind.NumericLiteralToken => "number",
        SyntaxKind.IdentifierToken => token.Parent switch
        {
            IdentifierNameSyntax { IsVar: true } => "keyword",
            TypeDeclarationSyntax or ObjectCreationExpressionSyntax => "type",
            IdentifierNameSyntax { Parent: InvocationExpressionSyntax } => "call",
            IdentifierNameSyntax { Parent: MemberAccessExpressionSyntax { Parent: InvocationExpressionSyntax } access } name when access.Name == name => "call",
            GenericNameSyntax { Parent: MemberAccessExpressionSyntax { Parent: InvocationExpressionSyntax } } => "call",
            IdentifierNameSyntax { Parent: ObjectCreationExpressionSyntax or VariableDeclarationSyntax or ParameterSyntax or TypeArgumentListSyntax } or GenericNameSyntax => "type",
            _ => null,
        },
        _ when token.IsKeyword() || SyntaxFacts.IsContextualKeyword(token.Kind()) => "keyword",
        _ => null,
    };
}
