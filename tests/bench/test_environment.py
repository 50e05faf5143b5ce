"""On what a run was made."""

import json
import os
import subprocess

import pytest

import resnet_bk
from resnet_bk.bench import environment as module
from resnet_bk.ops import amx, dispatch


def test_environment_is_json_and_complete():
    found = module.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["resnet_bk"] == resnet_bk.__version__
    assert {"torch", "transformers", "accelerate", "numpy"} <= set(found["versions"])
    assert found["threads"] >= 1
    assert found["cpu"]


def test_instructions_that_kernels_choose_by(monkeypatch):
    monkeypatch.setattr(dispatch, "cpu_has", lambda feature: feature == "avx512f")
    monkeypatch.setattr(amx, "has_amx", lambda: False)
    assert module.environment()["kernel_instructions"] == "AVX-512"
    monkeypatch.setattr(amx, "has_amx", lambda: True)
    assert module.environment()["kernel_instructions"] == "AVX-512, AMX"
    monkeypatch.setattr(dispatch, "cpu_has", lambda feature: False)
    monkeypatch.setattr(amx, "has_amx", lambda: False)
    for there, name in ((True, "AVX2"), (False, "neither AVX2 nor AVX-512")):
        monkeypatch.setattr(dispatch, "has_avx2", lambda there=there: there)
        assert module.environment()["kernel_instructions"] == name


def test_memory_settings(monkeypatch):
    for name in [name for name in os.environ if name in module.MEMORY_VARIABLES or name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert module.environment()["memory_settings"] == "default"
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1048576")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setenv("LD_PRELOAD", "/home/someone/libjemalloc.so.2:/a/b.so")
    monkeypatch.setenv("MALLOC_CONF", "prof_prefix:/home/someone/x,thp:always")
    found = module.environment()
    assert found["memory_settings"] == (
        "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 LD_PRELOAD=libjemalloc.so.2:b.so MALLOC_CONF=prof_prefix:x,thp:always "
        "MALLOC_TOP_PAD_=1048576"
    )
    with_them = module.machine(found, "cpu")
    assert with_them != module.machine(found | {"memory_settings": "default"}, "cpu")  # two times of different things


@pytest.fixture
def asked_anew():
    """The environment of a process that asks git now."""

    def ask():
        module.code_state.cache_clear()
        return module.environment()

    yield ask
    module.code_state.cache_clear()


def test_commit_of_a_checkout(monkeypatch, tmp_path, asked_anew):
    package = tmp_path / "src" / "resnet_bk"
    (package / "bench").mkdir(parents=True)
    file = package / "bench" / "environment.py"
    file.write_text("")
    monkeypatch.setattr(module, "__file__", str(file))
    assert asked_anew()["git_commit"] is None  # no checkout: whatever lies above is not asked

    def git(*arguments):
        options = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *options, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert asked_anew()["git_commit"] is None  # nothing committed yet
    git("add", ".")
    git("commit", "-m", "x")
    found = asked_anew()
    assert len(found["git_commit"]) == 40
    assert found["git_dirty"] is False
    (tmp_path / "results.json").write_text("{}")  # what a run writes is no change of what runs
    assert asked_anew()["git_dirty"] is False
    file.write_text("changed")
    assert module.environment()["git_dirty"] is False  # the code that was imported is that of before
    assert asked_anew()["git_dirty"] is True
    (tmp_path / ".git" / "index").write_bytes(b"damaged")  # git knows the commit and not the state of the files
    found = asked_anew()
    assert (len(found["git_commit"]), found["git_dirty"]) == (40, None)
    assert (
        module.other_code({"environment": found}) == ", trained at this commit, with or without changes: git cannot say"
    )


@pytest.mark.parametrize(
    ("result", "places"),
    [
        ({"calls": [{"environment": {"cpu": "a"}}, {"environment": {"cpu": "b"}}], "environment": {"cpu": "b"}}, "ab"),
        ({"calls": [], "environment": {"cpu": "b"}}, "b"),  # of before calls were noted
        ({"calls": None, "environment": {"cpu": "b"}}, "b"),  # a training that was given up
        ({"environment": None}, ""),
        ({}, ""),
    ],
)
def test_where_a_run_was_trained(result, places):
    assert module.environments_of(result) == [{"cpu": place} for place in places]
