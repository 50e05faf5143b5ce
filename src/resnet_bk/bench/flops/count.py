"""Floating-point operations of a training step.

Counted by PyTorch's FlopCounterMode: two for each multiply-add of a matmul or convolution, and what the operators of
`resnet_bk` register for themselves. Formulas stand here for the grouped matmuls of experts, where PyTorch has none,
and for the gradient of a convolution, where PyTorch's counts C^2 filters for C channels that each have one. Other
element-wise work (norms, activations, softmax) is not counted. Every model is counted with its own logits, whatever
head it is trained with, for which a pointer forms all pairs of tokens (training on targets does not, where there is a
kernel or a segment is longer than 512), and attention in full, without taking off the masked half. The optimizer is
counted as 15 operations a parameter, as in the earlier report, whose own count stands beside this one where it applies
(`resnet_bk.bench.flops.convention`).
"""

import copy
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.bench.flops.convention import OPTIMIZER_FLOPS_A_PARAMETER, ConventionFlops, convention_flops
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.training.optimizer import muon_flops


@dataclass(frozen=True)
class StepFlops:
    """Operations of one optimizer step over batch_size x sequence_length tokens.

    Attributes:
        forward_flops, backward_flops, optimizer_flops: counted.
        convention: the earlier report's count, for a model that it covers.
        by_operator: (forward, backward) operations of each operator.
    """

    forward_flops: int
    backward_flops: int
    optimizer_flops: int
    convention: ConventionFlops | None = None
    by_operator: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False)

    @property
    def total_flops_per_step(self) -> int:
        return self.forward_flops + self.backward_flops + self.optimizer_flops

    def as_dict(self) -> dict[str, Any]:
        """The counts by the keys of the earlier report, and `flops_convention`, that report's own, or None."""
        return {
            "forward_flops": self.forward_flops,
            "backward_flops": self.backward_flops,
            "optimizer_flops": self.optimizer_flops,
            "total_flops_per_step": self.total_flops_per_step,
            "flops_convention": None if self.convention is None else self.convention.as_dict(),
        }


def depends_on_text(config: Any) -> bool:
    """Whether a model skips work by what the tokens are: then a count is of one text and one set of weights."""
    return bool(getattr(config, "adaptive_computation", False)) or getattr(config, "sparse_bk", None) is not None


def step_flops(
    model: Any, batch_size: int, sequence_length: int, tokens: Tensor | None = None, *, optimizer: str = "adamw"
) -> StepFlops:
    """Count one step. Runs the model once, on a copy.

    Args:
        model: a causal LM of `transformers`.
        batch_size: rows of a step.
        sequence_length: tokens of a row.
        tokens: the batch, int64 [batch_size, sequence_length]; None for one row of any tokens, where work is
            proportional to the rows.
        optimizer: of the step, as `RunSpec` names it.

    Raises:
        ValueError: an optimizer that has no use for the model.
    """
    probe = copy.deepcopy(model).train()
    device = next(probe.parameters()).device
    if tokens is None:
        tokens, rows = torch.zeros(1, sequence_length, dtype=torch.int64, device=device), batch_size
    else:
        tokens, rows = tokens.to(device), 1
    # The plain form of attention consists of matmuls that the counter knows; the fused ones of the CPU it does not.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as forward:
            logits = probe(input_ids=tokens, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as backward:
            loss.backward()
    parameters = count_parameters(model).total
    first, second = _by_operator(forward, rows), _by_operator(backward, rows)
    return StepFlops(
        forward_flops=sum(first.values()),
        backward_flops=sum(second.values()),
        optimizer_flops=OPTIMIZER_FLOPS_A_PARAMETER * parameters + muon_flops(model, optimizer),
        convention=convention_flops(model.config, parameters, batch_size, sequence_length),
        by_operator={name: (first[name], second[name]) for name in sorted({*first, *second})},
    )


def _grouped_mm(first: tuple[int, ...], second: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    """Two a multiply-add: [M, K] x [E, K, N] and, for the gradient of the weights, [M, K] x [K, N] cut into groups.

    Both multiply every row once, whatever the number of experts.
    """
    return 2 * first[-2] * first[-1] * second[-1]


def _convolution_backward(
    gradient: tuple[int, ...],
    x: tuple[int, ...],
    weight: tuple[int, ...],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: list[bool],
    **kwargs: Any,
) -> int:
    """Each of the two gradients takes the multiply-adds of the convolution itself: every weight [C, C / groups, ...]
    meets every place (of the output; of the input where it is transposed) once a row."""
    places = x[2:] if transposed else gradient[2:]
    return 2 * gradient[0] * math.prod(places) * math.prod(weight) * sum(wanted[:2])


FORMULAS = {
    torch.ops.aten._grouped_mm: _grouped_mm,
    torch.ops.aten.convolution_backward: _convolution_backward,
}


def _by_operator(counter: FlopCounterMode, times: int) -> Counter[str]:
    """Operations by operator of so many times what was counted."""
    counts = counter.get_flop_counts().get("Global", {})
    return Counter({str(operator): times * number for operator, number in counts.items()})
