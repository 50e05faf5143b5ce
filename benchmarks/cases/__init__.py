"""The cases: each is a function from `quick` to rows, registered in `benchmarks.ops`, `benchmarks.models`,
`benchmarks.scaling` or `benchmarks.generation`."""
