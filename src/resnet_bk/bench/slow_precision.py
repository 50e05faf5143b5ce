"""What to say before a training in a precision that the processor has no instructions for."""

from collections.abc import Mapping
from typing import Any

import torch

from resnet_bk.models.mixed_precision import is_mixed
from resnet_bk.ops.dispatch import cpu_multiplies


def slow_precision(dtype: str, configs: Mapping[str, Any], device_type: str) -> list[str]:
    """A line for each setting that makes steps many times as long as in float32 here; none where nothing does.

    Args:
        dtype: of the protocol.
        configs: model name -> configuration, of the models that are to be trained.
        device_type: such as "cpu".
    """
    if device_type != "cpu" or cpu_multiplies(torch.bfloat16):
        return []
    settings = [("dtype", "float32")] if dtype == "bfloat16" else []
    settings += [(f"models.{name}.config.mixed_precision", "none") for name, of in configs.items() if is_mixed(of)]
    return [
        f"{key}: this processor has no instructions for bfloat16, and PyTorch's matmuls in it take many times as long "
        f"as in float32; --set {key}={quick} is quicker"
        for key, quick in settings
    ]
