import itertools
import struct
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from resnet_bk.bench.report import plots
from resnet_bk.bench.report.plot_style import STYLES, THEME, shorten, styles_by_model
from resnet_bk.bench.report.plots import Plot, _kept_target, draw_plots
from resnet_bk.bench.report.results_schema import parse_results
from tests.bench.report_samples import PERPLEXITIES, sample_results, sample_run

NAMES = [
    "loss-steps", "loss-seconds", "validation-steps", "validation-seconds", "depth-steps", "kept-steps", "buckets",
    "bucket-ratios",
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict[str, Plot]:
    return {plot.name: plot for plot in draw_plots(sample_results())}


def test_all_plots(drawn: dict[str, Plot]) -> None:
    assert list(drawn) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_png_and_svg(drawn: dict[str, Plot], name: str) -> None:
    plot = drawn[name]
    assert plot.png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", plot.png[16:24])
    assert width == round(4.7 * 96) * 2  # 4.7 inches at twice the screen's 96 dots
    assert height >= 600
    root = ET.fromstring(plot.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "width" not in root.attrib  # the page sets it
    text = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    shown = {"resnet-bk"} if name in ("depth-steps", "kept-steps") else {"gpt2", "llama"}
    assert shown <= text
    assert plot.title not in text  # the page has it beside the plot
    # Every colour of the drawing comes from the page's theme.
    assert not any(color in plot.svg for color in THEME)
    assert "var(--series-2)" in plot.svg or shown == {"resnet-bk"}


def test_axes_have_titles_with_units(drawn: dict[str, Plot]) -> None:
    assert "training loss (nats per token)" in drawn["loss-steps"].svg
    assert "training steps" in drawn["loss-steps"].svg
    assert "training time (s)" in drawn["loss-seconds"].svg
    assert "held-out perplexity (log scale)" in drawn["buckets"].svg
    assert "perplexity / perplexity of resnet-bk" in drawn["bucket-ratios"].svg


def test_alternatives_carry_the_message(drawn: dict[str, Plot]) -> None:
    assert "after 500 steps: resnet-bk 99.2, llama 102.1, gpt2 143.1" in drawn["validation-steps"].alternative
    assert "101-1,000: resnet-bk lowest with 413.3" in drawn["buckets"].alternative
    assert "gpt2 has the lower perplexity in 0 of 6 ranges" in drawn["bucket-ratios"].alternative


def test_the_target_of_the_gates_is_drawn_beside_what_they_keep(drawn: dict[str, Plot]) -> None:
    assert {name for name, plot in drawn.items() if "Dotted: the target." in plot.caption} == {"kept-steps"}
    run = parse_results(sample_results("resnet-bk")).runs[0]
    assert _kept_target(run) == [(0.0, 1.0), (250.0, 0.5), (500.0, 0.5)]


def test_a_model_of_which_a_seed_diverged_has_no_curve() -> None:
    results = sample_results("resnet-bk", "llama", seeds=(0, 1))
    results["runs"][-1] |= {"held_out_perplexity": None, "log": [], "validation_log": []}
    plots = {plot.name: plot for plot in draw_plots(results)}
    assert "llama diverged and is left out." in plots["loss-steps"].caption
    assert "llama" not in plots["loss-steps"].alternative
    assert "resnet-bk" in plots["loss-steps"].alternative


def test_ids_are_unique_on_the_page(drawn: dict[str, Plot]) -> None:
    ids = [e.attrib["id"] for plot in drawn.values() for e in ET.fromstring(plot.svg).iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    for plot in drawn.values():
        root = ET.fromstring(plot.svg)
        own = {element.attrib.get("id") for element in root.iter()}
        links = {e.attrib[key][1:] for e in root.iter() for key in e.attrib if key.endswith("href")}
        assert links <= own


def test_same_results_same_bytes_and_no_global_state(drawn: dict[str, Plot]) -> None:
    before = dict(mpl.rcParams)
    again = {plot.name: plot for plot in draw_plots(sample_results())}
    assert again == drawn
    assert dict(mpl.rcParams) == before


def test_plots_without_data_are_left_out() -> None:
    results = sample_results(log=[], validation_log=None, buckets=[])
    assert draw_plots(results) == []


def test_one_logged_point_is_no_curve_and_one_model_has_no_ratios() -> None:
    results = sample_results("llama", log=[{"step": 5, "seconds": 1.0, "loss": 3.0}])
    assert [plot.name for plot in draw_plots(results)] == ["validation-steps", "validation-seconds", "buckets"]


def test_six_models_with_seeds_and_long_names() -> None:
    results = sample_results(*PERPLEXITIES, seeds=(0, 1, 2))
    found = {plot.name: plot for plot in draw_plots(results)}
    assert list(found) == NAMES
    assert "mean of the seeds" in found["loss-steps"].caption
    assert "a-causal…g-name-v2" in found["loss-steps"].svg
    # The full name is told in words.
    assert "a-causal-language-model-with-a-rather-long-name-v2" in found["loss-steps"].alternative


def test_seeds_that_logged_other_steps_have_a_mean_too() -> None:
    often = np.array([[10.0, 8.0], [20.0, 6.0], [30.0, 5.0], [40.0, 4.0]])
    seldom = np.array([[20.0, 7.0], [40.0, 6.0]])
    assert plots._mean_curve([often, seldom]).tolist() == [[20.0, 6.5], [40.0, 5.0]]
    # Of seconds, which are another number with every seed: by the share of the training.
    slower = seldom * [2.0, 1.0]
    assert plots._mean_curve([slower, often]).tolist() == [[30.0, 6.5], [60.0, 5.0]]
    no_time = seldom * [0.0, 1.0]
    assert plots._mean_curve([no_time, often * [0.0, 1.0]])[-1].tolist() == [0.0, 5.0]


def test_a_leaking_model_is_left_out_of_every_plot() -> None:
    results = sample_results()
    leaking = sample_run("resnet-bk-seed", audit="leaks", validation_log=sample_run("llama")["validation_log"])
    leaking["buckets"] = sample_run("llama")["buckets"]
    results["runs"].append(leaking)
    for plot in draw_plots(results):
        assert ">resnet-bk-seed<" not in plot.svg
        assert "resnet-bk-seed leaks and is left out." in plot.caption or plot.name.startswith("bucket")


def test_mathematics_and_markup_in_a_name_are_text() -> None:
    found = draw_plots(sample_results("$\\frac{1$<b>&", "_hidden"))
    svg = found[0].svg
    texts = {element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert "$\\frac{1$<b>&" in texts
    # A legend leaves out names that begin with an underscore, unless they are given by hand.
    buckets = next(plot for plot in found if plot.name == "buckets")
    assert ">_hidden<" in buckets.svg


def test_gaps_and_nulls_are_skipped() -> None:
    results = sample_results("resnet-bk", "llama")
    results["runs"][0]["log"][3]["loss"] = None
    results["runs"][0]["log"][4]["loss"] = float("nan")
    results["runs"][0]["buckets"][2]["perplexity"] = None
    results["runs"][1]["buckets"].pop()
    names = [plot.name for plot in draw_plots(results)]
    assert names == NAMES


def test_flat_and_short_curves() -> None:
    log = [{"step": step, "seconds": 0.0, "loss": 0.0} for step in (1, 2)]
    points = [{"step": step, "seconds": 0.0, "perplexity": 1.0} for step in (1, 2)]
    assert len(draw_plots(sample_results("llama", log=log, validation_log=points, buckets=None))) == 4


def test_smoothing_keeps_a_line_and_averages_noise() -> None:
    x = np.arange(400.0)
    line = np.column_stack([x, 3 - 0.001 * x])
    inner = slice(10, -10)
    # A centred mean leaves a straight line as it is; sums of 400 numbers near 3 round at 1e-13.
    np.testing.assert_allclose(plots._smoothed(line)[inner], line[inner], rtol=1e-12)
    noisy = np.column_stack([x, np.where(x % 2 == 0, 1.0, -1.0)])
    assert np.abs(plots._smoothed(noisy)[inner, 1]).max() < 0.1


def test_thinned_curves_keep_both_ends() -> None:
    line = np.column_stack([np.arange(10_001.0)] * 2)
    thin = plots._thinned(line)
    assert len(thin) <= plots.MAX_POINTS + 1
    assert thin[0, 0] == 0
    assert thin[-1, 0] == 10_000


def contrast(color: str, background: str) -> float:
    """Contrast ratio of WCAG 2.1."""

    def luminance(value: str) -> float:
        channels = [int(value[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(color), luminance(background)))
    return (high + 0.05) / (low + 0.05)


def test_styles_can_be_read_and_told_apart() -> None:
    # 4.5 is WCAG's bound for text: the names at the ends of lines have the lines' colours.
    assert all(contrast(style.color, "#ffffff") >= 4.5 for style in STYLES)
    for first, second in itertools.combinations(STYLES, 2):
        assert first.color != second.color
        assert first.dashes != second.dashes
        assert first.marker != second.marker


def test_a_model_keeps_its_style_whatever_stands_beside_it() -> None:
    assert styles_by_model(["llama", "other", "resnet-bk"])["llama"] == styles_by_model(["gpt2", "llama"])["llama"]
    six = styles_by_model(list(PERPLEXITIES))
    assert len({style.color for style in six.values()}) == 6
    assert len({style.color for style in styles_by_model([*PERPLEXITIES, "seven"]).values()}) == 7
    assert len(styles_by_model([*PERPLEXITIES, "seven", "eight"])) == 8


def test_models_are_compared_by_the_seeds_that_both_have() -> None:
    ours = [sample_run("resnet-bk", seed=seed, perplexity=value) for seed, value in ((1, 100.0), (2, 150.0))]
    drawn = {plot.name: plot for plot in draw_plots(sample_results() | {"runs": [*ours, sample_run("llama", seed=1)]})}
    alone = {
        plot.name: plot for plot in draw_plots(sample_results() | {"runs": [ours[0], sample_run("llama", seed=1)]})
    }
    assert drawn["bucket-ratios"].alternative == alone["bucket-ratios"].alternative
    lost = sample_run("llama", seed=3, held_out_perplexity=None, held_out_loss=None)
    runs = [*ours, sample_run("llama", seed=1), lost]
    assert "bucket-ratios" not in {plot.name for plot in draw_plots(sample_results() | {"runs": runs})}
    assert "resnet-bk lowest with" in alone["buckets"].alternative
    assert "lowest" not in drawn["buckets"].alternative


def test_shorten() -> None:
    assert shorten("resnet-bk") == "resnet-bk"
    assert len(shorten("x" * 50)) == 18
    assert shorten("abcdefghij", 5) == "ab…ij"
