"""What a training takes from its protocol, whoever trains."""

from typing import Any

from resnet_bk.bench.protocol import Protocol


def training_settings(protocol: Protocol, model: str) -> dict[str, Any]:
    """Arguments of `RunSpec` for a model of the protocol, for whatever trains or times one.

    Left out are those that a use has of its own: steps with their warm-up, the rate and seed among several, how often
    is logged and saved, and the state, which not every use can carry.
    """
    return {
        "optimizer": protocol.optimizer_of(model),
        "embedding_rate": protocol.embedding_rate,
        "weight_decay": protocol.weight_decay,
        "betas": (protocol.betas[0], protocol.betas[1]),
        "clip": protocol.clip,
        "final_lr_ratio": protocol.final_lr_ratio,
        "dtype": protocol.dtype,
        "device": protocol.device,
    }
