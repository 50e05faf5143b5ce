"""The benchmark: every run of a protocol, then one results.json, one report.

Nothing is trained before protocol, models, data and output folder have been checked. Finished runs are skipped, a
broken one is resumed from its checkpoint.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from resnet_bk.bench.console import speaker, standard_output
from resnet_bk.bench.data import SPECIAL_IDS, Prepared, default_cache_dir, open_corpus, prepare
from resnet_bk.bench.environment import code_state, environment
from resnet_bk.bench.grid import Grid, left_out, run_grid
from resnet_bk.bench.held_out import short_rows
from resnet_bk.bench.json_files import write_json
from resnet_bk.bench.later import add_test, add_views
from resnet_bk.bench.model_check import check_model
from resnet_bk.bench.ngrams.baselines import FILE as NGRAMS
from resnet_bk.bench.ngrams.baselines import read_ngrams
from resnet_bk.bench.peers import OURS, build_model, carry_problem, resolve_configs
from resnet_bk.bench.protocol import TRAINED, Protocol, select_models
from resnet_bk.bench.report.publish import publish
from resnet_bk.bench.run import execute, planned_steps
from resnet_bk.bench.run_folder import (
    WRITTEN,
    check_checkpoints,
    check_finished,
    check_ours,
    check_places,
    check_results,
    check_same_protocol,
    check_same_tokens,
    check_writable,
    locked,
    write_protocol,
)
from resnet_bk.bench.run_result import config_dict
from resnet_bk.bench.run_sizes import check_sizes, sized_otherwise
from resnet_bk.bench.slow_precision import slow_precision
from resnet_bk.data import TokenStream
from resnet_bk.data.saved_tokenizer import saved_tokenizer, special_ids
from resnet_bk.training import NonFiniteLossError, training_device

CARRIED_TOKENS = 16  # on which it is tried whether a state is handed on


def bench(
    protocol: Protocol,
    out: Path,
    *,
    models: Sequence[str] | None = None,
    test: bool = False,
    report: bool = True,
    cache_dir: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a protocol and return what is then in OUT/results.json.

    Args:
        protocol: from `load_protocol`.
        out: folder of the results; runs that are in it are skipped or resumed.
        models: the models to run, None for all; the report covers all finished runs of the protocol.
        test: read the test split too, once a run.
        report: write results.json and the report, and print the table.
        cache_dir: of tokenizers and tokens, by default `default_cache_dir()`.
        console: where lines go, by default standard output.

    Raises:
        ValueError: anything that is wrong with the protocol, the models, the data or the folder, before training
            starts.
        NonFiniteLossError: a model diverged, at all rates of its grid or with one of its seeds; raised at the end, when
            all other runs are made and the report is written.
    """
    code_state()  # before anything takes time
    console = console or standard_output()
    say = speaker(console)
    chosen = select_models(protocol, models)
    device = training_device(protocol.device).type
    prepared, configs = _checked(protocol, out, chosen, device, test=test, report=report, cache_dir=cache_dir)
    with deterministic():  # from the first matmul on: cuBLAS takes its workspace then
        to_train = [name for name in chosen if not _grid(protocol, out, name).done()]
        for name in to_train:
            check_model(name, configs[name], protocol, len(prepared.tokenizer))
    notes = slow_precision(protocol.dtype, {name: configs[name] for name in to_train}, device)
    for split in ("validation", *(("test",) if test else ())):
        notes += short_rows(len(prepared.split(split).tokens), protocol, split, "give more text, or lower batch_size")
    for line in notes:
        say(line)

    with locked(out), deterministic():
        # Once more: another process may have finished runs here since.
        check_same_protocol(protocol, out, prepared.corpus.fingerprint)
        check_same_tokens(out, prepared.fingerprints(), len(prepared.tokenizer))
        check_sizes(protocol, out, configs)
        check_checkpoints(out, {name: config_dict(config) for name, config in configs.items()}, device)
        if report or not (out / "results.json").exists():  # of which it is the protocol
            write_protocol(protocol, out)
        diverged: list[str] = []
        for model in chosen:
            diverged += run_grid(
                _grid(protocol, out, model),
                lambda run: execute(run, protocol, prepared, configs[run.model], say),
                say,
                finished=lambda run: add_views(run, protocol, prepared, say),
                chosen=lambda run: add_test(run, protocol, prepared, say) if test else None,
            )
            results = collect(protocol, prepared, out)
            if report:  # after each model: whatever ends the call later, `resnet-bk report` has what was done
                write_json(out / "results.json", results)
        if report:
            publish(results, out, console)
            if others := left_out([_grid(protocol, out, model) for model in protocol.models], out):
                why = "not of this protocol, not at the best rate, or in a grid that is not finished"
                say(f"not in the table and results.json: {others} ({why}){_with_their_seeds(protocol, out)}")
            if (out / NGRAMS).exists() and "ngrams" not in results:
                say(f"not in results.json: {NGRAMS}, which is of other text, tokens or vocabulary")
    if diverged:
        raise NonFiniteLossError(f"{' '.join(diverged)} All else is done and saved.")
    return results


