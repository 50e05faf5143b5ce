"""Linear maps that are several in one: of queries, keys and values in one matmul, of several heads.

How a model multiplies is a matter of speed, but Muon orthogonalises a matrix as a whole: of a joint one the parts share
their singular values, and a large part holds back a small one. "muon-parts" takes each part by itself, and each head of
it, as it would be taken in a model that keeps them apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

NAMES = ("output_parts", "input_parts")  # of rows and of columns


@dataclass(frozen=True)
class JointMap:
    """A weight whose rows or columns are those of several maps.

    Attributes:
        weight: of two dimensions.
        dim: along which the parts lie.
        sizes: of the parts, in order.
    """

    weight: Tensor
    dim: int
    sizes: tuple[int, ...]

    def parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """A tensor of the weight's shape, cut into views."""
        return tensor.split(self.sizes, self.dim)


def joint_maps(model: nn.Module) -> Iterator[JointMap]:
    """Those that are known: a linear layer that names the sizes of its parts, by `output_parts` or `input_parts`, as
    those of this package do; attention in `transformers`, by its heads; and the layers of `OF_A_CLASS`. Frozen ones are
    left out.

    Raises:
        ValueError: a layer that names sizes which do not add up, or those of outputs and inputs both.
    """
    for module in model.modules():
        of_a_class = OF_A_CLASS.get(type(module).__name__, _of_attention)
        yield from (one for one in (*_named(module), *of_a_class(module)) if one.weight.requires_grad)


def _named(module: Any) -> Iterator[JointMap]:
    """What a linear layer says of itself.

    Raises:
        ValueError: sizes that do not add up, or of outputs and inputs both.
    """
    if not isinstance(module, nn.Linear):
        return
    named = {name: sizes for name in NAMES if (sizes := getattr(module, name, None))}
    if len(named) > 1:
        raise ValueError(f"{module}: has output_parts and input_parts, of which a layer can have one; leave one out")
    for name, sizes in named.items():
        width = module.weight.shape[NAMES.index(name)]
        if sum(sizes) != width:
            raise ValueError(f"{name}={sizes} must add up to {width} in {module}; give the size of every part")
        yield JointMap(module.weight, NAMES.index(name), tuple(sizes))


def _of_attention(module: Any) -> Iterator[JointMap]:
    """As Llama has it, and most models of `transformers` since."""
    size = getattr(module, "head_dim", None)
    for dim, name in ((0, "q_proj"), (0, "k_proj"), (0, "v_proj"), (1, "o_proj")):
        projection = getattr(module, name, None)
        if isinstance(size, int) and isinstance(projection, nn.Linear) and projection.weight.shape[dim] % size == 0:
            yield _by_heads(projection.weight, dim, size)


def _by_heads(weight: Tensor, dim: int, size: int) -> JointMap:
    return JointMap(weight, dim, (size,) * (weight.shape[dim] // size))


def _of_gpt2(module: Any) -> Iterator[JointMap]:
    """Queries, keys and values; keys and values alone across attention. `Conv1D` has its outputs in columns."""
    yield _by_heads(module.c_attn.weight, 1, module.head_dim)
    yield _by_heads(module.c_proj.weight, 0, module.head_dim)
    if module.is_cross_attention:
        yield _by_heads(module.q_attn.weight, 1, module.head_dim)


def _of_mamba2(module: Any) -> Iterator[JointMap]:
    """Gate, values, keys, queries and step sizes (in the authors' terms z, x, B, C and dt); keys and queries, which
    heads share, by their groups."""
    heads, groups = (module.head_dim,) * 2 * module.num_heads, (module.ssm_state_size,) * 2 * module.n_groups
    yield JointMap(module.in_proj.weight, 0, (*heads, *groups, module.num_heads))
    yield _by_heads(module.out_proj.weight, 1, module.head_dim)


def _of_gated_delta_net(module: Any) -> Iterator[JointMap]:
    """Queries, keys and values, all heads of one behind those of the other; gates by themselves."""
    of_keys, of_values = (module.head_k_dim,) * 2 * module.num_k_heads, (module.head_v_dim,) * module.num_v_heads
    yield JointMap(module.in_proj_qkv.weight, 0, of_keys + of_values)
    yield _by_heads(module.in_proj_z.weight, 0, module.head_v_dim)
    yield _by_heads(module.out_proj.weight, 1, module.head_v_dim)


def _of_qwen3_next(module: Any) -> Iterator[JointMap]:
    """Queries, keys, values and gates, in turn for each head of keys, which has one or more of values."""
    values = (module.head_v_dim,) * 2 * (module.num_v_heads // module.num_k_heads)
    of_a_head = (module.head_k_dim, module.head_k_dim, *values)
    yield JointMap(module.in_proj_qkvz.weight, 0, of_a_head * module.num_k_heads)
    yield _by_heads(module.out_proj.weight, 1, module.head_v_dim)


# By the class of the layer that holds them.
OF_A_CLASS: dict[str, Callable[[Any], Iterator[JointMap]]] = {
    "GPT2Attention": _of_gpt2,
    "Mamba2Mixer": _of_mamba2,
    "Qwen3_5GatedDeltaNet": _of_gated_delta_net,
    "Qwen3NextGatedDeltaNet": _of_qwen3_next,
}
