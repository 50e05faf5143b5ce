"""The recall benchmark: every model at every rate, its accuracy on every kind of test, one results.json.

OUT/protocol.json
OUT/<model>/lr-<rate>/seed-<s>/run.json      what determines the run, and on what it started
OUT/<model>/lr-<rate>/seed-<s>/result.json   written last: a run is finished if it has one beside it
OUT/results.json                             of the models that have finished their grid
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from resnet_bk.bench.audit import Audit, audit_causality
from resnet_bk.bench.environment import environment, other_code
from resnet_bk.bench.model_check import check_mixer
from resnet_bk.bench.peers import may_carry, resolve_configs
from resnet_bk.bench.protocol import NOT_OF_A_RUN, NOTED
from resnet_bk.bench.recall.measure import accuracies, state_numbers
from resnet_bk.bench.recall.mixers import without_feed_forward
from resnet_bk.bench.recall.settings import READ, RecallProtocol
from resnet_bk.bench.recall.stream import RecallStream
from resnet_bk.bench.recall.table import recall_table
from resnet_bk.bench.run import audit_lengths, config_dict
from resnet_bk.bench.run_folder import (
    Run,
    check_checkpoints,
    check_results,
    check_writable,
    files_of_runs,
    finite,
    locked,
    read_json,
    write_json,
)
from resnet_bk.bench.runner import deterministic, speaker, standard_output
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.training import NonFiniteLossError, RunSpec, train, training_device
from resnet_bk.training.threads import same_threads

# Seeds of examples that no training is to see. PyTorch's generator reads the low 32 bits of a seed; training streams
# (see `stream`) meet these by chance alone, once in 10^5 trainings or so.
TEST_SEED, VALIDATION_SEED = 2**32 - 2**20, 2**32 - 2**21
VALIDATION_EXAMPLES = 100
TASK = "recall"


def bench_recall(
    protocol: RecallProtocol, out: Path, *, models: Sequence[str] | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Run a recall protocol and return what is then in OUT/results.json.

    Finished runs are skipped, broken ones resumed.

    Raises:
        ValueError: anything that is wrong with protocol, models or folder, before training starts.
        NonFiniteLossError: a model diverged, at all rates of its grid or with one of its seeds; raised at the end, when
            all other runs are made and results.json is written.
    """
    console = console or standard_output()
    say = speaker(console)
    chosen = _select(protocol, models)
    training_device(protocol.device)
    check_writable(out)
    configs = resolve_configs(protocol.shapes(), protocol.vocab_size, {})
    to_train = {name: configs[name] for name in chosen}
    _check_same(protocol, out, to_train)
    check_results(out)
    with deterministic():  # from the first matmul on: cuBLAS takes its workspace then
        for name, config in to_train.items():
            build = functools.partial(without_feed_forward, config, 0)
            check_mixer(name, build, protocol.name, protocol.device, _longest(protocol), protocol.vocab_size)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), deterministic():
        _check_same(protocol, out, to_train)  # once more: another process may have finished runs here since
        write_json(out / "protocol.json", protocol.model_dump())
        lost: list[str] = []
        for model, config in to_train.items():
            lost += _run_model(protocol, out, model, config, say)
            results = _collect(protocol, out)  # after each model, whatever ends the call later
            write_json(out / "results.json", results)
    console.print(recall_table(results))
    if lost:
        raise NonFiniteLossError(f"{' '.join(lost)} All else is done and saved.")
    return results


def _run_model(protocol: RecallProtocol, out: Path, model: str, config: Any, say: Callable[[str], None]) -> list[str]:
    """All rates with the first seed, the best one with the other seeds; returns what diverged and should not have."""
    reasons = []
    for rate in protocol.learning_rates:
        run = _run_of(out, model, rate, protocol.seeds[0])
        reason = _carry_out(run, protocol, config, say)
        if reason is not None:
            reasons.append(reason)
            say(f"out of the grid: {reason}")
    best = _best_rate(protocol, out, model)
    if best is None:
        return [f"{model}: no rate of the grid {protocol.learning_rates} could be trained. {reasons[0]}"]
    lost = []
    for seed in protocol.seeds[1:]:
        run = _run_of(out, model, best, seed)
        reason = _carry_out(run, protocol, config, say)
        if reason is not None:
            lost.append(reason)
            say(reason)
    return lost


def _carry_out(run: Run, protocol: RecallProtocol, config: Any, say: Callable[[str], None]) -> str | None:
    """Carry out a run that is not finished; returns why it has no figures, None if it has."""
    if run.finished:
        say(f"finished: {run.title} ({run.folder}{other_code(run.result())})")
    else:
        _execute(run, protocol, config, say)
    reason: str | None = run.result().get("diverged")
    return reason