def _checked(
    protocol: Protocol,
    out: Path,
    chosen: Sequence[str],
    device: str,
    *,
    test: bool,
    report: bool,
    cache_dir: Path | None,
) -> tuple[Prepared, dict[str, Any]]:
    """The data and the configurations of the chosen models, after all that can be found wrong without a model; what is
    quick to see comes before large texts are read."""
    check_writable(out)
    runs = {name: _grid(protocol, out, name).possible() for name in protocol.models}
    check_places(out, chain(*(runs[name] for name in chosen)), ("plots",), (*WRITTEN, NGRAMS))
    check_ours(out, report=report)
    check_finished(chain(*runs.values()))
    resolve_configs(protocol, protocol.vocab_size, SPECIAL_IDS, chosen)
    if protocol.tokenizer not in TRAINED:
        saved_tokenizer(protocol.tokenizer)
    corpus = open_corpus(protocol)
    if test and "test" not in corpus.splits:
        raise ValueError(f"--test: {corpus.name} has no test split, only {', '.join(corpus.splits)}; leave --test out")
    check_same_protocol(protocol, out, corpus.fingerprint)
    prepared = prepare(protocol, corpus, cache_dir or default_cache_dir())
    if test:
        prepared.split("test")  # a split may turn out to be empty
    check_same_tokens(out, prepared.fingerprints(), len(prepared.tokenizer))
    read_ngrams(out, prepared.summary())  # can they be read?
    if report:
        check_results(out)
    looked_at = {*chosen, *sized_otherwise(protocol, out)}
    resolved = resolve_configs(protocol, len(prepared.tokenizer), special_ids(prepared.tokenizer), looked_at)
    check_sizes(protocol, out, resolved)
    configs = {name: resolved[name] for name in chosen}
    check_checkpoints(out, {name: config_dict(config) for name, config in configs.items()}, device)
    _check_warmup(protocol, prepared)
    _check_carried(protocol, configs)
    return prepared, configs


def _with_their_seeds(protocol: Protocol, out: Path) -> str:
    """How runs of its models with seeds of other calls come into the table; empty where there are none."""
    shown = [run for model in protocol.models for run in _grid(protocol, out, model).chosen()[:1]]
    found = {file.parent.name for run in shown for file in run.folder.parent.glob("seed-*/result.json")}
    there = {int(name.removeprefix("seed-")) for name in found}
    if not there - {*protocol.seeds}:
        return ""
    # The first seed tries the rates of a grid, so it stays the first.
    both = ",".join(map(str, [*protocol.seeds, *sorted(there - {*protocol.seeds})]))
    return f"; --set 'seeds=[{both}]' has those of other seeds in it too"


def _check_warmup(protocol: Protocol, prepared: Prepared) -> None:
    """Whether the warm-up ends before the training does, also where the steps follow from the text."""
    stream = TokenStream(prepared.train.tokens, protocol.batch_size, protocol.sequence_length)
    steps = planned_steps(protocol, stream.steps_per_epoch)
    if protocol.warmup_steps is not None and protocol.warmup_steps >= steps:
        raise ValueError(
            f"protocol {protocol.name}: warmup_steps={protocol.warmup_steps}: must be below the {steps} steps of the "
            "training; lower it, or null takes 10%"
        )


def _check_carried(protocol: Protocol, configs: Mapping[str, Any]) -> None:
    """Whether what models hand from segment to segment is all that they have seen."""
    for name, config in configs.items():
        if not protocol.models[name].carry_state or config.model_type in OURS:  # of ours the configuration has said it
            continue
        words = torch.arange(CARRIED_TOKENS).remainder(config.vocab_size).unsqueeze(0)
        problem = carry_problem(build_model(config, seed=0), words, in_training=True)
        if problem is not None:
            raise ValueError(
                f"protocol {protocol.name}: models.{name}: carry_state=true: {problem} ({config.model_type}, "
                f"transformers {transformers.__version__}); set it to false"
            )


def _grid(protocol: Protocol, out: Path, model: str) -> Grid:
    rates = protocol.rates(model)
    return Grid(protocol, out, model, rates, _score, searched=len(rates) > 1)


def _score(result: dict[str, Any]) -> tuple[bool, bool, float]:
    """The lowest held-out perplexity is best.

    Where the text decides what a model skips, it may leak at one rate and not at another: those at which it leaks come
    after, by training loss, and those that diverged last.
    """
    leaks = result["audit"] == "leaks"
    reached = result.get("final_loss") if leaks else result["held_out_perplexity"]
    # JSON has no infinity.
    return result.get("diverged") is not None, leaks, math.inf if reached is None else reached


def collect(protocol: Protocol, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Contents of results.json: the finished runs of the protocol, each model at its best rate, and the n-grams."""
    runs = []
    for model in protocol.models:
        grid = _grid(protocol, out, model)
        tried = grid.rates_tried("learning_rate", "held_out_perplexity")
        for run in grid.chosen():
            if run.finished:
                further = {"learning_rates_tried": tried, "run_folder": run.folder.relative_to(out).as_posix()}
                runs.append(run.result() | further)
    data = prepared.summary()
    baselines = read_ngrams(out, data)
    return {
        "protocol": protocol.model_dump(),
        "environment": environment(),
        "data": data,
        "runs": runs,
    } | ({} if baselines is None else {"ngrams": baselines})


@contextmanager
def deterministic() -> Iterator[None]:
    """Same numbers in every run of the same command on the same machine. Operators of the GPU that have no
    deterministic form warn."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill: Any = torch.utils.deterministic
    filled = fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # Filling every new tensor with NaN finds bugs, and costs time in every step.
    fill.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        fill.fill_uninitialized_memory = filled
