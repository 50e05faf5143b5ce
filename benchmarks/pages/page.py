"""Places of a Markdown page that a program fills, so that no figure is typed by hand, and the command that fills them.

A place is `<!-- begin SUITE:NAME -->` ... `<!-- end -->`; what stands between is replaced.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import Parser
from resnet_bk.bench import json_files
from resnet_bk.bench.environment import environments_of
from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.statistics import spread

HELD_OUT = "held_out_perplexity"

PLACE = re.compile(r"<!-- begin (?P<suite>[\w-]+):(?P<name>[\w -]+) -->\n.*?<!-- end -->", re.DOTALL)


def places(page: str, suite: str) -> set[str]:
    """Names of the places that a suite has in the page."""
    return {match["name"] for match in PLACE.finditer(page) if match["suite"] == suite}


def replace(page: str, suite: str, texts: Mapping[str, str]) -> str:
    """The page with `texts`, by name of the place, in the places of the suite; other suites stay as they are."""

    def filled(match: re.Match[str]) -> str:
        if match["suite"] != suite:
            return match[0]
        return f"<!-- begin {suite}:{match['name']} -->\n\n{texts[match['name']]}\n\n<!-- end -->"

    return PLACE.sub(filled, page)


def replace_all(page: str, suite: str, texts: Mapping[str, str]) -> str:
    """The same, where the page must have exactly these places.

    Raises:
        ValueError: it has others.
    """
    found = places(page, suite)
    if found != set(texts):
        raise ValueError(
            f"the page has the places {', '.join(sorted(found)) or 'none'} of {suite}, but must have "
            f"{', '.join(sorted(texts))}; add what is missing as <!-- begin {suite}:NAME --> ... <!-- end -->"
        )
    return replace(page, suite, texts)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def reached(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over seeds; a dash where a seed has no value."""
    known = [value for value in values if value is not None]
    return fmt.spread(spread(known)) if known and len(known) == len(values) else fmt.MISSING


