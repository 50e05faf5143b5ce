"""Which blocks, and which calls of them, `resnet_bk.ops.block_step` takes over.

This runs before every block of every token, so that it looks modules and parameters up where they are kept: as an
attribute of a module each takes five times as long.

Shape legend: B batch, D hidden size, H heads, V value size.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from resnet_bk.layers.delta_propagator import DeltaPropagator
from resnet_bk.layers.feed_forward import SwiGLU
from resnet_bk.layers.induction import QueryKeyValue
from resnet_bk.layers.mixer import MixerState
from resnet_bk.layers.modulus_propagator import ModulusPropagator
from resnet_bk.layers.plain import are_plain
from resnet_bk.layers.value_residual import ValueResidual
from resnet_bk.ops.block_step import BlockSettings, BlockWeights, block_step
from resnet_bk.ops.dispatch import beside_token, takes_token

if TYPE_CHECKING:
    from resnet_bk.layers.block import ResNetBKBlock

MIXERS = (ModulusPropagator, DeltaPropagator)
# Numbers of all weights, times the rows, which read them each anew. Matmuls of PyTorch read them once for all rows, on
# all threads: with more numbers they catch up (measured on two cores), with fewer what stands around them takes longer.
MOST_NUMBERS = 8_000_000


def one_token(
    block: "ResNetBKBlock", hidden: Tensor, state: MixerState, first_values: Tensor | None
) -> tuple[Tensor, MixerState, Tensor] | None:
    """Tokens [B, 1, D] behind a block, its state after them and their values in it [B, 1, H, V], without a gradient;
    None where the block must be gone through module by module.

    Args:
        block: without a gate on its sites.
        hidden: tokens without padding.
        state: of its mixer.
        first_values: of the first block, [B, 1, H, V], where this one adds them to its own; None where it does not.
    """
    if not takes_token(hidden) or hidden.shape[1] != 1:
        return None
    of_block: Any = block._modules
    mixer, feed_forward = of_block["mixer"], of_block["feed_forward"]
    if type(mixer) not in MIXERS or type(feed_forward) is not SwiGLU or not mixer.takes_step(hidden, state):
        return None
    weights = _weights(of_block)
    assert state.convolution is not None  # or the mixer would not take it
    green, memory = state.chain
    if weights is None or not _fit(weights, hidden, of_block):
        return None
    heads = (mixer.num_heads, mixer.value_dim)
    if first_values is not None and first_values.shape != (*hidden.shape[:2], *heads):
        return None
    if not beside_token(hidden, *weights, state.convolution, memory, first_values):
        return None
    first = None if first_values is None else first_values.flatten(1)
    before = (state.convolution, green, memory)
    after, tail, carried, own = block_step(hidden.squeeze(1), weights, _settings(of_block), *before, first)
    return after.unsqueeze(1), MixerState(tail, carried), own.view(-1, 1, *heads)


def _weights(of_block: Any) -> BlockWeights | None:
    """Of a block of such a mixer and network, whose modules these are, where a call of each is its class's forward with
    the weights that it keeps as parameters."""
    mixer, feed_forward = of_block["mixer"], of_block["feed_forward"]
    of_mixer, of_network = mixer._modules, feed_forward._modules
    output_norms = (of_block.get("mixer_output_norm"), of_block.get("feed_forward_output_norm"))
    norms = [of_block["mixer_norm"], of_block["feed_forward_norm"]]
    norms += [norm for norm in output_norms if norm is not None]
    in_proj, gate_proj, chain = of_mixer["in_proj"], of_mixer.get("gate_proj"), of_mixer["chain"]
    value_residual = of_block.get("value_residual")
    linear = [of_mixer["write_proj"], of_mixer["out_proj"], *of_network.values()]
    if gate_proj is not None:
        linear.append(gate_proj)
    parts = (
        *mixer.step_parts(),
        *((mixer, type(mixer)), (feed_forward, SwiGLU), (in_proj, QueryKeyValue)),
        *((norm, nn.RMSNorm) for norm in norms),
        *((layer, nn.Linear) for layer in linear),
        *(() if value_residual is None else ((value_residual, ValueResidual),)),
    )
    if not are_plain(parts) or "project" in chain.__dict__:
        return None
    if any(layer.bias is not None for layer in (in_proj, *linear)) or any(norm.eps is None for norm in norms):
        return None

    def weight(module: Any) -> Any:
        # None where it is kept as something else, as by replicas of DataParallel and by FSDP: `_fit` then says no.
        return module._parameters.get("weight")

    def weight_if_there(module: Any) -> Any:
        return None if module is None else weight(module)

    return BlockWeights(
        mixer_norm=weight(norms[0]),
        in_proj=weight(in_proj),
        taps=weight(of_mixer["conv"]),
        bias=of_mixer["query_key"].bias,
        write_proj=weight(of_mixer["write_proj"]),
        site_proj=weight(chain),
        site_bias=chain.bias,
        read_norm=weight(of_mixer["read_norm"]),
        gate_proj=weight_if_there(gate_proj),
        value_weight=weight_if_there(value_residual),
        out_proj=weight(of_mixer["out_proj"]),
        mixer_output_norm=weight_if_there(output_norms[0]),
        feed_forward_norm=weight(norms[1]),
        gate_up_proj=weight(of_network["gate_up_proj"]),
        down_proj=weight(of_network["down_proj"]),
        feed_forward_output_norm=weight_if_there(output_norms[1]),
    )


def _fit(weights: BlockWeights, hidden: Tensor, of_block: Any) -> bool:
    """Whether the weights are there, of the shapes that the kernel does not look at again, and no more than it is
    for."""
    mixer = of_block["mixer"]
    width, heads, keys, values = hidden.shape[2], mixer.num_heads, mixer.key_dim, mixer.value_dim
    channels, read = sum(mixer.widths), heads * values
    down = weights.down_proj
    if down is None or down.ndim != 2:
        return False
    inner = down.shape[1]
    shapes: dict[str, tuple[int, ...] | None] = {
        "mixer_norm": (width,),
        "in_proj": (channels, width),
        "taps": (channels, mixer.conv_size),
        "bias": None if mixer.query_key.bias is None else (2 * heads * keys,),
        "write_proj": (heads, width),
        "site_proj": (3 * heads, width),
        "site_bias": (3 * heads,),
        "read_norm": (values,),
        "gate_proj": None if mixer.gate_proj is None else (read, width),
        "value_weight": None if of_block.get("value_residual") is None else (heads,),
        "out_proj": (width, read),
        "mixer_output_norm": None if of_block.get("mixer_output_norm") is None else (width,),
        "feed_forward_norm": (width,),
        "gate_up_proj": (2 * inner, width),
        "down_proj": (width, inner),
        "feed_forward_output_norm": None if of_block.get("feed_forward_output_norm") is None else (width,),
    }
    if any(getattr(weight, "shape", None) != shapes[name] for name, weight in weights._asdict().items()):
        return False
    return hidden.shape[0] * sum(weight.numel() for weight in weights if weight is not None) <= MOST_NUMBERS


def _settings(of_block: Any) -> BlockSettings:
    mixer = of_block["mixer"]
    of_mixer = mixer._modules

    def eps_if_there(norm: Any) -> float:
        return 0.0 if norm is None else norm.eps

    return BlockSettings(
        write_scale=mixer.scale,
        site_scale=of_mixer["chain"].scale,
        absorption_min=of_mixer["chain"].absorption_min,
        mixer_eps=of_block["mixer_norm"].eps,
        read_eps=of_mixer["read_norm"].eps,
        mixer_output_eps=eps_if_there(of_block.get("mixer_output_norm")),
        feed_forward_eps=of_block["feed_forward_norm"].eps,
        feed_forward_output_eps=eps_if_there(of_block.get("feed_forward_output_norm")),
        erases=mixer.erases,
    )
