"""What several pages make of a comparison: further models of another file beside its own, and the ratios of ours to the
others with their intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_bk.bench.protocol import NOT_OF_A_RUN, Protocol
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import compare_documents, on_shared_seeds, summarize

OURS = "resnet-bk"
# Results -> the protocol of whose work they are further models.
MORE_MODELS = {"quick-pointer": "quick"}
# What results whose models stand in one table have alike: settings of the protocol, and fingerprints of the text.
SHARED = sorted({*Protocol.model_fields} - {*NOT_OF_A_RUN})
TEXT = ("corpus", "train_tokens", "validation_tokens")


def joined(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results, those of `MORE_MODELS` within those whose further models they are.

    Raises:
        ValueError: they are further models of results that are not there, or do not fit them.
    """
    found = [of for of in results if of["protocol"]["name"] not in MORE_MODELS]
    for more in results:
        name = more["protocol"]["name"]
        if name not in MORE_MODELS:
            continue
        places = [place for place, of in enumerate(found) if of["protocol"]["name"] == MORE_MODELS[name]]
        if not places:
            raise ValueError(f"the results of {name} are further models of {MORE_MODELS[name]}; name its results too")
        for place in places:
            found[place] = with_more(found[place], more)
    return found


def with_more(found: Mapping[str, Any], more: Mapping[str, Any]) -> Mapping[str, Any]:
    """Results with the runs of models that they do not have themselves.

    Raises:
        ValueError: those are of other text or settings.
    """
    need_alike(found, more)
    known = {run["model_name"] for run in found["runs"]}
    return {**found, "runs": [*found["runs"], *(run for run in more["runs"] if run["model_name"] not in known)]}


def need_alike(found: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Raises ValueError for results of other text or settings, which cannot stand in one table."""
    first, second = (of["protocol"] | (of.get("data") or {}).get("fingerprints", {}) for of in (found, more))
    # A key that came later is in one of them alone.
    differ = [key for key in (*SHARED, *TEXT) if {key} <= first.keys() & second.keys() and first[key] != second[key]]
    if differ:
        names = " and ".join(of["protocol"]["name"] for of in (found, more))
        raise ValueError(f"{names} differ in {', '.join(differ)}, and cannot stand in one table; train them alike")


def ratios(results: Mapping[str, Any]) -> dict[str, str]:
    """Our perplexity over that of every other model, of the seeds that both have, with its 95% interval over the
    documents; none where ours was not trained, one of the two leaks, or the documents are too few."""
    models = {model.name: model for model in summarize(parse_results(dict(results))) if model.state == "ranked"}
    if OURS not in models:
        return {}
    tokens = results["data"].get("document_tokens", [])
    compared = {name: compare_documents(models[OURS], model, tokens) for name, model in models.items() if name != OURS}
    return {
        name: f"{interval.ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})"
        for name, interval in compared.items()
        if interval is not None
    }


def window_ratios(results: Mapping[str, Any], ours: str = OURS) -> dict[str, str]:
    """The perplexity in windows of `ours` over that of every other model, means over the seeds that both have; none
    where one of them leaks, or was not read so."""
    models = {model.name: model for model in summarize(parse_results(dict(results))) if model.state == "ranked"}
    found = {}
    for name, model in models.items():
        if ours in models and name != ours:
            first, second = (of.overlapping for of in on_shared_seeds(models[ours], model))
            if first is not None and second is not None:
                found[name] = f"{first.mean / second.mean:.3f}"
    return found
