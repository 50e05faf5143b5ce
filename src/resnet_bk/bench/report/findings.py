"""What the results say, in sentences: the answer, whether the budget was equal, and what weakens the answer.

Everything is computed from the results; nothing is assumed to favour a model. Where our model loses, the answer
begins with that.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_bk.bench.environment import MACHINE, machine
from resnet_bk.bench.protocol import NOT_OF_A_RUN, load_protocol
from resnet_bk.bench.protocols import recall_protocols, shipped_protocols
from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.results_schema import Results, Run
from resnet_bk.bench.report.statistics import (
    HELD_OUT,
    WINDOWS,
    Interval,
    ModelSummary,
    PairedTest,
    Spread,
    compare,
    compare_documents,
    on_shared_seeds,
    perplexity_ratio,
    ranked,
)

OURS = "resnet-bk"
SIGNIFICANCE = 0.05
PARAMETER_TOLERANCE = 0.02  # the rule of a comparison: parameters within 2%
SMALLEST_GRID = 3  # and at least three learning rates for each model
CLAIM_SEEDS = 3
LEVEL = 0.0005  # ratios that print as 1.000
UNKNOWN_SHIFT = 0.01  # in nats: what `<unk>` makes of a ratio before it is said
NO_CHANGE = {"learning_rate", "learning_rate_source"}  # keys of a model that the report shows anyway


@dataclass(frozen=True)
class Note:
    """A remark beside the answer; ``warning`` where it weakens the comparison."""

    text: str
    warning: bool


@dataclass(frozen=True)
class Comparison:
    """The reference model against another: seed by seed (from two seeds on), and document by document; the same in
    windows that overlap by half."""

    reference: str
    other: str
    test: PairedTest | None
    documents: Interval | None
    windows_test: PairedTest | None
    windows_documents: Interval | None


@dataclass(frozen=True)
class Findings:
    """The sentences at the top of the report."""

    answer: str
    budget: str
    notes: tuple[Note, ...]
    comparisons: tuple[Comparison, ...]


def reference_model(models: list[ModelSummary]) -> ModelSummary | None:
    """The model that the others are compared with: ours where it has a perplexity, else the best."""
    order = ranked(models)
    named = [model for model in order if model.name == OURS] or [m for m in order if m.name.startswith(OURS)]
    return next(iter(named or order), None)


def find(results: Results, models: list[ModelSummary]) -> Findings:
    """Compute every sentence and comparison."""
    reference = reference_model(models)
    comparisons = []
    for other in ranked(models):
        if reference is None or other is reference:
            continue
        tokens = results.data.get("document_tokens") or ()
        test, windows_test = (compare(reference, other, view) for view in (HELD_OUT, WINDOWS))
        documents, windows_documents = (
            compare_documents(reference, other, tokens, view) for view in (HELD_OUT, WINDOWS)
        )
        if any((test, documents, windows_test, windows_documents)):
            comparisons.append(Comparison(reference.name, other.name, test, documents, windows_test, windows_documents))
    return Findings(
        answer=_answer(models, reference),
        budget=_budget(models),
        notes=tuple(_notes(results, models, reference)),
        comparisons=tuple(comparisons),
    )


def parameter_gap(models: Iterable[ModelSummary], field: str = "parameters") -> float:
    """How far the largest model lies above the smallest, as a share of the smallest."""
    sizes = [getattr(run, field) for model in models for run in model.runs]
    return max(sizes) / min(sizes) - 1.0


def _answer(models: list[ModelSummary], reference: ModelSummary | None) -> str:
    order = ranked(models)
    if reference is None or reference.perplexity is None:
        return f"No perplexity to report: {'; '.join(f'{model.name} {_why_unranked(model)}' for model in models)}."
    lead = "".join(
        f"{model.name} {_why_unranked(model)}. " for model in models if model.name == OURS and model.state != "ranked"
    )
    others = [model for model in order if model is not reference]
    ours = f"{reference.name} {_with_seeds(reference)}"
    if not others:
        return f"{lead}{ours}; there is no other perplexity to compare it with."
    ratios = {other.name: perplexity_ratio(reference, other) for other in others}
    beaten = [name for name, over in ratios.items() if over < 1.0]
    hardest = _hardest_to_beat(reference, others)
    ratio = ratios[hardest.name]
    reference, rival = on_shared_seeds(reference, hardest)
    assert reference.perplexity is not None
    assert rival.perplexity is not None
    pair = f"{fmt.spread(reference.perplexity)} against {fmt.spread(rival.perplexity)}"
    test = compare(reference, rival)
    one_seed = "; one seed, no spread" if min(len(reference.runs), len(rival.runs)) == 1 else ""
    if test is not None and _may_be_chance(reference, rival):
        return (
            f"{lead}{reference.name} and {rival.name} cannot be told apart over {test.count} seeds: held-out "
            f"perplexity {pair}, ratio {ratio:.3f}, paired {fmt.p_value(test.p_value)}."
        )
    paired = f"; {test.count} seeds, paired {fmt.p_value(test.p_value)}" if test is not None else one_seed
    if abs(ratio - 1.0) < LEVEL:
        figures = f"held-out perplexity {pair}, ratio {ratio:.3f}{paired}"
        return f"{lead}{reference.name} and {rival.name} are level: {figures}."
    if ratio > 1.0:
        ahead = f", though ahead of {_listed(beaten)}" if beaten else ""
        return (
            f"{lead}{reference.name} loses to {rival.name}: held-out perplexity {pair}, "
            f"{fmt.percent(ratio - 1)} higher (ratio {ratio:.3f}{paired}){ahead}."
        )
    rest = {1: "", 2: ", the better of two others"}.get(len(others), f", the best of {len(others)} others")
    without, theirs = reference.without_carry, _alone(rival)
    only = ""
    if without is not None and theirs is not None and without.mean >= theirs.mean:
        reset = f"with both states reset at each segment it has {fmt.spread(without)} against {fmt.spread(theirs)}"
        if not rival.carries:
            reset = f"with its state reset at each segment it has {fmt.spread(without)}"
        only = f"; {reset} and does not"
    if _ahead_in_windows(rival, reference):
        only += f"; in windows that overlap by half {rival.name} has {fmt.spread(rival.overlapping)} and is ahead"
    return (
        f"{lead}{reference.name} beats {rival.name}{rest}: held-out perplexity {pair}, {fmt.percent(1 - ratio)} lower "
        f"(ratio {ratio:.3f}{paired}){only}."
    )


def _with_seeds(model: ModelSummary) -> str:
    seeds = "one seed, no spread" if len(model.runs) == 1 else f"mean of {len(model.runs)} seeds"
    return f"reaches a held-out perplexity of {fmt.spread(model.perplexity)} ({seeds})"


def _why_unranked(model: ModelSummary) -> str:
    if model.state == "leaks":
        return "fails the causality audit (it sees the tokens that it predicts) and gets no perplexity"
    lost = [run.seed for run in model.runs if run.perplexity is None]
    return f"has no finite perplexity for {len(lost)} of {_plural(len(model.runs), 'seed')} and is not ranked"


def _trained(models: list[ModelSummary]) -> list[ModelSummary]:
    """Those of which no seed diverged; all of them where there are none."""
    return [model for model in models if model.state != "diverged"] or models


def _hardest_to_beat(reference: ModelSummary, others: list[ModelSummary]) -> ModelSummary:
    """The other with the lowest perplexity beside the reference; where chance may have put it there, the lowest of
    those that seeds tell ahead, if there are any: the answer must not hide a loss behind a doubt."""
    first, *rest = sorted(others, key=lambda other: -perplexity_ratio(reference, other))
    if not _may_be_chance(reference, first):
        return first
    lost = [other for other in rest if _is_ahead(other, reference)]
    return next(iter(lost), first)


def _may_be_chance(first: ModelSummary, second: ModelSummary) -> bool:
    test = compare(first, second)
    return test is not None and test.p_value is not None and test.p_value >= SIGNIFICANCE


def _is_ahead(model: ModelSummary, reference: ModelSummary) -> bool:
    """Whether seeds tell that a model beats the reference."""
    test = compare(reference, model)
    tested = test is not None and test.p_value is not None and test.p_value < SIGNIFICANCE
    return tested and perplexity_ratio(reference, model) >= 1.0 + LEVEL


def _budget(models: list[ModelSummary]) -> str:
    alone = len(models) == 1
    models = _trained(models)
    if len(models) == 1:
        run = models[0].runs[0]
        whose = "" if alone else f"{models[0].name}: "
        seen = f"{whose}{fmt.count(run.total_tokens)} tokens in {fmt.count(run.steps)} steps"
        return f"{seen}, {fmt.count(run.parameters)} parameters."
    tokens, steps = _range(models, lambda run: run.total_tokens), _range(models, lambda run: run.steps)
    equal = tokens[0] == tokens[1] and steps[0] == steps[1]
    gap, gap_without = parameter_gap(models), parameter_gap(models, "parameters_without_embeddings")
    if equal and max(gap, gap_without) <= PARAMETER_TOLERANCE:
        start = f"Equal budget: each model saw {fmt.count(tokens[0])} tokens in {fmt.count(steps[0])} steps"
    elif equal:
        start = f"Same tokens and steps ({fmt.count(tokens[0])} in {fmt.count(steps[0])}), unequal parameters"
    else:
        start = f"Unequal budget: {_from_to(tokens)} tokens in {_from_to(steps)} steps"
    return (
        f"{start}; parameters lie within {fmt.percent(gap)} of each other with embeddings, "
        f"{fmt.percent(gap_without)} without."
    )


def _notes(results: Results, models: list[ModelSummary], reference: ModelSummary | None) -> list[Note]:
    notes: list[Note] = []

    def add(text: str, warning: bool = True) -> None:
        notes.append(Note(text, warning))

    for model in models:
        if model.state != "ranked":
            add(f"{model.name} {_why_unranked(model)}.")
    fewest = min(len(model.runs) for model in models)
    if fewest == 1 and all(len(model.runs) == 1 for model in models):
        add("One seed, no spread: differences of a few per cent can be chance. A claim needs three seeds or more.")
    elif fewest < CLAIM_SEEDS:
        add(f"{_plural(fewest, 'seed')} for some models: a claim needs three seeds or more.")
    if len({model.seeds for model in ranked(models)}) > 1:
        seeds = "; ".join(f"{model.name}: {', '.join(map(str, model.seeds))}" for model in ranked(models))
        add(
            f"The models were not trained on the same seeds ({seeds}); two are compared by those that both have, or by "
            "their own where they share none."
        )
    counted = results.ngrams and results.ngrams.train_tokens
    seen = max(run.total_tokens for model in models for run in model.runs)
    # A whole epoch leaves out the ends of rows too, well below 1%.
    if counted and results.protocol.get("steps") is not None and seen < 0.99 * counted:
        add(
            f"The n-grams were counted on {fmt.count(counted)} tokens, of which the models saw {fmt.count(seen)}: they "
            "are no baseline at an equal budget."
        )
    if len(models) > 1:
        trained = _trained(models)
        if not _same(trained, lambda run: run.total_tokens) or not _same(trained, lambda run: run.steps):
            add("Tokens or steps differ between models: this is no comparison on an equal budget.")
        gap = max(parameter_gap(trained), parameter_gap(trained, "parameters_without_embeddings"))
        if gap > PARAMETER_TOLERANCE:
            add(f"Parameters differ by {fmt.percent(gap)}, with embeddings or without, more than the rule of 2%.")
        if own := own_optimizers(results):
            listed = ", ".join(f"{name}: {optimizer}" for name, optimizer in own.items())
            add(f"Not all models had the same optimizer ({listed}; else {results.protocol.get('optimizer')}).")
    if changed := _changed(results.protocol):
        add(f"Not {results.protocol['name']} as it ships: {', '.join(changed)}.{_taken_over(results.protocol)}")
    notes.extend(_rate_notes(results, models))
    notes.extend(_carry_notes(models, reference))
    notes.extend(_window_notes(models, reference))
    notes.extend(_unknown_notes(models, reference))
    notes.extend(_provenance_notes(results, models))
    return notes


def _changed(protocol: dict[str, Any]) -> list[str]:
    """What decides a run and differs from the protocol of that name that comes with the package; learning rates, which
    every table shows, aside."""
    name = protocol.get("name")
    if name not in shipped_protocols() or name in recall_protocols():
        return []
    shipped = load_protocol(name).model_dump()
    compared = [key for key in shipped if key in protocol and key not in NOT_OF_A_RUN]
    here, there = str(protocol.get("dataset")), str(shipped["dataset"])
    # A text that does not come with the package may lie anywhere.
    if here != there and (there == "embedded" or Path(here).name != Path(there).name):
        compared.insert(0, "dataset")
    pairs = [(key, protocol[key], shipped[key]) for key in compared]
    given = protocol.get("models")
    for model, entry in shipped["models"].items():
        own = (given.get(model) if isinstance(given, dict) else None) or {}
        known = [key for key in entry if key in own and key not in NO_CHANGE]
        pairs += [(f"models.{model}.{key}", own[key], entry[key]) for key in known]
    return [f"{key} {json.dumps(here)} (there {json.dumps(there)})" for key, here, there in pairs if here != there]


def _taken_over(protocol: dict[str, Any]) -> str:
    """What a protocol that was changed still has of the one of its name that ships, though it was of that one."""
    shipped = load_protocol(protocol["name"])
    kept = ["description"] if protocol.get("description") == shipped.description else []
    models = protocol.get("models")
    rates = [entry.get("learning_rate") for entry in models.values()] if isinstance(models, dict) else []
    if any(rate is not None and rate in {entry.learning_rate for entry in shipped.models.values()} for rate in rates):
        kept.append("learning rates")
    return f" Its {' and '.join(kept)} were made for that one." if kept else ""


def _provenance_notes(results: Results, models: list[ModelSummary]) -> Iterable[Note]:
    """Where the runs themselves were made; results of before they said so have only the last call's place."""
    runs = [run for model in models for run in model.runs]
    trained = [machine(place, run.device) for run in runs for place in run.environments or [{}]]
    places = [place for run in runs for place in run.environments + run.evaluated_in]
    if any(place.get("git_dirty") for place in places or [results.environment]):
        yield Note("The code had changes that were not committed when this ran.", warning=True)
    if any("git_commit" in place and place["git_commit"] is None for place in places):
        yield Note("The commit of the code is not known (an installed copy, or git could not say).", warning=True)
    if any(place.get("git_commit") and place.get("git_dirty", False) is None for place in places):
        yield Note(
            "Whether the code had changes that were not committed is not known (git could not say).", warning=True
        )
    if len({place.get("git_commit") for place in places}) > 1:
        yield Note("The runs were made by different commits of the code.", warning=True)
    for key, name in MACHINE.items():
        if len({place[key] for place in trained if key in place}) > 1:
            yield Note(f"The runs were made on different {name}: their times cannot be compared.", warning=True)
    if len({_versions(place) for place in places}) > 1:
        yield Note("The runs were made with different versions of Python or of libraries.", warning=True)
    mixed = [run for run in runs if len({_place(place, run.device) for place in run.environments}) > 1]
    if mixed:
        names = _listed([f"{run.model_name} (seed {run.seed})" for run in mixed])
        yield Note(
            f"{names} {'was' if len(mixed) == 1 else 'were'} stopped and went on with another commit, other versions, "
            "another processor, GPU or number of threads: no one place repeats that bit for bit.",
            warning=True,
        )


