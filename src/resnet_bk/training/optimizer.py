"""The optimizers and their learning-rate schedule, the same for every model.

    adamw   AdamW on everything
    muon    Muon on the weights of linear maps (those of output gates and routers among them), AdamW on the rest:
            embeddings, head, norms, biases, chains, the pointer's gates, halting and site gates, filters, experts.
            Muon's step is the momentum, orthogonalised by a Newton-Schulz iteration
            (https://kellerjordan.github.io/posts/muon)

Muon's step is scaled to the size of AdamW's (0.2 sqrt(max(rows, columns)), Moonlight, arXiv 2502.16982), so that one
learning rate serves both.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate
from transformers.pytorch_utils import Conv1D

from resnet_bk.training.spec import RunSpec

MUON_ITERATIONS = 5  # of Newton and Schulz


def build_optimizer(model: nn.Module, spec: RunSpec) -> Optimizer:
    """The optimizer that `spec` names.

    Tensors of two or more dimensions (matrices and embeddings) are decayed; norms, biases and gates are not. Parameters
    that carry `_no_weight_decay` (state-space models of `transformers` mark theirs) are not decayed either. The table
    of input embeddings, which a head may share, is learned at `embedding_rate` times the rate and loses as much to the
    decay in a step as any other.

    Raises:
        ValueError: `embedding_rate` of a model without a trained table of input embeddings.
    """
    matrices = {id(parameter) for parameter in hidden_matrices(model)} if spec.optimizer == "muon" else set()
    table = _embeddings(model, spec.embedding_rate) if spec.embedding_rate != 1 else None
    groups: dict[str, list[nn.Parameter]] = {"muon": [], "decayed": [], "kept": [], "table": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "kept" if _is_kept(parameter) else "muon" if id(parameter) in matrices else "decayed"
            groups["table" if parameter is table else kind].append(parameter)
    rate, decay = spec.learning_rate, spec.weight_decay
    table_decay = 0.0 if table is None or _is_kept(table) else decay / spec.embedding_rate
    of_the_table = {"weight_decay": table_decay, "lr": rate * spec.embedding_rate}
    rest: list[dict[str, Any]] = [
        {"params": groups["decayed"], "weight_decay": decay},
        {"params": groups["kept"], "weight_decay": 0.0},
        {"params": groups["table"], **of_the_table},
    ]
    rest = [group for group in rest if group["params"]]
    if not groups["muon"]:
        return AdamW(rest, lr=rate, betas=spec.betas, fused=True)
    muon = Muon(
        groups["muon"],
        lr=rate,
        weight_decay=spec.weight_decay,
        ns_steps=MUON_ITERATIONS,
        adjust_lr_fn="match_rms_adamw",
    )
    return CombinedOptimizer([muon, *([AdamW(rest, lr=rate, betas=spec.betas, fused=True)] if rest else [])])


def _is_kept(parameter: Tensor) -> bool:
    """Whether it is not decayed."""
    return parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)


def _embeddings(model: nn.Module, embedding_rate: float) -> Tensor:
    """The table of input embeddings.

    Raises:
        ValueError: there is none that is trained.
    """
    try:
        table = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:  # a model of somebody's own that does not say where it is
        table = None
    weight = getattr(table, "weight", None)
    if weight is None or not weight.requires_grad:
        raise ValueError(
            f"embedding_rate={embedding_rate}: {type(model).__name__} has no trained table of input embeddings "
            "(get_input_embeddings), whose rate it would be; set it to 1"
        )
    return weight


def hidden_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of linear maps but for the head: what Muon is for."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head and module.weight.requires_grad:
            yield module.weight  # type: ignore[misc]


class CombinedOptimizer(Optimizer):
    """Several optimizers as one: a step of each, one list of parameter groups for a schedule, one state to save."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], defaults={})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each part.

        Raises:
            ValueError: a closure is given; the parts would each call it.
        """
        if closure is not None:
            raise ValueError(
                f"closure={closure!r}: several optimizers cannot share one; compute the loss before step()"
            )
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """One entry a part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # Loading gives the parts new groups; a schedule must change those.
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon_flops(matrix: Tensor) -> int:
    """Operations of the Newton-Schulz iteration on a matrix: X X^T, its square, and their product with X, each time."""
    small, large = sorted(matrix.shape)
    return MUON_ITERATIONS * (2 * 2 * small * small * large + 2 * small**3)


def build_schedule(optimizer: Optimizer, spec: RunSpec) -> LRScheduler:
    """Linear warm-up over `warmup_steps` (the first step already moves), then a cosine to `final_lr_ratio`."""
    return get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer,
        num_warmup_steps=spec.warmup_steps,
        num_training_steps=spec.steps,
        min_lr_rate=spec.final_lr_ratio,
    )
