"""The recall benchmark: every model at every rate, its accuracy on every kind of test, one results.json.

OUT/protocol.json
OUT/<model>/lr-<rate>/seed-<s>/run.json      what determines the run, and on what it started
OUT/<model>/lr-<rate>/seed-<s>/result.json   written last: a run is finished if it has one beside it
OUT/results.json                             of the models that have finished their grid
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from resnet_bk.bench.audit import Audit, audit_causality
from resnet_bk.bench.console import speaker, standard_output
from resnet_bk.bench.environment import code_state, environment
from resnet_bk.bench.grid import Grid, left_out, run_grid
from resnet_bk.bench.json_files import read_json, write_json
from resnet_bk.bench.model_check import check_mixer
from resnet_bk.bench.peers import may_carry, resolve_configs
from resnet_bk.bench.protocol import NOT_OF_A_RUN, NOTED, select_models
from resnet_bk.bench.recall.measure import accuracies, state_numbers
from resnet_bk.bench.recall.mixers import without_feed_forward
from resnet_bk.bench.recall.settings import READ, RecallProtocol
from resnet_bk.bench.recall.stream import RecallStream
from resnet_bk.bench.recall.table import recall_table
from resnet_bk.bench.run import audit_lengths
from resnet_bk.bench.run_folder import (
    Run,
    check_checkpoints,
    check_finished,
    check_places,
    check_results,
    check_same_settings,
    check_writable,
    locked,
)
from resnet_bk.bench.run_result import config_dict
from resnet_bk.bench.runner import deterministic
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.bench.slow_precision import slow_precision
from resnet_bk.training import NonFiniteLossError, RunSpec, train, training_device

# Seeds of examples that no training is to see. PyTorch's generator reads the low 32 bits of a seed; training streams
# (see `stream`) meet these by chance alone, once in 10^5 trainings or so.
TEST_SEED, VALIDATION_SEED = 2**32 - 2**20, 2**32 - 2**21
VALIDATION_EXAMPLES = 100
TASK = "recall"


def bench_recall(protocol: RecallProtocol, out: Path, *, models: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a recall protocol and return what is then in OUT/results.json.

    Finished runs are skipped, broken ones resumed.

    Raises:
        ValueError: anything that is wrong with protocol, models or folder, before training starts.
        NonFiniteLossError: a model diverged, at all rates of its grid or with one of its seeds; raised at the end, when
            all other runs are made and results.json is written.
    """
    code_state()  # before anything takes time
    console = standard_output()
    say = speaker(console)
    chosen = select_models(protocol, models)
    device = training_device(protocol.device).type
    check_writable(out)
    runs = {name: _grid(protocol, out, name).possible() for name in protocol.models}
    check_places(out, chain(*(runs[name] for name in chosen)), (), ("protocol.json", "results.json", ".lock"))
    check_finished(chain(*runs.values()))
    configs = resolve_configs(protocol.shapes(), protocol.vocab_size, {}, chosen)
    to_train = {name: configs[name] for name in chosen}
    _check_same(protocol, out, to_train)
    _check_protocol_file(out)
    check_results(out)
    with deterministic():  # from the first matmul on: cuBLAS takes its workspace then
        for name, config in to_train.items():
            build = functools.partial(without_feed_forward, config, 0)
            check_mixer(name, build, protocol.name, protocol.device, _longest(protocol), protocol.vocab_size)
    unfinished = {name: configs[name] for name in chosen if not _grid(protocol, out, name).done()}
    for line in slow_precision(protocol.dtype, unfinished, device):
        say(line)
    with locked(out), deterministic():
        _check_same(protocol, out, to_train)  # once more: another process may have finished runs here since
        write_json(out / "protocol.json", protocol.model_dump())
        lost: list[str] = []
        for model in chosen:
            lost += run_grid(
                _grid(protocol, out, model), lambda run: _execute(run, protocol, configs[run.model], say), say
            )
            results = _collect(protocol, out)  # after each model, whatever ends the call later
            write_json(out / "results.json", results)
    console.print(recall_table(results))
    if others := left_out(_grids(protocol, out), out):
        say(f"not in the table and results.json: {others} (not of this protocol, or not tried at all rates)")
    if lost:
        raise NonFiniteLossError(f"{' '.join(lost)} All else is done and saved.")
    return results