def _rate_notes(results: Results, models: list[ModelSummary]) -> Iterable[Note]:
    grids = {model.rates_tried for model in models}
    sources = rate_sources(results)
    unsourced = [m.name for m in models if len(m.rates_tried) < SMALLEST_GRID and not sources.get(m.name)]
    if unsourced:
        yield Note(
            f"Fewer than {SMALLEST_GRID} learning rates were tried for {_listed(unsourced)}, and the protocol names no "
            "search that found them: the rates may not be the models' best.",
            warning=True,
        )
    elif len(grids) > 1 and max(map(len, grids)) >= SMALLEST_GRID:
        yield Note("The models did not try the same learning rates.", warning=True)


def _carry_notes(models: list[ModelSummary], reference: ModelSummary | None) -> Iterable[Note]:
    carrying = [model for model in models if model.state == "ranked" and model.carries]
    bare = [model.name for model in carrying if model.without_carry is None or model.perplexity is None]
    if bare:
        # Among models that all carry, none has more to go by than the others.
        alike = len(carrying) == len(ranked(models))
        whose = "carries its state" if len(bare) == 1 else "carry their state"
        yield Note(f"{_listed(bare)} {whose} from segment to segment; no figure without it.", warning=not alike)
    for model in carrying:
        if model.without_carry is None or model.perplexity is None:
            continue
        text = (
            f"{model.name} carries its state from segment to segment; reset at each segment it has "
            f"{fmt.spread(model.without_carry)}."
        )
        # Not all see more than one segment, so the order must be read both ways.
        passed = []
        for other in ranked(models):
            if other is not model and _passes_without_carry(*on_shared_seeds(other, model)):
                passed.append(other.name)
        if passed:
            names = _listed(passed)
            yield Note(f"{text} Without the carry it would not be ahead of {names}.", warning=model is reference)
        else:
            yield Note(text, warning=False)