def timed(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs whose times can be compared: those on the machine that most of them ran on."""
    most = _processors(results)[:1]
    return [run for run in results["runs"] if _processor(run, results) in most]


def by_model(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each model, in the order of the protocol."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        found.setdefault(run["model_name"], []).append(run)
    return found


def leaks(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a model sees what it predicts with any of its seeds; the others alone would flatter it."""
    return any(run["audit"] == "leaks" for run in runs)


def need_perplexity(suite: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """For a page that makes its figures of the perplexities of all seeds.

    Raises:
        ValueError: a run has no held-out perplexity, as that of a model that leaks.
    """
    for run in runs:
        if run[HELD_OUT] is None:
            raise ValueError(
                f"{run['model_name']} of {suite} has no perplexity (seed {run['seed']}, audit: {run['audit']}); leave "
                "it out of the page"
            )


def by_protocol(results: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Results by the name of their protocol, or of the benchmark that wrote them.

    Raises:
        ValueError: two of one name.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for of in results:
        name = of["protocol"]["name"] if "protocol" in of else of["suite"]
        if name in found:
            raise ValueError(f"two of the files are of {name}, and the page has one place for it; name one of them")
        found[name] = of
    return found


def one_machine(results: Mapping[str, Any]) -> None:
    """For a page that compares the times of all runs. How the C library keeps memory may differ, for one of them may be
    given what it is quickest with; `machine` says so.

    Raises:
        ValueError: the runs are of several machines, so that their times cannot be compared.
    """
    found = list(dict.fromkeys(_processor(run, results, memory=False) for run in results.get("runs", [])))
    if len(found) > 1:
        raise ValueError(
            f"the runs are of several machines ({'; '.join(found)}), and the page compares their times; run all on one"
        )


def _environments(run: Mapping[str, Any], results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where a run trained; runs of before they said so trained where their results.json was written."""
    return [*(environments_of(run) or [results["environment"]])]


def _processor(run: Mapping[str, Any], results: Mapping[str, Any], *, memory: bool = True) -> str:
    """The GPU if one was used, processor and threads of a run, or several where it was stopped on one and went on on
    another."""
    on_gpu = str(run.get("device") or "cpu").startswith("cuda")
    return ", then ".join(dict.fromkeys(_described(found, on_gpu, memory) for found in _environments(run, results)))


def _described(found: Mapping[str, Any], on_gpu: bool, memory: bool) -> str:
    if on_gpu:
        return f"{found['gpu']}, {_described(found, False, memory)}"
    kernels = found.get("kernel_instructions")  # by which kernels are chosen; of before there was a choice none
    cpu = found["cpu"] if kernels is None else f"{found['cpu']} ({kernels})"
    kept = found.get("memory_settings", "default")  # of before they were noted
    given = f", {kept}" if memory and kept != "default" else ""
    return f"{cpu}{given}, {found['threads']} thread{'s' * (found['threads'] != 1)} of {found['cpu_count']} cores"


def _processors(results: Mapping[str, Any]) -> list[str]:
    """Where the runs trained, that of the most runs first."""
    return [name for name, _ in Counter(_processor(run, results) for run in results.get("runs", [])).most_common()]


def machine(results: Mapping[str, Any]) -> list[str]:
    """Where the runs of a benchmark were made, one fact a line, from its results.json."""
    runs = results.get("runs") or [{}]
    counts = Counter(_processor(run, results) for run in runs)
    processors = [f"{name}: {_runs(counts[name])}" if len(counts) > 1 else name for name, _ in counts.most_common()]
    versions = dict.fromkeys(_versions(place) for run in runs for place in _places(run, results))
    code = [place for run in runs for place in _code(run, results)]
    commits = dict.fromkeys((place["git_commit"] or "unknown")[:12] for place in code)
    dirty = ", with uncommitted changes" if any(place["git_dirty"] for place in code) else ""
    return [*processors, *versions, f"commit {', '.join(commits)}{dirty}"]


def trained_and_read(result: Mapping[str, Any]) -> list[str]:
    """Where the models of such a file were trained and read."""
    commits = dict.fromkeys(
        commit[:12] for model in result["models"] for commit in (model["trained_at_commit"] or "unknown").split(", ")
    )
    seeds = "; ".join(
        f"{name} {', '.join(str(run['seed']) for run in runs)}"
        for name, runs in by_model({**result, "runs": result["models"]}).items()
    )
    return [f"trained at commit {', '.join(commits)}", f"seeds: {seeds}", *machine(result)]


def _places(run: Mapping[str, Any], results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where a run trained, and where its figures of held-out text were measured, at the end or later."""
    finished = [run["environment"]] if run.get("environment") else []
    return [*_environments(run, results), *finished, *(later["environment"] for later in run.get("later") or ())]


def _code(run: Mapping[str, Any], results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What holds the commits of a run: runs of before they said where they trained said that."""
    if "git_commit" in run and not run.get("calls"):
        return [run, *(later["environment"] for later in run.get("later") or ())]
    return _places(run, results)


def _versions(found: Mapping[str, Any]) -> str:
    libraries = (f"{name} {version}" for name, version in found["versions"].items() if name in ("torch", "numba"))
    return f"Python {found['python']}, {', '.join(libraries)}"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, most often results.json.

    Raises:
        ValueError: the file cannot be read or holds something else, or a run in it diverged and has no figures.
    """
    found = json_files.read_json(path)
    runs = found.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f"{path}: runs must be a list of objects; name a file that a benchmark wrote")
    for run in runs:
        if run.get("diverged"):
            raise ValueError(
                f"{path}: {run['model_name']}, seed {run['seed']}, diverged and has no figures ({run['diverged']}); "
                "leave that model out of the page, or train it at another rate"
            )
    return found


def read_page(path: Path) -> str:
    """The text of a page.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--page {path} cannot be read ({error.strerror}); name a Markdown file") from None


def page_writer(
    module: str,
    description: str | None,
    page: Path,
    files: Sequence[Path],
    fill: Callable[[str, list[dict[str, Any]]], str],
) -> Callable[[Sequence[str]], int]:
    """The command `python -m benchmarks.pages.MODULE [FILE ...] [--page FILE] [--check]`: exit code from arguments.

    Args:
        module, description: for its help.
        page: by default.
        files: what it is filled from, by default.
        fill: the page with the figures of the files.

    Raises (when it is called):
        ValueError: a bad call, or files that do not fit the page.
    """

    def main(arguments: Sequence[str]) -> int:
        options = Parser(prog=f"python -m benchmarks.pages.{module}", description=description)
        by_default = ", ".join(map(str, files))
        options.add_argument("files", nargs="*", metavar="FILE", type=Path, help=f"by default {by_default}")
        options.add_argument("--page", metavar="FILE", type=Path, default=page, help="by default %(default)s")
        options.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page differs")
        given = options.parse_args(arguments)
        sources = given.files or list(files)
        before = read_page(given.page)
        contents, names = [read_json(file) for file in sources], ", ".join(map(str, sources))
        try:
            after = fill(before, contents)
        except LookupError as error:
            raise ValueError(
                f"{names}: lacks what the page is made of ({type(error).__name__} {error}); name files of the same "
                f"commands, and as many, as by default: {by_default}"
            ) from error
        if given.check:
            print(f"{given.page} {'agrees with' if after == before else 'DIFFERS from'} {names}")
            return int(after != before)
        json_files.replace_file(given.page, after.encode())
        print(f"{given.page} written from {names}")
        return 0

    return main
