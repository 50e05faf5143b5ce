"""What each choice of a model is worth: the tables of `tuned-choices` in docs/results.md.

Three kinds of results.json: of the protocol as it is, whose first model is the one that was chosen; of models that it
does not have, trained by changed code (a patch beside the file); and of some of its models under another setting of
the protocol, such as the optimizer.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.page import by_model, machine, table
from resnet_bk.bench import formatting as fmt

HELD_OUT, WITHOUT = "held_out_perplexity", "held_out_perplexity_without_carry"
# What two calls of one protocol may differ in and still have the same settings.
NO_SETTINGS = {"name", "description", "models", "seeds", "learning_rates"}


def tables(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The table of the models, and that of the settings where there are any, by the name of their places.

    Args:
        found: results of one protocol, that of the protocol as it is first.

    Raises:
        ValueError: a model of another setting that was not trained with those of the protocol.
    """
    chosen = found[0]
    plain = [results for results in found if not changed_settings(results, chosen)]
    other = [results for results in found if changed_settings(results, chosen)]
    return {"table": _models(plain)} | ({"settings": _settings(chosen, other)} if other else {})


def changed_settings(results: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the protocol that differ from those of `chosen`, as they are in `results`."""
    own, usual = (of["protocol"] for of in (results, chosen))
    names = sorted((own.keys() | usual.keys()) - NO_SETTINGS)
    return {name: own.get(name) for name in names if own.get(name) != usual.get(name)}


def _models(trained: Sequence[Mapping[str, Any]]) -> str:
    """A row a model, in the order of the files and of their protocols, beside the first one."""
    lines, reached = [], {}
    for results in trained:
        for name, runs in by_model(results).items():
            reached[name] = value = fmean(run[HELD_OUT] for run in runs)
            base = next(iter(reached))
            lines.append((f"`{name}`", fmt.perplexity(value), f"{value / reached[base]:.3f}", _alone(runs)))
    columns = ("model", "held-out perplexity", f"relative to `{base}`", "state not carried")
    return f"{table(columns, lines)}\n\n{_facts(trained)}"


def _settings(chosen: Mapping[str, Any], trained: Sequence[Mapping[str, Any]]) -> str:
    """A row a model and setting, beside the same model as the protocol has it."""
    usual = by_model(chosen)
    lines = []
    for results in trained:
        settings = ", ".join(
            f"`{name}: {_as_yaml(value)}`" for name, value in changed_settings(results, chosen).items()
        )
        for name, runs in by_model(results).items():
            if name not in usual:
                raise ValueError(f"{name} with {settings} has no run with the settings of the protocol; train that too")
            value, before = (fmean(run[HELD_OUT] for run in of) for of in (runs, usual[name]))
            cells = (fmt.perplexity(value), f"{value / before:.3f}", _alone(runs), f"{runs[0]['learning_rate']:g}")
            lines.append((f"`{name}`", settings, *cells))
    columns = ("model", "setting", "held-out perplexity", "relative to without", "state not carried", "lr")
    return f"{table(columns, lines)}\n\n{_facts(trained)}"


def _as_yaml(value: Any) -> str:
    """A single value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _alone(runs: Sequence[Mapping[str, Any]]) -> str:
    """Perplexity with the state not carried, the mean over the seeds."""
    alone = [run[WITHOUT] for run in runs if run[WITHOUT] is not None]
    return fmt.perplexity(fmean(alone) if alone else None)


def _facts(trained: Sequence[Mapping[str, Any]]) -> str:
    """Where the runs were made, one fact a line."""
    runs = [{"environment": results["environment"], **run} for results in trained for run in results["runs"]]
    return "\n".join(f"- {line}" for line in machine({"runs": runs}))
