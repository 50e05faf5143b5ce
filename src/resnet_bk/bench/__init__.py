"""The benchmark. Imports nothing heavy by itself.

`runner` trains the models of a protocol: what it says is in `protocol` (files in `protocols/`), its text in `data`, its
models of equal size in `peers`; one training is `run`, the rates of a model are `grid`, files are `run_folder`. What is
made of the results is in `report/`. Around it, a folder each: the causality `audit/`, `flops/`, `ngrams/`, associative
`recall/`, and what is asked of `trained/` models.
"""
