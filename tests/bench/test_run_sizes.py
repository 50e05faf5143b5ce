"""Finished runs belong to a protocol that gives them the size that they have, in whatever way it says so."""

import io
import json
import shutil

import pytest
from rich.console import Console

from resnet_bk.bench.peers import resolve_configs
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.runner import bench
from resnet_bk.bench.sizing import count_config
from tests.bench.tiny_bench import settings

OURS, GPT2 = {"carry_state": True, "learning_rate": 1e-2}, {"learning_rate": 3e-3}
CALLED = (
    r"--out \S+ holds gpt2/seed-42, a model of \d+ parameters \(\d+ without embeddings\) that would be of [\d,]+ "
    r"\([\d,]+ without embeddings\) now, by "
)
WAY_OUT = "; give another folder with --out, or remove that one"


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """Folder and result of gpt2, sized to the resnet-bk that stands before it."""
    out, cache = tmp_path_factory.mktemp("trained") / "out", tmp_path_factory.getbasetemp() / "cache"
    paper = Console(file=io.StringIO(), width=200)
    found = bench(
        check_protocol(settings(text), "tiny"), out, models=["gpt2"], report=False, cache_dir=cache, console=paper
    )
    return out, found["runs"][0]


@pytest.fixture
def gpt2(trained, tmp_path):
    """The result, in the folder in which `run` goes on."""
    out, result = trained
    shutil.copytree(out, tmp_path / "out")
    return result


@pytest.fixture
def size(text, trained):
    """Parameters without embeddings of the resnet-bk to which gpt2 was sized."""
    words = trained[1]["vocab_size"]
    return count_config(
        resolve_configs(check_protocol(settings(text), "tiny"), words, {})["resnet-bk"]
    ).without_embeddings


def test_a_number_in_the_place_of_a_first_model(run, gpt2, size):
    results, lines = run(only=["gpt2"], parameters_without_embeddings=size)
    assert results["runs"] == [gpt2]
    assert not any("steps in" in line for line in lines)  # of a training


def test_a_first_model_of_another_shape_and_the_same_size(run, gpt2):
    results, _ = run(
        only=["gpt2"], models={"resnet-bk": OURS | {"config": {"absorption_init": [0.2, 0.3]}}, "gpt2": GPT2}
    )
    assert results["runs"] == [gpt2]


def test_a_first_model_of_another_size(run, gpt2, tmp_path):
    models = {"resnet-bk": OURS | {"config": {"intermediate_size": 99}}, "gpt2": GPT2}
    with pytest.raises(ValueError, match=rf"^{CALLED}models\.resnet-bk\.config{WAY_OUT}$"):
        run(only=["gpt2"], models=models)


@pytest.mark.parametrize("only", ["gpt2", "resnet-bk"])
def test_another_number(run, gpt2, size, only, tmp_path):
    keys = r"models\.resnet-bk\.config and parameters_without_embeddings"
    with pytest.raises(ValueError, match=rf"^{CALLED}{keys}{WAY_OUT}$"):
        run(only=[only], parameters_without_embeddings=2 * size)
    assert not (tmp_path / "out" / "resnet-bk").exists()  # before anything is trained


def test_a_training_that_was_stopped_at_another_size(run, gpt2, size, tmp_path):
    (tmp_path / "out" / "gpt2" / "seed-42" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"a checkpoint of another model: n_inner \(\d+ there, \d+ now\)"):
        run(only=["gpt2"], parameters_without_embeddings=2 * size)


def test_a_run_of_a_model_that_is_no_longer_there(run, gpt2, size):
    results, _ = run(only=["resnet-bk"], models={"resnet-bk": OURS}, parameters_without_embeddings=size)
    assert [found["model_name"] for found in results["runs"]] == ["resnet-bk"]


def test_the_number_is_in_the_settings_of_a_run(run, size, tmp_path):
    run(parameters_without_embeddings=size, steps=1, evaluations=1)
    for model in ("resnet-bk", "gpt2"):
        record = json.loads((tmp_path / "out" / model / "seed-42" / "run.json").read_text())["settings"]
        assert record["parameters_without_embeddings"] == size
        assert {key for key in record if key.startswith("models.")} == {
            key for key in record if key.startswith(f"models.{model}.")
        }
