"""One training step, the same in the loop, in its warm-up and where steps are timed.

    tokens -> loss -> gradients -> clip -> optimizer -> schedule

Shape legend: B batch, T tokens.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from resnet_bk.training.loss import Head, autocast_to, causal_lm_loss
from resnet_bk.training.spec import RunSpec


class Step(NamedTuple):
    """What a step found: the loss before it, without what is added in training, and the norm of the gradient before it
    is clipped, 0-d; what the model reports of itself; its state after the batch, without a graph, or None."""

    loss: Tensor
    grad_norm: Tensor
    measures: dict[str, Tensor]
    state: Any


def training_step(
    model: Any,
    optimizer: Optimizer,
    batch: tuple[Tensor, Tensor],
    head: Head,
    spec: RunSpec,
    *,
    state: Any = None,
    schedule: LRScheduler | None = None,
    lap: Callable[[str], None] = lambda phase: None,
) -> Step:
    """Take one step.

    Args:
        model: a causal LM of `transformers`; its weights change.
        optimizer: of them.
        batch: input_ids and targets, int64 [B, T], on the device of the model.
        head: from `choose_head`.
        spec: of which dtype, clip and carry_state are read.
        state: what the step before returned, for rows that go on; None at the start of a text.
        schedule: of the learning rate; None leaves it.
        lap: called at the end of each phase, with "forward", "backward", "clip" and "optimizer" in turn.

    Raises:
        ValueError: `carry_state` of a model whose cache cannot be handed on in training; nothing has changed then.
    """
    with autocast_to(spec.dtype, batch[0].device):
        found = causal_lm_loss(model, *batch, head, carry_state=spec.carry_state, state=state)
    if spec.carry_state:
        _check_carried(found.state, model)
    lap("forward")
    (found.value if found.auxiliary is None else found.value + found.auxiliary).backward()
    lap("backward")
    grad_norm = clip_grad_norm_(model.parameters(), math.inf if spec.clip is None else spec.clip)
    lap("clip")
    optimizer.step()
    if schedule is not None:
        schedule.step()
    optimizer.zero_grad()
    after = None if found.state is None else found.state.detach()
    lap("optimizer")
    return Step(found.value.detach(), grad_norm, found.measures, after)


def _check_carried(state: Any, model: Any) -> None:
    """Raises ValueError for a state without what a training asks of it."""
    lacking = [name for name in ("detach", "to", "start_anew") if not hasattr(state, name)]
    if lacking:
        raise ValueError(
            f"carry_state=True: the cache that {model.config.model_type} returns ({type(state).__name__}) lacks "
            f"{', '.join(lacking)}, and cannot be handed on in training; leave carry_state out"
        )
