"""Losses by document, and the comparison that uses them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnet_bk.bench.documents import document_sums, document_tokens
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import compare_documents, summarize
from tests.bench.report_samples import sample_results

EOS = 1


def test_every_predicted_token_is_in_one_document():
    # The first token is not predicted; each end belongs to the document that it ends; the rest is one more.
    tokens = np.array([5, 6, EOS, 7, EOS, EOS, 8, 9])
    counts = document_tokens(tokens, EOS)
    assert counts == [2, 2, 1, 2]
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    assert document_sums(losses, counts) == [3.0, 12.0, 16.0, 96.0]


def test_a_text_that_starts_or_ends_with_a_mark():
    assert document_tokens(np.array([EOS, 4, 4, EOS]), EOS) == [3]
    assert document_tokens(np.array([4, 4]), EOS) == [1]


COUNTS = [10, 30] * 10


def models(**changes):
    results = sample_results(seeds=(0, 1), **changes)
    for run in results["runs"]:
        level = {"resnet-bk": 4.5, "gpt2": 5.0, "llama": 4.6}[run["model_name"]] + 0.01 * run["seed"]
        run.setdefault("document_nll", [level * 10, (level + 0.5) * 30] * 10)
    return {model.name: model for model in summarize(parse_results(results))}


def test_documents_are_compared_over_the_mean_of_the_seeds():
    found = models()
    interval = compare_documents(found["resnet-bk"], found["llama"], COUNTS)
    assert interval.ratio == interval.low == interval.high
    assert math.isclose(interval.ratio, math.exp(-0.1), rel_tol=1e-12)
    assert interval.count == 20


def test_documents_are_compared_over_the_seeds_that_both_have():
    ours, theirs = models()["resnet-bk"], models()["llama"]
    alone = compare_documents(ours, replace(theirs, runs=theirs.runs[1:]), COUNTS)
    assert math.isclose(alone.ratio, math.exp(-0.1), rel_tol=1e-12)
    runs = [run.model_copy(update={"seed": run.seed + 10}) for run in theirs.runs[1:]]
    apart = compare_documents(ours, replace(theirs, runs=runs), COUNTS)
    assert math.isclose(apart.ratio, math.exp(-0.105), rel_tol=1e-12)


def test_few_documents_are_not_compared():
    few = models(document_nll=[50.0, 150.0] * 5)
    assert compare_documents(few["resnet-bk"], few["llama"], COUNTS[:10]) is None


def test_runs_without_documents_are_not_compared():
    assert compare_documents(models()["resnet-bk"], models(document_nll=[])["llama"], COUNTS) is None
    assert compare_documents(models()["resnet-bk"], models()["llama"], []) is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_documents_without_a_finite_loss_are_not_compared(value):
    lost = models(document_nll=[50.0, value] * 10)["llama"]
    assert compare_documents(models()["resnet-bk"], lost, COUNTS) is None
