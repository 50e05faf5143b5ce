"""`mixed_precision: bf16`: matmuls and head in bfloat16, by autocast; weights, their gradients and updates in float32.

Autocast rounds the operands of every matmul and sums in float32. What must not be rounded says so itself, whatever the
context (`resnet_bk.ops.dispatch.full_precision`, `resnet_bk.layers.precision`): potentials, hoppings and absorptions,
the scans and their state, unit vectors, norms, halting, the gates of sites and of the pointer, routers and the loss.
(The write gate of a block is rounded, as are the values that it weighs.) A phase accumulates along the chain, and the
three digits of a bfloat16 energy would smear it within a few sites.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS = ("none", "bf16")


def is_mixed(config: Any) -> bool:
    """Whether a configuration, of this package or another, asks for it."""
    return getattr(config, "mixed_precision", "none") == "bf16"


def mixed_precision(config: Any, device: torch.device) -> AbstractContextManager[Any]:
    """The context that a model of this configuration computes in, on this device."""
    wanted = is_mixed(config) and torch.amp.is_autocast_available(device.type)  # not on meta
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()
