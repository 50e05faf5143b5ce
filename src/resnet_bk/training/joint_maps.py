"""Linear maps that are several in one: queries, keys and values of one matmul, for example.

How a model multiplies is a matter of speed, but Muon orthogonalises a matrix as a whole: of a joint one the parts share
their singular values, and a large part holds back a small one. "muon-parts" takes each part by itself, as it would be
taken in a model that keeps them apart (as Llama does).
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
    package do, and those of `OF_TRANSFORMERS`. Frozen ones are left out."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and (sizes := getattr(module, "output_parts", None)):
            found = JointMap(module.weight, 0, tuple(sizes))
        elif known := OF_TRANSFORMERS.get(type(module).__name__):
            found = known(module)
        else:
            continue
        if found.weight.requires_grad:
            yield found


def _gpt2(module: Any) -> JointMap:
    """Query, key and value; key and value alone across attention. `Conv1D` has its outputs in columns."""
    weight = module.c_attn.weight
    return JointMap(weight, 1, (module.split_size,) * (weight.shape[1] // module.split_size))


def _mamba2(module: Any) -> JointMap:
    """Gate, values, keys, queries and step sizes (in the authors' terms z, x, B, C and dt)."""
    states = module.n_groups * module.ssm_state_size
    inner = module.intermediate_size
    return JointMap(module.in_proj.weight, 0, (inner, inner, states, states, module.num_heads))


def _gated_delta_net(module: Any) -> JointMap:
    """Queries, keys, values and gates, in turn for each head of keys."""
    values = module.num_v_heads // module.num_k_heads * module.head_v_dim
    of_a_head = (module.head_k_dim, module.head_k_dim, values, values)
    return JointMap(module.in_proj_qkvz.weight, 0, of_a_head * module.num_k_heads)


# By the class that holds the map.
OF_TRANSFORMERS: dict[str, Callable[[Any], JointMap]] = {
    "GPT2Attention": _gpt2,
    "Mamba2Mixer": _mamba2,
    "Qwen3NextGatedDeltaNet": _gated_delta_net,
}
