"""The audit, and what a leak buys, as tables."""

from rich.table import Table
from rich.text import Text

from resnet_bk.bench.audit.full import Check, FullAudit
from resnet_bk.bench.audit.leak_cost import LeakCost, nats

STYLES = {"passes": "green", "leaks": "bold red", "not run": "yellow"}


def audit_table(audit: FullAudit) -> Table:
    """A row a check, grouped by layout."""
    table = Table(title=Text(f"{audit.model}: {audit.verdict}"))
    for column in ("rows", "mode", "dtype", "outcome", "decided by", "lengths", "what was seen"):
        table.add_column(column, overflow="fold")
    before = None
    for check in audit.checks:
        if before not in (None, check.layout):
            table.add_section()
        table.add_row(
            check.layout if check.layout != before else "",
            check.mode,
            check.dtype,
            Text(check.outcome, style=STYLES[check.outcome]),
            check.decided_by or "",
            ", ".join(str(length) for length in check.lengths),
            _seen(check),
        )
        before = check.layout
    return table


def _seen(check: Check) -> str:
    if check.outcome == "not run":
        return check.note
    if check.leak is not None:
        parts = [f"{check.leak.sentence()} ({check.leak.length} tokens)"]
    else:
        parts = [f"{check.changed_tokens} changed tokens"]
    if check.rounding:
        parts.append(f"rounding moved logits by up to {check.rounding:.1g}, their gradient is 0")
    return "; ".join(parts + ([check.note] if check.note else []))


def leak_cost_table(cost: LeakCost) -> Table:
    """A row a model; losses in nats a token."""
    text = (
        f"{cost.predictions:,} held-out predictions of {cost.data}, {cost.segments} x {cost.tokens_per_segment} tokens"
    )
    table = Table(title=Text(f"What the leak buys, in nats a token: {text}"))
    table.add_column("model")
    for column in ("steps", "training loss", "whole segment in view", "prefix alone", "bought by the leak"):
        table.add_column(column, justify="right")
    for row in cost.rows:
        error = "" if row.standard_error is None else f" ± {row.standard_error:.4f}"
        table.add_row(
            Text(row.name),
            "as saved" if row.steps is None else str(row.steps),
            "" if row.training_loss is None else f"{row.training_loss:.4f}",
            f"{row.whole:.4f}",
            f"{row.prefix:.4f}",
            f"{nats(row.bought)}{error}",
        )
    return table
