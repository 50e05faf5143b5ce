import json
import os
import zipfile
from pathlib import Path

import datasets
import pytest

from resnet_bk.data import load_corpus, local
from resnet_bk.data.corpus import SPLITS, split_of
from resnet_bk.data.local import split_name
from tests.data.conftest import make_documents, write_parquet, write_splits


def documents(path: Path) -> dict[str, list[str]]:
    corpus = load_corpus(path)
    return {split: list(corpus.documents(split)) for split in corpus.splits}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.txt", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("train_part.txt", "train"),
        ("train2.txt", "train"),
        ("Training.txt", "train"),
        ("wiki.train.tokens", "train"),
        ("wiki.valid.raw", "validation"),
        ("dev.jsonl", "validation"),
        ("val/x.txt", "validation"),
        ("data/test-00000-of-00001.parquet", "test"),
        ("en/Test/a/x.txt", "test"),
        ("trains of Europe.txt", ""),
        ("night-train.txt", ""),
        ("testament.txt", ""),
    ],
)
def test_split_names_in_paths(path: str, split: str) -> None:
    assert split_name(Path(path)) == split


def test_split_files_of_text(tmp_path: Path) -> None:
    texts = write_splits(tmp_path)
    (tmp_path / "README.txt").write_text("not part of it")
    (tmp_path / ".hidden.txt").write_text("nor this")
    assert documents(tmp_path) == {split: [text] for split, text in texts.items()}


