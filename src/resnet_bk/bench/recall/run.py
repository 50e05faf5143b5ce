"""The recall benchmark: every model at every rate, its accuracy on every kind of test, one results.json.

Shape legend: B batch, T tokens, D width, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from resnet_bk.bench.audit import audit_causality
from resnet_bk.bench.environment import environment
from resnet_bk.bench.formatting import MISSING
from resnet_bk.bench.peers import resolve_configs
from resnet_bk.bench.recall.mixers import without_feed_forward
from resnet_bk.bench.recall.settings import RecallProtocol
from resnet_bk.bench.recall.stream import RecallStream
from resnet_bk.bench.recall.task import NOT_ASKED, Recall, draw
from resnet_bk.bench.run_folder import check_writable, read_json, write_json
from resnet_bk.bench.runner import deterministic, locked, speaker, standard_output
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
        ValueError: anything that is wrong with protocol, models or folder, before training starts; a loss that is not a
            number at every rate of the grid.
    """
    console = console or standard_output()
    say = speaker(console)
    chosen = _select(protocol, models)
    training_device(protocol.device)
    check_writable(out)
    configs = resolve_configs(protocol.shapes(), protocol.vocab_size, {})
    _check_same(protocol, out)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), deterministic():
        _check_same(protocol, out)  # once more: another process may have finished runs here since
        write_json(out / "protocol.json", protocol.model_dump())
        for model in chosen:
            _run_model(protocol, out, model, configs[model], say)
        results = _collect(protocol, out)
        write_json(out / "results.json", results)
    console.print(recall_table(results))
    return results


def _run_model(protocol: RecallProtocol, out: Path, model: str, config: Any, say: Callable[[str], None]) -> None:
    """All rates with the first seed, the best one with the other seeds."""
    diverged: list[str] = []
    for rate in protocol.learning_rates:
        try:
            _run(protocol, out, model, rate, protocol.seeds[0], config, say)
        except NonFiniteLossError as error:
            diverged.append(str(error))
            say(f"{model}  lr {rate:g}: out of the grid. {error}")
    best = _best_rate(protocol, out, model)
    if best is None:
        raise ValueError(f"{model}: no rate of the grid {protocol.learning_rates} could be trained. {diverged[0]}")
    for seed in protocol.seeds[1:]:
        _run(protocol, out, model, best, seed, config, say)


