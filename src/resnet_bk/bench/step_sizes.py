"""The start of Gated DeltaNet (arXiv 2412.06464) as its authors have it.

A head of the gated delta rule forgets by `exp(-A softplus(x + dt_bias))` a token; the softplus is its step size.
`transformers` starts every head at `softplus(1) = 1.31`, with which 95% of the heads forget within a token. The
authors' package (flash-linear-attention, as Mamba-2's) draws step sizes log-uniformly from 0.001 to 0.1. On the work of
`quick` held-out perplexity was 2% to 4% higher with the start of `transformers` (results/quick-peers).

The two bounds are fields of the configuration, named as Mamba-2's, which `transformers` writes and reads and else
passes over.
"""

import math
from typing import Any, TypeGuard

import torch
from transformers import PreTrainedConfig

# Models of transformers whose `dt_bias` starts at one.
MODEL_TYPES = ("qwen3_5_text",)
FIELDS = ("time_step_min", "time_step_max")
OF_THE_AUTHORS = {"time_step_min": 1e-3, "time_step_max": 0.1}


def step_size_fields(model_type: str) -> tuple[str, ...]:
    """The fields beside those of `transformers` that a configuration of this type may have."""
    return FIELDS if model_type in MODEL_TYPES else ()


def check_step_sizes(config: PreTrainedConfig) -> None:
    """Whether a configuration that may have the bounds has both or neither.

    Raises:
        ValueError: one bound without the other, or no positive numbers in order.
    """
    if config.model_type not in MODEL_TYPES:
        return
    least, most = (getattr(config, field, None) for field in FIELDS)
    if least is None and most is None:
        return
    if not (_is_number(least) and _is_number(most) and 0 < least <= most < math.inf):
        given = f"{FIELDS[0]}={least!r}, {FIELDS[1]}={most!r}"
        raise ValueError(
            f"{given}: step sizes at the start are drawn between two numbers, 0 < time_step_min <= time_step_max; give "
            "both, or neither for the start of transformers"
        )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


@torch.no_grad()
def draw_step_sizes(model: Any, config: PreTrainedConfig) -> None:
    """Where the configuration has the bounds, every `dt_bias` of the model is drawn anew, by the global generator."""
    if config.model_type not in MODEL_TYPES or getattr(config, FIELDS[0], None) is None:
        return
    least, most = (math.log(getattr(config, field)) for field in FIELDS)
    for name, bias in model.named_parameters():
        if name.endswith(".dt_bias"):
            step = torch.empty_like(bias).uniform_(least, most).exp()
            bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