def test_split_folders_hold_one_document_a_file_in_order_of_names(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("b.txt", "a/z.txt", "c.txt"):
            file = tmp_path / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{split} {name}")
    assert documents(tmp_path)["validation"] == ["valid a/z.txt", "valid b.txt", "valid c.txt"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder, name in ((corpus / "train", "one"), (corpus / "valid", "held"), (elsewhere, "two")):
        folder.mkdir(parents=True)
        (folder / f"{name}.txt").write_text(name)
    (corpus / "train" / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(corpus / "train")
    (corpus / "all").symlink_to(corpus / "train")  # before it in the order of names
    assert documents(corpus) == {"train": ["two", "one"], "validation": ["held"]}


def test_the_whole_of_a_set_without_splits(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("\n".join(f"line {number}" for number in range(300)))
    whole = (tmp_path / "one.txt").read_text()
    assert list(load_corpus(tmp_path / "one.txt").documents("all")) == [whole]
    texts = make_documents(40, 1)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert list(load_corpus(tmp_path / "rows.jsonl").documents("all")) == texts
    with pytest.raises(ValueError, match="only train, validation, test, and all for the whole set; add"):
        load_corpus(tmp_path / "rows.jsonl").documents("extra")
    divided = tmp_path / "divided"
    divided.mkdir()
    write_splits(divided)
    with pytest.raises(ValueError, match="came divided and has no split 'all'; take one of train, validation, test"):
        load_corpus(divided).documents("all")


def test_a_folder_of_text_files_is_divided_by_document(tmp_path: Path) -> None:
    texts = make_documents(200, 1)
    for i, text in enumerate(texts):
        (tmp_path / f"{i:03}.txt").write_text(text)
    found = documents(tmp_path)
    assert sorted(text for split in found.values() for text in split) == sorted(texts)
    assert len(found["train"]) > 160
    assert found["validation"]
    assert found["test"]
    assert "divided 90/5/5 by document" in load_corpus(tmp_path).description


def test_a_single_text_file_is_divided_by_position_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"  # the name of a file given by itself says nothing
    path.write_text("".join(f"line {i} with 宮\n" for i in range(1000)), encoding="utf-8")
    found = documents(path)
    assert {split: len(texts) for split, texts in found.items()} == {"train": 1, "validation": 1, "test": 1}
    whole = "".join(texts[0] for texts in found.values())
    assert whole == path.read_text(encoding="utf-8")
    assert [texts[0].count("\n") for texts in found.values()] == pytest.approx([900, 50, 50], abs=8)
    assert "by position" in load_corpus(path).description


def test_a_long_word_across_both_places_of_division(tmp_path: Path) -> None:
    """Nothing ends soon after 90%: all is for training, and no part of it is kept to test on."""
    path = tmp_path / "all.txt"
    size = 2_000_000
    words = "word " * (size // 5)
    text = words[: int(0.9 * size)] + "x" * int(0.052 * size) + words[: int(0.048 * size)]
    path.write_text(text)
    corpus = load_corpus(path)
    assert "".join(corpus.documents("train")).split() == text.split()
    for split in ("validation", "test"):
        with pytest.raises(ValueError, match=f"split '{split}' of 'all.txt' holds no text"):
            list(corpus.documents(split))


def test_a_single_line_is_divided_at_a_space(tmp_path: Path) -> None:
    path = tmp_path / "text8.txt"
    for end in ("", "\n", "\n \n"):  # what is blank at the end divides nothing
        path.write_text("word " * 1000 + end)
        found = documents(path)
        assert "".join(texts[0] for texts in found.values()) == "word " * 1000 + end
        assert found["train"][0].endswith("word")
        assert [len(texts[0].split()) for texts in found.values()] == pytest.approx([900, 50, 50], abs=1)


def test_a_text_too_short_to_divide_names_the_empty_split(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("oneword")
    corpus = load_corpus(path)
    assert list(corpus.documents("train")) == ["oneword"]
    with pytest.raises(ValueError, match=r"split 'validation' of 'one\.txt' holds no text \(too little text to divide"):
        list(corpus.documents("validation"))


def test_how_documents_are_divided_is_in_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_splits(tmp_path / "named")
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    (tmp_path / "all").mkdir()
    for number in range(3):
        (tmp_path / f"{number}.txt").rename(tmp_path / "all" / f"{number}.txt")

    def fingerprints() -> list[str]:
        return [load_corpus(tmp_path / name).fingerprint for name in ("named", "all")]

    named, divided = fingerprints()
    monkeypatch.setattr(local, "DIVISION", "another")
    assert fingerprints()[0] == named
    assert fingerprints()[1] != divided


def test_copies_of_one_document_leave_splits_empty(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text("the same again")
    corpus = load_corpus(tmp_path)
    assert list(corpus.documents(split_of("the same again"))) == ["the same again"] * 50
    for split in {*SPLITS} - {split_of("the same again")}:
        with pytest.raises(
            ValueError, match=r"holds no text \(too little text to .*; documents that begin alike stay in"
        ):
            list(corpus.documents(split))


@pytest.mark.parametrize("folder", ["", "data"])
def test_parquet_shards_in_the_layout_of_the_hub(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    write_parquet(root / "train-00000-of-00002.parquet", ["a", "b"])
    write_parquet(root / "train-00001-of-00002.parquet", ["c", None])
    write_parquet(root / "validation-00000-of-00001.parquet", ["d"])
    assert documents(tmp_path) == {"train": ["a", "b", "c"], "validation": ["d"]}


def test_wikitext_lines_in_parquet_become_articles_across_shards(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", ["", " = One = \n", "", " text\n"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [" more\n", "", " = Two = \n", "", " end\n"])
    assert documents(tmp_path)["train"] == [" = One = \n\n text\n more\n\n", " = Two = \n\n end\n"]


@pytest.mark.parametrize("suffix", ["tokens", "raw"])
def test_wikitext_token_files(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"wiki.{split}.{suffix}").write_text(f" \n = {split} one = \n \n a <unk> \n \n = two = \n \n b \n")
    found = documents(tmp_path)
    assert list(found) == ["train", "validation", "test"]
    assert [len(texts) for texts in found.values()] == [2, 2, 2]
    assert found["validation"][0].startswith(" = valid one = ")


def test_jsonl(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"text": f"{split} {i} 宮"}, ensure_ascii=i % 2 == 0) for i in range(3)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert documents(tmp_path)["test"] == ["test 0 宮", "test 1 宮", "test 2 宮"]


def test_the_fingerprint_follows_content_and_splits_not_names(tmp_path: Path) -> None:
    write_splits(tmp_path / "one")
    write_splits(tmp_path / "two")
    (tmp_path / "two/train.txt").rename(tmp_path / "two/train-new.txt")
    first = load_corpus(tmp_path / "one").fingerprint
    assert load_corpus(tmp_path / "two").fingerprint == first
    (tmp_path / "two/test.txt").rename(tmp_path / "two/dev.txt")
    (tmp_path / "two/validation.txt").rename(tmp_path / "two/test.txt")
    assert load_corpus(tmp_path / "two").fingerprint != first
    (tmp_path / "one/train.txt").write_text("other text")
    assert load_corpus(tmp_path / "one").fingerprint != first


def test_a_missing_split_names_those_that_are_there(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "validation.txt").unlink()
    corpus = load_corpus(tmp_path)
    assert corpus.splits == ("train", "test")
    with pytest.raises(ValueError, match="has no split 'validation', only train, test; add a file or folder named"):
        corpus.documents("validation")


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    for content in (b"", b" \n\n"):
        path = tmp_path / "empty.txt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"empty\.txt is empty; give a file with text"):
            load_corpus(path)
    write_splits(tmp_path / "folder")
    (tmp_path / "folder/validation.txt").write_text("")
    with pytest.raises(ValueError, match=r"validation\.txt is empty"):
        load_corpus(tmp_path / "folder")


def test_parquet_without_rows_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a"])
    write_parquet(tmp_path / "test.parquet", [])
    with pytest.raises(ValueError, match=r"test\.parquet \(test\) is empty: it has no rows"):
        load_corpus(tmp_path)


def test_a_file_that_is_not_utf8_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"caf\xe9 noir")
    with pytest.raises(ValueError, match=r"test\.txt is not UTF-8 at byte 3 "):
        load_corpus(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 40, -1, -20])
def test_truncated_parquet_is_an_error(tmp_path: Path, keep: int) -> None:
    path = write_parquet(tmp_path / "train.parquet", list(make_documents(50, 1)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train\.parquet is truncated or no parquet file \(.+\); fetch it again"):
        load_corpus(tmp_path)


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", ["a"], column="body")
    with pytest.raises(ValueError, match=r"train\.parquet has no column 'text', only title, body; rename"):
        load_corpus(path)


def test_a_column_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"column 'text' of .*train\.parquet holds int64, not strings"):
        load_corpus(tmp_path)
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet has 2 columns 'text'; keep one"):
        load_corpus(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_splits(tmp_path / "texts")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "texts":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"texts cannot be read \(Permission denied\)"):
        load_corpus(tmp_path)


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "LICENSE.txt").write_text("terms")
    with pytest.raises(
        ValueError, match=r"holds no text; it needs any \.txt files, which are divided 90/5/5, or train"
    ):
        load_corpus(tmp_path)


def test_a_folder_that_datasets_saved_names_the_way_out(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"holds no text but \.arrow files; read it with .*; it needs any"):
        load_corpus(tmp_path / "saved")


def test_a_file_of_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    rule = r"has the suffix '\.zip', which is none of \.txt, \.parquet.*; save the text as one of these"
    with pytest.raises(ValueError, match=rule):
        load_corpus(path)


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.txt.zst"])
def test_packed_text_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "dump.sql.gz").touch()  # no text
    (tmp_path / "a.jsonl.gz").touch()  # which is unpacked
    load_corpus(tmp_path)
    (tmp_path / name).touch()
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=rf"data: .*{name} is packed; unpack it first, or take it away"):
            load_corpus(path)


def test_a_mix_of_formats_is_an_error(tmp_path: Path) -> None:
    write_splits(tmp_path)
    write_parquet(tmp_path / "train.parquet", ["a"])
    with pytest.raises(ValueError, match=r"mixes formats \(.*\.txt and .*train\.parquet\); keep one"):
        load_corpus(tmp_path)


def test_two_variants_of_wikitext_are_one_text(tmp_path: Path) -> None:
    for suffix in ("tokens", "raw"):
        for split in ("train", "valid", "test"):
            (tmp_path / f"wiki.{split}.{suffix}").write_text(" = A = \n\n some words \n")
    with pytest.raises(ValueError, match=r"two variants of WikiText, which are one text \(.*; keep the \.tokens files"):
        load_corpus(tmp_path)
    for file in tmp_path.glob("*.raw"):
        file.unlink()
    assert load_corpus(tmp_path).splits == SPLITS
    for folder, suffix in (("wikitext-2", "tokens"), ("wikitext-103-raw", "raw")):
        (tmp_path / "two" / folder).mkdir(parents=True)
        for split in ("train", "valid", "test"):
            (tmp_path / "two" / folder / f"wiki.{split}.{suffix}").write_text(" = A = \n\n some words \n")
    with pytest.raises(ValueError, match="holds several data sets"):
        load_corpus(tmp_path / "two")


def test_trainings_beside_their_text_are_no_text(tmp_path: Path) -> None:
    write_splits(tmp_path)
    before = load_corpus(tmp_path).fingerprint
    run = tmp_path / "runs" / "quick" / "llama" / "seed-42"
    (run / "model").mkdir(parents=True)
    for name in ("run.json", "log.jsonl", "model/vocab.txt"):
        (run / name).write_text("{}\n")
    assert load_corpus(tmp_path).fingerprint == before
    with pytest.raises(ValueError, match=r"data: .*seed-42 is the folder of a training; name the text"):
        load_corpus(run)
    # A file of that name alone is somebody else's.
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "more.txt").write_text("more words")
    (tmp_path / "train" / "run.json").write_text("{}")
    assert load_corpus(tmp_path).fingerprint != before


def test_a_mix_of_named_and_other_files_is_an_error(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "essay.txt").write_text("an essay")
    with pytest.raises(ValueError, match=r"tell their split \(t.*\.txt\) and others do not \(essay\.txt\)"):
        load_corpus(tmp_path)


def test_several_data_sets_in_one_folder_are_an_error(tmp_path: Path) -> None:
    for name in ("wikitext-103-v1", "wikitext-2-v1"):
        write_parquet(tmp_path / name / "train-00000-of-00001.parquet", ["a"])
    with pytest.raises(
        ValueError, match=r"several data sets \(wikitext-103-v1, wikitext-2-v1\); give the folder of one"
    ):
        load_corpus(tmp_path)


def test_missing_shards_are_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00001-of-00003.parquet", ["a"])
    with pytest.raises(ValueError, match=r"2 of the 3 shards of .*train are missing \(the first is number 0\)"):
        load_corpus(tmp_path)


def test_shards_may_be_counted_from_1(tmp_path: Path) -> None:
    for number in (1, 2):
        write_parquet(tmp_path / f"train-0000{number}-of-00002.parquet", ["a"])
    assert documents(tmp_path)["train"] == ["a", "a"]


@pytest.mark.parametrize(
    "names",
    [
        ["mydata_train.jsonl", "mydata_valid.jsonl", "mydata_test.jsonl"],
        ["trainset.txt", "testset.txt"],
        ["ptb.train.txt", "ptb.test.txt"],
        ["wiki-train/", "wiki-valid/"],
        ["train_data/", "test_data/"],
    ],
)
def test_names_that_seem_to_tell_splits_are_an_error(names: list[str], tmp_path: Path) -> None:
    for name in names:
        file = tmp_path / f"{name}1.txt" if name.endswith("/") else tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"text": "words"}) + "\n")
    listed = ", ".join(name.rstrip("/") for name in sorted(names))
    told = rf"names seem to tell splits \({listed}\), but not as they are read; name files or folders train, valid"
    with pytest.raises(ValueError, match=told):
        load_corpus(tmp_path)


def test_one_word_of_a_split_in_a_name_tells_nothing(tmp_path: Path) -> None:
    for name in ("the-train.txt", "old-trains.txt", "testament.txt", "devil.txt"):
        (tmp_path / name).write_text(f"words of {name}\n")
    assert len(list(load_corpus(tmp_path).documents("all"))) == 4
