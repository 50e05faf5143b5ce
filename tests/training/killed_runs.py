"""Started by test_checkpoint: trains each case in child processes that kill themselves with SIGKILL, the second of
which goes on where the first was killed.

Arguments: folder. One process pays for the imports; children are forked before any thread has started. What each of
them leaves of checkpoints is written to `left.json`.
"""

import gc
import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.utils.tensorboard  # or every child would import it anew

from resnet_bk.ops import surface_green
from resnet_bk.training import checkpoint, train
from tests.training.cases import CASES, SPEC
from tests.training.tiny import Tokens


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingTokens(Tokens):
    """Kills the process in the middle of step 8."""

    def next_batch(self):
        if self.position == 7:
            die()
        return super().next_batch()


def die_while_saving() -> None:
    """Kills the process when the fourth checkpoint is half written."""
    whole, calls = checkpoint.Accelerator.save_state, []

    def half(self, folder):
        calls.append(folder)
        if len(calls) == 4:
            whole(self, folder)
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            die()
        return whole(self, folder)

    checkpoint.Accelerator.save_state = half


MOMENTS = ("saving", "step")


def child(folder: Path, name: str, moment: str) -> None:
    if moment == "saving":
        die_while_saving()
    build, settings = CASES[name]
    tokens = DyingTokens() if moment == "step" else Tokens()
    train(build(), tokens, SPEC(settings), folder)


if __name__ == "__main__":
    surface_green(*(torch.ones(1, 2, 3) for _ in range(3)), backend="numba")  # or every child would start numba anew
    gc.freeze()  # or a collection in a child copies every page that holds an object
    left: dict[str, list[list[str]]] = {name: [] for name in CASES}
    for name in CASES:
        folder = Path(sys.argv[1]) / name
        for moment in MOMENTS:
            pid = os.fork()
            if pid == 0:
                child(folder, name, moment)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                sys.exit(f"{name} was not killed, {moment}: {status}")
            left[name].append(sorted(path.name for path in (folder / "checkpoint").iterdir()))
    (Path(sys.argv[1]) / "left.json").write_text(json.dumps(left))
