"""Figures of a finished run that are measured after its training: each once, on its saved weights."""

from collections.abc import Callable, Collection
from typing import Any

from resnet_bk.bench.data import Prepared
from resnet_bk.bench.environment import environment
from resnet_bk.bench.held_out import VIEWS, further_views, tokens_read
from resnet_bk.bench.json_files import write_json
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.run_folder import Run
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.data import held_out_batches
from resnet_bk.training import evaluate, training_device


def add_views(run: Run, protocol: Protocol, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Put those of `held_out_views` into the result of a finished run that it was made without, if its weights are
    there."""
    result = run.result()
    if result["audit"] != "causal" or result.get("diverged"):
        return
    carries = protocol.models[run.model].carry_state
    possible = [view for view in protocol.held_out_views if view != "not_carried" or carries]
    missing = [view for view in possible if any(_lacks(result, key) for key in VIEWS[view])]
    if not (run.folder / "model").is_dir():
        # Runs of before there were the other figures of a view have its perplexity, which is what tables show.
        unknown = [view for view in missing if _lacks(result, VIEWS[view][0])]
        if unknown:
            say(f"{run.title}: no figure {' and '.join(unknown)}, for the run came without its weights")
    elif missing:
        say(f"{run.title}: measuring {' and '.join(missing)}")
        model = load_model(run.folder / "model").to(training_device(protocol.device))
        measured = further_views(model, result["head"], run, protocol, prepared, missing)
        # A run of before a view had all of its figures keeps those that it has: they are published, perhaps, and this
        # may be another machine.
        found = {key: value for key, value in measured.items() if _lacks(result, key)}
        write_json(run.folder / "result.json", result | found | _measured_later(result, found))


def add_test(run: Run, protocol: Protocol, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Read the test split and put into the result of a finished run what it lacks: each figure is measured once."""
    result = run.result()
    if result["audit"] != "causal" or result.get("diverged"):
        return
    carry = protocol.models[run.model].carry_state
    wanted = {"test_perplexity": carry}  # key of the result -> whether the state is carried
    if carry and "not_carried" in protocol.held_out_views:
        wanted["test_perplexity_without_carry"] = False
    missing = {key: carried for key, carried in wanted.items() if _lacks(result, key)}
    if not missing:
        return
    if not (run.folder / "model").is_dir():
        what = " and ".join(key.replace("_", " ") for key in missing)
        say(f"{run.title}: no {what}, for the run came without its weights; train it with another --out")
        return
    model = load_model(run.folder / "model").to(training_device(protocol.device))
    found = {}
    for key, carried in missing.items():
        tokens = prepared.split("test").tokens
        batches = held_out_batches(tokens, protocol.batch_size, protocol.sequence_length)
        options = {"head": result["head"], "carry_state": carried, "dtype": protocol.dtype}
        view = "test split" if carried == carry else "test split, state not carried"
        with tokens_read(run.title, len(tokens) - 1, view) as progress:
            found[key] = evaluate(model, batches, **options, progress=progress).perplexity
        say(f"{run.title}: {key.replace('_', ' ')} {found[key]:.2f}")
    write_json(run.folder / "result.json", result | found | _measured_later(result, found))


def _lacks(result: dict[str, Any], figure: str) -> bool:
    """Whether it was never measured; one that came out as no number is null as well."""
    measured = {name for later in result.get("later") or () for name in later["figures"]}
    return result.get(figure) is None and figure not in measured


def _measured_later(result: dict[str, Any], figures: Collection[str]) -> dict[str, Any]:
    """Where figures came from that were measured on the finished model: `environment` is that of the call before."""
    return {"later": [*(result.get("later") or ()), {"figures": sorted(figures), "environment": environment()}]}
