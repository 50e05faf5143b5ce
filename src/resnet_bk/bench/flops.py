"""Floating-point operations of a training step.

Counted by PyTorch's FlopCounterMode: two for each multiply-add of a matmul or convolution, and what the operators of
`resnet_bk.ops` register for themselves; element-wise work (norms, activations, softmax) is not counted. Every model is
counted with its own logits, whatever head it is trained with, and attention in full, without taking off the masked
half. The optimizer is counted as 15 operations a parameter, as in the earlier report.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.bench.sizing import count_parameters

OPTIMIZER_FLOPS_A_PARAMETER = 15


@dataclass(frozen=True)
class StepFlops:
    """Operations of one optimizer step over batch_size x sequence_length tokens."""

    forward_flops: int
    backward_flops: int
    optimizer_flops: int

    @property
    def total_flops_per_step(self) -> int:
        return self.forward_flops + self.backward_flops + self.optimizer_flops

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"total_flops_per_step": self.total_flops_per_step}


def step_flops(model: Any, batch_size: int, sequence_length: int) -> StepFlops:
    """Count one step. Runs the model once, on a copy and on one row: work is proportional to the rows.

    Args:
        model: a causal LM of `transformers`.
        batch_size: rows of a step.
        sequence_length: tokens of a row.
    """
    probe = copy.deepcopy(model).train()
    device = next(probe.parameters()).device
    tokens = torch.zeros(1, sequence_length, dtype=torch.int64, device=device)
    # The plain form of attention consists of matmuls that the counter knows; the fused ones of the CPU it does not.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits = probe(input_ids=tokens, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return StepFlops(
        forward_flops=batch_size * forward.get_total_flops(),
        backward_flops=batch_size * backward.get_total_flops(),
        optimizer_flops=OPTIMIZER_FLOPS_A_PARAMETER * count_parameters(model).total,
    )
