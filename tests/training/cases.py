"""Runs that are stopped and resumed."""

from resnet_bk.training import RunSpec
from tests.training.tiny import tiny_gpt2, tiny_resnet_bk

# name -> (model, whether its state is carried)
CASES = {
    "resnet-bk": (tiny_resnet_bk, True),
    "resnet-bk-vector": (lambda: tiny_resnet_bk(state="vector"), True),
    # Dropout: the random numbers must go on where they were.
    "gpt2": (lambda: tiny_gpt2(dropout=0.2), False),
}


def SPEC(carry_state: bool) -> RunSpec:  # noqa: N802, a constructor
    return RunSpec(
        name="tiny",
        steps=12,
        learning_rate=1e-2,
        warmup_steps=3,
        device="cpu",
        carry_state=carry_state,
        log_interval=3,
        checkpoint_seconds=0.0,  # after every step
    )
