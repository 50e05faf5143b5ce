"""How long a text a model can read, and whether that is as long as the segments of a protocol."""

from typing import Any

from torch import nn

from resnet_bk.bench.peers import sized
from resnet_bk.bench.protocol import Protocol


def longest_text(model: Any) -> int | None:
    """Tokens that a model takes which looks positions up in a table, learned or not; None for any number."""
    longest = getattr(sized(model.config), "max_position_embeddings", None)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    words = model.get_input_embeddings()
    # The tables of some models (OPT) have rows in front that no position uses.
    sizes = [table.num_embeddings - getattr(table, "offset", 0) for table in tables if table is not words]
    sizes += [buffer.shape[0] for buffer in model.buffers() if buffer.ndim == 2]  # sines and cosines of GPT-J
    return longest if longest in sizes else None


def check_positions(model: Any, protocol: Protocol) -> None:
    """Raises ValueError where a segment of the protocol is longer than what the model can read."""
    length, longest = protocol.sequence_length, longest_text(model)
    if longest is not None and length > longest:
        raise ValueError(
            f"protocol {protocol.name}: segments of {length} tokens, and this {model.config.model_type} has {longest} "
            f"positions; add --set sequence_length={longest}"
        )