def _execute(run: Run, protocol: RecallProtocol, config: Any, say: Callable[[str], None]) -> None:
    """Train, measure, write the result. A run whose loss is no number has one too, with the reason as `diverged`."""
    model = without_feed_forward(config, run.seed).to(training_device(protocol.device))
    audit = audit_causality(model, protocol.vocab_size, lengths=audit_lengths(_longest(protocol)))
    kinds = [kind.recall() for kind in protocol.train]
    stream = RecallStream(kinds, protocol.batch_tokens, protocol.vocab_size, run.seed)
    steps = protocol.epochs * stream.steps_per_epoch
    spec = RunSpec(
        name=run.title,
        steps=steps,
        learning_rate=run.learning_rate,
        weight_decay=protocol.weight_decay,
        clip=protocol.clip,
        warmup_steps=round(protocol.warmup_share * steps),
        seed=run.seed,
        dtype=protocol.dtype,
        device=protocol.device,
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    about = {"model": run.model, "seed": run.seed, "learning_rate": run.learning_rate}
    started = {"training": dataclasses.asdict(spec), "environment": environment()}
    what = {"device": training_device(protocol.device).type, "config": config_dict(config)}
    settings = {"settings": _settings(protocol, run.model)}
    write_json(run.folder / "run.json", {"task": TASK} | about | settings | what | started)
    result = _about(run, protocol, model, config, audit) | started
    try:
        trained = train(model, stream, spec, run.folder, about={"environment": started["environment"]})
    except NonFiniteLossError as error:
        write_json(run.folder / "result.json", result | {"diverged": str(error)})
        return
    result |= {
        "steps": trained.steps,
        "tokens": trained.tokens,
        "training_time": trained.seconds,
        "tokens_per_second": trained.tokens / trained.seconds,
        "peak_memory_mb": trained.peak_memory_mb,
        "epoch_losses": trained.epoch_losses,
        "backend": trained.backend,
        "device": trained.device,
        "calls": trained.calls,
    }
    tests = [kind.recall() for kind in protocol.test]
    fresh = [dataclasses.replace(kind, examples=VALIDATION_EXAMPLES) for kind in tests]
    how: dict[str, Any] = {"batch_tokens": protocol.batch_tokens, "dtype": protocol.dtype}
    result["validation_accuracy"] = accuracies(model, fresh, protocol.vocab_size, VALIDATION_SEED, **how)
    result["accuracy"] = accuracies(model, tests, protocol.vocab_size, TEST_SEED, **how)
    write_json(run.folder / "result.json", result)
    pairs = zip(tests, result["accuracy"], strict=True)
    cells = "  ".join(f"{kind.length}/{kind.pairs}: {value:.3f}" for kind, value in pairs)
    say(f"{run.title}: {cells}, {trained.seconds:.0f} s")


def _longest(protocol: RecallProtocol) -> int:
    """Tokens of the longest example."""
    return max(kind.length for kind in (*protocol.train, *protocol.test))


def _about(run: Run, protocol: RecallProtocol, model: Any, config: Any, audit: Audit) -> dict[str, Any]:
    """Which model was trained."""
    count = count_parameters(model)
    return {
        "model_name": run.model,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "state_numbers": state_numbers(model),
        "attention": not may_carry(config),
        "parameters": count.total,
        "parameters_without_embeddings": count.without_embeddings,
        "audit": audit.verdict,
        "audit_detail": audit.detail,
        "config": config_dict(config),
        "epochs": protocol.epochs,
    }


def _settings(protocol: RecallProtocol, model: str | None) -> dict[str, Any]:
    """What determines a run of `model` beside its learning rate and seed; of any model, for None."""
    shared = protocol.model_dump(exclude={*NOT_OF_A_RUN} - {*NOTED})
    return shared if model is None else shared | {f"models.{model}": protocol.models[model].model_dump(include=READ)}


def _check_protocol_file(out: Path) -> None:
    """Raises ValueError where a protocol.json would be lost that no benchmark of recall wrote."""
    file = out / "protocol.json"
    try:
        ours = not file.exists() or read_json(file).get("task") == TASK
    except ValueError:  # no JSON, or no object
        ours = False
    if not ours:
        raise ValueError(
            f"--out {out} holds a protocol.json that no benchmark of recall wrote, which would be lost; give another "
            "folder with --out, or move that away"
        )


def _check_same(protocol: RecallProtocol, out: Path, configs: Mapping[str, Any]) -> None:
    """Raises ValueError where the folder holds runs under other settings, of another task, or of unknown settings, or
    stopped runs of other models than `configs`."""

    def settings(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        here = _settings(protocol, record["model"] if record["model"] in protocol.models else None)
        there = {key: value for key, value in record["settings"].items() if key in here}
        for key in there:
            if key.startswith("models."):  # a record may have further keys of a model; recall reads none of them
                there[key] = {name: value for name, value in there[key].items() if name in READ}
        return here, there

    check_same_settings(out, TASK, settings)
    records = {name: config_dict(config) for name, config in configs.items()}
    check_checkpoints(out, records, training_device(protocol.device).type)


def _grid(protocol: RecallProtocol, out: Path, model: str) -> Grid:
    return Grid(protocol, out, model, protocol.learning_rates, _score)


def _grids(protocol: RecallProtocol, out: Path) -> list[Grid]:
    return [_grid(protocol, out, model) for model in protocol.models]


def _score(result: dict[str, Any]) -> tuple[float, float] | None:
    """The best mean accuracy on fresh examples of the kinds of the test is best, of equals that of the lowest rate."""
    found = result.get("validation_accuracy")
    return None if found is None else (-fmean(found), result["learning_rate"])


def _collect(protocol: RecallProtocol, out: Path) -> dict[str, Any]:
    """Contents of results.json: the models whose whole grid is done, each at its best rate."""
    runs, diverged = [], []
    for grid in _grids(protocol, out):
        if not grid.complete():
            continue
        tried = grid.rates_tried("learning_rate", "validation_accuracy", "accuracy", "diverged")
        if grid.best() is None:
            diverged.append({"title": f"{grid.model} at every rate", "diverged": tried[0]["diverged"]})
        for run in grid.chosen():
            if not run.finished:
                continue
            found = run.result()
            if found.get("diverged") is None:
                runs.append(found | {"learning_rates_tried": tried})
            else:
                diverged.append({"title": run.title, "diverged": found["diverged"]})
    return {"protocol": protocol.model_dump(), "environment": environment(), "runs": runs, "diverged": diverged}
