"""The registered mixers, by the name that `ResNetBKConfig.state` uses."""

from resnet_bk.layers.delta_propagator import DeltaPropagator
from resnet_bk.layers.matrix_propagator import MatrixPropagator
from resnet_bk.layers.mixer import Mixer
from resnet_bk.layers.modulus_propagator import ModulusPropagator
from resnet_bk.layers.vector_propagator import VectorPropagator

MIXERS: dict[str, type[Mixer]] = {
    mixer.name: mixer for mixer in (VectorPropagator, MatrixPropagator, ModulusPropagator, DeltaPropagator)
}


# Of the shape that all models of a comparison have, whether a mixer has heads or not.
SHARED = {"num_heads"}


def unread_fields(mixer: type[Mixer]) -> list[str]:
    """Fields of a `ResNetBKConfig` that other mixers read and this one does not."""
    read = {field for other in MIXERS.values() for field in other.fields()}
    return sorted(read - SHARED - {*mixer.fields()})


def get_mixer(name: str) -> type[Mixer]:
    """The mixer class of that name.

    Raises:
        ValueError: no mixer has that name.
    """
    if name not in MIXERS:
        raise ValueError(f"state must be one of {', '.join(sorted(MIXERS))}, but got {name!r}; check the spelling")
    return MIXERS[name]
