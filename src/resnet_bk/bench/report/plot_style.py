"""How plots look: colours, dashes and markers of the models, axes, and SVG that follows the page's theme.

The palette is Okabe and Ito's (Color Universal Design, 2008), told apart with any common colour blindness, darkened so
that each colour has a contrast of 4.5 or more on white; the dark theme has lighter ones of the same hues, in the
page's style sheet under the same names.
"""

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, MUTED, RULE = "#1b1d21", "#5b616b", "#e4e4df"
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
MAX_NAME = 18  # characters of a name in a plot

WIDTH, HEIGHT = 4.7, 3.35  # inches at 96 dots: 451 x 322 CSS pixels, two beside each other on a wide page
SCREEN_DPI = 96
TITLE_HEIGHT = 26.0  # CSS pixels above everything else, for the title of the PNG

RC: Any = {  # matplotlib types its keys one by one
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same drawing on every machine
    "font.size": 8.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify": False,
    "figure.facecolor": "white",
    "text.color": INK,
    "axes.labelcolor": MUTED,
}


@dataclass(frozen=True)
class Style:
    """How one model is drawn; ``variable`` is the CSS variable of its colour."""

    color: str
    variable: str
    dashes: Any
    marker: str


STYLES = (
    Style("#0067a3", "--series-1", "solid", "o"),
    Style("#b84a00", "--series-2", (0, (5, 1.6)), "s"),
    Style("#007a57", "--series-3", (0, (1.4, 1.3)), "^"),
    Style("#a23b78", "--series-4", (0, (7, 1.6, 1.4, 1.6)), "D"),
    Style("#7f6000", "--series-5", (0, (3, 1.2)), "v"),
    Style("#4c5b9e", "--series-6", (0, (7, 1.4, 1.4, 1.4, 1.4, 1.4)), "P"),
    Style("#b3261e", "--series-7", (0, (2.6, 1.2, 1.2, 1.2)), "X"),
)
THEME = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {style.color: style.variable for style in STYLES}

# The usual models keep their colours from report to report, whichever are compared.
USUAL = {"resnet-bk": 0, "gpt2": 1, "llama": 2, "mamba2": 3}


def styles_by_model(names: list[str]) -> dict[str, Style]:
    """One style a model: the usual ones their own, the others what is free, from the start again after seven."""
    chosen = {name: USUAL[name] for name in names if name in USUAL}
    free = [slot for slot in range(len(STYLES)) if slot not in chosen.values()] or list(range(len(STYLES)))
    others = [name for name in names if name not in chosen]
    chosen |= {name: free[index % len(free)] for index, name in enumerate(others)}
    return {name: STYLES[chosen[name]] for name in names}


def shorten(name: str, limit: int = MAX_NAME) -> str:
    """The name, its middle left out where it is longer than ``limit`` characters."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def themed_svg(svg: str, name: str, crop_top: float) -> str:
    """Matplotlib's SVG made fit for a page: CSS variables for colours, ids of its own, no metadata, no fixed size.

    ``crop_top`` points are taken off above.
    """
    ET.register_namespace("", SVG_NAMESPACE)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # Matplotlib's style element would apply to the whole page; the page's own has its two rules.
            if child.tag in (f"{{{SVG_NAMESPACE}}}metadata", f"{{{SVG_NAMESPACE}}}style"):
                parent.remove(child)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    root.set("viewBox", f"{left:g} {top + crop_top:g} {width:g} {height - crop_top:g}")
    root.set("aria-hidden", "true")
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            used.update(re.findall(r"url\(#([^)]+)\)", value))
            if key == LINK:
                used.add(value.removeprefix("#"))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in used:
                del element.attrib[key]
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif key == LINK:
                element.set(key, f"#{name}-{value.removeprefix('#')}")
            else:
                element.set(key, _themed(re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value)))
    return ET.tostring(root, encoding="unicode")


def _themed(value: str) -> str:
    for color, variable in THEME.items():
        value = value.replace(color, f"var({variable})")
    return value


def new_figure(height: float) -> Figure:
    """An empty figure of the usual width, ``height`` inches high."""
    return Figure(figsize=(WIDTH, height), dpi=SCREEN_DPI)


def finish_axes(axes: Axes, grid: str = "y") -> None:
    """A light grid, no box, no tick marks."""
    axes.grid(axis=grid, color=RULE, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def count_axis(axes: Axes, *, whole: bool) -> None:
    """A few round ticks on the x axis, thousands apart, only ``whole`` numbers where asked."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def plain_log_axis(axes: Axes, which: str) -> None:
    """Plain numbers, not powers of ten, on the logarithmic axis ``which`` ("x" or "y")."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    wide = high / low > 100
    axis.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1e4 else f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def rendered(figure: Figure, title: str, name: str) -> tuple[bytes, str]:
    """PNG at twice the screen's dots with its title, and SVG without (the page has it as a caption)."""
    vector = io.BytesIO()
    figure.savefig(vector, format="svg", transparent=True)
    width, height = figure.get_size_inches() * figure.dpi
    figure.text(6 / width, 1 - 8 / height, title, va="top", color=INK, fontweight="bold", fontsize=10, parse_math=False)
    raster = io.BytesIO()
    figure.savefig(raster, format="png", dpi=2 * SCREEN_DPI)
    return raster.getvalue(), themed_svg(vector.getvalue().decode(), name, crop_top=TITLE_HEIGHT * 72 / SCREEN_DPI)
