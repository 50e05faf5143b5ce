"""What `resnet-bk audit` does: find the model, audit it, and measure what a leak buys where that is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from resnet_bk.bench.audit.full import FULL_LENGTHS, FullAudit, full_audit
from resnet_bk.bench.audit.quick import LENGTHS, Audit, audit_causality
from resnet_bk.bench.audit.show import audit_table, leak_cost_table
from resnet_bk.bench.audit.target import audit_target, fitting_lengths, parse_lengths, vocabulary
from resnet_bk.bench.leak_cost import SEGMENTS, STEPS, LeakCost, causal_twin, check_counts, measure_leak
from resnet_bk.bench.leak_setup import leak_setup
from resnet_bk.bench.protocol import Protocol
from resnet_bk.training import training_device


@dataclass(frozen=True)
class AuditOptions:
    """Options of the command; None for the default.

    Attributes:
        full: every layout, mode and dtype; else the short audit of the benchmark.
        lengths: numbers of tokens, "2,65,300".
        leak_cost: measure what a leak buys.
        data, steps, segments: of that measurement.
    """

    full: bool = True
    lengths: str | None = None
    leak_cost: bool = False
    data: str | None = None
    steps: int | None = None
    segments: int | None = None

    def check(self) -> None:
        """Every option is read.

        Raises:
            ValueError: an option of the measurement without it, or a number below 1.
        """
        for option in ("data", "steps", "segments"):
            value = getattr(self, option)
            if value is not None and not self.leak_cost:
                raise ValueError(f"--{option} {value}: is for --leak-cost only; add it, or leave --{option} out")
        check_counts(steps=self.steps, segments=self.segments)


@dataclass(frozen=True)
class Audited:
    """What the command found.

    Attributes:
        model: as it was named.
        parameters, device: of the model that was audited.
        audit: the full audit, or the short one.
        cost: what a leak buys, or None where that was not asked for.
    """

    model: str
    parameters: int
    device: str
    audit: FullAudit | Audit
    cost: LeakCost | None

    @property
    def verdict(self) -> Literal["causal", "leaks"]:
        return self.audit.verdict

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = (
            self.audit.as_dict() if isinstance(self.audit, FullAudit) else {"model": self.model, **asdict(self.audit)}
        )
        found |= {"parameters": self.parameters, "device": self.device}
        return found if self.cost is None else found | {"leak_cost": self.cost.as_dict()}

    def show(self, console: Console) -> None:
        """The table and one line, and the same for what a leak buys."""
        if isinstance(self.audit, FullAudit):
            console.print(audit_table(self.audit))
        # The last line is for people and for grep: it is never wrapped.
        _line(console, f"{self.model}: {self.verdict}. {self.audit.detail}")
        if self.cost is not None:
            console.print(leak_cost_table(self.cost))
            for sentence in self.cost.sentences():
                _line(console, sentence)


def run_audit(name: str, protocol: Protocol, options: AuditOptions) -> Audited:
    """Audit a model by name.

    Args:
        name: as in `audit_target`.
        protocol: where names are looked up.
        options: of the command.

    Raises:
        ValueError: no such model, a bad option, a model that cannot be audited, or text that cannot be read.
    """
    options.check()
    disable_progress_bar()  # of transformers, which draws one for every model that is loaded
    lengths = None if options.lengths is None else parse_lengths(options.lengths)
    setup = leak_setup(name, protocol, options.data) if options.leak_cost else None
    trains = setup is not None and (setup.model is None or causal_twin(setup.config) is not None)
    if options.steps is not None and not trains:
        raise ValueError(
            f"--steps {options.steps}: {name} has its weights and no causal twin, so nothing is trained; leave it out"
        )
    device = training_device(protocol.device)
    model = audit_target(name, protocol).to(device)
    fitting = fitting_lengths(model, lengths or (FULL_LENGTHS if options.full else LENGTHS))
    audit: FullAudit | Audit
    if options.full:
        with _status() as progress:
            audit = full_audit(model, vocabulary(model), name=name, lengths=fitting, progress=progress)
    else:
        audit = audit_causality(model, vocabulary(model), lengths=fitting)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    cost = None
    if setup is not None:
        steps, segments = options.steps, options.segments
        cost = measure_leak(
            setup, steps=STEPS if steps is None else steps, segments=SEGMENTS if segments is None else segments
        )
    return Audited(name, parameters, str(device), audit, cost)


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """What is looked at, on a terminal only."""
    with Console(stderr=True).status("audit") as status:
        yield lambda text: status.update(f"audit: {text}")


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
