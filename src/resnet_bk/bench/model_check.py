"""Whether models can be trained as a comparison says: tried on one batch, before any of them is trained.

Shape legend: B batch, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from resnet_bk.bench.peers import build_model, is_of_others
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.training_settings import training_settings
from resnet_bk.training import RunSpec, training_device
from resnet_bk.training.loss import causal_lm_loss, choose_head
from resnet_bk.training.optimizer import build_optimizer

ROWS = 2
OWN = "what a class of your own must take and return stands in CONTRIBUTING.md, or leave it out with --models"


def check_model(name: str, config: Any, protocol: Protocol, vocab_size: int) -> None:
    """Build a model of a protocol and its optimizer, and compute the loss of two segments by the path that its training
    takes.

    Raises:
        ValueError: naming the model, where one of them fails.
    """
    length = protocol.sequence_length
    way_out = OWN if is_of_others(config.model_type) else _change(name)
    with refused(f"protocol {protocol.name}: models.{name}: cannot be trained on segments of {length} tokens", way_out):
        model, words = _ready(lambda: build_model(config, seed=0), protocol.device, length, vocab_size)
        build_optimizer(model, RunSpec(name, steps=1, learning_rate=0.0, **training_settings(protocol, name)))
        head = "model" if protocol.models[name].head == "model" else choose_head(model, words)
        with torch.no_grad():
            causal_lm_loss(model, words, words.roll(-1, 1), head, carry_state=False, state=None)


def check_mixer(name: str, build: Callable[[], Any], title: str, device: str, length: int, vocab_size: int) -> None:
    """Build a model of a recall protocol with `build`, and let it read `length` tokens.

    Raises:
        ValueError: naming protocol (`title`) and model, where one of the two fails.
    """
    with refused(f"protocol {title}: models.{name}: cannot read {length} tokens", _change(name)):
        model, words = _ready(build, device, length, vocab_size)
        with torch.no_grad():
            model(input_ids=words)


@contextmanager
def refused(what: str, way_out: str) -> Iterator[None]:
    """Any error in it becomes a ValueError, but for a lack of memory: architectures fail in their own ways."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):  # no fault of the call
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"{what} ({kind}{reason}); {way_out}") from error


def _change(name: str) -> str:
    return f"change it with --set models.{name}.config.FIELD=VALUE, or leave it out with --models"


def _ready(build: Callable[[], Any], device: str, length: int, vocab_size: int) -> tuple[Any, torch.Tensor]:
    """The model on its device, and words [B, T] there."""
    place = training_device(device)
    words = torch.arange(ROWS * length, device=place).remainder(vocab_size).view(ROWS, length)
    return build().to(place), words
