"""Every case on tiny shapes: what its rows hold, and that a wrong operator turns its gate red.

Nothing here looks at a time.
"""

import dataclasses
import functools
import itertools
import math

import numba
import pytest
import torch

from benchmarks import ops
from benchmarks.cases import (
    accuracy,
    attention,
    determinant,
    generation,
    gradients,
    head,
    long_segments,
    modulus,
    pointed_tokens,
    short_convolution,
    startup,
    threads,
    training_step,
    vector,
)
from benchmarks.gate import compare
from benchmarks.inputs import LOOPED_UP_TO, condition
from benchmarks.memory import NOT_RESET, peaks
from benchmarks.row import OURS
from resnet_bk.ops import dispatch
from resnet_bk.training import causal_lm_loss

pytestmark = pytest.mark.sweep


def first_peak(prepare, points):
    """The first point in a process of its own, as all are in truth; the steps of the others here. A process takes as
    long to start as all the rest of a case."""
    (first, *others), stated = list(points), 1.0
    for arguments, _ in others:
        prepare(*arguments)()
    used, notes = peaks(prepare, [first])
    return [*used, *(stated for _ in others)], notes


def measured(mebibytes, row):
    """Whether a point has a figure, or its row says that this system has none."""
    return mebibytes > 0 if mebibytes is not None else NOT_RESET in row.notes


def one_start():
    """`startup` with one process in the place of two, over machine code that the other tests leave on the disk: to
    compile it takes as long as all other cases, and nothing here looks at a time."""
    measure = startup._measure
    return functools.cache(lambda operators, folder: measure(operators, numba.config.CACHE_DIR))


@pytest.fixture(scope="module")
def found():
    """Rows by case."""
    modules = (vector, determinant, attention, modulus, head, accuracy, threads, startup)
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention, head):  # `modulus` calls that of `attention`
            patch.setattr(module, "peaks", first_peak)
        patch.setattr(startup, "_measure", one_start())
        return {module.CASE: list(module.rows(True)) for module in modules}


def test_all_cases_pass_their_gates(found):
    assert set(found) == set(ops.CASES)
    for rows in found.values():
        for row in rows:
            assert row.gate is None or row.gate.passed, (row.name, row.gate.verdict)
            # What is timed was compared with something.
            assert not row.timings or row.gate is not None
            assert row.ratios.keys() <= row.timings.keys() - {OURS}


def test_vector_is_compared_with_copies_and_the_loop(found):
    baselines = [set(row.ratios) for row in found["vector"]]
    assert baselines == [{vector.COPY, vector.TRAFFIC}] * 4 + [{vector.LOOP}]
    checked = {check.name for check in found["vector"][0].gate.checks}
    assert checked == {"output", *(f"gradient of {x}" for x in ("source", "potential", "hopping", "absorption"))}


def test_head_is_compared_with_every_mode(found):
    *timed, memory = found["head"]
    assert len(timed) == 4  # two dtypes, with bias and without
    modes = [f"{head.TORCH}, {mode}" for mode in head.MODES]
    gone = [mode for mode in modes if mode not in timed[0].ratios]
    assert gone in ([], [f"{head.TORCH}, balanced"])  # which PyTorch 2.15 does not have any more
    for row in timed:
        assert set(row.ratios) == {head.UNFUSED, head.TORCH, *modes} - {*gone}
        assert [note.partition(" has no ")[2] for note in row.notes if " has no " in note] == gone
    assert [line[:2] for line in memory.table.rows[:2]] == [(OURS, "float32"), (head.UNFUSED, "float32")]
    slow = not dispatch.cpu_multiplies(torch.bfloat16)
    assert [head.NOT_ROUNDED in row.notes for row in timed] == [False, False, slow, slow]


@pytest.mark.parametrize("case", ["attention", "modulus"])
def test_attention_has_lengths_crossover_scaling_and_memory(found, case):
    *lengths, crossover, scaling, memory = found[case]
    assert {row.case for row in found[case]} == {case}
    assert all(set(row.ratios) == {attention.SDPA} for row in lengths)
    assert crossover.table.columns == ("crossover, tokens",)
    assert set(scaling.timings) == {"T=64", "T=128"}
    (*_, mebibytes, _), *_ = memory.table.rows  # those of the others are stated (`first_peak`)
    assert measured(mebibytes, memory)


