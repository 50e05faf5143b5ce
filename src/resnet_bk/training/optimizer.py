"""AdamW and its learning-rate schedule, the same for every model."""

from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate

from resnet_bk.training.spec import RunSpec


def build_optimizer(model: nn.Module, spec: RunSpec) -> AdamW:
    """AdamW that decays tensors of two or more dimensions (matrices and embeddings), not norms, biases and gates.

    Parameters that carry `_no_weight_decay` (state-space models of `transformers` mark theirs) are not decayed either.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            small = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
            (kept if small else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=spec.learning_rate, betas=spec.betas, fused=True)


def build_schedule(optimizer: AdamW, spec: RunSpec) -> LRScheduler:
    """Linear warm-up over `warmup_steps` (the first step already moves), then a cosine to `final_lr_ratio`."""
    return get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer,
        num_warmup_steps=spec.warmup_steps,
        num_training_steps=spec.steps,
        min_lr_rate=spec.final_lr_ratio,
    )
