"""The instrument of the causality audit: change a token, and look at the logits that may not move.

Three observations, from the plainest to the finest:

1. Bits. The same rows go through the model twice, in one token different. Logits that are bitwise the same did not
   depend on it.
2. Size. Where tokens are regrouped (experts), or kernels choose their blocks by the data, a logit may come out of sums
   in another order, and rounding moves it. A movement beyond what rounding can do is a leak.
3. Gradient. Below that size the gradient of those logits with respect to the embedding of the changed token decides:
   it is exactly zero, or there is a path from the token to the logits.

What cannot be told is said: logits that are not finite, a model that gives other logits for the same tokens, and one
that moves no logit at all whatever the token.

Random draws (dropout) are set aside: the generator is seeded before every call, so that both calls draw the same.

Shape legend: P rows, in each of which one token is changed; T tokens; V vocabulary.
"""

import copy
import inspect
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resnet_bk.models.mixed_precision import is_mixed

# Disturbance: standard deviation of what is added to vectors, and, over the root of the row length, to matrices, so
# that what passes through a matrix keeps its size at any width.
VECTOR_NOISE, MATRIX_NOISE = 0.1, 0.5
# What another order of summation moves, as a share of the largest logit: a few hundred units in the last place of
# float32 (6e-8) and fewer of the coarse dtypes (float16 5e-4, bfloat16 4e-3). Leaks of a disturbed model are larger.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Logits held at a time; more rows than fit go through the model one group after another.
LOGITS_AT_ONCE = 2**26
# The same for tokens of a call with gradients: every site of a chain may leave a graph behind (`gradient: autograd`).
TOKENS_WITH_GRAPH = 1024

Decider = Literal["bits", "size", "gradient"]


@dataclass(frozen=True)
class Leak:
    """A logit that moved though it may not.

    Attributes:
        changed: position (from 0) of the token that was changed.
        moved: first position whose logits moved by more than rounding can, or with a gradient.
        size: how far they moved, the largest of all that may not.
        length: tokens of the row.
        decided_by: "size" (beyond rounding) or "gradient".
    """

    changed: int
    moved: int
    size: float
    length: int
    decided_by: Decider

    def sentence(self) -> str:
        """'changing token 5 moves the logits at 2, before it, by 0.31'."""
        where = "before it" if self.moved < self.changed else "in another document"
        return f"changing token {self.changed} moves the logits at {self.moved}, {where}, by {self.size:.2g}"


@dataclass(frozen=True)
class Case:
    """Rows to look at.

    Attributes:
        tokens: int64 [P, T].
        changed: position of the changed token, one a row.
        watched: bool [P, T], logits that may not move.
        options: further inputs of the model, [P, T] each.
    """

    tokens: Tensor
    changed: list[int]
    watched: Tensor
    options: dict[str, Tensor] = field(default_factory=dict)

    def rows(self, start: int, stop: int) -> "Case":
        options = {name: value[start:stop] for name, value in self.options.items()}
        return Case(self.tokens[start:stop], self.changed[start:stop], self.watched[start:stop], options)


@dataclass(frozen=True)
class Finding:
    """What a case showed.

    Attributes:
        leak: the first one, or None.
        problem: why there is no verdict, or None.
        rounding: largest movement that the gradient excused; 0 where every bit stayed.
        responds: whether any logit moved at all: if none does, the case shows nothing.
    """

    leak: Leak | None = None
    problem: str | None = None
    rounding: float = 0.0
    responds: bool = False


