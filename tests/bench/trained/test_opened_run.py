"""A finished run and the text that it is measured on."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.trained.opened_run import open_run
from resnet_bk.data import load_corpus
from tests.bench.tiny_bench import settings, write_text
from tests.command_line import call


def test_text_that_begins_with_that_of_the_training_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_BK_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings(text, steps=1, data_limit=400), sort_keys=False))
    assert call("train", tmp_path / "tiny.yaml", "--out", tmp_path / "out").exit_code == 0
    run, whole = tmp_path / "out" / "resnet-bk" / "seed-42", tmp_path / "whole.txt"
    whole.write_text("\n".join(load_corpus(str(text)).documents("train")))
    with pytest.raises(
        ValueError, match=re.escape(f"--split all: begins with the text that {run} was trained on; take")
    ):
        open_run(run, "all", str(whole))
    assert len(open_run(run, "train", None).tokens.tokens) == 400  # by that name it is meant


def test_text_that_goes_on_behind_that_of_the_training_is_refused(tmp_path, monkeypatch):
    """The training split of a single file is cut within its one document, and ends in an <eos> that no longer text has
    there."""
    monkeypatch.setenv("RESNET_BK_CACHE", str(tmp_path / "cache"))
    text, longer = write_text(tmp_path / "text.txt"), tmp_path / "longer.txt"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings(text, steps=1), sort_keys=False))
    assert call("train", tmp_path / "tiny.yaml", "--out", tmp_path / "out").exit_code == 0
    run = tmp_path / "out" / "resnet-bk" / "seed-42"
    longer.write_text(text.read_text() + "a few words more\n")
    with pytest.raises(ValueError, match=r"--split all: begins with the text that .* was trained on; take another"):
        open_run(run, "all", str(longer))
    row = tmp_path / "row.jsonl"
    row.write_text(json.dumps({"text": text.read_text()}) + "\n")
    with pytest.raises(ValueError, match=r"--split all: begins with the text that .* was trained on; take another"):
        open_run(run, "all", str(row))


def test_text_of_the_training_in_another_form_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_BK_CACHE", str(tmp_path / "cache"))
    text, folder = tmp_path / "rows.jsonl", tmp_path / "out"
    documents = write_text(tmp_path / "text.txt").read_text().split("\n\n")
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings(text, steps=1), sort_keys=False))
    assert call("train", tmp_path / "tiny.yaml", "--out", folder).exit_code == 0
    run = folder / "resnet-bk" / "seed-42"

    def refused(split: str, rows: list[str]) -> str:
        other = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        pq.write_table(pa.table({"text": rows}), other)
        with pytest.raises(ValueError, match=rf"--split {split}: .* the text that {re.escape(str(run))} was") as error:
            open_run(run, split, str(other))
        return str(error.value)

    assert "--split all: holds the text" in refused("all", documents)
    assert "--split train: is the text" in refused("train", documents)
    trained = list(load_corpus(str(text)).documents("train"))
    assert "--split train: begins with the text" in refused("train", [*trained, *trained])
    other = tmp_path / "other.txt"
    other.write_text(" ".join(trained)[::-1])
    assert len(open_run(run, "all", str(other)).tokens.tokens)


@pytest.mark.parametrize(
    ("dataset", "elsewhere"),
    [("text.txt", True), ("../data/texts/mine", True), ("/no/such/text.txt", False), ("owner/no-such-name", False)],
)
def test_text_that_is_looked_for_from_the_folder_of_the_call(tmp_path, monkeypatch, dataset, elsewhere):
    def refuse(name, *_):
        raise ValueError(f"data {name!r}: refused")

    monkeypatch.setattr("resnet_bk.data.load.load_hub", refuse)
    monkeypatch.chdir(tmp_path)
    protocol = check_protocol(settings(dataset), "tiny").model_dump()
    record = {"model": "resnet-bk", "seed": 1, "learning_rate": 0.1, "protocol": protocol}
    record |= {"data": {}, "training": {}, "environment": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    way_out = ", or call this from the folder of the training"
    with pytest.raises(ValueError, match=r"with --data\)" + (way_out if elsewhere else "") + "$") as error:
        open_run(tmp_path, "validation", None)
    assert str(error.value).startswith(f"{tmp_path}: " if elsewhere else "data ")
    with pytest.raises(ValueError, match=r"data 'other.txt': no such .* with --data\)$"):
        open_run(tmp_path, "validation", "other.txt")
