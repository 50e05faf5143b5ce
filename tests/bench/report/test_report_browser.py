"""The report in a real browser, at the widths of a desktop and of a telephone.

Headless Chromium has no window narrower than about 500 pixels, so the page is opened in a frame of the width wanted. A
wrapper page measures it and writes what it finds into its own document, which Chromium prints.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from resnet_bk.bench.report.page import PLOT_NAMES, write_report
from tests.bench.report_samples import PERPLEXITIES, sample_results, sample_run

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: install the package chromium")

# What a frame shows. `outside` are elements that reach over the right edge without lying in a box that scrolls.
MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, box = e => e.getBoundingClientRect();
  const scrolls = e => e.closest('.scroll, pre, svg');
  return {
    title: page.title,
    viewport: frame.contentWindow.innerWidth,
    width: Math.max(root.scrollWidth, page.body.scrollWidth),
    outside: [...page.body.querySelectorAll('*')].filter(e => !scrolls(e) && box(e).right > root.clientWidth + 0.5)
      .map(e => e.outerHTML.slice(0, 80)),
    plots: [...page.querySelectorAll('.plot svg')].map(e => [box(e).width, box(e).height]),
    overflowing: [...page.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth).length,
    ink: frame.contentWindow.getComputedStyle(page.body).color,
    page: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    line: frame.contentWindow.getComputedStyle(page.querySelector('.plot svg text')).fill,
    answer: box(page.querySelector('.answer')).top,
  };
}
"""


def look(pages: list[tuple[Path, int]], *, dark: bool = False) -> list[dict[str, Any]]:
    """Measurements of each page in a frame of the width given, in pixels."""
    assert BROWSER is not None
    frames = "".join(
        f'<iframe src="{page.as_uri()}" style="width:{w}px;height:900px;border:0"></iframe>' for page, w in pages
    )
    script = MEASURE + "addEventListener('load', () => { document.querySelector('pre').textContent = JSON.stringify("
    script += "[...document.querySelectorAll('iframe')].map(measure)); });"
    with tempfile.TemporaryDirectory() as scratch:
        wrapper = Path(scratch) / "wrapper.html"
        wrapper.write_text(
            f"<!DOCTYPE html><body><pre></pre>{frames}<script>{script}</script></body>", encoding="utf-8"
        )
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={scratch}/profile",
            "--allow-file-access-from-files",  # the wrapper and the page are files: it may look into the frame
            "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            wrapper.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    start, end = done.stdout.find("<pre>") + 5, done.stdout.find("</pre>")
    assert end > start, f"the wrapper did not run: {done.stderr[-2000:]}"
    # The title and the snippets come back as text of a document: only & < > are escaped there.
    text = done.stdout[start:end].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    found: list[dict[str, Any]] = json.loads(text)
    return found


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("browser")
    crowded = sample_results(*PERPLEXITIES, seeds=(0, 1, 2))
    crowded["runs"].append(sample_run("x" * 90, audit="leaks"))  # no place to break the name
    crowded["environment"]["versions"] |= {f"package-{number}": "1.2.3" for number in range(30)}
    crowded["data"]["fingerprint"] = "0123456789abcdef" * 8
    crowded["protocol"]["description"] = "https://example.org/" + "y" * 200
    return {
        "usual": write_report(sample_results(), folder / "usual"),
        "crowded": write_report(crowded, folder / "crowded"),
    }


def test_rendered_and_never_wider_than_the_window(reports: dict[str, Path]) -> None:
    pages = [(page, width) for page in reports.values() for width in (1280, 768, 400, 320)]
    for (page, width), found in zip(pages, look(pages), strict=True):
        where = f"{page.parent.name} at {width} pixels"
        assert found["title"] == "ResNet-BK benchmark: quick", where
        assert found["viewport"] == width, where
        assert found["width"] <= width, where
        assert found["outside"] == [], where
        assert len(found["plots"]) == len(PLOT_NAMES), where
        # Plots are as wide as their column: two on a wide page, one on a narrow one.
        assert all(0.4 * width * (0.8 if width > 760 else 2) < plot[0] < width for plot in found["plots"]), where
        assert all(plot[1] > 150 for plot in found["plots"]), where
        assert 0 < found["answer"] < 200, where
        # On a telephone the wide tables scroll in their own boxes; the usual report fits a desktop whole.
        if width <= 400:
            assert found["overflowing"] > 0, where
        elif width == 1280 and page.parent.name == "usual":
            assert found["overflowing"] == 0, where


def test_the_measurement_sees_what_is_too_wide(reports: dict[str, Path], tmp_path: Path) -> None:
    html = reports["usual"].read_text(encoding="utf-8")
    spoiled = tmp_path / "report.html"
    spoiled.write_text(html.replace('<p class="budget">', '<p class="budget" style="width: 1500px; max-width: none">'))
    (found,) = look([(spoiled, 1280)])
    assert found["width"] > 1280
    assert any("budget" in snippet for snippet in found["outside"])


def test_light_and_dark(reports: dict[str, Path]) -> None:
    (light,) = look([(reports["usual"], 1280)])
    (dark,) = look([(reports["usual"], 1280)], dark=True)
    assert light["page"] == "rgb(253, 253, 251)"
    assert light["ink"] == "rgb(27, 29, 33)"
    assert dark["page"] == "rgb(20, 22, 26)"
    assert dark["ink"] == "rgb(233, 233, 230)"
    # The plots follow: their text has the theme's colour.
    assert light["line"] == "rgb(91, 97, 107)"
    assert dark["line"] == "rgb(163, 169, 179)"
