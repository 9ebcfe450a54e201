using System.Runtime.CompilerServices;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Text;

namespace DeepfakeLab.Notebooks;

/// <summary>Lets a running cell be stopped: each loop and function of its code asks here whether to go on.</summary>
public static class CellInterrupt
{
    private static int interrupted; // how many cells of this process are being interrupted; nearly always 0

    /// <summary>Called by instrumented cell code. Costs one memory read unless a cell is being interrupted.</summary>
    /// <exception cref="OperationCanceledException">The cell that this code belongs to is to stop.</exception>
    public static void Check()
    {
        if (Volatile.Read(ref interrupted) > 0)
            CellContext.Current?.Cancellation.ThrowIfCancellationRequested();
    }

    /// <summary>Called at the head of each function: a recursion without end becomes an error of its cell, and not the end of the process.</summary>
    /// <exception cref="InsufficientExecutionStackException">Too little of the stack is left.</exception>
    public static bool Enter()
    {
        Check();
        RuntimeHelpers.EnsureSufficientExecutionStack();
        return true;
    }

    /// <summary>The same for a body that is an expression: <c>x => f(x)</c> becomes <c>x => Then(Enter(), f(x))</c>.</summary>
    public static T Then<T>(bool entered, T value) => value;

    /// <summary>What cell code awaits: the wait ends when the cell is interrupted, even if the task does not.</summary>
    public static Task Wait(Task task) => task.WaitAsync(CellContext.Current?.Cancellation ?? default);

    /// <inheritdoc cref="Wait(Task)"/>
    public static Task<T> Wait<T>(Task<T> task) => task.WaitAsync(CellContext.Current?.Cancellation ?? default);

    internal static void Begin() => Interlocked.Increment(ref interrupted);

    internal static void End() => Interlocked.Decrement(ref interrupted);

    /// <summary>The same code with a check at the head of every loop and in every function; no line moves.</summary>
    /// <param name="model">The meaning of the code; asked only where a function's body is an expression.</param>
    internal static InstrumentedCode Instrument(SourceText source, SyntaxNode root, Lazy<SemanticModel> model)
    {
        var walker = new Walker(model);
        walker.Visit(root);
        var insertions = walker.Insertions.OrderBy(i => i.Position).ToList(); // stable: equal positions stay in order of visit
        var text = source.WithChanges(insertions
            .GroupBy(i => i.Position)
            .Select(g => new TextChange(new TextSpan(g.Key, 0), string.Concat(g.Select(i => i.Text)))));
        return new InstrumentedCode(text, source, insertions);
    }

    private sealed class Walker(Lazy<SemanticModel> model) : CSharpSyntaxWalker
    {
        private const string Type = "global::DeepfakeLab.Notebooks.CellInterrupt.", Call = Type + "Check();", EnterCall = Type + "Enter();",
            Then = Type + "Then(" + Type + "Enter(),";

        public List<(int Position, string Text)> Insertions { get; } = [];

        public override void VisitForStatement(ForStatementSyntax node) => Loop(node, node.Statement, base.VisitForStatement);

        public override void VisitWhileStatement(WhileStatementSyntax node) => Loop(node, node.Statement, base.VisitWhileStatement);

        public override void VisitDoStatement(DoStatementSyntax node) => Loop(node, node.Statement, base.VisitDoStatement);

        public override void VisitForEachStatement(ForEachStatementSyntax node) => Loop(node, node.Statement, base.VisitForEachStatement);

        public override void VisitForEachVariableStatement(ForEachVariableStatementSyntax node) =>
            Loop(node, node.Statement, base.VisitForEachVariableStatement);

        public override void VisitMethodDeclaration(MethodDeclarationSyntax node)
        {
            Around(node.ExpressionBody?.Expression, () => base.VisitMethodDeclaration(node));
            Enter(node.Body);
        }

        public override void VisitLocalFunctionStatement(LocalFunctionStatementSyntax node)
        {
            Around(node.ExpressionBody?.Expression, () => base.VisitLocalFunctionStatement(node));
            Enter(node.Body);
        }

        public override void VisitConstructorDeclaration(ConstructorDeclarationSyntax node)
        {
            base.VisitConstructorDeclaration(node);
            Enter(node.Body);
        }

