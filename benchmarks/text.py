"""Rows as text: for the terminal, and as Markdown for the page that quotes them. Needs the JSON only."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_bk.bench.report.formatting import MISSING, significant

Row = Mapping[str, Any]
# A table of more lines is folded on the page, one of more than that stands in the JSON alone.
FOLDED, LONGEST = 12, 20


def seconds(value: float) -> str:
    """With the unit that fits: ``1.23 ms``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= 0.9995 * size:
            return f"{significant(value / size)} {unit}"
    return f"{significant(value / 1e-6)} µs"


def times(spread: Mapping[str, float]) -> str:
    """``4.21 (4.10 to 4.30)``: median and quartiles."""
    return f"{significant(spread['median'])} ({significant(spread['low'])} to {significant(spread['high'])})"


def cell(value: Any) -> str:
    """One cell of a table."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else significant(value)
    return str(value)


def target(found: Mapping[str, Any]) -> str:
    """``times faster than a copy: at least 0.6, reached 0.71: met``."""
    head = f"{found['name']}: {found['rule']} {found['limit']:g}"
    if found["met"] is None:
        return f"{head}: not measured"
    return f"{head}, reached {cell(float(found['reached']))}: {'met' if found['met'] else 'MISSED'}"


def lines(row: Row) -> list[str]:
    """A row for the terminal."""
    gate = row["gate"]
    shown = [f"{row['case']} | {row['name']}" + ("" if gate is None else f" | gate {gate['verdict']}")]
    width = max((len(name) for name in row["seconds"]), default=0)
    for name, timing in row["seconds"].items():
        spread = f"({seconds(timing['low'])} to {seconds(timing['high'])})"
        faster = row["times_faster_than"].get(name)
        compared = "" if faster is None else f"   ours is {times(faster)} times as fast"
        shown.append(f"    {name:{width}}  {seconds(timing['median']):>9} {spread}{compared}")
    if row["table"] is not None:
        texts = [list(row["table"]["columns"]), *([cell(value) for value in line] for line in row["table"]["rows"])]
        widths = [max(len(line[i]) for line in texts) for i in range(len(texts[0]))]
        for line in texts:
            shown.append("    " + "  ".join(f"{text:>{size}}" for text, size in zip(line, widths, strict=True)))
    shown += [f"    target {target(found)}" for found in row["targets"]]
    shown += [f"    note: {note}" for note in row["notes"]]
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """Rows of one case: one table of times, then the other tables and the targets; what the gates saw and the notes are
    folded, unless a gate is red."""
    parts: list[str] = []
    timed = [row for row in rows if row["seconds"] or (row["gate"] is not None and not row["gate"]["passed"])]
    if timed:
        parts.append(_table(("what", "contender", "time", "ours is so many times as fast"), _timing_lines(timed)))
    for row in rows:
        if row["table"] is not None:
            parts.append(_titled(_capital(row["name"]), row["table"]))
    failed = [f"- {row['name']}: {row['gate']['verdict']}" for row in rows if row["gate"] and not row["gate"]["passed"]]
    if failed:
        parts.append("Correctness, where it FAILED:\n\n" + "\n".join(failed))
    targets = [f"- {row['name']}: {target(found)}" for row in rows for found in row["targets"]]
    if targets:
        parts.append("Targets:\n\n" + "\n".join(targets))
    notes = _notes(rows)
    if not failed and (gates := _gates(rows)):
        notes = [f"- {gates}", *notes]
    if notes:
        parts.append(_folded("Correctness and notes", "\n".join(notes)))
    return "\n\n".join(parts)


def _titled(name: str, table: Mapping[str, Any]) -> str:
    lines = len(table["rows"])
    if lines > LONGEST:
        return f"{name}: {lines} lines, in the JSON."
    if lines == 1 and len(table["columns"]) == 1:
        return f"{name}: {cell(table['rows'][0][0])} ({table['columns'][0]})."
    text = _table(table["columns"], table["rows"])
    return _folded(f"{name} ({lines} lines)", text) if lines > FOLDED else f"{name}:\n\n{text}"


def _folded(name: str, text: str) -> str:
    return f"<details><summary>{name}</summary>\n\n{text}\n\n</details>"


def _gates(rows: Sequence[Row]) -> str:
    """How many comparisons passed, and which came closest to its tolerance."""
    gates = [(row["name"], row["gate"]) for row in rows if row["gate"] is not None]
    checks = [(_share(check), name, check["name"]) for name, gate in gates for check in gate["checks"]]
    if not checks:
        return ""
    share, name, check = max(checks)
    if share == 0:
        return f"{len(checks)} of {len(checks)} comparisons: equal bit for bit."
    closest = "under 1%" if share < 0.01 else f"{share:.0%}"
    return (
        f"{len(checks)} of {len(checks)} comparisons: within their tolerances, the closest at {closest} of its own "
        f"({name}: {check})."
    )


def _share(check: Mapping[str, Any]) -> float:
    """Of its tolerance, which is 0 where every bit must be equal."""
    return check["error"] / check["tolerance"] if check["error"] else 0.0


def _notes(rows: Sequence[Row]) -> list[str]:
    """Every note once, with the names of its rows if they are few, and not all that were compared with a baseline."""
    rows_of: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            rows_of.setdefault(note, []).append(row["name"])
    compared = [row["name"] for row in rows if row["times_faster_than"]]

    def line(note: str, names: list[str]) -> str:
        if len(names) > 1 and names == compared:
            return f"- {note}"
        return f"- {'; '.join(names)}: {note}" if len(names) < 3 else f"- {note} ({len(names)} of {len(rows)} rows)"

    return [line(note, names) for note, names in rows_of.items()]


def _timing_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for row in rows:
        if not row["seconds"]:
            found.append((row["name"], "ours", f"gate {row['gate']['verdict']}", MISSING))
        for i, (name, timing) in enumerate(row["seconds"].items()):
            faster = row["times_faster_than"].get(name)
            compared = "" if faster is None else times(faster)
            found.append(("" if i else row["name"], name, seconds(timing["median"]), compared))
    return found


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    # A bar inside a cell would end it.
    return "\n".join(head + [f"| {' | '.join(cell(value).replace('|', '/') for value in row)} |" for row in rows])


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