def _execute(run: Run, protocol: RecallProtocol, config: Any, say: Callable[[str], None]) -> None:
    """Train, measure, write the result. A run whose loss is no number has one too, with the reason as `diverged`."""
    model = without_feed_forward(config, run.seed).to(training_device(protocol.device))
    with same_threads():
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


def _select(protocol: RecallProtocol, names: Sequence[str] | None) -> list[str]:
    if names is not None and not names:
        raise ValueError(
            f"no model is named; protocol {protocol.name} has {', '.join(protocol.models)}, and leaving --models out "
            "takes all"
        )
    unknown = [name for name in names or () if name not in protocol.models]
    if unknown:
        raise ValueError(
            f"model {unknown[0]!r} is not in protocol {protocol.name}, which has {', '.join(protocol.models)}; add it "
            f"with --set models.{unknown[0]}={{}}"
        )
    return [name for name in protocol.models if names is None or name in names]


def _settings(protocol: RecallProtocol, model: str | None) -> dict[str, Any]:
    """What determines a run of `model` beside its learning rate and seed; of any model, for None."""
    shared = protocol.model_dump(exclude={*NOT_OF_A_RUN} - {*NOTED})
    return shared if model is None else shared | {f"models.{model}": protocol.models[model].model_dump(include=READ)}


def _check_same(protocol: RecallProtocol, out: Path, configs: Mapping[str, Any]) -> None:
    """Raises ValueError where the folder holds runs under other settings, of another task, or of unknown settings, or
    stopped runs of other models than `configs`."""
    for file in files_of_runs(out, "run.json"):
        record = read_json(file)
        if record.get("task") != TASK:
            raise ValueError(f"--out {out}: holds runs on a text ({file.parent.relative_to(out)}); name another folder")
        now = finite(_settings(protocol, record["model"] if record["model"] in protocol.models else None))
        before = record["settings"]
        for key in set(now) & set(before):
            if key.startswith("models."):  # a record may have further keys of a model; recall reads none of them
                before[key] = {name: value for name, value in before[key].items() if name in READ}
        changed = [key for key in now if key not in NOT_OF_A_RUN and now[key] != before.get(key)]
        if changed:
            raise ValueError(f"--out {out}: holds runs with another {', '.join(changed)}; name another folder")
    records = {name: config_dict(config) for name, config in configs.items()}
    check_checkpoints(out, records, training_device(protocol.device).type)


def _run_of(out: Path, model: str, rate: float, seed: int) -> Run:
    return Run(model, rate, seed, out / model / f"lr-{rate!r}" / f"seed-{seed}")


def _grid(protocol: RecallProtocol, out: Path, model: str) -> list[Run]:
    """The finished runs of a model's grid of rates."""
    runs = [_run_of(out, model, rate, protocol.seeds[0]) for rate in protocol.learning_rates]
    return [run for run in runs if run.finished]


def _best_rate(protocol: RecallProtocol, out: Path, model: str) -> float | None:
    """The rate with the best mean accuracy on fresh examples of the kinds of the test, of equals the lowest; None
    before all rates are tried, or if all diverged."""
    grid = _grid(protocol, out, model)
    if len(grid) < len(protocol.learning_rates):
        return None
    scores = {run.learning_rate: run.result().get("validation_accuracy") for run in grid}
    reached = {rate: fmean(found) for rate, found in sorted(scores.items()) if found is not None}
    return max(reached, key=lambda rate: reached[rate], default=None)


def _collect(protocol: RecallProtocol, out: Path) -> dict[str, Any]:
    """Contents of results.json: the models whose whole grid is done, each at its best rate."""
    runs, diverged = [], []
    for model in protocol.models:
        grid = [run.result() for run in _grid(protocol, out, model)]
        tried = [
            {key: found.get(key) for key in ("learning_rate", "validation_accuracy", "accuracy", "diverged")}
            for found in grid
        ]
        best = _best_rate(protocol, out, model)
        for seed in protocol.seeds if best is not None else ():
            assert best is not None
            run = _run_of(out, model, best, seed)
            if not run.finished:
                continue
            found = run.result()
            if found.get("diverged") is None:
                runs.append(found | {"learning_rates_tried": tried})
            else:
                diverged.append({"title": run.title, "diverged": found["diverged"]})
        if best is None and len(grid) == len(protocol.learning_rates):
            diverged.append({"title": f"{model} at every rate", "diverged": grid[0]["diverged"]})
    return {"protocol": protocol.model_dump(), "environment": environment(), "runs": runs, "diverged": diverged}
