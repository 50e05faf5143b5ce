"""The training loop: one for every model.

    tokens -> loss -> gradients -> clip -> optimizer -> schedule    (every step)
    log line (JSON and TensorBoard) | validation | checkpoint       (now and then, checkpoints by wall time)

A run lives in a folder: `log.jsonl`, `tensorboard/`, `checkpoint/`. Called again for the same folder, the loop goes on
from the newest checkpoint and ends (on a CPU, with as many threads) with bitwise the weights and losses of a run that
was never stopped.
"""

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor

from resnet_bk.ops import record_backends
from resnet_bk.training.checkpoint import Checkpoints
from resnet_bk.training.loss import Head, choose_head
from resnet_bk.training.optimizer import build_optimizer, build_schedule
from resnet_bk.training.progress import training_progress
from resnet_bk.training.records import Records
from resnet_bk.training.spec import RunSpec, TrainingResult, training_device
from resnet_bk.training.state import Stream, TrainState, model_settings
from resnet_bk.training.step import training_step


def train(
    model: Any,
    stream: Stream,
    spec: RunSpec,
    folder: Path,
    *,
    about: dict[str, Any] | None = None,
    validate: Callable[[Any, Head], float] | None = None,
    validation_steps: Sequence[int] = (),
) -> TrainingResult:
    """Train `model` in place, going on from `folder` if a run was stopped there.

    Args:
        model: a causal LM of `transformers`.
        stream: batches (input_ids, targets), int64 [B, T].
        spec: the settings.
        folder: of the run; made if it is not there.
        about: what the result is to say of this call, such as the machine; a run that was stopped has several.
        validate: (model, head) -> perplexity; called after each step of `validation_steps`, off the clock.

    Raises:
        NonFiniteLossError: the loss is not a number; the checkpoint before it is kept.
        ValueError: a checkpoint that cannot be read, or of other settings, another model or another text; a model whose
            state cannot be carried; `validation_steps` without `validate`, or beyond the last step.
    """
    _check_validations(validate, validation_steps, spec)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(spec, folder)
    device = accelerator.device
    model.to(device).train()
    state = TrainState(stream, settings=spec.fixed(), model=model_settings(model))
    checkpoints = Checkpoints(folder / "checkpoint", accelerator)

    batch = _peek(stream, device)
    started = time.perf_counter()
    head: Head = "model" if spec.head == "model" else choose_head(model, batch[0])
    _warm_up(model, batch, head, spec)
    warm_up_seconds = time.perf_counter() - started

    optimizer = build_optimizer(model, spec)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, build_schedule(optimizer, spec))
    accelerator.register_for_checkpointing(state)
    set_seed(spec.seed)
    state.check_settings(*checkpoints.settings(), folder)
    resumed_from = state.step if checkpoints.load_latest() else None
    state.phases["warm_up"] = state.phases.get("warm_up", 0.0) + warm_up_seconds  # of every call
    if state.step < spec.steps:
        state.begin_call(about or {})
    if state.carried is not None:  # it is loaded on the CPU
        state.carried = state.carried.to(device)
    # A model may have schedules of its own.
    set_progress = getattr(model, "set_progress", lambda share: None)
    records = Records(folder, accelerator, state, checkpoints, spec)
    watch = records.watch

    def lap(phase: str) -> None:
        watch.lap("optimizer" if phase == "clip" else phase)

    try:
        with training_progress(spec.name, spec.steps, state.step) as display, record_backends() as backends:
            while state.step < spec.steps:
                input_ids, targets = (tensor.to(device) for tensor in stream.next_batch())
                if stream.starts_epoch:
                    state.carried = None
                watch.lap("data")
                if state.carried is not None and spec.carry_reset:
                    state.carried.start_anew(torch.rand(len(input_ids)) < spec.carry_reset)

                set_progress(state.step / spec.steps)
                rate = schedule.get_last_lr()[0]
                batch = input_ids, targets
                step = training_step(
                    model, optimizer, batch, head, spec, state=state.carried, schedule=schedule, lap=lap
                )
                state.count(step, input_ids.numel())

                last = state.step == spec.steps
                log_now = last or state.step % spec.log_interval == 0
                validate_now = validate is not None and state.step in validation_steps
                save_now = last or records.checkpoint_is_due()
                if log_now or validate_now or save_now or state.step % stream.steps_per_epoch == 0:
                    records.settle(backends)
                if log_now:
                    records.log_line(rate, step.grad_norm)
                if validate_now and validate is not None:
                    records.validation(partial(validate, model, head))
                if save_now:
                    records.checkpoint()
                newest = state.log[-1] if state.log else {}
                display.update(state.step, newest.get("loss"), newest.get("tokens_per_second"), state.seconds)
                watch.lap("logging")
    finally:
        set_progress(1.0)
        accelerator.end_training()
    return _result(state, head, device, records.peak_memory_kind, resumed_from)


