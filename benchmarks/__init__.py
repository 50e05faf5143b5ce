"""Speed, memory and accuracy of the operators and of a training step, each beside a baseline in the same process.

    python -m benchmarks.ops             the operators
    python -m benchmarks.models          a training step
    python -m benchmarks.scaling         a training step, by length
    python -m benchmarks.generation      one more token, by length
    python -m benchmarks.exits RUN       early exit of a trained model
    python -m benchmarks.trained RUN ... a training step of trained models
    python -m benchmarks.gpu             the Triton kernels, on a GPU
    python -m benchmarks.data            memory of the data path on 100 million tokens
    python -m benchmarks.losses PROTOCOL the first steps of its trainings, bit for bit those of another commit?

`benchmarks.pages` writes their figures, and those of trainings, into the README and docs/.

Importing this package imports nothing else: process settings are made before PyTorch is loaded.
"""
