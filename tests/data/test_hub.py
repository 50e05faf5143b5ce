"""The hub, played by a server on this machine: it answers what the hub answers, or nothing at all."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from resnet_bk import cli
from resnet_bk.data import hub, load_corpus
from tests.data.conftest import make_documents, write_parquet


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path.split("?")[0] in ("/api/datasets/owner/name", "/api/datasets/Salesforce/wikitext")
        body = json.dumps(
            {"id": "owner/name", "sha": "0123456789", "cardData": {"license": "cc0-1.0"}} if found else {"error": "no"}
        ).encode()
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that knows `owner/name` and WikiText; `datasets` finds their files in the working folder."""
    import datasets
    from huggingface_hub import constants

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    yield
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.usefixtures("server")
def test_a_data_set_with_splits(tmp_path: Path) -> None:
    texts = make_documents(300, 1)
    write_parquet(tmp_path / "owner/name/data/train-00000-of-00001.parquet", [*texts, None, " "])
    write_parquet(tmp_path / "owner/name/data/validation-00000-of-00001.parquet", ["v"])
    corpus = hub.load_hub("owner/name", "owner/name", None)
    assert corpus.splits == ("train", "validation")
    assert list(corpus.documents("train")) == texts
    assert corpus.description == "owner/name from the Hugging Face hub, revision 0123456789, licence: cc0-1.0"
    with pytest.raises(ValueError, match="no split 'test', only train, validation"):
        corpus.documents("test")

    write_parquet(tmp_path / "owner/name/data/validation-00000-of-00001.parquet", ["w"])
    changed = hub.load_hub("owner/name", "owner/name", None)
    assert changed.fingerprint != corpus.fingerprint


@pytest.mark.usefixtures("server")
def test_a_data_set_with_one_split_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = make_documents(300, 1)
    write_parquet(tmp_path / "owner/name/train.parquet", list(texts))
    corpus = hub.load_hub("owner/name", "owner/name", None)
    assert corpus.splits == ("train", "validation", "test")
    assert sorted(text for split in corpus.splits for text in corpus.documents(split)) == sorted(texts)
    assert "divided 90/5/5 by document" in corpus.description
    monkeypatch.setattr(hub, "DIVISION", "another")
    assert hub.load_hub("owner/name", "owner/name", None).fingerprint != corpus.fingerprint


@pytest.mark.usefixtures("server")
def test_two_splits_of_one_use(tmp_path: Path) -> None:
    for split in ("train", "validation", "dev"):
        write_parquet(tmp_path / f"data/{split}.parquet", list(make_documents(30, 1)))
    loaded = {name: str(tmp_path / f"data/{name}.parquet") for name in ("train", "validation", "dev")}
    import datasets

    sets = datasets.load_dataset("parquet", data_files=loaded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *arguments, **options: sets)
        with pytest.raises(
            ValueError, match=r"the splits dev, validation of 'owner/name' are of one use; save the one"
        ):
            hub.load_hub("owner/name", "owner/name", None)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", ["wikitext-2", "wikitext-2-raw-v1"])
def test_wikitext_lines_become_articles(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Salesforce/wikitext"
    configs = []
    for config in ("wikitext-2-raw-v1", "wikitext-2-v1"):
        data_files = []
        for split in ("train", "validation", "test"):
            rows: list[str | None] = ["", f" = {config} = \n", "", " text\n", "", " = Two = \n", "", f" {split}\n"]
            write_parquet(folder / config / f"{split}-00000-of-00001.parquet", rows)
            data_files.append(f"\n  - split: {split}\n    path: {config}/{split}-*")
        configs.append(f"\n- config_name: {config}\n  data_files:{''.join(data_files)}")
    (folder / "README.md").write_text(f"---\nconfigs:{''.join(configs)}\n---\n")
    corpus = load_corpus(name)
    assert list(corpus.documents("validation")) == [
        " = wikitext-2-raw-v1 = \n\n text\n\n",
        " = Two = \n\n validation\n",
    ]

    with pytest.raises(ValueError, match=r"cannot be loaded \(Config name is missing.* write owner/name:config"):
        hub.load_hub("Salesforce/wikitext", "Salesforce/wikitext", None)  # of any set with configs
    with pytest.raises(ValueError, match=r"cannot be loaded \(BuilderConfig 'other' not found"):
        hub.load_hub("Salesforce/wikitext:other", "Salesforce/wikitext", "other")


@pytest.mark.usefixtures("server")
def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    write_parquet(tmp_path / "owner/name/train.parquet", ["a"], column="body")
    with pytest.raises(ValueError, match="'owner/name': no column 'text', only title, body; save its text"):
        hub.load_hub("owner/name", "owner/name", None)


@pytest.mark.usefixtures("server")
def test_a_column_of_something_else_than_strings(tmp_path: Path) -> None:
    folder = tmp_path / "owner/name"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": [["a", "b"]]}), folder / "train.parquet")
    with pytest.raises(ValueError, match=r"'owner/name': the column 'text' holds List\(.*, not strings; save its text"):
        hub.load_hub("owner/name", "owner/name", None)


@pytest.mark.usefixtures("server")
def test_a_text_that_is_not_utf8_names_the_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "owner/name"
    folder.mkdir(parents=True)
    wrong = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"text": wrong}), folder / "train.parquet")
    corpus = hub.load_hub("owner/name", "owner/name", None)
    assert corpus.whole is not None
    with pytest.raises(ValueError, match="the hub's data set 'owner/name' holds a text that is not UTF-8 at byte 0"):
        list(corpus.whole())