def test_accuracy_has_every_operator_inside_and_outside_the_band(found):
    assert [row.name.partition(",")[0] for row in found["accuracy"]] == list(accuracy.OPERATORS)
    for row in found["accuracy"]:
        assert {line[2] for line in row.table.rows} == {"inside the band", "outside"}
        assert row.targets[0].reached == max(check.error for check in row.gate.checks)


def test_threads_give_the_same_bits(found):
    (row,) = found["threads"]
    assert {line[-1] for line in row.table.rows} == {True}


def twisted(function, by):
    """A wrong operator: `function` with its result times `by`."""

    def wrong(*arguments, **options):
        result = function(*arguments, **options)
        return (by * result[0], *result[1:]) if isinstance(result, tuple) else by * result

    return wrong


@pytest.mark.parametrize(
    ("module", "operator", "by"),
    [
        (vector, "propagate_vector", 1 + 1e-4),
        (attention, "propagate", 1 + 1e-4),
        (modulus, "propagate_modulus", 1 + 1e-4),
        (head, "linear_cross_entropy", 1.1),
        (accuracy, "propagate", math.nan),
    ],
)
def test_a_wrong_operator_turns_the_gate_red(module, operator, by, monkeypatch):
    right = accuracy.OPERATORS[operator].run if module is accuracy else getattr(module, operator)

    def wrong(*arguments, **tensors):
        # The truth is taken in float64 from the same operator: only float32 is wrong.
        double = any(x.dtype == torch.float64 for x in tensors.values() if isinstance(x, torch.Tensor))
        return right(*arguments, **tensors) if double else twisted(right, by)(*arguments, **tensors)

    if module is accuracy:
        broken = dataclasses.replace(accuracy.OPERATORS[operator], run=wrong)
        monkeypatch.setitem(accuracy.OPERATORS, operator, broken)
    else:
        monkeypatch.setattr(module, operator, wrong)
    timed = attention if module is modulus else module
    monkeypatch.setattr(timed, "peaks", lambda _, points: ([1.0] * len(points), ()), raising=False)
    rows = [row for row in module.rows(True) if row.gate is not None]
    if timed is attention:
        rows = rows[:-1]  # the last one looks for NaN and infinity alone
    if module is accuracy:
        rows = [row for row in rows if row.name.startswith("propagate,")]
    assert rows
    for row in rows:
        assert row.red, row.name
        assert row.timings == {}
        assert row.ratios == {}


def loses(right, kept):
    """A compiled kernel that loses every value after some sites, in any precision."""

    def lossy(*arguments, backend="auto", **tensors):
        result = right(*arguments, backend=backend, **tensors)
        if backend != "auto":
            return result
        output, *state = result if isinstance(result, tuple) else (result,)
        output = torch.cat([output[:, :kept], 0 * output[:, kept:]], 1)
        return (output, *state) if state else output

    return lossy


@pytest.mark.parametrize("lossy", [False, True], ids=["right", "lossy"])
@pytest.mark.parametrize(
    ("module", "operator", "gate"),
    [
        (
            vector,
            "propagate_vector",
            lambda sites: vector.checks(vector.inputs((1, sites, 2)), torch.ones(1, sites, 2)),
        ),
        (attention, "propagate", lambda sites: attention.checks(sites, attention.mix)),
        (modulus, "propagate_modulus", lambda sites: attention.checks(sites, modulus.mix)),
        *(
            (accuracy, name, functools.partial(accuracy.checks, name, absorption=0.1, energy=0.3))
            for name in accuracy.OPERATORS
        ),
    ],
)
def test_values_that_are_lost_after_the_length_of_the_loop_are_red(module, operator, gate, lossy, monkeypatch):
    if lossy and module is accuracy:
        broken = loses(accuracy.OPERATORS[operator].run, LOOPED_UP_TO)
        monkeypatch.setitem(accuracy.OPERATORS, operator, dataclasses.replace(accuracy.OPERATORS[operator], run=broken))
    elif lossy:
        monkeypatch.setattr(module, operator, loses(getattr(module, operator), LOOPED_UP_TO))
    failed = [check.name for check in gate(2 * LOOPED_UP_TO) if not check.passed]
    assert ("output" in failed) == lossy
    assert lossy or not failed


