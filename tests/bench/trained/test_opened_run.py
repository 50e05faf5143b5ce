"""A finished run and the text that it is measured on."""

import re

import pytest
import yaml

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