class Probe:
    """A copy of a model to look at, and how to call it.

    The parameters of the copy are disturbed, so that a projection that starts at zero cannot hide a leak.

    Args:
        model: a causal LM of `transformers`; it is not touched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.device = next(model.parameters()).device
        self.autocast: torch.dtype | None = None
        with self.own_random_numbers(0), torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.is_floating_point():
                    noise = VECTOR_NOISE if parameter.dim() < 2 else MATRIX_NOISE * parameter.shape[-1] ** -0.5
                    parameter.add_(torch.randn_like(parameter), alpha=noise)
        self.arguments = inspect.signature(self.model.forward).parameters

    def takes(self, name: str) -> bool:
        """Whether the model has an argument of this name."""
        return name in self.arguments

    @contextmanager
    def own_random_numbers(self, seed: int) -> Iterator[None]:
        """Seeds the generators and puts them back after the block."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    @property
    def rounding(self) -> float:
        """Share of the largest logit that rounding may move."""
        if is_mixed(getattr(self.model, "config", None)):
            return ROUNDING[torch.bfloat16]
        weights = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return ROUNDING[self.autocast or weights]

    def __call__(self, tokens: Tensor, options: dict[str, Tensor]) -> Tensor:
        """Logits [P, T, V]; gradients are on in training mode, for a model may then take another path."""
        further: dict[str, Any] = dict(options)
        if self.takes("use_cache"):
            further["use_cache"] = False
        with (
            self.own_random_numbers(0),  # the same dropout in every call
            torch.set_grad_enabled(self.model.training or torch.is_grad_enabled()),
            torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None),
        ):
            logits = getattr(self.model(input_ids=tokens, **further), "logits", None)
        if not isinstance(logits, Tensor) or logits.shape[:2] != tokens.shape:
            shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"model: must return logits of shape {(*tokens.shape, 'V')} for tokens of shape {tuple(tokens.shape)}, "
                f"but returned {shown}; an audit needs a causal language model"
            )
        return logits

    @torch.no_grad()
    def look(self, case: Case, vocab_size: int) -> Finding:
        """Change the tokens of `case`, each in its row, and look at the watched logits; the first leak ends it."""
        length = case.tokens.shape[1]
        rows = max(1, LOGITS_AT_ONCE // (length * vocab_size))
        if self.model.training:
            rows = min(rows, max(1, TOKENS_WITH_GRAPH // length))
        responds, rounding = False, 0.0
        for start in range(0, len(case.changed), rows):
            found = self._look(case.rows(start, start + rows), vocab_size)
            responds, rounding = responds or found.responds, max(rounding, found.rounding)
            if found.leak is not None or found.problem is not None:
                return Finding(found.leak, found.problem, rounding, responds)
        return Finding(None, None, rounding, responds)

    def _look(self, case: Case, vocab_size: int) -> Finding:
        changed = case.tokens.clone()
        for row, position in enumerate(case.changed):
            # Another word, whatever the word was.
            step = 1 + int(torch.randint(vocab_size - 1, ()))
            changed[row, position] = (changed[row, position] + step) % vocab_size
        before, after = self(case.tokens, case.options).detach(), self(changed, case.options).detach()
        if not bool(before[case.watched].isfinite().all()):
            return Finding(problem="the logits are not finite")
        moved = (before != after).any(-1)
        responds, moved = bool(moved.any()), moved & case.watched
        if not bool(moved.any()):
            return Finding(responds=responds)

        limit = self.rounding * float(before[case.watched].abs().amax())
        distance = (after.double() - before.double()).abs().amax(-1)  # [P, T]; not a number where `after` is not
        again = self(case.tokens, case.options).detach()
        repeats = torch.equal(again[case.watched], before[case.watched])
        excused = 0.0
        for row, position in enumerate(case.changed):
            if not bool(moved[row].any()):
                continue
            sizes = distance[row].masked_fill(~moved[row], 0.0)
            largest = float(sizes.amax())
            beyond = ~(sizes <= limit)
            length = case.tokens.shape[1]
            if repeats and bool(beyond.any()):
                return Finding(Leak(position, int(beyond.int().argmax()), largest, length, "size"), responds=responds)
            first = self._first_gradient(case.rows(row, row + 1), position)
            if first is not None:
                return Finding(Leak(position, first, largest, length, "gradient"), responds=responds)
            excused = max(excused, largest)
        if not repeats:
            return Finding(problem=f"two calls with the same tokens differ, by up to {excused:.2g}", responds=responds)
        return Finding(rounding=excused, responds=responds)

    def _first_gradient(self, case: Case, position: int) -> int | None:
        """First watched position whose logits have a gradient with respect to the embedding of token `position`."""
        watched = case.watched[0].nonzero().flatten().tolist()
        with torch.enable_grad(), embeddings_as_leaves(self.model, case.tokens) as leaves:
            logits = self(case.tokens, case.options)[0]
            if not leaves:
                raise ValueError("model: no nn.Embedding looks up its tokens; the gradient test needs one")
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)

            def reaches(count: int) -> bool:
                """Whether one of the first `count` watched positions has a gradient."""
                kept = watched[:count]
                total = (logits[kept] * weights[kept]).sum()
                gradients = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
                return any(bool(gradient[0, position].any()) for gradient in gradients if gradient is not None)

            if not watched or not reaches(len(watched)):
                return None
            # True for all counts above the smallest that reaches it; known to be so for all of them.
            return watched[bisect_left(range(1, len(watched)), True, key=reaches)]


@contextmanager
def embeddings_as_leaves(model: nn.Module, tokens: Tensor) -> Iterator[list[Tensor]]:
    """Every embedding looked up with `tokens` becomes a leaf of the graph, and is in the list once it has run."""
    leaves: list[Tensor] = []

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
        index = arguments[0] if arguments else None
        if not isinstance(index, Tensor) or index.shape != tokens.shape or not torch.equal(index, tokens):
            return None  # of positions, or of segments
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, nn.Embedding)]
    try:
        yield leaves
    finally:
        for handle in handles:
            handle.remove()