def _passes_without_carry(other: ModelSummary, model: ModelSummary) -> bool:
    """Whether a model behind another is ahead where both read every segment by itself."""
    theirs, ours = _alone(other), _alone(model)
    if other.perplexity is None or model.perplexity is None or theirs is None or ours is None:
        return False
    return model.perplexity.mean < other.perplexity.mean and theirs.mean <= ours.mean


def _alone(model: ModelSummary) -> Spread | None:
    """What a model has where every segment is read by itself; None where that was not measured."""
    return model.without_carry if model.carries else model.perplexity


def _window_notes(models: list[ModelSummary], reference: ModelSummary | None) -> Iterable[Note]:
    """What models that see one segment at a time make of more context, as far as they can have it."""
    for model in ranked(models):
        if model is reference or model.carries or model.overlapping is None or model.perplexity is None:
            continue
        if model.overlapping.mean < model.perplexity.mean:
            text = (
                f"{model.name} sees one segment at a time; in windows that overlap by half, at twice the work, it has "
                f"{fmt.spread(model.overlapping)}"
            )
            if reference is not None and _ahead_in_windows(*on_shared_seeds(model, reference)):
                yield Note(f"{text} and is ahead of {reference.name}.", warning=True)
            else:
                yield Note(f"{text}.", warning=False)


