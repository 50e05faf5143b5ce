"""Runs that are stopped and resumed."""

from functools import partial
from typing import Any

from resnet_bk.layers import MIXERS
from resnet_bk.training import RunSpec
from tests.training.tiny import tiny_gpt2, tiny_gpt2_pointer, tiny_resnet_bk, tiny_seed

# Every switch that skips work, and the schedule of one of them.
SWITCHES: dict[str, Any] = {
    "num_hidden_layers": 4,
    "adaptive_computation": True,
    "multi_scale": [1, 2, 1, 1],
    "sparse_bk": 0.5,
    "mixed_precision": "bf16",
}
# name -> (model, settings of the run)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{f"resnet-bk-{state}": (partial(tiny_resnet_bk, state=state), {"carry_state": True}) for state in MIXERS},
    "experts": (partial(tiny_resnet_bk, num_experts=2, num_experts_per_tok=1), {"carry_state": True}),
    "seed": (partial(tiny_seed, "two_sided"), {}),
    "seed-causal": (partial(tiny_seed, "surface"), {}),
    "switches-muon": (lambda: tiny_resnet_bk(**SWITCHES), {"carry_state": True, "optimizer": "muon"}),
    "pointer": (lambda: tiny_resnet_bk(pointer_heads=2), {"carry_state": True, "optimizer": "muon-parts"}),
    # Resets and dropout: the random numbers must go on where they were.
    "gpt2-pointer": (tiny_gpt2_pointer, {"carry_state": True, "carry_reset": 0.5}),
    "gpt2": (lambda: tiny_gpt2(dropout=0.2), {}),
}


def SPEC(settings: dict[str, Any]) -> RunSpec:  # noqa: N802, a constructor
    return RunSpec(
        name="tiny",
        steps=12,
        learning_rate=1e-2,
        warmup_steps=3,
        device="cpu",
        log_interval=3,
        checkpoint_seconds=0.0,  # after every step
        **settings,
    )
