"""The model that `flops` and `inspect` are asked about, and the protocol that gives the shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_bk.bench.audit.target import audit_target
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import Protocol, check_protocol, load_protocol
from resnet_bk.bench.protocols import shipped_protocols
from resnet_bk.bench.resolve import Named, is_run, protocol_config, refuse_protocol, refuse_shape, resolve
from resnet_bk.bench.run_folder import read_run
from resnet_bk.bench.settings_read import HAVE_A_SHAPE, refuse_unread

DEFAULT_PROTOCOL = "seed"


@dataclass(frozen=True)
class Target:
    """A model, and what is known of it.

    Attributes:
        protocol: whose batches it is counted on.
        weights: "fresh", or the folder or the repository of the hub that they came from.
        folder: of the weights, if they came from one.
        steps: of its training, where that was a run of this protocol.
        name: of the model in the protocol, where it is there.
    """

    model: Any
    protocol: Protocol
    weights: str
    folder: Path | None = None
    steps: int | None = None
    name: str | None = None


def open_target(
    name: str, protocol: str | None, settings: Sequence[str], reads: Callable[[Named], Sequence[str]], command: str
) -> Target:
    """The model of that name.

    Args:
        name: of any kind that `resolve` knows. A type has the protocol's shape, as a model of the protocol would.
        protocol: where names are looked up and whose shape counts; None for a run folder's own, else "seed".
        settings: "key=value" each, for the protocol.
        reads: what the command reads of a protocol, for what was named.
        command: its name.

    Raises:
        ValueError: no such model or protocol; settings for a run folder's own protocol, of the shape of a model that
            has one, or that the command does not read; a protocol of which it reads nothing.
    """
    own_protocol = protocol is None and is_run(Path(name))
    if own_protocol:
        if settings and reads(Named(name, "run")):
            raise ValueError(
                f"--set {settings[0]}: {name} is a finished run with settings of its own; name a protocol to change "
                "with --protocol"
            )
        loaded = check_protocol(read_run(Path(name), "protocol")["protocol"], name)
    else:
        loaded = load_protocol(protocol or DEFAULT_PROTOCOL, settings)
    refuse_protocol(name)
    try:
        named = resolve(name, loaded)
    except ValueError as error:
        raise ValueError(f"{error} (protocols: {', '.join(shipped_protocols())}, or a path to a .yaml file)") from error
    refuse_shape(named, settings, HAVE_A_SHAPE)
    refuse_unread(settings, reads(named), f"{command} {name}")
    if protocol is not None and not reads(named):
        raise ValueError(
            f"--protocol {protocol}: {name} has a shape of its own, and {command} reads nothing else of a protocol; "
            "leave it out"
        )
    model = None if named.kind == "type" else audit_target(name, loaded)
    if named.kind == "type":
        return Target(build_type(name, loaded), loaded, "fresh")
    if named.kind in ("name", "config"):
        return Target(model, loaded, "fresh", name=name)
    if named.kind == "hub":
        return Target(model, loaded, f"{name} of the hub")
    if not own_protocol:
        return Target(model, loaded, name, named.path)
    record = read_run(named.path, "training")
    return Target(model, loaded, name, named.path, record["training"]["steps"], record["model"])


def build_type(name: str, protocol: Protocol) -> Any:
    """A freshly initialised model of that type of transformers, in the protocol's shape.

    Raises:
        ValueError: the type does not take that shape.
    """
    try:
        return build_model(protocol_config(protocol, name), seed=0)
    except Exception as error:  # any of a hundred architectures may want more than the common fields
        raise ValueError(
            f"model {name!r}: transformers cannot build it in the shape of protocol {protocol.name} "
            f"({type(error).__name__}: {error}); save one with save_pretrained and give its folder"
        ) from error
