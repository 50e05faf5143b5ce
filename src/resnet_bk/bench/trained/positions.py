"""How long a text a model can read."""

from typing import Any

from torch import nn

from resnet_bk.bench.peers import sized


def longest_text(model: Any) -> int | None:
    """Tokens that a model with learned positions takes; None for any number."""
    longest = getattr(sized(model.config), "max_position_embeddings", None)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    words = model.get_input_embeddings()
    # The tables of some models (OPT) have rows in front that no position uses.
    sizes = [table.num_embeddings - getattr(table, "offset", 0) for table in tables if table is not words]
    return longest if longest in sizes else None
