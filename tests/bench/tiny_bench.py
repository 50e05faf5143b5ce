"""Text and protocol of which a run takes a second or two."""

import random
from pathlib import Path
from typing import Any


def write_text(path: Path, documents: int = 120) -> Path:
    """Documents over 80 made-up words, each drawn from three that may follow the one before."""
    draw = random.Random(0)
    texts = []
    for _ in range(documents):
        word, words = draw.randrange(80), []
        for _ in range(draw.randint(20, 60)):
            words.append(f"w{word}")
            word = (3 * word + draw.choice((1, 2, 5))) % 80
        texts.append(" ".join(words) + ".")
    path.write_text("\n\n".join(texts))
    return path


def settings(text: Path, **changes: Any) -> dict[str, Any]:
    """Keys of a protocol with a resnet-bk that carries its state and a gpt2, 12 steps each."""
    plain: dict[str, Any] = {
        "name": "tiny",
        "dataset": str(text),
        "vocab_size": 64,
        "sequence_length": 16,
        "batch_size": 4,
        "steps": 12,
        "evaluations": 3,
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "log_interval": 4,
        "device": "cpu",
        "models": {
            "resnet-bk": {"carry_state": True, "learning_rate": 1e-2},
            "gpt2": {"learning_rate": 3e-3},
        },
    }
    return plain | changes
