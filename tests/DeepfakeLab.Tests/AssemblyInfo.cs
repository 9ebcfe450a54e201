using DeepfakeLab.Tests;
using Xunit.Sdk;
using Xunit.v3;

// One test at a time, as torch has one random generator, which a seeded test must have to itself, and counts tensors for the whole process.
// Only tests whose work is done in other processes run beside them: those that have a collection of their own (notebooks in Jupyter and elsewhere).
[assembly: CollectionBehavior(CollectionBehavior.CollectionPerAssembly)]
[assembly: TestCollectionOrderer(typeof(LongestFirst))]
[assembly: AssemblyFixture(typeof(InstalledKernel))]

namespace DeepfakeLab.Tests;

/// <summary>Two lines of tests are of one length where what takes longest begins first and short collections fill the rest.</summary>
public sealed class LongestFirst : ITestCollectionOrderer
{
    private static readonly string[] ofTheirOwn = [nameof(JupyterPageTests), nameof(NbconvertTests), nameof(NotebookRunTests), nameof(JupyterTests), nameof(InteractiveTests)];

    public IReadOnlyCollection<T> OrderTestCollections<T>(IReadOnlyCollection<T> testCollections) where T : ITestCollection =>
        [.. testCollections.OrderBy(c => Array.IndexOf(ofTheirOwn, c.TestCollectionDisplayName))]; // -1: all others
}
