"""Layers of ResNet-BK: mixers in one registry, feed-forward networks, and the residual block."""

from resnet_bk.layers.adaptive import HaltingUnit, Pondering
from resnet_bk.layers.block import BlockOutput, ResNetBKBlock
from resnet_bk.layers.boundaries import Boundaries, find_boundaries
from resnet_bk.layers.chain import Chain, ChainProjection
from resnet_bk.layers.feed_forward import SwiGLU
from resnet_bk.layers.induction import QueryKeyValue
from resnet_bk.layers.mixer import Mixer, MixerState
from resnet_bk.layers.moe import SparseMoE, load_balancing_loss
from resnet_bk.layers.multi_scale import ScaleState, Shortening
from resnet_bk.layers.pointer import KindsOfContext, Pointer
from resnet_bk.layers.pointer_gates import PointerGates
from resnet_bk.layers.pointer_state import PointerState
from resnet_bk.layers.query_key import QueryKey
from resnet_bk.layers.readout import Readout
from resnet_bk.layers.registry import MIXERS, get_mixer
from resnet_bk.layers.short_convolution import ShortConvolution
from resnet_bk.layers.sparse import SiteGate
from resnet_bk.layers.value_residual import ValueResidual

__all__ = [
    "MIXERS",
    "BlockOutput",
    "Boundaries",
    "Chain",
    "ChainProjection",
    "HaltingUnit",
    "KindsOfContext",
    "Mixer",
    "MixerState",
    "Pointer",
    "PointerGates",
    "PointerState",
    "Pondering",
    "QueryKey",
    "QueryKeyValue",
    "Readout",
    "ResNetBKBlock",
    "ScaleState",
    "ShortConvolution",
    "Shortening",
    "SiteGate",
    "SparseMoE",
    "SwiGLU",
    "ValueResidual",
    "find_boundaries",
    "get_mixer",
    "load_balancing_loss",
]
