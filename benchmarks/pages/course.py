"""Draws docs/course.svg, the README's picture of the trainings, from results/.

    python -m benchmarks.pages.course [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench`, by default those of the README but `books`; a panel each, but that of
`quick-pointer` gives further models to that of `quick`. The picture holds the figures that it shows, as JSON in the
description of its metadata, and is drawn anew only where they differ from those of the files, for other versions of
matplotlib draw the same figures in other bytes; empty the file to draw it all the same. --check writes nothing and
exits with code 1 if the figures differ.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages.comparison import MORE_MODELS, joined
from benchmarks.pages.page import by_model, leaks, page_writer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "course.svg"
SUITES = ("seed-local-tuned", "small", "quick", *MORE_MODELS)
FILES = [ROOT / "results" / suite / "results.json" for suite in SUITES]
NAMES = {
    "resnet-bk": "ResNet-BK",
    "no-pointer": "ResNet-BK without the pointer",
    "llama-pointer": "Llama with the pointer",
    "llama": "Llama",
    "mamba2": "Mamba-2",
    "gated-deltanet": "Gated DeltaNet",
    "gpt2": "GPT-2",
}
LEFT_OUT = ("gemma3", "gemma3-pointer")  # there are seven colours
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
PANEL, LEGEND = (4.0, 3.3), 0.35  # inches
ENDS = ("resnet-bk", "llama")  # whose last figure is written out

# model -> [million tokens, held-out perplexity] of each validation, the mean over its seeds
Curves = dict[str, list[list[float]]]


def curves(results: Mapping[str, Any]) -> Curves:
    """Held-out perplexity in the course of a training, of the models in the order of `NAMES` that do not leak.

    Raises:
        ValueError: no model has such figures, or seeds of one were validated at other steps, or had no
            finite perplexity at one.
    """
    protocol = results["protocol"]
    tokens = protocol["batch_size"] * protocol["sequence_length"] / 1e6
    found: Curves = {}
    models = by_model(results)
    for name in sorted(models, key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES)):
        if leaks(models[name]) or name in LEFT_OUT:
            continue
        logs = [run["validation_log"] for run in models[name]]
        steps = [[point["step"] for point in log] for log in logs]
        if any(of_seed != steps[0] for of_seed in steps):
            raise ValueError(
                f"{protocol['name']}: the seeds of {name} were validated at other steps; draw runs of one protocol"
            )
        if any(point["perplexity"] is None for log in logs for point in log):
            raise ValueError(
                f"{protocol['name']}: a seed of {name} had no finite perplexity at some step; draw runs that have one"
            )
        means = [fmean(point["perplexity"] for point in points) for points in zip(*logs, strict=True)]
        found[name] = [[round(step * tokens, 3), round(mean, 2)] for step, mean in zip(steps[0], means, strict=True)]
    if not found:
        raise ValueError(f"the results of {protocol['name']} have no model with a course; train one that is causal")
    return found


def draw(panels: Mapping[str, Curves]) -> str:
    """The picture as SVG: a panel a protocol, one legend, the figures in its metadata."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from resnet_bk.bench.report.plot_style import INK, RC, finish_axes, plain_log_axis, styles_by_model

    names = [name for name in NAMES if any(name in panel for panel in panels.values())]
    names += sorted({name for panel in panels.values() for name in panel} - {*names})
    styles = styles_by_model(names)
    width, height = PANEL[0] * len(panels), PANEL[1] + LEGEND
    # Letters as outlines: the fonts of those who look at it are not known.
    with mpl.rc_context(RC | {"svg.hashsalt": "course", "svg.fonttype": "path"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        shown = {}
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (protocol, panel) in zip(places, panels.items(), strict=True):
            for name, points in panel.items():
                style = styles[name]
                (shown[name],) = axes.plot(
                    *zip(*points, strict=True),
                    color=style.color,
                    linestyle=style.dashes,
                    linewidth=1.8,
                    marker=style.marker,
                    markersize=4,
                )
                if name in ENDS:
                    axes.annotate(
                        f"{points[-1][1]:.1f}",
                        points[-1],
                        xytext=(6, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=8,
                        color=style.color,
                    )
            axes.set_yscale("log")
            # To the right there is place for what is written out.
            axes.set_xlim(0, 1.13 * max(place for points in panel.values() for place, _ in points))
            plain_log_axis(axes, "y")
            finish_axes(axes)
            axes.set_title(protocol, color=INK, fontweight="bold", fontsize=10, loc="left")
            axes.set_xlabel("million tokens of training")
            axes.set_ylabel("held-out perplexity")
        labels = [NAMES.get(name, name) for name in names]
        figure.legend([shown[name] for name in names], labels, loc="outside upper left", ncols=6, frameon=False)
        written = StringIO()
        about = {"Title": "Held-out perplexity in the course of the training", "Description": json.dumps(panels)}
        figure.savefig(written, format="svg", metadata=about | {"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def figures(picture: str) -> Any:
    """What a picture shows, from its metadata.

    Raises:
        ValueError: it is none that `draw` made.
    """
    try:
        return json.loads(ET.fromstring(picture).findtext(f".//{DESCRIPTION}") or "")
    except (ET.ParseError, ValueError):
        raise ValueError("the picture holds no figures; empty the file, and call without --check to draw it") from None


def fill(picture: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The picture of these results: as it is where it shows their figures.

    Raises:
        ValueError: see `curves`, `figures` and `comparison.joined`.
    """
    panels = {found["protocol"]["name"]: curves(found) for found in joined(results)}
    return picture if picture and figures(picture) == panels else draw(panels)


main = page_writer("course", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(main)
