"""The optimizers and their learning-rate schedule, the same for every model.

    adamw   AdamW on everything
    muon    Muon on the weights of linear maps (those of output gates and routers among them), AdamW on the rest:
            embeddings, head, norms, biases, chains, the pointer's gates, halting and site gates, filters, experts.
            Muon's step is the momentum, orthogonalised by a Newton-Schulz iteration
            (https://kellerjordan.github.io/posts/muon)
    muon-parts  the same, but of a joint map (queries, keys and values in one matmul, several heads) each part by
            itself, see `joint_maps`

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

from resnet_bk.training.joint_maps import JointMap, joint_maps
from resnet_bk.training.spec import RunSpec

MUON_ITERATIONS = 5  # of Newton and Schulz


def build_optimizer(model: nn.Module, spec: RunSpec) -> Optimizer:
    """The optimizer that `spec` names.

    Tensors of two or more dimensions (matrices and embeddings) are decayed; norms, biases and gates are not. Parameters
    that carry `_no_weight_decay` (state-space models of `transformers` mark theirs) are not decayed either. The table
    of input embeddings, which a head may share, is learned at `embedding_rate` times the rate and loses as much to the
    decay in a step as any other.

    Raises:
        ValueError: `embedding_rate` of a model without a trained table of input embeddings; "muon-parts" of one without
            a joint map that is known.
    """
    matrices = {id(parameter) for parameter in hidden_matrices(model)} if spec.optimizer != "adamw" else set()
    joint = known_joint_maps(model) if spec.optimizer == "muon-parts" else []
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
    parts = Parts(joint)
    muon = Muon(
        parts.instead_of(groups["muon"]),
        lr=rate,
        weight_decay=spec.weight_decay,
        ns_steps=MUON_ITERATIONS,
        adjust_lr_fn="match_rms_adamw",
    )
    return CombinedOptimizer([muon, *([AdamW(rest, lr=rate, betas=spec.betas, fused=True)] if rest else [])], parts)


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


def known_joint_maps(model: nn.Module) -> list[JointMap]:
    """Those of `joint_maps`.

    Raises:
        ValueError: there are none.
    """
    found = list(joint_maps(model))
    if not found:
        raise ValueError(
            f"optimizer=muon-parts: {type(model).__name__} has no joint map that is known; set its optimizer to muon, "
            "or name the parts of a layer of yours by `output_parts` (resnet_bk.training.joint_maps)"
        )
    return found


class Parts:
    """The parts of joint maps as parameters of their own, which share the memory of the whole ones."""

    def __init__(self, joint: list[JointMap]) -> None:
        self.joint = {id(one.weight): one for one in joint}
        self.parameters = {id(one.weight): [nn.Parameter(part) for part in one.parts(one.weight.data)] for one in joint}

    def instead_of(self, weights: list[nn.Parameter]) -> list[nn.Parameter]:
        """The weights, each joint one replaced by its parts."""
        return [part for weight in weights for part in self.parameters.get(id(weight), [weight])]

    def take_gradients(self) -> None:
        """Gives each part its view of the gradient of the whole."""
        for key, one in self.joint.items():
            whole = one.weight.grad
            gradients = [None] * len(one.sizes) if whole is None else one.parts(whole)
            for part, gradient in zip(self.parameters[key], gradients, strict=True):
                part.grad = gradient

    def drop_gradients(self) -> None:
        """Of the parts and of the whole."""
        for key, one in self.joint.items():
            one.weight.grad = None
            for part in self.parameters[key]:
                part.grad = None


class CombinedOptimizer(Optimizer):
    """Several optimizers as one: a step of each, one list of parameter groups for a schedule, one state to save."""

    def __init__(self, parts: list[Optimizer], of_weights: Parts) -> None:
        self.parts = parts
        self.of_weights = of_weights
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
        self.of_weights.take_gradients()
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of joint maps too, which are in no group: their gradients are dropped in either case."""
        super().zero_grad(set_to_none)
        self.of_weights.drop_gradients()

    def state_dict(self) -> dict[str, Any]:
        """One entry a part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # Loading gives the parts new groups; a schedule must change those.
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon_flops(model: nn.Module, optimizer: str) -> int:
    """Operations of the Newton-Schulz iterations of a step: X X^T, its square, and their product with X, each time.

    Raises:
        ValueError: "muon-parts" of a model without a joint map that is known.
    """
    if optimizer == "adamw":
        return 0
    parts = Parts(known_joint_maps(model) if optimizer == "muon-parts" else [])
    sides = (sorted(matrix.shape) for matrix in parts.instead_of(list(hidden_matrices(model))))
    return sum(MUON_ITERATIONS * (2 * 2 * small * small * large + 2 * small**3) for small, large in sides)


def build_schedule(optimizer: Optimizer, spec: RunSpec) -> LRScheduler:
    """Linear warm-up over `warmup_steps` (the first step already moves), then a cosine to `final_lr_ratio`."""
    return get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer,
        num_warmup_steps=spec.warmup_steps,
        num_training_steps=spec.steps,
        min_lr_rate=spec.final_lr_ratio,
    )
