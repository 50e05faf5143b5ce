"""What to say before a training in a precision that is slow on this processor."""

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
    settings = [("dtype", "float32")] if configs and dtype == "bfloat16" else []
    settings += [(f"models.{name}.config.mixed_precision", "none") for name, of in configs.items() if is_mixed(of)]
    return [
        f"{key}: PyTorch has no fast matmuls of bfloat16 on this processor; they take many times as long as in "
        f"float32: --set {key}={quick} is quicker"
        for key, quick in settings
    ]
