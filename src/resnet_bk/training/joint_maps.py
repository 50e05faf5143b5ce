"""Linear maps that are several in one: of queries, keys and values in one matmul, of several heads.

How a model multiplies is a matter of speed, but Muon orthogonalises a matrix as a whole: of a joint one the parts share
their singular values, and a large part holds back a small one. "muon-parts" takes each part by itself, and each head of
it, as it would be taken in a model that keeps them apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class JointMap:
    """A weight whose rows or columns are those of several maps.

    Attributes:
        weight: of two dimensions.
        dim: that of the outputs.
        sizes: of the parts along it, in order.
    """

    weight: Tensor
    dim: int
    sizes: tuple[int, ...]

    def parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """A tensor of the weight's shape, cut into views."""
        return tensor.split(self.sizes, self.dim)


def joint_maps(model: nn.Module) -> Iterator[JointMap]:
    """Those that are known: a linear layer that says so by `output_parts`, the sizes of its parts, as those of this
    package do; queries, keys and values of attention in `transformers`, by their heads; and those of `OF_A_CLASS`.
    Frozen ones are left out."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and (sizes := getattr(module, "output_parts", None)):
            found = [JointMap(module.weight, 0, tuple(sizes))]
        elif known := OF_A_CLASS.get(type(module).__name__):
            found = [known(module)]
        else:
            found = list(_of_attention(module))
        yield from (one for one in found if one.weight.requires_grad)


def _of_attention(module: Any) -> Iterator[JointMap]:
    """As Llama has it, and most models of `transformers` since."""
    size = getattr(module, "head_dim", None)
    for name in ("q_proj", "k_proj", "v_proj"):
        projection = getattr(module, name, None)
        if isinstance(size, int) and isinstance(projection, nn.Linear) and projection.out_features % size == 0:
            yield JointMap(projection.weight, 0, (size,) * (projection.out_features // size))


def _gpt2(module: Any) -> JointMap:
    """Queries, keys and values; keys and values alone across attention. `Conv1D` has its outputs in columns."""
    weight = module.c_attn.weight
    return JointMap(weight, 1, (module.head_dim,) * (weight.shape[1] // module.head_dim))


def _mamba2(module: Any) -> JointMap:
    """Gate, values, keys, queries and step sizes (in the authors' terms z, x, B, C and dt); keys and queries, which
    heads share, by their groups."""
    heads, groups = (module.head_dim,) * 2 * module.num_heads, (module.ssm_state_size,) * 2 * module.n_groups
    return JointMap(module.in_proj.weight, 0, (*heads, *groups, module.num_heads))


def _gated_delta_net(module: Any) -> JointMap:
    """Queries, keys, values and gates, in turn for each head of keys, which has one or more of values."""
    values = (module.head_v_dim,) * 2 * (module.num_v_heads // module.num_k_heads)
    of_a_head = (module.head_k_dim, module.head_k_dim, *values)
    return JointMap(module.in_proj_qkvz.weight, 0, of_a_head * module.num_k_heads)


# By the class that holds the map.
OF_A_CLASS: dict[str, Callable[[Any], JointMap]] = {
    "GPT2Attention": _gpt2,
    "Mamba2Mixer": _mamba2,
    "Qwen3NextGatedDeltaNet": _gated_delta_net,
}