def test_some_channels_at_a_time_give_the_truth_of_all(monkeypatch):
    tensors, bar = vector.inputs((2, 8, 5)), torch.ones(2, 8, 5)
    at_once = vector.truth(tensors, bar)
    monkeypatch.setattr(vector, "TRUTH_CHANNELS", 2)
    parts = vector.truth(tensors, bar)
    assert parts.keys() == at_once.keys()
    # A division of complex numbers rounds in another way at the end of a vector, and the chain's condition scales that.
    tolerance = torch.finfo(torch.float64).eps * condition(tensors)
    assert all(check.passed for check in compare(parts, at_once, tolerance))


@pytest.mark.parametrize("lossy", [False, True], ids=["right", "lossy"])
def test_the_end_of_a_chain_too_long_for_the_truth_is_compared(lossy, monkeypatch):
    monkeypatch.setattr(accuracy, "COMPARED_UP_TO", 64)
    if lossy:
        for name, operator in accuracy.OPERATORS.items():
            broken = dataclasses.replace(operator, run=loses(operator.run, 96))
            monkeypatch.setitem(accuracy.OPERATORS, name, broken)
    for row in accuracy.rows(True):
        assert row.notes[0].startswith("up to 64 sites, and at the last 64 of longer chains")
        failed = [check.name for check in row.gate.checks if not check.passed]
        assert bool(failed) == lossy
        # The whole chain is compared with the same operator, which is as wrong.
        assert all("(last 64 sites of T=128, " in name for name in failed)


def test_threads_that_change_a_result_are_red(monkeypatch):
    right = accuracy.OPERATORS["surface_green"]
    unsteady = dataclasses.replace(right, run=lambda **x: right(**x) * (1 + 1e-6 * torch.get_num_threads()))
    monkeypatch.setitem(accuracy.OPERATORS, "surface_green", unsteady)
    (row,) = threads.rows(True)
    assert row.red
    assert row.gate.verdict.startswith("RED: surface_green, B=2, T=32, H=4: numbers of output that differ")


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ([(128, 0.5), (256, 2.0)], 181.02),  # half way on both logarithmic scales
        ([(128, 0.5), (256, 1.0), (512, 4.0)], 256.0),
        ([(128, 2.0), (256, 0.5), (512, 2.0)], 362.04),  # from there on it stays faster
        ([(128, 1.5), (256, 2.0)], 128.0),
        ([(128, 1.5), (256, 0.9)], None),
        ([], None),
    ],
)
def test_crossover(speedups, expected):
    assert attention.crossover(speedups) == (None if expected is None else pytest.approx(expected, abs=0.01))


@pytest.mark.parametrize(
    ("speedups", "note"),
    [
        ([], "nothing was timed at any length"),
        ([(128, 0.5)], "no crossover: llama is faster at the longest length measured"),
        (
            [(128, 2.0)],
            "ours is not slower at any length measured: the crossover is at the shortest of them, or before",
        ),
        ([(128, 0.5), (256, 2.0)], "llama is faster below this length, ours above it"),
    ],
)
def test_what_is_said_of_a_crossover(speedups, note):
    assert attention.crossover_row(speedups, "case", "llama", "mixing").notes == (note,)


def test_attention_stops_where_it_would_take_too_long(monkeypatch):
    monkeypatch.setattr(attention, "LONGEST_RUN", 0.0)
    lengths = attention.QUICK_LENGTHS
    monkeypatch.setattr(attention, "QUICK_LENGTHS", (*lengths[:2], 2 * lengths[1]))
    first, second, third = itertools.islice(attention.rows(True), 3)
    assert set(first.timings) == {OURS, attention.SDPA}
    for place, row in ((1, second), (2, third)):
        assert set(row.timings) == {OURS}
        seconds = 4**place * first.timings[attention.SDPA].seconds.median
        assert row.notes[0].endswith(f"not run: it would take about {seconds:.0f} s")


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.setattr(training_step, "STEPS_ON_ONE_BATCH", 4)
    return ("gpt2",)


