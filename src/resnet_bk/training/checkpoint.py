"""Checkpoints that a kill at any moment leaves usable.

A checkpoint is written into a hidden folder and renamed when it is whole, `step-<n>`; only then is the one before it
removed. So at every moment the folder holds at least one whole checkpoint (once there was a first).
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, load


class Checkpoints:
    """The checkpoints of one run, of which the newest is kept.

    What is saved is what was prepared by or registered with the accelerator, and the states of the random number
    generators.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self.accelerator = accelerator

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max(self.folder.glob("step-*"), default=None)

    def save(self, step: int) -> None:
        """Write the state after `step` steps and remove the older ones."""
        target = self.folder / f"step-{step:09d}"
        if not target.exists():
            unfinished = self.folder / ".unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            with _tied_weights_are_no_news():
                self.accelerator.save_state(str(unfinished))
            unfinished.rename(target)
        for other in self.folder.glob("step-*"):
            if other != target:
                shutil.rmtree(other)

    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Those under which the newest checkpoint was written, of the run and of its model; empty where it does not say
        or there is none.

        Read before anything is put back: another optimizer could not take what is there.
        """
        latest = self.latest()
        if latest is None:
            return {}, {}
        try:
            state = torch.load(latest / "custom_checkpoint_0.pkl", map_location="cpu", weights_only=False)
            return dict(state.get("settings") or {}), dict(state.get("model") or {})
        except Exception:  # a damaged file is named by `load_latest`
            return {}, {}

    def load_latest(self) -> bool:
        """Put the newest checkpoint back, if there is one.

        Raises:
            ValueError: it cannot be read.
        """
        latest = self.latest()
        if latest is None:
            return False
        try:
            self.accelerator.load_state(str(latest))
            _check_random_numbers(latest, self.accelerator.device)
        except Exception as error:  # any library under load_state may raise its own kind
            raise ValueError(
                f"checkpoint {latest} cannot be read ({type(error).__name__}: {error}); "
                f"remove {self.folder} to start this run again"
            ) from error
        return True


def _check_random_numbers(checkpoint: Path, device: torch.device) -> None:
    """Whether the generators are where the checkpoint says: accelerate passes over a file that it cannot read.

    Of GPUs the one in use counts. A checkpoint from a machine without it has no state for it: the training goes on
    there with other random numbers, which a warning says.
    """
    saved = load(checkpoint / f"{RNG_STATE_NAME}_0.pkl")
    put_back = [(torch.get_rng_state(), saved["torch_manual_seed"])]
    if device.type == "cuda":
        states, index = saved.get("torch_cuda_manual_seed") or [], device.index or 0
        put_back += [(torch.cuda.get_rng_state(index), state) for state in states[index : index + 1]]
        if index >= len(states):
            warnings.warn(
                f"{checkpoint} comes from a machine without {device}: its random numbers start anew, and the result is "
                "not that of one machine",
                stacklevel=2,
            )
    if not all(torch.equal(now, then) for now, then in put_back):
        raise ValueError("its random numbers could not be put back")


@contextmanager
def _tied_weights_are_no_news() -> Iterator[None]:
    """Keeps back what accelerate says at every checkpoint of a model whose head is its embedding: that it writes the
    matrix once. Loading ties them again."""
    logger = logging.getLogger("accelerate.utils.other")

    def keep(record: logging.LogRecord) -> bool:
        return "Removed shared tensor" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
