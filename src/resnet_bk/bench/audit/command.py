"""What `resnet-bk audit` does: find the model, audit it, and measure what a leak buys where that is asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from resnet_bk.bench.audit.full import FULL_LENGTHS, FullAudit, full_audit, reason
from resnet_bk.bench.audit.leak_cost import SEGMENTS, STEPS, LeakCost, causal_twin, check_counts, measure_leak
from resnet_bk.bench.audit.leak_setup import LeakSetup, leak_setup
from resnet_bk.bench.audit.quick import LENGTHS, Audit, audit_causality
from resnet_bk.bench.audit.show import audit_table, leak_cost_table
from resnet_bk.bench.audit.target import audit_target, check_lengths, fitting_lengths, vocabulary
from resnet_bk.bench.console import speaker
from resnet_bk.bench.protocol import Protocol, check_protocol, load_protocol
from resnet_bk.bench.resolve import is_run, refuse_shape, resolve
from resnet_bk.bench.run_folder import read_run
from resnet_bk.bench.settings_read import of_audit, of_leak_cost, refuse_unread
from resnet_bk.training import training_device

DEFAULT_PROTOCOL = "quick"


@dataclass(frozen=True)
class AuditOptions:
    """Options of the command; None for the default.

    Attributes:
        full: every layout, mode and dtype; else the short audit of the benchmark.
        lengths: numbers of tokens, at least 2 each.
        leak_cost: measure what a leak buys.
        data, steps, segments: of that measurement.
    """

    full: bool = True
    lengths: Sequence[int] | None = None
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
        say = speaker(console)
        # The last line is for people and for grep: it is never wrapped.
        say(f"{self.model}: {self.verdict}. {self.audit.detail}")
        if self.cost is not None:
            console.print(leak_cost_table(self.cost))
            for sentence in self.cost.sentences():
                say(sentence)


def run_audit(name: str, options: AuditOptions, protocol: str | None = None, settings: Sequence[str] = ()) -> Audited:
    """Audit a model by name.

    Args:
        name: of any kind that `resolve` knows.
        options: of the command.
        protocol: where names are looked up, by default quick; a run folder has its own.
        settings: "key=value" each, for the protocol; of a run folder's own the device alone can be set.

    Raises:
        ValueError: no such model or protocol, a bad option or setting, a model that cannot be audited, or text that
            cannot be read.
    """
    options.check()
    disable_progress_bar()  # of transformers, which draws one for every model that is loaded
    loaded = _protocol(name, protocol, settings, options.data)
    setup = leak_setup(name, loaded, options.data) if options.leak_cost else None
    trains = setup is not None and (setup.model is None or causal_twin(setup.config) is not None)
    named = resolve(name, loaded)
    if not trains:  # what is trained to measure a leak has the shape of the protocol
        refuse_shape(named, settings, ("config", "hub", "saved", "type"))
    read, what = of_audit(named), f"audit {name}"
    if setup is not None:
        read, what = (*read, *of_leak_cost(trains, own_tokenizer=setup.model is not None)), f"{what} --leak-cost"
        _refuse_cut(setup, loaded, settings)
    refuse_unread(settings, read, what)
    if options.steps is not None and not trains:
        raise ValueError(
            f"--steps {options.steps}: {name} has its weights and no causal twin, so nothing is trained; leave it out"
        )
    device = training_device(loaded.device)
    model = audit_target(name, loaded).float().to(device)
    check_lengths(name, model, options.lengths)
    fitting = fitting_lengths(model, options.lengths or (FULL_LENGTHS if options.full else LENGTHS))
    audit: FullAudit | Audit
    if options.full:
        with _status() as progress:
            audit = full_audit(model, vocabulary(model), name=name, lengths=fitting, progress=progress)
    else:
        try:
            audit = audit_causality(model, vocabulary(model), lengths=fitting)
        except Exception as error:  # any of a hundred architectures may refuse in its own way
            raise ValueError(f"model {name!r} cannot be audited: {reason(error)}") from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    cost = None
    if setup is not None:
        steps, segments = options.steps, options.segments
        cost = measure_leak(
            setup, steps=STEPS if steps is None else steps, segments=SEGMENTS if segments is None else segments
        )
    return Audited(name, parameters, str(device), audit, cost)


def _refuse_cut(setup: LeakSetup, protocol: Protocol, settings: Sequence[str]) -> None:
    """Raises ValueError for segments that were asked for and are longer than the model's positions, to which those of a
    protocol are cut."""
    positions = setup.protocol.sequence_length
    for setting in settings:
        if setting.partition("=")[0].strip() == "sequence_length" and positions < protocol.sequence_length:
            raise ValueError(f"--set {setting}: {setup.name} has {positions} positions; give that or less")


def _protocol(name: str, protocol: str | None, settings: Sequence[str], data: str | None) -> Protocol:
    """The protocol of a run folder, else the one that is named."""
    folder = Path(name)
    if not is_run(folder):
        return load_protocol(protocol or DEFAULT_PROTOCOL, settings, data)
    if protocol is not None:
        raise ValueError(f"--protocol {protocol}: {name} is a finished run with a protocol of its own; leave it out")
    of_run = check_protocol(read_run(folder, "protocol")["protocol"], name)
    if len(settings) > 1:
        raise ValueError(f"--set {settings[1]}: --set {settings[0]} was given before it; leave one out")
    for setting in settings:
        key, _, value = setting.partition("=")
        if key.strip() != "device":
            raise ValueError(
                f"--set {setting}: {name} is a finished run with settings of its own; the device alone can be set"
            )
        of_run = check_protocol(of_run.model_dump() | {"device": value.strip()}, name)
    return of_run


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """What is looked at, on a terminal only."""
    with Console(stderr=True).status("audit") as status:
        yield lambda text: status.update(f"audit: {text}")
