"""The earlier report's count of the operations of a training step, row by row.

It counts what the layers of `resnet-bk-seed` do by a formula each, element-wise work included. For B x T tokens of D
numbers, E experts of width I of which a token passes through one, V words:

    row             forward                        backward
    embedding       B T D                          2 x
    layer norm      5 B T D                        1 x
    gate            2 B T D E                      2 x
    gate softmax    3 B T E                        2 x
    expert          B T (4 D I + I)                2 x      two matmuls, and one operation a hidden unit for ReLU;
                                                            8 D^2 + 2 D for I = 2 D
    BK-core         34 B T                         10 B T
    output          2 B T 2 D                      2 x      Linear(2, D)
    head            2 B T D V                      2 x
    optimizer       15 a parameter

Not counted: the potential's Linear(D, 1), biases, residuals, the loss. The BK-core is charged the same for the causal
form of the model, which sweeps from one side only.

Backward. The report gives the total alone, 16,284,008,448, which is 3,751,936 = 1,832 B T below twice the forward pass.
Two rows explain it: the layer norms, counted once in place of twice (5 norms x 5 D = 1,600 a token), and the BK-core,
58 a site below twice its 34 (4 layers x 58 = 232 a token). The 10 that are left to it are what the report's gradient,
the diagonal -Re(conj(g) G^2), takes: 6 for a complex square, 3 for the real part of a product, 1 for the sign. This is
our reading; the total is the report's.
"""

from dataclasses import dataclass
from typing import Any

OPTIMIZER_FLOPS_A_PARAMETER = 15
LAYER_NORM = 5  # a number: mean, variance, difference, quotient, scale and shift
SOFTMAX = 3  # a number: exponential, sum, quotient
BK_CORE_FORWARD, BK_CORE_BACKWARD = 34, 10  # a site


@dataclass(frozen=True)
class Row:
    """A component: operations of one occurrence in a step, and how often it occurs."""

    name: str
    forward: int
    backward: int
    times: int

    def as_dict(self) -> dict[str, Any]:
        """With the sums over all occurrences."""
        return {
            "component": self.name,
            "times": self.times,
            "forward_flops": self.times * self.forward,
            "backward_flops": self.times * self.backward,
        }


@dataclass(frozen=True)
class ConventionFlops:
    """Operations of one optimizer step by the report's convention."""

    rows: tuple[Row, ...]
    optimizer_flops: int

    @property
    def forward_flops(self) -> int:
        return sum(row.times * row.forward for row in self.rows)

    @property
    def backward_flops(self) -> int:
        return sum(row.times * row.backward for row in self.rows)

    @property
    def total_flops_per_step(self) -> int:
        return self.forward_flops + self.backward_flops + self.optimizer_flops

    def layer_forward_flops(self) -> int:
        """Forward operations of one block (all rows that occur once a block, with its own norm)."""
        return sum(row.forward for row in self.rows if row.name not in ("embedding", "final norm", "head"))

    def as_dict(self) -> dict[str, Any]:
        return {
            "components": [row.as_dict() for row in self.rows],
            "forward_flops_per_layer": self.layer_forward_flops(),
            "forward_flops": self.forward_flops,
            "backward_flops": self.backward_flops,
            "optimizer_flops": self.optimizer_flops,
            "total_flops_per_step": self.total_flops_per_step,
        }


def convention_flops(config: Any, parameters: int, batch_size: int, sequence_length: int) -> ConventionFlops | None:
    """Count a step over batch_size x sequence_length tokens; None for a model that the convention says nothing about.

    Args:
        config: a configuration of `transformers`; the convention covers `ResNetBKSeedConfig`.
        parameters: trainable parameters.
        batch_size: rows of a step.
        sequence_length: tokens of a row.
    """
    if config.model_type != "resnet_bk_seed":
        return None
    tokens, width, experts = batch_size * sequence_length, config.hidden_size, config.num_experts
    layers, inner = config.num_hidden_layers, config.intermediate_size
    norm = LAYER_NORM * tokens * width

    def twice(name: str, forward: int, times: int) -> Row:
        return Row(name, forward, 2 * forward, times)

    rows = (
        twice("embedding", tokens * width, 1),
        Row("layer norm", norm, norm, layers),
        twice("gate", 2 * tokens * width * experts, layers),
        twice("gate softmax", SOFTMAX * tokens * experts, layers),
        twice("expert", tokens * (4 * width * inner + inner), layers),
        Row("BK-core", BK_CORE_FORWARD * tokens, BK_CORE_BACKWARD * tokens, layers),
        twice("output", 2 * tokens * 2 * width, layers),
        Row("final norm", norm, norm, 1),
        twice("head", 2 * tokens * width * config.vocab_size, 1),
    )
    return ConventionFlops(rows, OPTIMIZER_FLOPS_A_PARAMETER * parameters)