def _check_validations(validate: Any, steps: Sequence[int], spec: RunSpec) -> None:
    """Raises ValueError for steps without a validation, or that are never taken."""
    if steps and validate is None:
        raise ValueError("validation_steps were given without validate, and would not be read; pass both, or none")
    never = [step for step in steps if not 1 <= step <= spec.steps]
    if never:
        raise ValueError(
            f"validation_steps: {never} must lie from 1 to steps={spec.steps}, after which the training ends; leave "
            "them out"
        )


def make_accelerator(spec: RunSpec, folder: Path) -> Accelerator:
    """An accelerator for one process on the device of `spec`.

    Raises:
        ValueError: accelerate was started or set by the environment for something else, or refuses the machine.
    """
    wanted = training_device(spec.device)
    # One process may train several models one after another; accelerate keeps the first one's settings otherwise.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=wanted.type == "cpu",
            # Its mixed precision would stay in `model.forward` after the training; a step has an autocast of its own.
            mixed_precision="no",
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
        )
    except NotImplementedError as error:  # several GPUs that cannot talk to one another
        raise ValueError(
            f"device={spec.device}: accelerate refuses this machine ({error}); set NCCL_P2P_DISABLE=1 and "
            "NCCL_IB_DISABLE=1 in the environment, which change nothing for one process, or set device=cpu"
        ) from error
    if accelerator.device.type != wanted.type:
        raise ValueError(
            f"device={spec.device}: is {wanted.type} here, but accelerate takes {accelerator.device}, as "
            "ACCELERATE_TORCH_DEVICE or ACCELERATE_USE_CPU may say; unset them, call resnet-bk without `accelerate "
            "launch`, or set device=cpu"
        )
    if accelerator.num_processes > 1:
        raise ValueError(
            f"training runs in one process, but accelerate started {accelerator.num_processes}; "
            "call resnet-bk without `accelerate launch`"
        )
    return accelerator


def _peek(stream: Stream, device: torch.device) -> tuple[Tensor, Tensor]:
    """The next batch, left in the stream."""
    position = stream.state_dict()
    input_ids, targets = stream.next_batch()
    stream.load_state_dict(position)
    return input_ids.to(device), targets.to(device)


def _warm_up(model: Any, batch: tuple[Tensor, Tensor], head: Head, spec: RunSpec) -> None:
    """Two steps of a copy of the model, so that first-call costs (compilation, allocator) stay off the clock.

    The second step takes a carried state. Weights and random numbers of the run are left as they were.
    """
    device = batch[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        twin = copy.deepcopy(model)
        optimizer = build_optimizer(twin, spec)
        carried = None
        for _ in range(2):
            carried = training_step(twin, optimizer, batch, head, spec, state=carried).state


def _result(
    state: TrainState, head: Head, device: torch.device, peak_memory_kind: str, resumed_from: int | None
) -> TrainingResult:
    return TrainingResult(
        steps=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        epoch_losses=state.epoch_losses(),
        epoch_seconds=state.epoch_seconds(),
        log=state.log,
        validation_log=state.validation_log,
        peak_memory_mb=state.peak_memory_mb,
        peak_memory_kind=peak_memory_kind,
        head=head,
        backend={name: "+".join(sorted(ran)) for name, ran in sorted(state.backend.items())} or "torch",
        device=str(device),
        profile=_profile(state),
        resumed_from=resumed_from,
        calls=state.calls,
    )


def _profile(state: TrainState) -> dict[str, dict[str, float]]:
    """Seconds a step by phase, and seconds in all of what the clock leaves out."""
    outside = ("warm_up", "validation", "checkpoints")
    return {
        "seconds_per_step": {name: spent / state.step for name, spent in state.phases.items() if name not in outside},
        "seconds_outside": {name: state.phases[name] for name in outside if name in state.phases},
    }