@pytest.mark.usefixtures("server")
def test_a_data_set_that_the_hub_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"no such local path, and the hub has no data set 'owner/other' that you may"):
        load_corpus("owner/other")


@pytest.mark.usefixtures("server")
def test_a_name_that_no_hub_can_have() -> None:
    with pytest.raises(ValueError, match=r"no such local path, and it cannot be the name .*'my--data/x'.*; check the"):
        load_corpus("my--data/x")


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "DEADLINE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ValueError, match="cannot be reached"):
            hub.load_hub("owner/name", "owner/name", None)


@pytest.mark.parametrize(
    ("environment", "name", "way_out"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "wikitext-103", "set HF_HUB_OFFLINE=1 if it was loaded here before"),
        ({"HF_HUB_OFFLINE": "1"}, "owner/name", "unset HF_HUB_OFFLINE"),
    ],
)
def test_without_a_hub_the_error_names_the_local_layout(
    environment: dict[str, str], name: str, way_out: str, tmp_path: Path
) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    code = f"from resnet_bk.data import load_corpus\nload_corpus({name!r})"
    # The limit is far above the second or two that it takes, and far below the half minute of retries of `datasets`
    # on top of the imports.
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith(f"ValueError: data '{name}': ")
    assert "cannot be reached" in error
    assert f"go online, {way_out}, or give a local folder with any .txt files" in error
    assert "wiki.train.tokens" in error
    assert "Retrying" not in result.stderr


@pytest.mark.parametrize("command", ["bench", "ngrams"])
def test_without_a_hub_a_protocol_is_a_bad_call(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    called = CliRunner().invoke(cli.app, [command, "seed", "--out", str(tmp_path / "out")])
    assert called.exit_code == 2
    (line,) = called.stderr.strip().splitlines()
    assert line.startswith("error: data 'wikitext-103': the Hugging Face hub at http://127.0.0.1:9 cannot be reached")
    assert "wiki.train.tokens" in line
    assert line.endswith("(give other text with --data)")
    assert not (tmp_path / "out").exists()


def test_an_answer_of_something_in_between_is_not_taken_for_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that refuses everything: WikiText is known to be on the hub."""
    from huggingface_hub import constants

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *args: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        with pytest.raises(ValueError, match=r"hub at http://127.* cannot be reached \(.*403.*wiki\.train\.tokens"):
            load_corpus("wikitext-2")
        with pytest.raises(ValueError, match="the hub has no data set 'owner/name' that you may read"):
            hub.load_hub("owner/name", "owner/name", None)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.mark.usefixtures("server")
def test_a_data_set_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` can be told to keep small sets in memory: two of them would have one fingerprint."""
    import datasets

    write_parquet(tmp_path / "owner/name/train.parquet", make_documents(300, 1))
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", 10**9)
    before = hub.load_hub("owner/name", "owner/name", None).fingerprint
    write_parquet(tmp_path / "owner/name/train.parquet", make_documents(300, 2))
    assert hub.load_hub("owner/name", "owner/name", None).fingerprint != before
    kept = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: kept)
    with pytest.raises(ValueError, match=r"keeps its split 'train' in no file.*; unset HF_DATASETS_IN_MEMORY_MAX_SIZE"):
        hub.load_hub("owner/name", "owner/name", None)