def _ahead_in_windows(model: ModelSummary, reference: ModelSummary) -> bool:
    """Whether overlapping windows put a model ahead that sees one segment at a time, and is behind so: ahead of the
    reference as it reads, and in the same windows where it has read them."""
    if model.carries:
        return False
    reached, plain, windows = reference.perplexity, model.perplexity, model.overlapping
    if reached is None or plain is None or windows is None:
        return False
    best = min(reached.mean, reference.overlapping.mean if reference.overlapping else reached.mean)
    return windows.mean <= best and reached.mean < plain.mean


def _unknown_notes(models: list[ModelSummary], reference: ModelSummary | None) -> Iterable[Note]:
    """What of the ratios `<unk>` makes, where that is much."""
    told, flattered = [], False
    for model in ranked(models) if reference is not None else ():
        pair = on_shared_seeds(reference, model) if reference is not None else ()
        ours, theirs = (of.known_words for of in pair)
        if model is reference or ours is None or theirs is None:
            continue
        ratio, known = perplexity_ratio(*pair), ours.mean / theirs.mean
        if abs(math.log(known / ratio)) >= UNKNOWN_SHIFT:
            told.append(f"{known:.3f} times the perplexity of {model.name} instead of {ratio:.3f}")
            flattered = flattered or ratio < known
    if told:
        assert reference is not None
        yield Note(f"But for `<unk>`, one word that stands for many, {reference.name} has {_listed(told)}.", flattered)


