"""The registered mixers, by the name that `ResNetBKConfig.state` uses."""

from resnet_bk.layers.delta_propagator import DeltaPropagator
from resnet_bk.layers.matrix_propagator import MatrixPropagator
from resnet_bk.layers.mixer import Mixer
from resnet_bk.layers.modulus_propagator import ModulusPropagator
from resnet_bk.layers.vector_propagator import VectorPropagator

MIXERS: dict[str, type[Mixer]] = {
    mixer.name: mixer for mixer in (VectorPropagator, MatrixPropagator, ModulusPropagator, DeltaPropagator)
}


def get_mixer(name: str) -> type[Mixer]:
    """The mixer class of that name.

    Raises:
        ValueError: no mixer has that name.
    """
    if name not in MIXERS:
        raise ValueError(f"state must be one of {', '.join(sorted(MIXERS))}, but got {name!r}; check the spelling")
    return MIXERS[name]
