"""The figures of a run against a reading of its saved weights, token by token, without the code of the benchmark."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.published import RESULTS
from resnet_bk.bench import run as run_module
from resnet_bk.bench.data import open_corpus, prepare
from resnet_bk.bench.documents import document_tokens
from resnet_bk.bench.protocol import check_protocol, load_protocol
from resnet_bk.bench.run_folder import read_json
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.data import frequency_buckets, token_cache
from tests.bench.tiny_bench import settings, write_text

ROWS, SEGMENT = 4, 16


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Of many documents in every split."""
    folder = tmp_path_factory.mktemp("text")
    documents = write_text(folder / "text.txt", 300).read_text().split("\n\n")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return folder / "text.jsonl"


@torch.no_grad()
def losses(model, tokens, first_read):
    """Loss of every token but the first, read behind those from `first_read(place)` on and no others."""
    found = []
    for place in range(len(tokens) - 1):
        ids = torch.from_numpy(tokens[first_read(place) : place + 2].astype(np.int64))[None]
        found.append(F.cross_entropy(model(ids[:, :-1]).logits[0, -1:], ids[0, -1:]))
    return torch.stack(found).double()


def in_rows(tokens, *, carried):
    """The text is cut into rows, and these into segments; with a carried state a token sees all of its row."""
    row = -(-(len(tokens) - 1) // ROWS)
    return lambda place: place // row * row + (0 if carried else place % row // SEGMENT * SEGMENT)


def in_windows(place):
    """Windows of a segment that overlap by half: the first is scored whole, of every other its second half."""
    half = SEGMENT // 2
    return 0 if place < SEGMENT else (place - SEGMENT) // half * half + half


def test_figures_are_those_of_the_saved_weights(run, text, tmp_path, tmp_path_factory):
    results, _ = run(test=True, data_limit=150)  # shorter than the validation split, which no limit cuts
    protocol = check_protocol(settings(text, data_limit=150), "tiny")
    prepared = prepare(protocol, open_corpus(protocol), tmp_path_factory.getbasetemp() / "cache")
    tokenizer = prepared.tokenizer
    held, test = (
        token_cache(prepared.corpus, split, tokenizer, cache_dir=tmp_path / "cache").tokens
        for split in ("validation", "test")
    )
    bucket, names = frequency_buckets(prepared.train.tokens, len(tokenizer), tokenizer.unk_token_id)
    of_token = bucket[torch.from_numpy(held[1:].astype(np.int64))]
    for found in results["runs"]:
        model, carried = load_model(tmp_path / "out" / found["run_folder"] / "model").eval(), found["carry_state"]
        own = losses(model, held, in_rows(held, carried=carried))
        windows = losses(model, held, in_windows)
        of_test = losses(model, test, in_rows(test, carried=carried))
        for key, expected in (
            ("held_out_perplexity", own),
            ("held_out_perplexity_overlapping", windows),
            ("test_perplexity", of_test),
        ):
            assert found[key] == pytest.approx(expected.mean().exp().item(), rel=1e-4), key
        if carried:
            alone = losses(model, held, in_rows(held, carried=False)).mean().exp().item()
            assert found["held_out_perplexity_without_carry"] == pytest.approx(alone, rel=1e-4)
        for view, expected in (("", own), ("overlapping_", windows)):
            parts = expected.split(document_tokens(held, tokenizer.eos_token_id))
            assert len(parts) > 5
            assert found[f"{view}document_nll"] == pytest.approx([part.sum().item() for part in parts], rel=1e-3)
            for number, (name, reached) in enumerate(zip(names, found[f"{view}buckets"], strict=True)):
                inside = expected[of_token == number]
                assert (reached["name"], reached["tokens"]) == (name, len(inside))
                if len(inside):
                    assert reached["perplexity"] == pytest.approx(inside.mean().exp().item(), rel=1e-3)


def test_the_course_is_read_as_the_end_is(run, monkeypatch):
    seen, read = [], run_module.evaluate_validation

    def noted(*arguments, **options):
        seen.append(options["carry_state"])
        return read(*arguments, **options)

    monkeypatch.setattr(run_module, "evaluate_validation", noted)
    run()
    points = len(seen) // 2
    assert seen == [True] * points + [False] * points
    assert points >= 2


def test_times_are_of_the_steps(run):
    for found in run()[0]["runs"]:
        assert found["seconds_per_step"] == pytest.approx(found["training_time"] / 12)
        assert found["tokens_per_second"] == pytest.approx(12 * ROWS * SEGMENT / found["training_time"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_reading_has_the_precision_of_the_protocol(run, monkeypatch, dtype):
    from resnet_bk.bench import held_out, later

    seen = []
    for module in (held_out, later):
        read = module.evaluate

        def noted(*arguments, read=read, **options):
            seen.append(options["dtype"])
            return read(*arguments, **options)

        monkeypatch.setattr(module, "evaluate", noted)
    run(only=["resnet-bk"], test=True, dtype=dtype)
    assert len(seen) >= 6  # the course, the end, two further views, two of the test split
    assert set(seen) == {dtype}


def test_muons_iteration_is_counted(run):
    (adam,), (muon,) = (
        run(out=kind, only=["gpt2"], optimizer=kind, steps=1, warmup_steps=0, evaluations=1, log_interval=1)[0]["runs"]
        for kind in ("adamw", "muon")
    )
    assert muon["optimizer_flops"] > adam["optimizer_flops"] == 15 * adam["parameters"]


def test_a_model_may_have_an_optimizer_of_its_own(run, tmp_path):
    kinds = {"resnet-bk": None, "gpt2": "muon-parts"}
    models = {name: {"learning_rate": 1e-2, "optimizer": kind} for name, kind in kinds.items()}
    ours, gpt2 = run(models=models, steps=1, warmup_steps=0, evaluations=1, log_interval=1)[0]["runs"]
    assert ours["optimizer_flops"] == 15 * ours["parameters"]
    assert gpt2["optimizer_flops"] > 15 * gpt2["parameters"]
    trained = [read_json(tmp_path / "out" / name / "seed-42" / "run.json")["training"] for name in kinds]
    assert [training["optimizer"] for training in trained] == ["adamw", "muon-parts"]


def test_the_tokens_of_quick_are_those_published(tmp_path):
    """Its text, its vocabulary and the order of its documents, on which all of its figures rest."""
    protocol = load_protocol("quick")
    found = prepare(protocol, open_corpus(protocol), tmp_path).summary()
    published = read_json(RESULTS / "quick" / "results.json")["data"]
    for key in ("train_tokens", "validation_tokens"):
        assert found["fingerprints"][key] == published["fingerprints"][key]
    assert found["validation_characters"] == published["validation_characters"]
    assert math.isclose(found["validation_unk_rate"], published["validation_unk_rate"])