        public override void VisitPropertyDeclaration(PropertyDeclarationSyntax node) =>
            Around(node.ExpressionBody?.Expression, () => base.VisitPropertyDeclaration(node));

        public override void VisitAccessorDeclaration(AccessorDeclarationSyntax node)
        {
            Around(node.ExpressionBody?.Expression, () => base.VisitAccessorDeclaration(node));
            Enter(node.Body);
        }

        public override void VisitSimpleLambdaExpression(SimpleLambdaExpressionSyntax node)
        {
            Around(BodyOf(node), () => base.VisitSimpleLambdaExpression(node));
            Enter(node.Block);
        }

        public override void VisitParenthesizedLambdaExpression(ParenthesizedLambdaExpressionSyntax node)
        {
            Around(BodyOf(node), () => base.VisitParenthesizedLambdaExpression(node));
            Enter(node.Block);
        }

        public override void VisitLabeledStatement(LabeledStatementSyntax node)
        {
            Insertions.Add((node.ColonToken.Span.End, Call)); // a loop made with goto
            base.VisitLabeledStatement(node);
        }

        public override void VisitAwaitExpression(AwaitExpressionSyntax node)
        {
            var waits = model.Value.GetTypeInfo(node.Expression).Type is INamedTypeSymbol { Name: "Task", ContainingNamespace.Name: "Tasks" };
            if (waits)
                Insertions.Add((node.Expression.SpanStart, Type + "Wait("));
            base.VisitAwaitExpression(node);
            if (waits)
                Insertions.Add((node.Expression.Span.End, ")"));
        }

        private void Loop<T>(T node, StatementSyntax body, Action<T> visit)
        {
            if (body is BlockSyntax block)
            {
                Enter(block, Call);
                visit(node);
                return;
            }
            Insertions.Add((body.SpanStart, "{" + Call));
            visit(node);
            Insertions.Add((body.Span.End, "}"));
        }

        /// <summary>A lambda's body; null within an expression tree, where the code is data that others read.</summary>
        private ExpressionSyntax? BodyOf(LambdaExpressionSyntax lambda) =>
            lambda.ExpressionBody is { } body && model.Value.GetTypeInfo(lambda).ConvertedType is INamedTypeSymbol { TypeKind: TypeKind.Delegate } ? body : null;

        /// <summary>Puts the expression into a call, where that changes neither its type nor its meaning.</summary>
        private void Around(ExpressionSyntax? body, Action visit)
        {
            var wraps = body is not null and not (RefExpressionSyntax or ThrowExpressionSyntax) && Wraps(body);
            if (wraps)
                Insertions.Add((body!.SpanStart, Then));
            visit();
            if (wraps)
                Insertions.Add((body!.Span.End, ")"));
        }

        private bool Wraps(ExpressionSyntax body)
        {
            var type = model.Value.GetTypeInfo(body);
            return type.Type is { SpecialType: not SpecialType.System_Void, TypeKind: not (TypeKind.Error or TypeKind.Pointer or TypeKind.FunctionPointer), IsRefLikeType: false }
                && (SymbolEqualityComparer.Default.Equals(type.Type, type.ConvertedType) || type.ConvertedType is { SpecialType: SpecialType.System_Object })
                && !model.Value.GetConstantValue(body).HasValue;
        }

        private void Enter(BlockSyntax? block, string call = EnterCall)
        {
            if (block is { OpenBraceToken.IsMissing: false })
                Insertions.Add((block.OpenBraceToken.Span.End, call));
        }
    }
}

/// <summary>Code with insertions, and the way back from its positions to the ones that the user wrote.</summary>
internal sealed class InstrumentedCode(SourceText text, SourceText original, List<(int Position, string Text)> insertions)
{
    public SourceText Text { get; } = text;

    /// <summary>The line and column, counted from 0, of a position in the instrumented text.</summary>
    public LinePosition ToOriginal(int position)
    {
        var shift = 0;
        foreach (var (at, inserted) in insertions)
        {
            if (position < at + shift)
                break;
            if (position < at + shift + inserted.Length)
                return original.Lines.GetLinePosition(at);
            shift += inserted.Length;
        }
        return original.Lines.GetLinePosition(Math.Min(position - shift, original.Length));
    }
}
