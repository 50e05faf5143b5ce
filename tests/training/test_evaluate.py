"""Perplexity over a whole split."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resnet_bk.data import held_out_batches, overlapping_batches
from resnet_bk.training import Evaluation, evaluate
from tests.training.tiny import LENGTH, VOCABULARY, tiny_gpt2, tiny_resnet_bk

MODULE = sys.modules[evaluate.__module__]  # the package's name means the function
TOKENS = np.random.default_rng(5).integers(VOCABULARY, size=101).astype(np.uint16)


def batches():
    return held_out_batches(TOKENS, 2, LENGTH)


@pytest.mark.parametrize("head", ["fused", "model"])
def test_every_token_is_counted_once(head):
    model = tiny_gpt2()
    total = 0.0
    for ids, targets in batches():
        logits = model(ids).logits.double()
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    found = evaluate(model, batches(), head=head)
    assert found.tokens == len(TOKENS) - 1
    assert found.nll == pytest.approx(total, rel=1e-6)  # float32 losses of about 4, summed in float64
    assert found.perplexity == pytest.approx(math.exp(total / 100), rel=1e-6)
    assert found.bucket_nll == ()


def test_half_precision():
    model = tiny_gpt2().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = sum(
            F.cross_entropy(model(ids).logits.float().flatten(0, 1), targets.flatten(), reduction="sum").item()
            for ids, targets in batches()
        )
    assert evaluate(model, batches(), head="model", dtype="bfloat16").nll == pytest.approx(expected, rel=1e-6)
    assert evaluate(model, batches(), head="model").nll != pytest.approx(expected, rel=1e-6)


def test_more_buckets_than_were_told():
    with pytest.raises(ValueError, match="bucket_count=1: must be above every entry of bucket_of_token, which has 2;"):
        evaluate(tiny_gpt2(), batches(), head="fused", bucket_of_token=torch.arange(VOCABULARY) % 3)


def test_buckets_that_do_not_fit_the_words():
    buckets = torch.zeros(VOCABULARY, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must have a bucket for every target, but has 2 and target .* is predicted"):
        evaluate(tiny_gpt2(), batches(), head="fused", bucket_of_token=buckets[:2])
    with pytest.raises(ValueError, match=r"^bucket_of_token must be numbers of at least 0, but has -1; see"):
        evaluate(tiny_gpt2(), batches(), head="fused", bucket_of_token=buckets - 1)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("dtype", "bf16", "must be one of float32, bfloat16; bfloat16 is by autocast"),
        ("keep_losses", "all", "must be rows, windows or None"),
        ("head", "lazy", "must be one of fused, model"),
    ],
)
def test_an_option_that_does_not_exist(option, value, rule):
    with pytest.raises(ValueError, match=f"^{option}='{value}' {rule}"):
        evaluate(tiny_resnet_bk(), batches(), **({"head": "fused"} | {option: value}))


def test_progress_counts_the_tokens():
    seen = []
    assert evaluate(tiny_gpt2(), batches(), head="fused", progress=seen.append).tokens == 100
    targets = [int((targets != -100).sum()) for _, targets in batches()]
    assert seen == [sum(targets[: n + 1]) for n in range(len(targets))]


def test_what_a_model_reports_counts_by_the_tokens_of_a_batch(monkeypatch):
    """The last batch is mostly padding."""
    real, calls = MODULE.causal_lm_loss, []

    def reporting(model, input_ids, targets, head, **options):
        calls.append(int((targets != -100).sum()))
        return real(model, input_ids, targets, head, **options)._replace(measures={"call": torch.tensor(len(calls))})

    monkeypatch.setattr(MODULE, "causal_lm_loss", reporting)
    found = evaluate(tiny_gpt2(), batches(), head="fused")
    assert len(set(calls)) > 1
    assert found.measures == {"call": sum(n * number for n, number in enumerate(calls, start=1)) / sum(calls)}


def test_what_a_model_reports_of_some_batches_is_a_mean_over_those(monkeypatch):
    """A gate in a coarse block has nothing to say of a batch shorter than a group."""
    real, calls = MODULE.causal_lm_loss, []

    def reporting(model, input_ids, targets, head, **options):
        calls.append(len(calls))
        measures = {"kept": torch.tensor(0.5)} if len(calls) == 1 else {}
        return real(model, input_ids, targets, head, **options)._replace(measures=measures)

    monkeypatch.setattr(MODULE, "causal_lm_loss", reporting)
    assert evaluate(tiny_gpt2(), batches(), head="fused").measures == {"kept": 0.5}
    assert len(calls) > 1


def test_buckets_add_up():
    bucket = torch.arange(VOCABULARY) % 3
    found = evaluate(tiny_gpt2(), batches(), head="fused", bucket_of_token=bucket, bucket_count=4)
    whole = evaluate(tiny_gpt2(), batches(), head="fused")
    assert sum(found.bucket_tokens) == whole.tokens
    assert sum(found.bucket_nll) == pytest.approx(whole.nll)
    assert list(found.bucket_tokens) == [int((TOKENS[1:] % 3 == i).sum()) for i in range(3)] + [0]
    assert found.bucket_perplexities[3] is None
    assert found.bucket_perplexities[0] == pytest.approx(math.exp(found.bucket_nll[0] / found.bucket_tokens[0]))


def test_losses_come_in_the_order_of_the_text():
    model = tiny_gpt2()
    found = evaluate(model, batches(), head="fused", keep_losses="rows")
    assert found.losses.shape == (len(TOKENS) - 1,)
    assert found.losses.double().sum().item() == pytest.approx(found.nll, rel=1e-6)
    # The words one by one: a word's loss depends on its segment alone, and segments start where the batches say.
    row = (len(TOKENS) - 1) // 2
    expected = torch.zeros(len(TOKENS) - 1)
    for start in (0, row):
        for place in range(start, start + row, LENGTH):
            stop = min(place + LENGTH, start + row)
            window = torch.from_numpy(TOKENS[place : stop + 1].astype(np.int64))[None]
            expected[place:stop] = F.cross_entropy(
                model.eval()(window[:, :-1]).logits[0], window[0, 1:], reduction="none"
            )
    torch.testing.assert_close(found.losses, expected.detach(), rtol=1e-4, atol=1e-5)
    assert evaluate(model, batches(), head="fused").losses is None


def test_losses_of_windows_come_in_the_order_of_the_text():
    model = tiny_gpt2().eval()
    windows = overlapping_batches(TOKENS, 3, LENGTH)
    found = evaluate(model, windows, head="fused", keep_losses="windows")
    step, expected = LENGTH // 2, torch.zeros(len(TOKENS) - 1)
    for place in range(len(TOKENS) - 1):  # a word is new in the last window that begins half a window before it
        start = 0 if place < LENGTH else (place - LENGTH) // step * step + step
        window = torch.from_numpy(TOKENS[start : place + 2].astype(np.int64))[None]
        expected[place] = F.cross_entropy(model(window[:, :-1]).logits[0, -1:], window[0, -1:])
    torch.testing.assert_close(found.losses, expected.detach(), rtol=1e-4, atol=1e-5)


def test_carried_state_reads_each_row_as_one_text():
    model = tiny_resnet_bk(initializer_range=0.5).eval()  # large weights, so that the state shows in the loss
    carried = evaluate(model, batches(), head="fused", carry_state=True)
    whole = evaluate(model, held_out_batches(TOKENS, 2, 50), head="fused")  # rows of 50 in one segment
    assert carried.nll == pytest.approx(whole.nll, rel=1e-5)  # float32 states
    afresh = evaluate(model, batches(), head="fused")
    assert afresh.nll != pytest.approx(whole.nll, rel=1e-5)


def test_the_models_mode_comes_back():
    model = tiny_gpt2(dropout=0.5).train()
    first = evaluate(model, batches(), head="fused")
    assert model.training
    assert evaluate(model, batches(), head="fused") == first  # no dropout while evaluating

    def broken():
        yield next(iter(batches()))
        raise OSError("the text is gone")

    with pytest.raises(OSError, match="the text is gone"):
        evaluate(model, broken(), head="fused")
    assert model.training


def test_nothing_to_predict():
    nothing = [(torch.zeros(1, 3, dtype=torch.long), torch.full((1, 3), -100))]
    with pytest.raises(ValueError, match="fewer than two tokens"):
        evaluate(tiny_gpt2(), nothing, head="fused")


def test_a_hopeless_model_has_infinite_perplexity():
    assert Evaluation(nll=1e6, tokens=10).perplexity == math.inf
    assert math.isnan(Evaluation(nll=math.nan, tokens=10).perplexity)
