"""Figures of a training, in whatever part they are needed. Imports nothing heavy."""

import math

# The name of the bucket of `<unk>` among those of word frequencies.
UNKNOWN_BUCKET = "<unk>"


def perplexity(loss: float) -> float:
    """exp of a loss in nats a token; infinite where a float cannot hold it, NaN of NaN."""
    if math.isnan(loss):
        return math.nan
    return math.exp(loss) if loss < 709 else math.inf


def clock(seconds: float) -> str:
    """7 -> 0:07, 3607 -> 1:00:07"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
