"""The report's plots, each as a PNG file and as SVG for the page.

Figures are drawn with ``matplotlib.figure.Figure`` alone: no pyplot, no global state, the same bytes for the same
results. The SVG takes its colours from CSS variables of the page, so that one drawing serves light, dark and print.
A model has the same colour, dash and marker everywhere, so that colour alone carries nothing.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.findings import reference_model
from resnet_bk.bench.report.plot_style import (
    HEIGHT,
    INK,
    RC,
    count_axis,
    finish_axes,
    new_figure,
    plain_log_axis,
    rendered,
    shorten,
    styles_by_model,
)
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import ModelSummary, on_shared_seeds, summarize

LEFT_OUT = ("leaks", "diverged")  # states of models that have no curve
MAX_POINTS = 300  # a line of the plot; more cannot be told apart at this width
SMOOTHING_SHARE = 40  # the bold line is a mean over 1/40 of the run
LOG_FROM = 3.0  # an axis of perplexity is logarithmic where its ends differ by this factor
SHOWN_FROM = 0.1  # the first tenth of a run may leave the frame above
LINE_HEIGHT, LABEL_GAP = 15.0, 20.0  # of the names at the ends of lines, CSS pixels

# model -> one curve a seed, each an array [points, 2] of x and y
Curves = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Plot:
    """One plot: ``name`` is the stem of its PNG file, ``alternative`` says in words what it shows."""

    name: str
    title: str
    caption: str
    alternative: str
    png: bytes
    svg: str


def draw_plots(results: dict[str, Any]) -> list[Plot]:
    """Every plot that the results have data for.

    Raises:
        ValueError: one line that names what ``results`` lacks.
    """
    models = summarize(parse_results(results))
    plots = [
        _curve_plot(
            models,
            _curves(models, lambda run: [(point.step, point.loss) for point in run.log]),
            name="loss-steps",
            title="Training loss against steps",
            x_title="training steps",
            y_title="training loss (nats per token)",
        ),
        _curve_plot(
            models,
            _curves(models, lambda run: [(point.seconds, point.loss) for point in run.log]),
            name="loss-seconds",
            title="Training loss against seconds",
            x_title="training time (s)",
            y_title="training loss (nats per token)",
        ),
        _curve_plot(
            models,
            _curves(models, lambda run: [(point.step, point.perplexity) for point in run.validation_log]),
            name="validation-steps",
            title="Held-out perplexity against steps",
            x_title="training steps",
            y_title="held-out perplexity",
            smooth=False,
        ),
        _curve_plot(
            models,
            _curves(models, lambda run: [(point.seconds, point.perplexity) for point in run.validation_log]),
            name="validation-seconds",
            title="Held-out perplexity against seconds",
            x_title="training time (s)",
            y_title="held-out perplexity",
            smooth=False,
        ),
        _measure_plot(models, "depth", "Blocks a token passes", "blocks a token, mean"),
        _measure_plot(models, "kept", "Sites that stay in the chains", "share of sites kept"),
        _bucket_plot(models),
        _ratio_plot(models),
    ]
    return [plot for plot in plots if plot is not None]


def _curves(models: list[ModelSummary], points: Callable[[Any], list[tuple[float, float]]]) -> Curves:
    curves: Curves = {}
    for model in models:
        # What leaks has seen the answer, and what diverged has seeds left that would flatter it.
        if model.state in LEFT_OUT:
            continue
        lines = []
        for run in model.runs:
            line = np.asarray(points(run), dtype=np.float64).reshape(-1, 2)
            line = line[np.isfinite(line).all(axis=1)]
            if len(line) >= 2:
                lines.append(line)
        if lines:
            curves[model.name] = lines
    return curves


def _measure_plot(models: list[ModelSummary], measure: str, title: str, y_title: str) -> Plot | None:
    """What some models report of themselves in training."""

    def points(run: Any) -> list[tuple[float, float]]:
        return [(point.step, point.measures[measure]) for point in run.log if measure in point.measures]

    return _curve_plot(
        models,
        _curves(models, points),
        name=f"{measure}-steps",
        title=f"{title}, against steps",
        x_title="training steps",
        y_title=y_title,
        targets=_curves(models, _kept_target) if measure == "kept" else {},
    )


def _kept_target(run: Any) -> list[tuple[float, float]]:
    """The share of sites that the gates were to keep, over the steps; nothing where the configuration has none."""
    config = getattr(run, "config", None) or {}
    shares = config.get("sparse_bk")
    if shares is None:
        return []
    gated = [share for share in shares if share < 1] if isinstance(shares, list | tuple) else [shares]
    from resnet_bk.layers.sparse import target_share  # here, for it brings PyTorch with it

    schedule, steps = config["sparsity_schedule"], run.log[-1].step if run.log else 0
    places = sorted({0.0, schedule, 1.0})
    return [(place * steps, fmean(target_share(share, place, schedule) for share in gated)) for place in places]


def _smoothed(line: np.ndarray) -> np.ndarray:
    """Centred moving mean over 1/40 of the points; the ends use what points there are."""
    half = len(line) // (2 * SMOOTHING_SHARE)
    if half == 0:
        return line
    total = np.concatenate([[0.0], np.cumsum(line[:, 1])])
    index = np.arange(len(line))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(line))
    return np.column_stack([line[:, 0], (total[high] - total[low]) / (high - low)])


def _mean_curve(lines: list[np.ndarray]) -> np.ndarray:
    """The mean over seeds, point by point.

    Where seeds logged more or fewer points, they are those of the one with the fewest: equal shares of the training,
    each between the points of a seed that are next to it.
    """
    if len({len(line) for line in lines}) == 1:
        return np.mean(lines, axis=0)
    shares = [line[:, 0] / (line[-1, 0] or 1.0) for line in lines]
    fewest = min(shares, key=len)
    grid = fewest[fewest >= max(share[0] for share in shares)]
    values = [np.interp(grid, share, line[:, 1]) for share, line in zip(shares, lines, strict=True)]
    return np.column_stack([grid * np.mean([line[-1, 0] for line in lines]), np.mean(values, axis=0)])


def _thinned(line: np.ndarray) -> np.ndarray:
    stride = max(1, math.ceil(len(line) / MAX_POINTS))
    return np.concatenate([line[:-1:stride], line[-1:]])


def _curve_plot(
    models: list[ModelSummary],
    curves: Curves,
    *,
    name: str,
    title: str,
    x_title: str,
    y_title: str,
    smooth: bool = True,
    targets: Curves | None = None,
) -> Plot | None:
    if not curves:
        return None
    styles = styles_by_model([model.name for model in models])
    means = {
        model: _mean_curve([_smoothed(line) if smooth else line for line in lines]) for model, lines in curves.items()
    }
    raw_shown = smooth and any(len(line) // (2 * SMOOTHING_SHARE) for lines in curves.values() for line in lines)
    seeds = max(len(lines) for lines in curves.values())

    with mpl.rc_context(RC | {"svg.hashsalt": name}):
        figure = new_figure(HEIGHT)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        for model, lines in curves.items():
            style = styles[model]
            if raw_shown or seeds > 1:
                for line in lines:
                    axes.plot(*_thinned(line).T, color=style.color, linewidth=0.7, alpha=0.3, solid_joinstyle="round")
            axes.plot(
                *_thinned(means[model]).T,
                color=style.color,
                linestyle=style.dashes,
                linewidth=1.8,
                marker="" if smooth else style.marker,
                markersize=4,
                clip_on=smooth,
            )
        targets = targets or {}
        for model, lines in targets.items():  # all seeds have one
            axes.plot(*lines[0].T, color=styles[model].color, linestyle=(0, (1, 2)), linewidth=1.2)
        cut = _set_y_limits(axes, curves, SHOWN_FROM if smooth else 0.0)
        axes.set_xlim(0, max(float(line[-1, 0]) for lines in curves.values() for line in lines) or 1.0)
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        finish_axes(axes)
        count_axis(axes, whole=name.endswith("steps"))
        low, high = axes.get_ylim()
        if not smooth and high > LOG_FROM * low:
            axes.set_yscale("log")
            plain_log_axis(axes, "y")
        _frame_with_end_labels(figure, axes, {model: (*line[-1], styles[model].color) for model, line in means.items()})
        png, svg = rendered(figure, title, name)

    parts = []
    if raw_shown:
        parts.append(
            "Thin: as logged; bold: moving mean over 1/40 of the run" + (", mean of the seeds." if seeds > 1 else ".")
        )
    elif seeds > 1:
        parts.append("Thin: each seed; bold: their mean.")
    if targets:
        parts.append("Dotted: the target.")
    if not smooth:
        parts.append("Over the whole validation split.")
    if cut:
        parts.append("The start of the run lies above the frame.")
    parts.extend(f"{model.name} {model.state} and is left out." for model in models if model.state in LEFT_OUT)
    ends = sorted(((float(line[-1, 1]), model) for model, line in means.items()), key=lambda end: end[0])
    digits = 2 if smooth else 1
    told = ", ".join(f"{model} {value:,.{digits}f}" for value, model in ends)
    last = max(float(line[-1, 0]) for line in means.values())
    where = f"{last:,.0f} steps" if name.endswith("steps") else f"at most {fmt.duration(last)}"
    alternative = f"{title}. Lowest at the end first, after {where}: {told}."
    return Plot(name, title, " ".join(parts), alternative, png, svg)


def _set_y_limits(axes: Axes, curves: Curves, shown_from: float) -> bool:
    """Frame the curves from this share of the run on: the first drop would flatten the rest. True if it is cut off."""
    every = [line for lines in curves.values() for line in lines]
    end = max(float(line[-1, 0]) for line in every)
    later = [line[line[:, 0] >= shown_from * end] for line in every]
    values = np.concatenate([line[:, 1] for line in later if len(line)])
    top, bottom = float(values.max()), float(values.min())
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    axes.set_ylim(bottom - margin if bottom - margin > 0 else bottom / 2, top + margin)
    return any(float(line[:, 1].max()) > top + margin for line in every)


def _frame_with_end_labels(figure: Figure, axes: Axes, ends: dict[str, tuple[float, float, str]]) -> None:
    """Write each model's name beside the end of its line, pushed apart where lines end together, and fit the frame."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    order = sorted(ends, key=lambda model: ends[model][1])
    labels = [
        figure.text(0, 0, shorten(model), color=ends[model][2], va="center", fontweight="bold", parse_math=False)
        for model in order
    ]
    width, height = figure.get_size_inches() * figure.dpi
    left, bottom, top = 54.0, 46.0, height - 34.0
    right = width - max(label.get_window_extent(renderer).width for label in labels) - LABEL_GAP - 12
    axes.set_position((left / width, bottom / height, (right - left) / width, (top - bottom) / height))
    points = [axes.transData.transform(ends[model][:2]) for model in order]
    # Least squares under "each label one line above the one before": isotonic once the line heights are taken off.
    stack = LINE_HEIGHT * np.arange(len(order))
    wanted = np.array([point[1] for point in points])
    places = np.clip(isotonic_regression(wanted - stack).x, bottom + 6, max(bottom + 6, top - stack[-1])) + stack
    for label, model, place, (x, y) in zip(labels, order, places, points, strict=True):
        label.set_position(((right + LABEL_GAP) / width, place / height))
        lead_x, lead_y = np.array([x + 4, right + LABEL_GAP - 3]) / width, np.array([y, place]) / height
        figure.add_artist(Line2D(lead_x, lead_y, color=ends[model][2], linewidth=0.6, alpha=0.6))


