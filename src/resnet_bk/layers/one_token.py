"""Which blocks, and which calls of them, `resnet_bk.ops.block_step` takes over.

This runs before every block of every token, so that it looks modules and parameters up where they are kept: as an
attribute of a module each takes five times as long.

Shape legend: B batch, D hidden size.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resnet_bk.layers.delta_propagator import DeltaPropagator
from resnet_bk.layers.feed_forward import SwiGLU
from resnet_bk.layers.induction import QueryKeyValue
from resnet_bk.layers.mixer import MixerState
from resnet_bk.layers.modulus_propagator import ModulusPropagator
from resnet_bk.layers.plain import are_plain
from resnet_bk.ops.block_step import BlockSettings, BlockWeights, block_step
from resnet_bk.ops.dispatch import takes_token

if TYPE_CHECKING:
    from resnet_bk.layers.block import ResNetBKBlock

MIXERS = (ModulusPropagator, DeltaPropagator)
# Numbers that a call reads, weights for each row anew. Matmuls of PyTorch read them once for all rows, on all threads:
# with more they are faster, with fewer what stands around them takes longer.
MOST_NUMBERS = 8_000_000


def one_token(block: "ResNetBKBlock", hidden: Tensor, state: MixerState) -> tuple[Tensor, MixerState] | None:
    """Tokens [B, 1, D] behind a block and its state after them, without a gradient; None where the block must be gone
    through module by module.

    Args:
        block: without a gate on its sites.
        hidden: tokens without padding.
        state: of its mixer.
    """
    if hidden.shape[1] != 1 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    of_block: Any = block._modules
    mixer, feed_forward = of_block["mixer"], of_block["feed_forward"]
    if type(mixer) not in MIXERS or type(feed_forward) is not SwiGLU or not mixer.takes_step(hidden, state):
        return None
    of_mixer: Any = mixer._modules
    of_network: Any = feed_forward._modules
    norms = (of_block["mixer_norm"], of_block["feed_forward_norm"])
    in_proj, gate_proj, chain = of_mixer["in_proj"], of_mixer.get("gate_proj"), of_mixer["chain"]
    linear: list[Any] = [of_mixer["write_proj"], of_mixer["out_proj"], *of_network.values()]
    if gate_proj is not None:
        linear.append(gate_proj)
    # Their weights are read beside them, which is right for these modules and no others.
    parts = (
        *mixer.step_parts(),
        *((mixer, type(mixer)), (feed_forward, SwiGLU), (in_proj, QueryKeyValue)),
        *((norm, nn.RMSNorm) for norm in norms),
        *((map, nn.Linear) for map in linear),
    )
    if not are_plain(parts) or any(map._parameters.get("bias") is not None for map in (in_proj, *linear)):
        return None
    if any(norm.eps is None for norm in norms):
        return None

    def weight(module: Any) -> Any:
        return module._parameters.get("weight")  # none in a replica of DataParallel, which keeps tensors elsewhere

    weights = BlockWeights(
        mixer_norm=weight(norms[0]),
        in_proj=weight(in_proj),
        taps=weight(of_mixer["conv"]),
        bias=of_mixer["query_key"]._parameters.get("bias"),
        write_proj=weight(of_mixer["write_proj"]),
        site_proj=weight(chain),
        site_bias=chain._parameters.get("bias"),
        read_norm=weight(of_mixer["read_norm"]),
        gate_proj=None if gate_proj is None else weight(gate_proj),
        out_proj=weight(of_mixer["out_proj"]),
        feed_forward_norm=weight(norms[1]),
        gate_up_proj=weight(of_network["gate_up_proj"]),
        down_proj=weight(of_network["down_proj"]),
    )
    assert state.convolution is not None  # or the mixer would not take it
    green, memory = state.chain
    if not _fit(weights, hidden, mixer) or not takes_token(hidden, *weights, state.convolution, memory):
        return None
    settings = BlockSettings(
        write_scale=mixer.scale,
        site_scale=chain.scale,
        absorption_min=chain.absorption_min,
        mixer_eps=norms[0].eps,
        read_eps=of_mixer["read_norm"].eps,
        feed_forward_eps=norms[1].eps,
        erases=mixer.erases,
    )
    after, tail, carried = block_step(hidden.squeeze(1), weights, settings, state.convolution, green, memory)
    return after.unsqueeze(1), MixerState(tail, carried)


def _fit(weights: BlockWeights, hidden: Tensor, mixer: ModulusPropagator) -> bool:
    """Whether the weights have the shapes that the kernel does not look at again, and are no more than it is for."""
    if weights.down_proj is None:
        return False
    width, heads, keys, values = hidden.shape[2], mixer.num_heads, mixer.key_dim, mixer.value_dim
    channels, read, inner = sum(mixer.widths), heads * values, weights.down_proj.shape[-1]
    numbers = width * (channels + 2 * read + 3 * inner)
    if hidden.shape[0] * numbers > MOST_NUMBERS:
        return False
    assert mixer.conv is not None
    shapes: dict[str, tuple[int, ...] | None] = {
        "mixer_norm": (width,),
        "in_proj": (channels, width),
        "taps": (channels, mixer.conv.kernel_size),
        "bias": None if weights.bias is None else (2 * heads * keys,),
        "write_proj": (heads, width),
        "site_proj": (3 * heads, width),
        "site_bias": (3 * heads,),
        "read_norm": (values,),
        "gate_proj": None if weights.gate_proj is None else (read, width),
        "out_proj": (width, read),
        "feed_forward_norm": (width,),
        "gate_up_proj": (2 * inner, width),
        "down_proj": (width, inner),
    }
    return all(getattr(weight, "shape", None) == shapes[name] for name, weight in weights._asdict().items())
