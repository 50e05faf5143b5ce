"""Tokens of a trained model that stop at a lower threshold than in training."""

from typing import Any


def exit_early(model: Any, threshold: float | None) -> None:
    """Set the sum of halting probabilities at which tokens of `model` stop from now on; None changes nothing.

    Args:
        model: with `adaptive_computation`.
        threshold: above 0, at most the `halting_threshold` of the training.

    Raises:
        ValueError: tokens of the model do not halt, or a threshold out of range.
    """
    if threshold is None:
        return
    config = model.config
    if not getattr(config, "adaptive_computation", False):
        raise ValueError(
            f"--early-exit {threshold}: no token of this {config.model_type} halts, for it was trained without "
            "adaptive_computation; leave the option out"
        )
    before, config.early_exit_threshold = config.early_exit_threshold, threshold
    try:
        config.check()
    except ValueError as error:
        config.early_exit_threshold = before
        raise ValueError(f"--early-exit {threshold}: {error}") from None
