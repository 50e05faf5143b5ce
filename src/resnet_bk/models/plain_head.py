"""Whether a language model of `transformers` has no more than a linear head on its last hidden state."""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.checks import has_values

TOKENS = 4  # that are read for the check
LARGEST = 30.0  # of the logits under test: a soft cap does not show on the small ones of a fresh model
TOLERANCE = 1e-4  # two passes over the same tokens may differ by rounding


@torch.no_grad()
def check_plain_head(model: Any) -> None:
    """The logits of a language model must be those of its head applied to its last hidden state.

    A few fixed tokens are read, with logits of a fixed size in the place of the head's, so that weights do not matter.
    Weights, modes and random numbers stay as they are. It is looked at on the CPU alone, and not of a model that cannot
    be called as it is.

    Args:
        model: a causal LM of `transformers` with a linear head.

    Raises:
        ValueError: it does more, as scale or cap its logits, or has an auxiliary loss.
    """
    head = model.get_output_embeddings()
    if not has_values(head.weight):
        return
    ids = torch.arange(TOKENS, device=head.weight.device).remainder(head.out_features)
    ids = ids[: getattr(model.config, "max_position_embeddings", None)].unsqueeze(0)
    read: list[Tensor] = []
    large: list[Tensor] = []

    def replace(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        logits = (
            torch.linspace(-LARGEST, LARGEST, output.numel(), device=output.device).view(output.shape).to(output.dtype)
        )
        read.append(inputs[0])
        large.append(logits)
        return logits

    modes = [(module, module.training) for module in model.modules()]
    hook = head.register_forward_hook(replace)
    try:
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
            model.eval()
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            output = model(input_ids=ids, use_cache=False)
    except Exception:  # it may need another device, or a preparation; the first call will tell
        return
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
    if not large:  # the head was not called as a module
        return
    # Mamba keeps its hidden states in float32 and rounds them for the head.
    same = _same(read[-1], hidden.to(read[-1].dtype)) and _same(output.logits, large[-1])
    if not same or getattr(output, "aux_loss", None) is not None:
        raise ValueError(
            f"language_model: the logits of {model.config.model_type} are more than its head applied to its last "
            "hidden state (a scale, a soft cap, an auxiliary loss), which a pointer would leave out; take another"
        )


def _same(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return torch.allclose(found.double(), expected.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