def test_training_step(peers):
    step, phases, operators = training_step.rows(True, peers)
    assert step.gate.passed, step.gate.verdict
    assert set(step.timings) == {OURS, "gpt2"}
    assert any("propagate_modulus: numba" in note for note in step.notes)
    assert [line[0] for line in phases.table.rows] == list(training_step.PHASES)
    assert all(value > 0 for line in phases.table.rows for value in line[1:])
    assert len(operators.table.rows) == training_step.OPERATORS_SHOWN
    assert any(check.name == "ours: causal" for check in step.gate.checks)


def test_a_training_loss_that_is_not_the_models_is_red(peers, monkeypatch):
    def wrong(*arguments, **options):
        found = causal_lm_loss(*arguments, **options)
        return found._replace(value=1.001 * found.value)

    monkeypatch.setattr("resnet_bk.training.step.causal_lm_loss", wrong)
    (row,) = training_step.rows(True, peers)
    assert row.red
    assert row.timings == {}
    assert row.targets[0].met is None


def test_gradients_are_told_apart(monkeypatch):
    def one_peak(step, points):
        """One point in a process of its own, as all are in truth; the others here."""
        used, notes = peaks(step, points[:1])
        return [*used, *(float(step(*at)()) for at, _ in points[1:])], notes

    monkeypatch.setattr(gradients, "peaks", one_peak)
    step, shown = gradients.rows(True)
    assert step.gate.passed, step.gate.verdict
    assert set(step.timings) == set(gradients.CONTENDERS)
    # The gate holds the complete ones to the truth; the incomplete one must be seen to miss some of it.
    missed = {name: whole for name, whole, *_ in shown.table.rows}
    assert missed.pop("diagonal") > 100 * max(missed.values())
    (*_, mebibytes), *others = shown.table.rows
    assert measured(mebibytes, shown)
    assert all(math.isfinite(loss) for *_, loss in others)


def test_a_wrong_gradient_is_red(monkeypatch):
    monkeypatch.setattr(gradients, "INCOMPLETE", None)
    (row,) = gradients.rows(True)
    assert row.gate.verdict.startswith("RED: diagonal: gradient of ")
    assert row.timings == {}


@pytest.mark.parametrize("of", ["fused", "model"])
def test_a_gradient_that_cannot_be_taken_is_red(of, monkeypatch):
    """That of a candidate, or the truth: the suite goes on."""
    right = gradients.Step.gradients

    def broken(step):
        if step.head == of:
            raise RuntimeError("no kernel")
        return right(step)

    monkeypatch.setattr(gradients.Step, "gradients", broken)
    (row,) = gradients.rows(True)
    assert row.gate.verdict == "RED: RuntimeError: no kernel"
    assert row.timings == {}


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        (attention, lambda: attention.memory({OURS: (64, 128)}, "attention", attention.mix)),
        (head, lambda: head.memory(head.QUICK_SHAPE, [OURS, head.UNFUSED])),
        (long_segments, lambda: long_segments.memory(True, long_segments.QUICK)),
        (gradients, lambda: list(gradients.rows(True))[-1]),
    ],
)
def test_memory_that_cannot_be_measured_is_said_to_be_so(case, rows, monkeypatch):
    monkeypatch.setattr(case, "peaks", lambda _, points: ([None] * len(points), (NOT_RESET,)))
    row = rows()
    assert [note for note in row.notes if note.startswith("–")] == [NOT_RESET]
    assert all(None in line and 0.0 not in line for line in row.table.rows)
    assert all(target.reached is None for target in row.targets)


def test_a_wrong_filter_is_red(monkeypatch):
    rows = list(short_convolution.rows(True))
    assert all(row.gate.passed and set(row.timings) == {OURS, "F.conv2d"} for row in rows)
    monkeypatch.setattr(short_convolution, "ours", lambda x, weight: short_convolution.baseline(x, weight) * 1.02)
    assert all(row.red and not row.timings for row in short_convolution.rows(True))


