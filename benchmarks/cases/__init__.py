"""The cases: each is a function from `quick` to rows, registered in `benchmarks.ops`, `benchmarks.models` or
`benchmarks.scaling`."""
