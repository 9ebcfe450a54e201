using System.Collections.Immutable;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Loader;
using Microsoft.CodeAnalysis;

namespace DeepfakeLab.Notebooks;

/// <summary>The assemblies that cells are compiled against and run with, and how an <c>#r</c> adds to them.</summary>
/// <remarks>
/// Everything that a notebook references lives in a load context of the session's own, so its versions need not agree with the
/// kernel's. What is not referenced by name but needed by what is, is looked for beside it.
/// </remarks>
internal sealed class SessionAssemblies : IDisposable
{
    /// <summary>How the names of all assemblies made from cells begin.</summary>
    public const string CellPrefix = "cell";

    private readonly SessionOptions options;
    private readonly SessionContext context;
    private readonly List<string> folders = [];       // where managed dependencies may lie
    private readonly HashSet<string> hostFolders = []; // those of them whose assemblies the host has loaded, or would
    private readonly List<string> nativeFolders = [];
    private readonly Dictionary<string, string> packageFiles = new(StringComparer.OrdinalIgnoreCase); // simple name -> file
    private readonly HashSet<string> referenced = new(StringComparer.OrdinalIgnoreCase);              // simple names
    private readonly HashSet<string> frameworkNames = new(StringComparer.OrdinalIgnoreCase);
    private readonly PackageReferences packages;

    public SessionAssemblies(SessionOptions options)
    {
        this.options = options;
        packages = new PackageReferences(options.CacheFolder);
        References = FrameworkReferences().Add(MetadataReference.CreateFromFile(typeof(SessionAssemblies).Assembly.Location));
        Resolver = new MissingAssemblyResolver(this);
        context = new SessionContext(this);
        context.Resolving += (_, name) => Find(name.Name!) is { } path ? context.LoadFromAssemblyPath(path) : null;
        context.ResolvingUnmanagedDll += (_, name) => FindNative(name);
    }

    public ImmutableArray<MetadataReference> References { get; private set; }

    public MetadataReferenceResolver Resolver { get; }

    public Assembly Load(Stream pe, Stream pdb) => context.LoadFromStream(pe, pdb);

    /// <summary>Takes an <c>#r</c>'s text: a path relative to <paramref name="folder"/>, or <c>nuget: Name, Version</c>.</summary>
    /// <exception cref="NotebookException">There is no such file, or the packages cannot be restored.</exception>
    public async Task AddAsync(string target, string folder, CancellationToken cancellation)
    {
        if (target.StartsWith("nuget:", StringComparison.OrdinalIgnoreCase))
        {
            var restored = await packages.AddAsync(target["nuget:".Length..], cancellation);
            nativeFolders.AddRange(restored.NativeFolders.Except(nativeFolders));
            foreach (var file in restored.Assemblies)
                packageFiles.TryAdd(Path.GetFileNameWithoutExtension(file), file);
            foreach (var file in restored.Assemblies)
                AddFile(file, HostAssembly(file) is { } host && host.GetName().Version >= AssemblyName.GetAssemblyName(file).Version ? host : null);
            return;
        }
        if (target.StartsWith("path:", StringComparison.Ordinal))
            return; // a note for other tools
        var name = Path.GetFileNameWithoutExtension(target);
        if (!target.Contains('/') && !target.Contains('\\') && frameworkNames.Contains(name))
            return; // #r "System.Net.Http": always there
        var path = Path.GetFullPath(target.Replace('\\', '/'), folder);
        if (HostAssembly(path) is { } known)
            AddFile(path, known);
        else if (File.Exists(path))
            AddFile(path, null);
        else
            throw new NotebookException("The file of this #r does not exist", target,
                options.ExplainMissing?.Invoke(path) ?? "The path is relative to the notebook's folder; build or copy the file there first");
    }

    /// <summary>The host's assembly for this file name: one of its own list, or one that lies beside those.</summary>
    private Assembly? HostAssembly(string path)
    {
        var name = Path.GetFileNameWithoutExtension(path);
        foreach (var assembly in options.HostAssemblies)
        {
            if (string.Equals(assembly.GetName().Name, name, StringComparison.OrdinalIgnoreCase))
                return assembly;
            if (File.Exists(Path.Combine(Path.GetDirectoryName(assembly.Location)!, name + ".dll")))
                return AssemblyLoadContext.Default.LoadFromAssemblyName(new AssemblyName(name));
        }
        return null;
    }

