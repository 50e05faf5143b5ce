"""Writes the figures of the README and of docs/ from results/, so that none is typed by hand. All of them:

    python -m benchmarks.pages

or those of one page or table, each by a file of this folder:

    python -m benchmarks.pages.front           README.md, ResNet-BK beside Llama, from the JSON of the comparisons
    python -m benchmarks.pages.readme          README.md, the table of all models of one comparison, from the same
    python -m benchmarks.pages.course          docs/course.svg, from the same
    python -m benchmarks.pages.results         docs/results.md, from that of the tuned comparisons and recall
    python -m benchmarks.pages.choices         docs/choices.md, from that of trainings with other choices
    python -m benchmarks.pages.reproduction    docs/reproduction.md, from that of the `seed-local` runs
    python -m benchmarks.pages.switches        docs/switches.md, from that of the `ablation` runs and of trained models
    python -m benchmarks.pages.performance     docs/performance.md, from that of the benchmarks of speed

`page.py` and `comparison.py` have what they share.
"""
