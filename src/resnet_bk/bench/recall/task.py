"""Multi-query associative recall, the task of Zoology (Arora et al., arXiv 2312.04927, section 4 and appendix).

Shape legend: B examples, T tokens, P pairs.

An example starts with P pairs of a key and a value, all keys different and all values different:

    k_1 v_1 k_2 v_2 ... k_P v_P

Behind them every key comes once more, at one of the even places of the rest, and must be answered by its value. The
places are drawn without replacement, the n-th with weight n^(power - 1): most questions come early, few late. All other
places hold words drawn from the whole vocabulary, which a model must not fall for. Keys are the words 1 to
vocabulary / 2 - 1, values the upper half.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

POWER = 0.01  # of Zoology
NOT_ASKED = -100  # target of a place without a question


@dataclass(frozen=True)
class Recall:
    """One kind of example.

    Attributes:
        length: T.
        pairs: P.
        examples: how many of this kind an epoch (or a test) has.

    Raises:
        ValueError: the pairs and their questions do not fit.
    """

    length: int
    pairs: int
    examples: int

    def __post_init__(self) -> None:
        if self.length < 4 * self.pairs or self.length % 2:
            raise ValueError(
                f"length={self.length} must be even and hold {self.pairs} pairs and their questions: at least "
                f"{4 * self.pairs}; raise length or ask for fewer pairs"
            )


def draw(kind: Recall, count: int, vocabulary: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Examples and what to answer.

    Args:
        kind: length and number of pairs.
        count: B.
        vocabulary: words, at least 2 pairs + 2.
        generator: of the CPU; the same state gives the same examples.

    Returns:
        input ids int64 [B, T]; targets int64 [B, T], NOT_ASKED where nothing is asked.

    Raises:
        ValueError: the vocabulary is too small for different keys.
    """
    half = vocabulary // 2
    if kind.pairs > half - 1:
        raise ValueError(
            f"vocabulary={vocabulary} has {half - 1} keys, but an example takes {kind.pairs} different ones; "
            f"raise vocab_size to {2 * kind.pairs + 2} or ask for fewer pairs"
        )
    keys = 1 + _without_replacement(torch.ones(count, half - 1), kind.pairs, generator)
    values = half + _without_replacement(torch.ones(count, vocabulary - half), kind.pairs, generator)
    places = (kind.length - 2 * kind.pairs) // 2
    weight = torch.arange(1, places + 1, dtype=torch.float64) ** (POWER - 1)
    questions = 2 * kind.pairs + 2 * _without_replacement(weight.expand(count, -1), kind.pairs, generator)

    inputs = torch.randint(0, vocabulary, (count, kind.length), generator=generator)
    inputs[:, : 2 * kind.pairs] = torch.stack([keys, values], dim=2).flatten(1)
    inputs.scatter_(1, questions, keys)
    targets = torch.full_like(inputs, NOT_ASKED).scatter_(1, questions, values)
    return inputs, targets


def _without_replacement(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices [B, count] drawn from [B, n] weights: the largest of Gumbel-perturbed logarithms are such a draw."""
    uniform = torch.rand(weight.shape, generator=generator, dtype=torch.float64).clamp_min(
        torch.finfo(torch.float64).tiny
    )
    return (weight.double().log() - (-uniform.log()).log()).topk(count, dim=1).indices