def _versions(place: dict[str, Any]) -> str:
    return f"{place.get('python')} {place.get('versions')}"


def _place(place: dict[str, Any], device: str | None) -> tuple[Any, ...]:
    """What decides the bits of a run beside its settings."""
    deciding = {key: value for key, value in machine(place, device).items() if key != "memory_settings"}
    return place.get("git_commit"), *deciding.values(), _versions(place)


def rate_sources(results: Results) -> dict[str, str]:
    """Where each model's learning rate came from, as the protocol states it."""
    by_model = results.protocol.get("models")
    sources: dict[str, str] = {}
    for name in {run.model_name for run in results.runs}:
        own = by_model.get(name) if isinstance(by_model, dict) else None
        source = own.get("learning_rate_source") if isinstance(own, dict) else None
        if source:
            sources[name] = str(source)
    return sources


def own_optimizers(results: Results) -> dict[str, str]:
    """The optimizer of each model that was trained with another than the protocol's."""
    by_model, usual = results.protocol.get("models"), results.protocol.get("optimizer")
    own: dict[str, str] = {}
    for name in dict.fromkeys(run.model_name for run in results.runs):
        entry = by_model.get(name) if isinstance(by_model, dict) else None
        optimizer = entry.get("optimizer") if isinstance(entry, dict) else None
        if optimizer not in (None, usual):
            own[name] = str(optimizer)
    return own


def _range(models: list[ModelSummary], value: Callable[[Run], int]) -> tuple[int, int]:
    values = [value(run) for model in models for run in model.runs]
    return min(values), max(values)


def _same(models: list[ModelSummary], value: Callable[[Run], Any]) -> bool:
    return len({value(run) for model in models for run in model.runs}) == 1


def _from_to(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return fmt.count(low) if low == high else f"{fmt.count(low)} to {fmt.count(high)}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
