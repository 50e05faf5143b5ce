"""Rules of the switches of a ResNet-BK configuration: each by itself, and which of them do not go together."""

import math
from typing import Any

from resnet_bk.layers.gradients import GRADIENTS

PRECISIONS = ("none", "bf16")


def switch_problems(config: Any) -> list[str]:
    """Every rule that a switch breaks, as `field=value rule (way out)`."""
    problems: list[str] = []

    def choice(name: str, known: tuple[str, ...]) -> None:
        value = getattr(config, name)
        if value not in known:
            problems.append(f"{name}={value!r} must be one of {', '.join(known)} ({known[0]} is the default)")

    def number(name: str, rule: str, fits: Any, way_out: str, optional: bool = False) -> None:
        value = getattr(config, name)
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            problems.append(f"{name}={value!r} must be {rule} ({way_out})")

    choice("gradient", GRADIENTS)
    choice("mixed_precision", PRECISIONS)
    if config.gradient in GRADIENTS[1:] and config.backend != "auto":
        problems.append(
            f"gradient={config.gradient!r} brings its own evaluation, so that backend={config.backend!r} would not be "
            "read (leave backend at 'auto', or gradient at 'exact')"
        )
    number("halting_threshold", "above 0 and at most 1", lambda x: 0 < x <= 1, "0.99 is usual")
    number("ponder_cost", "0 or above", lambda x: 0 <= x < math.inf, "0.01 is a start")
    number(
        "early_exit_threshold",
        "above 0 and at most 1",
        lambda x: 0 < x <= 1,
        "leave it out for the threshold of training",
        optional=True,
    )
    if config.early_exit_threshold is not None and config.adaptive_computation is False:
        problems.append(
            f"early_exit_threshold={config.early_exit_threshold!r} has no effect without adaptive_computation=true "
            "(turn that on, or leave this out)"
        )
    problems += _share_problems(config.sparse_bk, config.num_hidden_layers)
    number("sparsity_loss_coef", "0 or above", lambda x: 0 <= x < math.inf, "1 is usual")
    number("sparsity_schedule", "from 0 to 1", lambda x: 0 <= x <= 1, "0.5 reaches the share half-way")
    problems += _scale_problems(config.multi_scale, config.num_hidden_layers, config.adaptive_computation)
    return problems


def _share_problems(shares: Any, blocks: Any) -> list[str]:
    """sparse_bk: nothing, a number, or one number a block."""
    if shares is None or isinstance(blocks, bool) or not isinstance(blocks, int):
        return []

    def fits(share: Any) -> bool:
        return isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1

    if isinstance(shares, list | tuple):
        if len(shares) != blocks or not all(fits(share) for share in shares) or min(shares) == 1:
            usual = [1, *[0.5] * (blocks - 1)]
            return [
                f"sparse_bk={shares!r} must be {blocks} numbers above 0 and at most 1, one a block, and not all 1 "
                f"(for example {usual}, or one number for all blocks)"
            ]
    elif not fits(shares) or shares == 1:
        return [f"sparse_bk={shares!r} must be above 0 and below 1 (0.5 keeps half of the sites, null has no gates)"]
    return []


def _scale_problems(scales: Any, blocks: Any, adaptive: Any) -> list[str]:
    if scales is None or isinstance(blocks, bool) or not isinstance(blocks, int):
        return []
    whole = isinstance(scales, list | tuple) and all(
        isinstance(scale, int) and not isinstance(scale, bool) and scale >= 1 for scale in scales
    )
    if not whole or len(scales) != blocks:
        return [f"multi_scale={scales!r} must be {blocks} whole numbers, one a block (for example {example(blocks)})"]
    open_scales = [1]
    for block, scale in enumerate(scales):
        came_from = open_scales[-1]
        while scale < open_scales[-1]:
            open_scales.pop()
        if scale < came_from and scale != open_scales[-1]:
            return [
                f"multi_scale={scales!r} must lengthen to a scale that it came from, but block {block} goes to {scale} "
                f"(for example {example(blocks)})"
            ]
        if scale % open_scales[-1]:
            return [
                f"multi_scale={scales!r} must shorten by whole factors, but block {block} goes from "
                f"{open_scales[-1]} to {scale} (for example {example(blocks)})"
            ]
        if scale > open_scales[-1]:
            open_scales.append(scale)
    if adaptive is True and (scales.count(1) < 2 or scales[-1] != 1):
        return [
            f"multi_scale={scales!r} must have two blocks at scale 1 or more, the last one among them, for "
            f"adaptive_computation=true, where tokens halt (for example {example(blocks)}, or turn that off)"
        ]
    return []


def example(blocks: int) -> list[int]:
    """N -> N/2 -> N/4 -> N/2 -> N over so many blocks, as far as they go: the middle one is shortened most."""
    return [min(2 ** min(block, blocks - 1 - block), 4) for block in range(blocks)]