def _bucket_plot(models: list[ModelSummary]) -> Plot | None:
    values = {model.name: model.bucket_perplexities() for model in models if model.bucket_perplexities()}
    if not values:
        return None
    numbers = [value for buckets in values.values() for value in buckets.values() if value is not None]
    if not numbers:
        return None
    title = "Held-out perplexity by word frequency"
    alike = len({model.seeds for model in models if model.name in values}) == 1
    logarithmic = max(numbers) > 20 * min(numbers)
    told = []
    for bucket in _bucket_names(values):
        inside = {model: value for model, buckets in values.items() if (value := buckets.get(bucket)) is not None}
        if inside:
            best = min(inside, key=inside.__getitem__)
            # Where models have other seeds the lowest may owe it to them.
            which = f"{best} lowest with" if alike else "from"
            told.append(f"{bucket}: {which} {fmt.perplexity(inside[best])}")
    plot = _dot_plot(
        models,
        values,
        name="buckets",
        title=title,
        x_title="held-out perplexity" + (" (log scale)" if logarithmic else ""),
        logarithmic=logarithmic,
    )
    caption = "Rows: times a word occurs in the training text."
    return Plot("buckets", title, caption, f"{title}. {'; '.join(told)}.", *plot)


def _ratio_plot(models: list[ModelSummary]) -> Plot | None:
    reference = reference_model(models)
    if reference is None:
        return None
    ratios: dict[str, dict[str, float | None]] = {}
    for other in models:
        if other is reference or other.state in LEFT_OUT:
            continue
        theirs, base = (of.bucket_perplexities() for of in on_shared_seeds(other, reference))
        pairs = {bucket: (value, base.get(bucket)) for bucket, value in theirs.items()}
        if base and pairs:
            ratios[other.name] = {
                bucket: a / b if a is not None and b is not None else None for bucket, (a, b) in pairs.items()
            }
    if not any(value is not None for buckets in ratios.values() for value in buckets.values()):
        return None
    name = shorten(reference.name)
    title = f"The same against {reference.name}"
    told = []
    for model, buckets in ratios.items():
        known = [value for value in buckets.values() if value is not None]
        better = sum(value < 1 for value in known)
        told.append(f"{model} has the lower perplexity in {better} of {len(known)} ranges")
    plot = _dot_plot(
        models,
        ratios,
        name="bucket-ratios",
        title=f"The same against {name}",
        x_title=f"perplexity / perplexity of {name}",
        logarithmic=False,
        line_at=1.0,
    )
    caption = f"Left of the line a model is better than {reference.name}, right of it worse."
    return Plot("bucket-ratios", title, caption, f"{title}, as ratios. {'; '.join(told)}.", *plot)


