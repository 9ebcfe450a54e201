// One test at a time, as torch has one random generator, which a seeded test must have to itself, and counts tensors for the whole process.
// Only tests whose work is done in other processes run beside them (KernelProcesses): the first of two threads takes these, the second those.
[assembly: CollectionBehavior(CollectionBehavior.CollectionPerAssembly)]
