"""How large a model is, and the value of one field that makes it as large as another.

Parameters are counted twice. `total` is every trainable parameter. `without_embeddings` leaves out the tables that
grow with vocabulary or length: every `nn.Embedding` (words, learned positions) and the output head, its bias included.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

# From fields to a configuration.
Template = Callable[[dict[str, Any]], PreTrainedConfig]
# Grouped matmuls over experts need rows of whole 16 bytes in every dtype.
EXPERT_FIELDS, EXPERT_UNIT = ("num_experts", "num_local_experts", "n_routed_experts"), 8

LARGEST = 2**24  # that is tried of a size


@dataclass(frozen=True)
class ParameterCount:
    """See the head of this file."""

    total: int
    without_embeddings: int

    def deviation(self, reference: "ParameterCount") -> float:
        """Largest relative difference of the two counts."""
        return max(
            abs(self.total / reference.total - 1.0),
            abs(self.without_embeddings / reference.without_embeddings - 1.0),
        )

    def plus(self, parameters: int) -> "ParameterCount":
        """With so many more parameters outside the embeddings."""
        return ParameterCount(self.total + parameters, self.without_embeddings + parameters)

    def __str__(self) -> str:
        return f"{self.total:,} ({self.without_embeddings:,} without embeddings)"


def count_parameters(model: PreTrainedModel) -> ParameterCount:
    """Trainable parameters of a causal LM, on whatever device (meta too)."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings()
    outside = {id(p) for module in [*tables, head] if module is not None for p in module.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    total = sum(p.numel() for p in trainable)
    return ParameterCount(total, total - sum(p.numel() for p in trainable if id(p) in outside))


def count_config(config: PreTrainedConfig) -> ParameterCount:
    """Parameters of the model that a configuration describes, without making its weights."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialisers warn about tensors without data
        return count_parameters(AutoModelForCausalLM.from_config(config))


def solve_size(template: Template, size_by: str, reference: ParameterCount) -> int:
    """The value of the field `size_by` that brings both counts nearest to the reference; at least 1.

    Raises:
        ValueError: the number of parameters does not grow with the field.
    """
    # Tried first: both counts are linear in the field, with the same slope, as in nearly all models.
    low, high = 8, 16
    first, second = count_config(template({size_by: low})), count_config(template({size_by: high}))
    slope = (second.without_embeddings - first.without_embeddings) / (high - low)
    if slope <= 0:
        raise ValueError(f"size_by={size_by}: the number of parameters does not grow with it; name another field")
    # One value matches the counts with embeddings, another one those without; the best lies between them.
    ends = [
        low + (reference.total - first.total) / slope,
        low + (reference.without_embeddings - first.without_embeddings) / slope,
    ]
    unit = EXPERT_UNIT if any(getattr(template({}), field, 0) for field in EXPERT_FIELDS) else 1
    least, most = (
        max(unit, unit * side(end / unit)) for side, end in ((math.floor, min(ends)), (math.ceil, max(ends)))
    )

    def on_the_line(size: int) -> ParameterCount:
        return first.plus(round(slope * (size - low)))

    best = min(range(least, most + 1, unit), key=lambda size: on_the_line(size).deviation(reference))
    if count_config(template({size_by: best})) == on_the_line(best):
        return best
    return _search(template, size_by, reference, unit)


def _search(template: Template, size_by: str, reference: ParameterCount, unit: int) -> int:
    """The same where the counts grow in another way (a recurrent network's with the square of its width), by halving.

    The best lies where one count is too large by as much as the other is too small: beyond, one of them is further off.
    """

    def count(size: int) -> ParameterCount:
        return count_config(template({size_by: size}))

    def too_large(size: int) -> bool:
        found = count(size)
        total, others = found.total / reference.total, found.without_embeddings / reference.without_embeddings
        return total + others >= 2

    above = unit
    while not too_large(above):
        above *= 2
        if above > LARGEST:
            raise ValueError(f"size_by={size_by}: the parameters do not reach {reference} with it; name another field")
    below = above // 2 if above > unit else 0
    while above - below > unit:
        middle = (below + above) // (2 * unit) * unit
        below, above = (below, middle) if too_large(middle) else (middle, above)
    return min((max(above - unit, unit), above), key=lambda size: count(size).deviation(reference))
