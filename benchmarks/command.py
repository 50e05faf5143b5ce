"""What the benchmark commands share: arguments, output, JSON, exit codes.

Exit codes: 0 done, 1 a gate is red, 2 a bad call (one line on standard error), 3 a failure that is no fault of the
call, 130 stopped by Ctrl-C.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from resnet_bk.hints import did_you_mean

if TYPE_CHECKING:
    from benchmarks.row import Row

    Case = Callable[[bool], Iterator[Row]]

# Where a whole run goes, and where a part of one or a quick one does, which no page may quote.
RESULTS, PARTS = Path("results"), Path("runs")


class Parser(argparse.ArgumentParser):
    """One line for a bad call; the description as it stands in the module, with usage and prose apart."""

    def __init__(self, *, prog: str, description: str | None) -> None:
        as_it_is = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=as_it_is, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def parser(module: str, description: str | None) -> Parser:
    """With the options that several commands have."""
    name = module.rpartition(".")[2]
    found = Parser(prog=f"python -m {module}", description=description)
    found.add_argument("--quick", action="store_true", help="tiny shapes: does it run, not how fast")
    found.add_argument(
        "--out", metavar="FILE", help=f"JSON to write; by default {RESULTS / name}.json, {PARTS} for a part or --quick"
    )
    return found


def choose(option: str, text: str | None, known: list[str]) -> list[str]:
    """Names apart by commas, in the order of `known`; None stands for all.

    Raises:
        ValueError: no name, or one that is not known.
    """
    if text is None:
        return known
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    if not wanted:
        raise ValueError(f"{option} {text!r}: names nothing; give one or more of {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"{option} {name}: no such case{did_you_mean(name, known)}; give one or more of {', '.join(known)}"
            )
    return [name for name in known if name in wanted]


def json_file(path: Path) -> Path:
    """The path with its suffix, which may be left out."""
    return path if path.suffix == ".json" else path.with_name(f"{path.name}.json")


def out_file(out: str | None, suite: str, whole: bool) -> Path:
    """Where the JSON goes.

    Raises:
        ValueError: no file could be written there, or a part of a run would take the place of a whole one.
    """
    path = json_file(Path(out) if out is not None else (RESULTS if whole else PARTS) / suite)
    if not whole and path.absolute().parent == RESULTS.absolute() and path.exists():
        raise ValueError(f"--out {path}: is of a whole run, and this is a part of one; leave --out out for {PARTS}/")
    place = path.absolute().parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if path.is_dir() or not place.is_dir():
        shown = path if path.is_dir() else place
        kind = "a folder" if path.is_dir() else "no folder"
        raise ValueError(f"--out {path}: {shown} is {kind}; name a file that can be written")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out {path}: no permission to write in {place}; name another file")
    return path


def run(suite: str, cases: Mapping[str, "Case"], out: Path, *, quick: bool, whole: bool) -> int:
    """Run cases, print their rows as they come, and keep the JSON of those that are done: in NAME.unfinished.json,
    which takes the place of `out` when all are. `whole`: they are what a page quotes."""
    from benchmarks.machine import describe, machine
    from benchmarks.text import lines
    from resnet_bk.bench.json_files import write_json

    out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"suite": suite, "quick": quick, "whole": whole, "machine": machine()}
    found |= {"complete": False, "rows": []}
    for line in describe(found["machine"]):
        print(line)
    if quick:
        print("QUICK: tiny shapes, single samples; the times mean nothing")
    red = []
    unfinished = out.with_suffix(".unfinished.json")
    print(f"rows go to {unfinished} until all are done")
    started = time.perf_counter()
    for case in cases.values():
        for row in case(quick):
            if quick:
                row = replace(row, targets=())  # set for the real shapes
            # Through JSON, so that what is printed is what a reader of the file gets.
            found["rows"].append(json.loads(json.dumps(row.as_dict())))
            print("", *lines(found["rows"][-1]), sep="\n", flush=True)
            if row.red:
                red.append(row.name)
            write_json(unfinished, found)
    found["complete"], found["wall_seconds"] = True, time.perf_counter() - started
    write_json(unfinished, found)
    os.replace(unfinished, out)
    met = [target["met"] for row in found["rows"] for target in row["targets"]]
    print(
        f"\n{len(found['rows'])} rows in {found['wall_seconds']:.0f} s, {len(red)} gates red, "
        f"{met.count(True)} of {len(met)} targets met ({met.count(None)} not measured); written to {out}"
    )
    for name in red:
        print(f"RED: {name}")
    return 1 if red else 0


def guarded(command: Callable[[Sequence[str]], int]) -> NoReturn:
    """Ends the program with the exit code of a command; a bad call becomes one line."""
    try:
        code = command(sys.argv[1:])
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nstopped; where a file was named above, the rows that were done are in it", file=sys.stderr)
        code = 130
    except Exception:  # Python's own code for it is 1, which says that a gate is red
        traceback.print_exc()
        code = 3
    sys.exit(code)