def accuracy(
    model: Any, kind: Recall, vocabulary: int, seed: int, *, batch_tokens: int, dtype: str = "float32"
) -> float:
    """Share of the questions of `kind.examples` fresh examples that the model answers by its likeliest word."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    head = model.get_output_embeddings()
    right = asked = 0
    was_training = model.training
    model.eval()
    size = max(1, batch_tokens // kind.length)
    with torch.no_grad():
        for first in range(0, kind.examples, size):
            inputs, targets = draw(kind, min(size, kind.examples - first), vocabulary, generator)
            inputs, targets = inputs.to(device), targets.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
                hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
                at = targets != NOT_ASKED
                answers = head(hidden[at]).argmax(-1)
            right += int((answers == targets[at]).sum())
            asked += int(at.sum())
    model.train(was_training)
    return right / asked


def state_elements(model: Any) -> int | None:
    """Real numbers of the state that a layer carries from token to token; None where it is not known or grows."""
    config = model.config
    if config.model_type == "resnet_bk":
        if config.state == "vector":
            return 4 * config.state_channels
        carried = config.key_dim * config.value_dim  # real numbers of the modulus, complex ones of the matrix state
        return config.num_heads * (2 + (carried if config.state == "modulus" else 2 * carried))
    if config.model_type == "mamba2":
        return int(config.num_heads * config.head_dim * config.state_size)
    if set(getattr(config, "layer_types", None) or ()) == {"linear_attention"}:
        return int(config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim)
    return None


def recall_table(results: dict[str, Any]) -> Table:
    """Accuracy of every model on every test, over the seeds."""
    table = Table(title="Multi-query associative recall: share of the questions answered")
    tests = results["protocol"]["test"]
    for name in ("model", "state a layer", "lr"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for kind in tests:
        table.add_column(f"{kind['length']}\n{kind['pairs']} pairs", justify="right")
    by_model: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        by_model.setdefault(run["model_name"], []).append(run)
    for model, runs in by_model.items():
        cells = []
        for place in range(len(tests)):
            reached = torch.tensor([run["accuracy"][place] for run in runs], dtype=torch.float64)
            spread = f" ± {reached.std():.3f}" if len(runs) > 1 else ""
            cells.append(f"{reached.mean():.3f}{spread}")
        state = runs[0]["state_elements"]
        size = f"{state:,}" if state is not None else "grows" if runs[0]["attention"] else MISSING
        name = model if all(run["audit"] == "causal" for run in runs) else f"{model} (leaks)"
        table.add_row(name, size, f"{runs[0]['learning_rate']:g}", *cells)
    return table


def _select(protocol: RecallProtocol, names: Sequence[str] | None) -> list[str]:
    unknown = [name for name in names or () if name not in protocol.models]
    if unknown:
        raise ValueError(
            f"model {unknown[0]!r} is not in protocol {protocol.name}, which has {', '.join(protocol.models)}; add it "
            f"with --set models.{unknown[0]}={{}}"
        )
    return [name for name in protocol.models if names is None or name in names]


def _settings(protocol: RecallProtocol, model: str | None) -> dict[str, Any]:
    """What determines a run of `model` beside its learning rate and seed; of any model, for None."""
    free = {"name", "description", "models", "seeds", "learning_rates"}
    shared = {key: value for key, value in protocol.model_dump().items() if key not in free}
    return shared if model is None else shared | {f"models.{model}": protocol.models[model].model_dump()}


def _check_same(protocol: RecallProtocol, out: Path) -> None:
    """Raises ValueError where the folder holds runs under other settings, or of another task."""
    for file in sorted(out.glob("*/**/run.json")):
        record = read_json(file)
        if record.get("task") != TASK:
            raise ValueError(f"--out {out}: holds runs on a text ({file.parent.relative_to(out)}); name another folder")
        now = _settings(protocol, record["model"] if record["model"] in protocol.models else None)
        changed = [key for key in now if now[key] != record["settings"].get(key)]
        if changed:
            raise ValueError(f"--out {out}: holds runs with another {', '.join(changed)}; name another folder")


def _folder(out: Path, model: str, rate: float, seed: int) -> Path:
    return out / model / f"lr-{rate!r}" / f"seed-{seed}"


def _run(
    protocol: RecallProtocol,
    out: Path,
    model_name: str,
    rate: float,
    seed: int,
    config: Any,
    say: Callable[[str], None],
) -> None:
    folder = _folder(out, model_name, rate, seed)
    title = f"{model_name}  lr {rate:g}  seed {seed}"
    if (folder / "result.json").exists():
        say(f"finished: {title} ({folder})")
        return
    model = without_feed_forward(config, seed).to(training_device(protocol.device))
    with same_threads():
        audit = audit_causality(model, protocol.vocab_size)
    stream = RecallStream([kind.recall() for kind in protocol.train], protocol.batch_tokens, protocol.vocab_size, seed)
    steps = protocol.epochs * stream.steps_per_epoch
    spec = RunSpec(
        name=title,
        steps=steps,
        learning_rate=rate,
        weight_decay=protocol.weight_decay,
        clip=protocol.clip,
        warmup_steps=round(protocol.warmup_share * steps),
        seed=seed,
        dtype=protocol.dtype,
        device=protocol.device,
    )
    folder.mkdir(parents=True, exist_ok=True)
    record = {"task": TASK, "model": model_name, "seed": seed, "learning_rate": rate}
    write_json(folder / "run.json", record | {"settings": _settings(protocol, model_name)})
    trained = train(model, stream, spec, folder)

    def reached(kind: Recall, of: int) -> float:
        return accuracy(model, kind, protocol.vocab_size, of, batch_tokens=protocol.batch_tokens, dtype=protocol.dtype)

    validation = [
        reached(dataclasses.replace(kind.recall(), examples=VALIDATION_EXAMPLES), VALIDATION_SEED + place)
        for place, kind in enumerate(protocol.train)
    ]
    tests = [reached(kind.recall(), TEST_SEED + place) for place, kind in enumerate(protocol.test)]
    result = {
        "model_name": model_name,
        "learning_rate": rate,
        "seed": seed,
        "accuracy": tests,
        "validation_accuracy": validation,
        "state_elements": state_elements(model),
        "attention": hasattr(config, "num_attention_heads"),
        "parameters": count_parameters(model).total,
        "audit": audit.verdict,
        "steps": trained.steps,
        "tokens": protocol.epochs * sum(kind.length * kind.examples for kind in protocol.train),
        "training_time": trained.seconds,
        "epoch_losses": trained.epoch_losses,
        "backend": trained.backend,
        "device": trained.device,
        "config": config.to_diff_dict(),
    }
    write_json(folder / "result.json", result)
    cells = "  ".join(
        f"{kind.length}/{kind.pairs}: {value:.3f}" for kind, value in zip(protocol.test, tests, strict=True)
    )
    say(f"{title}: {cells}, {trained.seconds:.0f} s")


def _best_rate(protocol: RecallProtocol, out: Path, model: str) -> float | None:
    """The rate with the best mean accuracy on fresh examples of the training kinds; None if no run is finished."""
    scores = {}
    for rate in protocol.learning_rates:
        path = _folder(out, model, rate, protocol.seeds[0]) / "result.json"
        if path.exists():
            scores[rate] = fmean(read_json(path)["validation_accuracy"])
    return max(scores, key=lambda rate: scores[rate], default=None)


def _collect(protocol: RecallProtocol, out: Path) -> dict[str, Any]:
    runs = []
    for model in protocol.models:
        best = _best_rate(protocol, out, model)
        if best is None:
            continue
        for seed in protocol.seeds:
            path = _folder(out, model, best, seed) / "result.json"
            if path.exists():
                runs.append(read_json(path))
    return {"protocol": protocol.model_dump(), "environment": environment(), "runs": runs}
