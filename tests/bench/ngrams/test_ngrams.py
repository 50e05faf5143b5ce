"""The n-gram baselines of a protocol: on which tokens, and what is written."""

import json
import math

import pytest
import yaml
from rich.console import Console

from resnet_bk.bench.data import open_corpus, prepare
from resnet_bk.bench.json_files import write_json
from resnet_bk.bench.ngrams import baselines as ngrams_module
from resnet_bk.bench.ngrams.baselines import ngram_baselines, read_ngrams, write_ngrams
from resnet_bk.bench.ngrams.kneser_ney import kneser_ney
from resnet_bk.bench.ngrams.table import describe_ngrams, ngram_table
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.run_folder import locked
from tests.bench.tiny_bench import settings, write_text
from tests.command_line import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("ngrams")
    write_text(home / "text.txt")
    return home


@pytest.fixture(scope="module")
def protocol(folder):
    return check_protocol(settings(folder / "text.txt"), "tiny")


@pytest.fixture(scope="module")
def found(protocol, folder):
    return ngram_baselines(protocol, cache_dir=folder / "cache")


def test_exactly_the_tokens_of_a_model(protocol, folder, found):
    prepared = prepare(protocol, open_corpus(protocol), folder / "cache")
    held_out = prepared.validation
    assert found["tokens"] == len(held_out.tokens) - 1
    assert found["train_tokens"] == len(prepared.train.tokens)
    assert found["vocab_size"] == len(prepared.tokenizer) == 64
    assert found["unk_rate"] == held_out.unknown_rate > 0
    assert [entry["name"] for entry in found["ngrams"]] == ["unigram", "bigram", "5-gram"]
    for entry, score in zip(
        found["ngrams"], kneser_ney(prepared.train.tokens, held_out.tokens, 64, [1, 2, 5]), strict=True
    ):
        nll = -score.log_probabilities.sum()
        assert entry["loss"] == pytest.approx(nll / (len(held_out.tokens) - 1))
        assert entry["perplexity"] == pytest.approx(math.exp(entry["loss"]))
        assert entry["bits_per_character"] == pytest.approx(nll / math.log(2) / held_out.characters)
    # Three words may follow each: the bigram knows them, the unigram does not.
    unigram, bigram, _ = (entry["perplexity"] for entry in found["ngrams"])
    assert bigram < 6 < 30 < unigram < 64


def test_the_limit_of_the_protocol_counts(protocol, folder):
    short = ngram_baselines(protocol.model_copy(update={"data_limit": 500}), orders=[2], cache_dir=folder / "cache")
    assert short["train_tokens"] == 500
    assert [entry["order"] for entry in short["ngrams"]] == [2]


def test_another_split(protocol, folder, found):
    other = ngram_baselines(protocol, orders=[1], split="test", cache_dir=folder / "cache")
    assert other["split"] == "test"
    assert other["tokens"] != found["tokens"]
    assert other["fingerprints"]["validation_tokens"] == found["fingerprints"]["validation_tokens"]
    assert other["fingerprints"]["held_out_tokens"] != found["fingerprints"]["held_out_tokens"]
    with pytest.raises(ValueError, match="--split train: n-grams are counted on it; name a held-out split"):
        ngram_baselines(protocol, split="train", cache_dir=folder / "cache")
    with pytest.raises(ValueError, match="--split all: n-grams are counted on a part of it; name a held-out split"):
        ngram_baselines(protocol, split="all", cache_dir=folder / "cache")
    with pytest.raises(ValueError, match=r"--split dev: text\.txt has train, validation, test, all; name one of them"):
        ngram_baselines(protocol, split="dev", cache_dir=folder / "cache")


def test_the_table_marks_discounts_that_are_no_estimates(found):
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(ngram_table(found))
    text = console.export_text()
    assert "tiny on text.txt: n-gram baselines, validation split" in text
    assert "0.50, 1.00, 1.50 *" in text  # 60 frequent words: none occurs once
    assert "too few n-grams are rare" in text
    for entry in found["ngrams"]:
        assert f"{entry['perplexity']:.1f}" in text or f"{entry['perplexity']:.2f}" in text


def test_beside_the_runs_of_the_same_data_only(found, tmp_path):
    write_json(tmp_path / "ngrams.json", found)
    same = {"fingerprints": {key: found["fingerprints"][key] for key in ("corpus", "train_tokens")}}
    assert read_ngrams(tmp_path, same) == json.loads(json.dumps(found))
    assert read_ngrams(tmp_path, {"fingerprints": {"train_tokens": "other"}}) is None
    assert read_ngrams(tmp_path, {}) is None
    assert read_ngrams(tmp_path / "elsewhere", same) is None
    assert describe_ngrams(found).startswith("n-gram baselines, validation perplexity: unigram ")


