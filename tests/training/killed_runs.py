"""Started by test_checkpoint: trains each case in a child process that kills itself with SIGKILL.

Arguments: folder. One process pays for the imports; children are forked before any thread has started.
"""

import gc
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


def child(folder: Path, name: str, moment: str) -> None:
    if moment == "saving":
        die_while_saving()
    build, settings = CASES[name]
    tokens = DyingTokens() if moment == "step" else Tokens()
    train(build(), tokens, SPEC(settings), folder)


if __name__ == "__main__":
    surface_green(*(torch.ones(1, 2, 3) for _ in range(3)), backend="numba")  # or every child would start numba anew
    gc.freeze()  # or a collection in a child copies every page that holds an object
    for name in CASES:
        for moment in ("step", "saving"):
            pid = os.fork()
            if pid == 0:
                child(Path(sys.argv[1]) / f"{name}-{moment}", name, moment)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                sys.exit(f"{name}-{moment} was not killed: {status}")
