"""Rules of the switches of a ResNet-BK configuration: each by itself, and which of them do not go together."""

from typing import Any

from resnet_bk.layers.gradients import GRADIENTS
from resnet_bk.models.mixed_precision import PRECISIONS
from resnet_bk.models.rules import Rules

# What only tokens that halt, gates, experts and a pointer read.
OF_HALTING = ("halting_threshold", "ponder_cost", "early_exit_threshold")
OF_GATES = ("sparsity_loss_coef", "sparsity_schedule")
OF_EXPERTS = ("num_experts_per_tok", "router_aux_loss_coef")
OF_POINTER = ("pointer_key_dim",)


def switch_problems(config: Any) -> list[str]:
    """Every rule that a switch breaks, as `field=value rule (way out)`."""
    rules = Rules(config)
    problems = rules.problems
    rules.choice("gradient", GRADIENTS)
    rules.choice("mixed_precision", PRECISIONS)
    if config.gradient in GRADIENTS[1:] and config.backend != "auto":
        problems.append(
            f"gradient={config.gradient!r} brings its own evaluation, so that backend={config.backend!r} would not be "
            "read (leave backend at 'auto', or gradient at 'exact')"
        )
    rules.number("halting_threshold", "above 0 and at most 1", lambda x: 0 < x <= 1, "0.99 is usual")
    rules.number("ponder_cost", "0 or above", lambda x: x >= 0, "0.01 is a start")
    rules.number(
        "early_exit_threshold",
        "above 0 and at most 1",
        lambda x: 0 < x <= 1,
        "leave it out for the threshold of training",
        optional=True,
    )
    halts = not problems and config.adaptive_computation
    if halts and (config.early_exit_threshold or 0) > config.halting_threshold:
        problems.append(
            f"early_exit_threshold={config.early_exit_threshold!r} must be at most "
            f"halting_threshold={config.halting_threshold!r}, where tokens stop anyway (lower it, or leave it out)"
        )
    problems += _share_problems(config.sparse_bk, config.num_hidden_layers)
    rules.number("sparsity_loss_coef", "above 0", lambda x: x > 0, "1 is usual; 0 would leave the share to chance")
    rules.number("sparsity_schedule", "from 0 to 1", lambda x: 0 <= x <= 1, "0.5 reaches the share half-way")
    if config.backend == "triton" and (config.sparse_bk is not None or config.multi_scale is not None):
        problems.append(
            "backend='triton' does not bear rows that are filled up to one length, as sparse_bk and multi_scale make "
            "them (leave backend at 'auto', which takes another one for such rows)"
        )
    problems += _scale_problems(config.multi_scale, config.num_hidden_layers)
    if not problems:
        problems += _unread_problems(config)
    if not problems and config.adaptive_computation:
        problems += _halting_problems(config.multi_scale, config.num_hidden_layers)
    return problems


def _unread_problems(config: Any) -> list[str]:
    """Fields that only a switch which is off would read, with another value than the default."""
    defaults = {name: field.default for name, field in type(config).__dataclass_fields__.items()}
    return [
        f"{name}={getattr(config, name)!r} has no effect without {switch} ({way_out}, or leave this out)"
        for switch, (is_on, names, way_out) in {
            "adaptive_computation=true": (config.adaptive_computation, OF_HALTING, "turn that on"),
            "sparse_bk": (config.sparse_bk is not None, OF_GATES, "set it, for example to 0.5"),
            "num_experts": (bool(config.num_experts), OF_EXPERTS, "set it, for example to 4"),
            "pointer_heads": (bool(config.pointer_heads), OF_POINTER, "set it, for example to 4"),
        }.items()
        for name in names
        if not is_on and getattr(config, name) != defaults[name]
    ]


def _share_problems(shares: Any, blocks: Any) -> list[str]:
    """sparse_bk: nothing, a number, or one number a block."""
    if shares is None or isinstance(blocks, bool) or not isinstance(blocks, int):
        return []

    def fits(share: Any) -> bool:
        return isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1

    if isinstance(shares, list | tuple):
        if blocks < 1:  # which is what is wrong
            return []
        if len(shares) != blocks or not all(fits(share) for share in shares) or min(shares) == 1:
            usual = [1, *[0.5] * (blocks - 1)]
            return [
                f"sparse_bk={shares!r} must be {blocks} numbers above 0 and at most 1, one a block, and not all 1 "
                f"(for example {usual}, or one number for all blocks)"
            ]
    elif not fits(shares) or shares == 1:
        return [f"sparse_bk={shares!r} must be above 0 and below 1 (0.5 keeps half of the sites, null has no gates)"]
    return []


def _scale_problems(scales: Any, blocks: Any) -> list[str]:
    if scales is None or isinstance(blocks, bool) or not isinstance(blocks, int):
        return []
    whole = isinstance(scales, list | tuple) and all(
        isinstance(scale, int) and not isinstance(scale, bool) and scale >= 1 for scale in scales
    )
    if not whole or len(scales) != blocks:
        return [f"multi_scale={scales!r} must be {blocks} whole numbers, one a block (for example {example(blocks)})"]
    if scales and max(scales) == 1:
        return [f"multi_scale={scales!r} must shorten something (leave it out, or for example {example(blocks)})"]
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
    return []


def _halting_problems(scales: Any, blocks: Any) -> list[str]:
    """adaptive_computation: tokens halt between two blocks at full length, and at the last one they must."""
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:  # which is what is wrong
        return []
    if scales is None:
        if blocks < 2:
            return [
                f"num_hidden_layers={blocks} must be at least 2 for adaptive_computation=true (one block leaves "
                "nothing to skip; add blocks, or turn that off)"
            ]
    elif list(scales).count(1) < 2 or scales[-1] != 1:
        hint = f"for example {example(blocks)}, or turn that off" if blocks > 2 else "add blocks, or turn that off"
        return [
            f"multi_scale={scales!r} must have two blocks at scale 1 or more, the last one among them, for "
            f"adaptive_computation=true, where tokens halt ({hint})"
        ]
    return []


def example(blocks: int) -> list[int]:
    """N -> N/2 -> N/4 -> N/2 -> N over so many blocks, as far as they go: the middle one is shortened most."""
    if blocks < 3:
        return [1, 2][-blocks:]
    return [min(2 ** min(block, blocks - 1 - block), 4) for block in range(blocks)]