def test_beside_results_of_another_task(found, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"protocol": {"task": "recall"}, "runs": []}))
    with pytest.raises(ValueError, match="holds results of other text, tokens or vocabulary; name another folder"):
        write_ngrams(found, tmp_path)


def test_those_of_another_split_are_not_overwritten(found, tmp_path):
    write_ngrams(found, tmp_path)
    with pytest.raises(ValueError, match="holds n-grams of the validation split, and these are of test; name another"):
        write_ngrams(found | {"split": "test"}, tmp_path)
    (tmp_path / "ngrams.json").unlink()
    data = {"fingerprints": {"train_tokens": found["fingerprints"]["train_tokens"]}}
    (tmp_path / "results.json").write_text(json.dumps({"data": data, "ngrams": found, "runs": []}))
    with pytest.raises(ValueError, match="holds n-grams of the validation split"):
        write_ngrams(found | {"split": "test"}, tmp_path)


def test_those_that_would_be_lost_are_not_overwritten(found, tmp_path):
    write_ngrams(found, tmp_path)
    fewer = found | {"ngrams": found["ngrams"][:1]}
    with pytest.raises(ValueError, match="n-grams of order 2, 5, which would be lost; add --orders 1,2,5, or name"):
        write_ngrams(fewer, tmp_path)
    other = found | {"fingerprints": found["fingerprints"] | {"train_tokens": "other"}}
    with pytest.raises(ValueError, match="holds n-grams of other text, tokens or vocabulary; name another folder"):
        write_ngrams(other, tmp_path)
    write_ngrams(found, tmp_path)  # the same may be written again
    (tmp_path / "ngrams.json").write_text("{}")
    for content in ({}, found | {"fingerprints": None}, found | {"ngrams": [{"x": 1}]}):
        write_json(tmp_path / "ngrams.json", content)
        for read in (lambda: write_ngrams(found, tmp_path), lambda: read_ngrams(tmp_path, {})):
            with pytest.raises(ValueError, match=r"ngrams\.json holds n-grams that cannot be read; remove them"):
                read()


def test_beside_runs_of_other_text(found, tmp_path):
    folder = tmp_path / "gpt2" / "seed-1"
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"data": {"fingerprints": {"train_tokens": "other"}}})
    with pytest.raises(ValueError, match="holds results of other text, tokens or vocabulary; name another folder"):
        write_ngrams(found, tmp_path)
    assert not (tmp_path / "ngrams.json").exists()


def test_not_while_a_benchmark_runs_in_the_folder(found, tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another resnet-bk is running there"):
        write_ngrams(found, tmp_path)
    assert not (tmp_path / "ngrams.json").exists()


def test_the_command(protocol, folder, found, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings(folder / "text.txt")))
    printed = call("ngrams", tmp_path / "tiny.yaml", "--json", "--out", tmp_path / "out", "--orders", "2,1")
    assert printed.exit_code == 0, printed.output
    told = json.loads(printed.stdout)
    assert told == json.loads((tmp_path / "out" / "ngrams.json").read_text())
    assert [entry["perplexity"] for entry in told["ngrams"]] == [e["perplexity"] for e in found["ngrams"][:2]]
    table = call("ngrams", tmp_path / "tiny.yaml")
    assert table.exit_code == 0
    assert "bigram" in table.stdout

    results = {"data": {"fingerprints": {"train_tokens": told["fingerprints"]["train_tokens"]}}, "runs": []}
    write_json(tmp_path / "out" / "results.json", results)
    assert call("ngrams", tmp_path / "tiny.yaml", "--out", tmp_path / "out").exit_code == 0
    beside = json.loads((tmp_path / "out" / "results.json").read_text())
    assert beside == results | {"ngrams": json.loads((tmp_path / "out" / "ngrams.json").read_text())}

    write_json(tmp_path / "out" / "results.json", {"data": {"fingerprints": {"train_tokens": "other"}}})
    refused = call("ngrams", tmp_path / "tiny.yaml", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "holds results of other text, tokens or vocabulary" in refused.stderr
    monkeypatch.setattr(ngrams_module, "kneser_ney", None)  # not before it is known where the figures go
    refused = call("ngrams", tmp_path / "tiny.yaml", "--out", tmp_path / "tiny.yaml")
    assert refused.exit_code == 2
    assert "is not a folder" in refused.stderr
    wrong = call("ngrams", tmp_path / "tiny.yaml", "--orders", "0")
    assert (wrong.exit_code, len(wrong.stderr.strip().splitlines())) == (2, 1)
