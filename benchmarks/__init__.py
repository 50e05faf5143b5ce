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

and what writes their figures into the pages, `python -m benchmarks.pages` all of them:

    python -m benchmarks.tables          docs/performance.md from the JSON of the first three
    python -m benchmarks.ablation        docs/switches.md from that of the `ablation` protocols and of trained models
    python -m benchmarks.results         docs/results.md from that of the tuned comparisons and recall
    python -m benchmarks.choices         docs/choices.md from that of trainings with other choices
    python -m benchmarks.front           the first table of README.md from that of the comparisons
    python -m benchmarks.readme          its other tables from the same
    python -m benchmarks.course          docs/course.svg from the same
    python -m benchmarks.reproduction    docs/reproduction.md from that of the `seed-local` runs

Importing this package imports nothing else: process settings are made before PyTorch is loaded.
"""