    private void AddFile(string path, Assembly? host)
    {
        var file = host?.Location ?? path;
        if (!referenced.Add(Path.GetFileNameWithoutExtension(file)))
            return;
        var directory = Path.GetDirectoryName(file)!;
        if (!folders.Contains(directory))
            folders.Add(directory);
        if (host is not null)
            hostFolders.Add(directory);
        References = References.Add(MetadataReference.CreateFromFile(file));
        if (host is null)
        {
            var loaded = context.LoadFromAssemblyPath(file); // now, so that later requests by name meet this very file
            options.Referenced?.Invoke(loaded);
        }
    }

    private string? Find(string name) =>
        packageFiles.TryGetValue(name, out var file) ? file
        : folders.Select(f => Path.Combine(f, name + ".dll")).FirstOrDefault(File.Exists);

    private nint FindNative(string name)
    {
        var platform = RuntimeInformation.RuntimeIdentifier;
        var searched = nativeFolders.Concat(folders.SelectMany(f => (string[])[f, Path.Combine(f, "runtimes", platform, "native")]));
        string[] names = OperatingSystem.IsWindows() ? [name, name + ".dll"]
            : OperatingSystem.IsMacOS() ? [name, $"lib{name}.dylib", name + ".dylib"]
            : [name, $"lib{name}.so", name + ".so"];
        foreach (var path in searched.SelectMany(f => names.Select(n => Path.Combine(f, n))))
            if (File.Exists(path) && NativeLibrary.TryLoad(path, out var handle))
                return handle;
        return 0;
    }

    /// <summary>The shared framework only: a notebook sees of the host no more than it asks for, here as in any other kernel.</summary>
    /// <remarks>
    /// Read anew for each session: the compiler keeps the symbols it has made of a file with the file, and takes them from there for the
    /// next cell. Symbols that another session's compilation left would make a type of an earlier cell differ from itself.
    /// </remarks>
    private ImmutableArray<MetadataReference> FrameworkReferences()
    {
        var folder = Path.GetDirectoryName(typeof(object).Assembly.Location)!;
        var trusted = (AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") as string ?? "").Split(Path.PathSeparator).Where(p => Path.GetDirectoryName(p) == folder).ToList();
        frameworkNames.UnionWith(trusted.Select(p => Path.GetFileNameWithoutExtension(p)));
        return [.. trusted.Select(p => (MetadataReference)MetadataReference.CreateFromFile(p))];
    }

    public void Dispose() => packages.Dispose();

    /// <summary>
    /// Takes what lies beside a referenced file from there, before the host's own: the kernel's program may lie in the same folder, and
    /// the library with one TorchSharp, cells with another, would have tensors that are none to each other.
    /// </summary>
    private sealed class SessionContext(SessionAssemblies owner) : AssemblyLoadContext("notebook")
    {
        protected override Assembly? Load(AssemblyName name)
        {
            if (owner.frameworkNames.Contains(name.Name!) || name.Name == typeof(SessionAssemblies).Assembly.GetName().Name)
                return null;
            return owner.Find(name.Name!) is { } path && !owner.hostFolders.Contains(Path.GetDirectoryName(path)!) ? LoadFromAssemblyPath(path) : null;
        }
    }

    /// <summary>Finds what referenced assemblies refer to in their turn.</summary>
    private sealed class MissingAssemblyResolver(SessionAssemblies owner) : MetadataReferenceResolver
    {
        private readonly Dictionary<string, PortableExecutableReference> found = new(StringComparer.OrdinalIgnoreCase);

        public override bool ResolveMissingAssemblies => true;

        public override PortableExecutableReference? ResolveMissingAssembly(MetadataReference definition, AssemblyIdentity referenceIdentity)
        {
            lock (found)
            {
                if (found.TryGetValue(referenceIdentity.Name, out var known))
                    return known;
                return owner.Find(referenceIdentity.Name) is { } path ? found[referenceIdentity.Name] = MetadataReference.CreateFromFile(path) : null;
            }
        }

        public override ImmutableArray<PortableExecutableReference> ResolveReference(string reference, string? baseFilePath, MetadataReferenceProperties properties) => [];

        public override bool Equals(object? other) => ReferenceEquals(this, other);

        public override int GetHashCode() => 0;
    }
}