@pytest.mark.parametrize("broken", ["numba", "chunked"])
def test_wrong_shares_of_words_are_red(monkeypatch, broken):
    rows = list(pointed_tokens.rows(True))
    assert all(row.gate.passed and set(row.timings) == {OURS, "all pairs", "sorted chains"} for row in rows)
    right = pointed_tokens.shares

    def wrong(backend, ids, **tensors):
        return right(backend, ids.flip(1) if backend == broken else ids, **tensors)

    monkeypatch.setattr(pointed_tokens, "shares", wrong)
    assert all(row.red and not row.timings for row in pointed_tokens.rows(True))


def test_generation_keeps_a_state_of_one_size():
    *lengths, crossover, pointerless, kept = generation.rows(True)
    assert [row.name.split(",")[0] for row in lengths] == [f"a token after {before}" for before in generation.QUICK]
    assert all(row.gate.passed and set(row.timings) == set(generation.CONTENDERS) for row in lengths)
    assert crossover.name == "crossover against llama, one more token"
    assert pointerless.name == "crossover against llama, one more token, ours without the pointer"
    first, second = kept.table.rows
    assert kept.table.columns[1:] == (OURS, generation.POINTERLESS, generation.LLAMA)
    assert [after / before for before, after in zip(first, second, strict=True)] == [2, 1, 1, 2]


def test_generation_from_a_cache_that_forgot_is_red(monkeypatch):
    right = generation.Reader.__call__

    def forgetful(reader):
        if reader.kept:
            reader.cache.reset()
            reader.kept = 0
        return right(reader)

    monkeypatch.setattr(generation.Reader, "__call__", forgetful)
    for row in list(generation.rows(True))[:-3]:
        assert row.timings == {}
        failed = {check.name.partition(":")[0] for check in row.gate.checks if not check.passed}
        assert failed == set(generation.CONTENDERS)


def test_generation_with_keys_that_are_not_taken_back_is_red(monkeypatch):
    monkeypatch.setattr(generation.Cache, "crop", lambda *_: None)
    for row in list(generation.rows(True))[:-3]:
        failed = {check.name for check in row.gate.checks if not check.passed}
        assert failed == {f"{name}: tokens kept beyond those before" for name in (generation.LLAMA, generation.COPIED)}


def test_training_by_length_has_as_many_tokens_at_every_length(monkeypatch):
    taken = []
    monkeypatch.setattr(
        long_segments, "peaks", lambda step, points: ([taken.append(step(*at)()) or 1.0 for at, _ in points], ())
    )
    *lengths, crossover, pointerless, memory = long_segments.rows(True)
    assert [row.name[:9] for row in lengths] == ["B=4, T=16", "B=2, T=32"]
    assert all(row.gate.passed and set(row.timings) == set(long_segments.CONTENDERS) for row in lengths)
    assert crossover.name == "crossover against llama, a training step"
    assert pointerless.name == "crossover against llama, a training step, ours without the pointer"
    assert [line[0] for line in memory.table.rows] == list(long_segments.QUICK)
    assert len(taken) == 6
    assert all(math.isfinite(loss) for loss in taken)


def test_training_by_length_that_misses_one_gradient_is_red(monkeypatch):
    monkeypatch.setattr(long_segments, "peaks", lambda _, points: ([1.0] * len(points), ()))
    right = long_segments.gradients

    def misses(trainer, words, targets, head):
        found = right(trainer, words, targets, head)
        name = next(iter(found))
        return found if head == "model" else found | {name: torch.zeros_like(found[name])}

    monkeypatch.setattr(long_segments, "gradients", misses)
    for row in list(long_segments.rows(True))[:-3]:
        assert row.timings == {}
        assert sum(not check.passed for check in row.gate.checks) == len(long_segments.CONTENDERS)


def test_a_step_that_does_not_move_the_weights_is_red(peers, monkeypatch):
    monkeypatch.setattr(
        training_step, "build_optimizer", lambda model, spec: torch.optim.SGD(model.parameters(), lr=0.0)
    )
    (row,) = training_step.rows(True, peers)
    failed = {check.name for check in row.gate.checks if not check.passed}
    assert {f"{name}: last loss over first, on one batch" for name in (training_step.OURS, "gpt2")} <= failed