def _bucket_names(values: dict[str, dict[str, float | None]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(values.values())))


def _dot_plot(
    models: list[ModelSummary],
    values: dict[str, dict[str, float | None]],
    *,
    name: str,
    title: str,
    x_title: str,
    logarithmic: bool,
    line_at: float | None = None,
) -> tuple[bytes, str]:
    styles = styles_by_model([model.name for model in models])
    rows = _bucket_names(values)
    with mpl.rc_context(RC | {"svg.hashsalt": name}):
        figure = new_figure(max(HEIGHT, 1.5 + 0.33 * len(rows)))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        # Models of one row stand a little apart, so that equal values stay visible.
        offsets = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0.0]
        handles = []
        for offset, (model, buckets) in zip(offsets, values.items(), strict=True):
            points = [
                (value, row + offset) for row, bucket in enumerate(rows) if (value := buckets.get(bucket)) is not None
            ]
            style = styles[model]
            handles += axes.plot(
                *np.asarray(points).reshape(-1, 2).T,
                linestyle="",
                marker=style.marker,
                markersize=6,
                color=style.color,
                markeredgewidth=0,
            )
        if line_at is not None:
            axes.axvline(line_at, color=INK, linewidth=1.0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [shorten(row) for row in rows], parse_math=False)
        if logarithmic:
            axes.set_xscale("log")
            plain_log_axis(axes, "x")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_xlabel(x_title, parse_math=False)
        axes.set_ylabel("occurrences in training")
        finish_axes(axes, grid="both")
        # Given by hand: matplotlib leaves out labels that begin with an underscore.
        names = [shorten(model) for model in values]
        legend = figure.legend(
            handles, names, loc="upper left", ncols=_legend_columns(names), frameon=False, handletextpad=0.1,
            columnspacing=1.0, borderpad=0, borderaxespad=0,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
        _frame_with_legend(figure, axes, legend)
        return rendered(figure, title, name)


def _legend_columns(names: list[str]) -> int:
    widest = max(map(len, names))
    return max(1, min(len(names), 52 // (widest + 4)))


def _frame_with_legend(figure: Figure, axes: Axes, legend: Any) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    widest = max((label.get_window_extent(renderer).width for label in axes.get_yticklabels()), default=0.0)
    left = (widest + 34) / width
    legend.set_bbox_to_anchor((0.012, 1 - 32 / height))
    top = 1 - (legend.get_window_extent(renderer).height + 46) / height
    axes.set_position((left, 46 / height, 1 - left - 14 / width, top - 46 / height))
