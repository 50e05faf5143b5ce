"""What is in the folder of a benchmark: what is skipped, resumed, kept and refused."""

import copy
import functools
import io
import json
import re
import shutil

import pytest
import torch
from rich.console import Console

from resnet_bk.bench import runner
from resnet_bk.bench.environment import environment
from resnet_bk.bench.json_files import write_json
from resnet_bk.bench.ngrams.baselines import ngram_baselines, write_ngrams
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.run_folder import check_checkpoints, check_ours, check_results, write_protocol
from resnet_bk.bench.runner import bench
from resnet_bk.bench.trained.generation import stream_text
from tests.bench.own_model import RecurrentConfig, RecurrentForCausalLM, RecurrentModel
from tests.bench.tiny_bench import settings, write_text

HERE = environment()["git_commit"]
GPT2 = {"gpt2": {"learning_rate": 3e-3}}


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """Folder and results of gpt2 in a protocol with these changes, once for all tests."""

    @functools.cache
    def of(alone):
        protocol = check_protocol(settings(text, **({"models": GPT2} if alone else {})), "tiny")
        out, cache = tmp_path_factory.mktemp("trained") / "out", tmp_path_factory.getbasetemp() / "cache"
        paper = Console(file=io.StringIO(), width=200)
        return out, bench(protocol, out, models=["gpt2"], report=False, cache_dir=cache, console=paper)

    return of


@pytest.fixture
def gpt2(trained, tmp_path):
    """What `run(only=["gpt2"])` returns, and the folder where it leaves it."""
    out, results = trained(alone=False)
    shutil.copytree(out, tmp_path / "out")
    return copy.deepcopy(results)


@pytest.fixture
def gpt2_alone(trained, tmp_path):
    """The same of `run(models=GPT2)`."""
    out, results = trained(alone=True)
    shutil.copytree(out, tmp_path / "out")
    return copy.deepcopy(results)


def test_views_of_a_run_that_came_without_its_weights(run, tmp_path):
    run(out="bare", only=["gpt2"], held_out_views=[])
    folder = tmp_path / "bare" / "gpt2" / "seed-42"
    shutil.rmtree(folder / "model")
    result = json.loads((folder / "result.json").read_text())
    del result["held_out_perplexity_overlapping"]  # of before there was such a figure
    (folder / "result.json").write_text(json.dumps(result))
    results, lines = run(out="bare", only=["gpt2"], test=True)
    assert any("no figure overlapping, for the run came without its weights" in line for line in lines)
    assert any("no test perplexity, for the run came without its weights" in line for line in lines)
    assert len(results["runs"]) == 1


def test_a_figure_that_is_there_is_not_measured_again(run, gpt2, tmp_path):
    file = tmp_path / "out" / "gpt2" / "seed-42" / "result.json"
    result = json.loads(file.read_text())
    of_windows = {key: result.pop(key) for key in ("overlapping_document_nll", "overlapping_buckets")}
    write_json(file, result | {"held_out_perplexity_overlapping": 61.5})  # of another machine, say
    (found,) = run(only=["gpt2"])[0]["runs"]
    assert found["held_out_perplexity_overlapping"] == 61.5
    assert {key: found[key] for key in of_windows} == of_windows
    assert found["later"][-1]["figures"] == sorted(of_windows)


def test_other_tokens_are_not_taken_for_the_same(run, gpt2, tmp_path):
    file = tmp_path / "out" / "gpt2" / "seed-42" / "run.json"
    record = json.loads(file.read_text())
    hashes = record["data"]["fingerprints"]
    hashes["tokenizer"] = "the same tokens, written otherwise"
    write_json(file, record)
    run(only=["gpt2"])
    hashes["train_tokens"] = "others"
    write_json(file, record)
    with pytest.raises(ValueError, match=r"holds gpt2/seed-42, made with other train_tokens of the same text .*; give"):
        run(only=["resnet-bk"])
    assert not (tmp_path / "out" / "resnet-bk").exists()


def test_a_checkpoint_of_a_model_with_other_defaults_is_refused(run, gpt2, tmp_path):
    folder = tmp_path / "out" / "gpt2" / "seed-42"
    (folder / "result.json").unlink()
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", record | {"config": record["config"] | {"activation_function": "relu"}})
    message = r'another model: activation_function \("relu" there, "gelu_new" now\) .*; remove it, or'
    with pytest.raises(ValueError, match=message):
        run()
    assert not (tmp_path / "out" / "resnet-bk").exists()  # before anything is trained
    run(only=["resnet-bk"])  # which has none
    write_json(folder / "run.json", record | {"config": record["config"] | {"of_another_version": 1}})
    assert run(only=["gpt2"])[0]["runs"][1]["steps"] == 12


def test_the_second_seed_goes_on_where_it_was_stopped(run, tmp_path):
    """Saving the first must not change what the second is compared with."""
    pointer = {"transformers": "resnet_bk_pointer", "config": {"language_model": {"model_type": "gpt2"}}}
    models = {
        "gpt2": {"learning_rate": 3e-3},
        "gpt2-pointer": pointer | {"learning_rate": 3e-3, "match_parameters": False},
    }
    whole, _ = run(seeds=[1, 2], models=models)
    for model in models:
        folders = [tmp_path / "out" / model / f"seed-{seed}" for seed in (1, 2)]
        first, second = (json.loads((folder / "run.json").read_text())["config"] for folder in folders)
        assert first == second
        (folders[1] / "result.json").unlink()
    again, _ = run(seeds=[1, 2], models=models)
    assert [found["held_out_loss"] for found in again["runs"]] == [found["held_out_loss"] for found in whole["runs"]]


def test_a_result_without_its_settings_is_not_finished(run, gpt2, tmp_path):
    folder = tmp_path / "out" / "gpt2" / "seed-42"
    (folder / "run.json").write_text("{}")
    missing = "settings, model, seed, learning_rate, grid, data"
    with pytest.raises(ValueError, match=rf"run\.json has no {missing}; restore it, or remove \S+gpt2/seed-42 and run"):
        run(only=["gpt2"])
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"gpt2/seed-42 holds a checkpoint and no run.json, .*; restore that, or"):
        run(only=["gpt2"])
    shutil.rmtree(folder / "checkpoint")
    # Were it trained anew and stopped, the result of before would stand beside the new settings.
    with pytest.raises(ValueError, match=r"gpt2/seed-42 holds a result and no run.json, .*; restore that, or"):
        run(only=["gpt2"])
    (folder / "result.json").unlink()
    again, _ = run(only=["gpt2"])
    assert again["runs"][0]["held_out_loss"] == gpt2["runs"][0]["held_out_loss"]


def test_a_training_on_another_device_is_not_gone_on_with(run, gpt2, tmp_path):
    """Its memory and speed would be of both."""
    folder = tmp_path / "out" / "gpt2" / "seed-42"
    record = json.loads((folder / "run.json").read_text())
    assert record["device"] == "cpu"
    write_json(folder / "run.json", record | {"device": "cuda"})
    run(only=["gpt2"])  # it is finished
    (folder / "result.json").unlink()
    with pytest.raises(
        ValueError, match=r"of a training on cuda, and this one is on cpu: .*; go on where there is a GPU, remove it"
    ):
        run()
    assert not (tmp_path / "out" / "resnet-bk").exists()  # before anything is trained
    write_json(folder / "run.json", record)
    with pytest.raises(ValueError, match=r"on cpu, and this one is on cuda: .*; add --set device=cpu, remove it"):
        check_checkpoints(tmp_path / "out", {"gpt2": record["config"]}, "cuda")


def test_a_training_goes_on_where_its_device_is_called_otherwise(run, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    whole, _ = run(only=["gpt2"], device="auto")
    folder = tmp_path / "out" / "gpt2" / "seed-42"
    (folder / "result.json").unlink()
    again, _ = run(only=["gpt2"], device="cpu", log_interval=3)
    assert again["runs"][0]["held_out_loss"] == whole["runs"][0]["held_out_loss"]
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert (settings["device"], settings["log_interval"]) == ("cpu", 3)


def test_results_whose_folders_are_missing_are_not_overwritten(gpt2, tmp_path):
    out = tmp_path / "out"
    check_results(out)  # there are none
    write_json(out / "results.json", gpt2)
    check_results(out)
    write_json(out / "results.json", gpt2 | {"runs": [1]})
    with pytest.raises(ValueError, match=r"results.json: its runs are no list of objects; restore it, or remove it"):
        check_results(out)
    write_json(out / "results.json", gpt2)
    shutil.rmtree(out / "gpt2")
    with pytest.raises(
        ValueError,
        match=r"runs whose result.json is missing \(1; the first is gpt2, .* 0.003, seed 42\).*remove results",
    ):
        check_results(out)


def test_a_result_that_is_gone_is_measured_again(run, gpt2, tmp_path):
    out = tmp_path / "out"
    write_json(out / "results.json", gpt2)
    (out / "gpt2" / "seed-42" / "result.json").unlink()
    check_results(out)  # its checkpoint is there
    again, _ = run(only=["gpt2"])
    assert again["runs"][0]["held_out_loss"] == gpt2["runs"][0]["held_out_loss"]


def test_a_damaged_result_is_told_before_anything_is_trained(run, gpt2, tmp_path):
    (tmp_path / "out" / "gpt2" / "seed-42" / "result.json").write_text('{"model_name": "gp')
    with pytest.raises(ValueError, match=r"result.json cannot be read \(.*\); restore it, or remove it and run again"):
        run(only=["resnet-bk"])
    assert not (tmp_path / "out" / "resnet-bk").exists()


@pytest.mark.parametrize("name", ["checkpoint", "model", "tensorboard"])
def test_a_file_in_the_place_of_a_folder_of_a_run(run, tmp_path, name):
    folder = tmp_path / "out" / "gpt2" / "seed-42"
    folder.mkdir(parents=True)
    (folder / name).write_text("text")
    with pytest.raises(ValueError, match=rf"{name} is no folder, and one is to be written there; remove it"):
        run(only=["gpt2"])


def test_a_folder_in_the_place_of_the_log_of_a_run(run, tmp_path):
    (tmp_path / "out" / "gpt2" / "seed-42" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"log.jsonl is a folder, and a file is to be written there; remove it"):
        run(only=["gpt2"])


def test_ngram_baselines_beside_the_runs_are_in_the_results(run, text, tmp_path, tmp_path_factory):
    only = {"gpt2": {"learning_rate": 3e-3}}
    cache = tmp_path_factory.getbasetemp() / "cache"
    found = ngram_baselines(check_protocol(settings(text, models=only), "tiny"), cache_dir=cache)
    write_ngrams(found, tmp_path / "out")
    results, _ = run(models=only)
    assert results["ngrams"] == found
    write_json(tmp_path / "out" / "results.json", results)
    paper = Console(file=io.StringIO(), width=200)
    runner.publish(results, tmp_path / "out", paper)
    assert "n-gram baselines, validation perplexity: unigram" in paper.file.getvalue()
    assert parse_results(results).ngrams.ngrams[2].name == "5-gram"
    other, _ = run("other", models=only, data_limit=1000)
    assert "ngrams" not in other
    write_json(tmp_path / "other" / "ngrams.json", found)
    assert "ngrams" not in run("other", models=only, data_limit=1000)[0]  # of other training tokens
    (tmp_path / "out" / "ngrams.json").unlink()  # as in a folder of published results
    assert run(models=only)[0]["ngrams"] == found


def test_finished_runs_are_skipped_and_others_added(run, monkeypatch, tmp_path):
    first, _ = run(only=["resnet-bk"])
    assert [found["model_name"] for found in first["runs"]] == ["resnet-bk"]
    second, lines = run()
    assert [found["model_name"] for found in second["runs"]] == ["resnet-bk", "gpt2"]
    assert second["runs"][0] == first["runs"][0]
    assert sum(line.startswith("finished: resnet-bk") for line in lines) == 1
    file = tmp_path / "out" / "resnet-bk" / "seed-42" / "result.json"
    kept = json.loads(file.read_text())
    for commit, dirty, told in (("0123456789abcdef", False, ", trained at commit 0123456789ab)"), (HERE, True, ")")):
        write_json(file, kept | {"calls": [{"environment": {"git_commit": commit, "git_dirty": dirty}}]})
        (line,) = (line for line in run(only=["resnet-bk"])[1] if line.startswith("finished: "))
        assert line.endswith(told)
        assert dirty is ("changes that are not committed" in line)
    write_json(file, kept)
    monkeypatch.setattr(runner, "execute", None)  # nothing is trained from here on
    # Another machine has the two records of a run and no more.
    for folder in (tmp_path / "out").glob("*/seed-*"):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("run.json", "result.json"):
                path.unlink()
    third, lines = run()
    assert third["runs"] == second["runs"]
    assert len(lines) == 2
    assert all(line.startswith("finished: ") for line in lines)


def test_runs_that_the_protocol_has_not_are_named(run, text, monkeypatch, tmp_path, tmp_path_factory):
    models = {name: {"learning_rate": 3e-3, "match_parameters": False} for name in ("gpt2", "llama")}
    monkeypatch.setattr(runner, "publish", lambda *_: None)

    def told(**changes):
        paper = Console(file=io.StringIO(), width=200)
        protocol = check_protocol(settings(text, **changes), "tiny")
        bench(protocol, tmp_path / "out", cache_dir=tmp_path_factory.getbasetemp() / "cache", console=paper)
        return [line for line in paper.file.getvalue().splitlines() if line.startswith("not in the table")]

    run(models=models, seeds=[42, 43])
    assert told(models=models, seeds=[42, 43]) == []
    others = "gpt2/seed-43, llama/seed-42, llama/seed-43"
    why = "(not of this protocol, not at the best rate, or in a grid that is not finished)"
    seeds = "; --set 'seeds=[42,43]' has those of other seeds in it too"
    assert told(models={"gpt2": models["gpt2"]}) == [f"not in the table and results.json: {others} {why}{seeds}"]
    (first,) = told(models={"gpt2": models["gpt2"]}, seeds=[43])
    assert "--set 'seeds=[43,42]' has" in first  # the first seed, which tries the rates of a grid, stays the first
    # Of a grid those at its rates alone.
    assert told(models={"gpt2": models["gpt2"]}, learning_rates=[3e-3]) == [
        f"not in the table and results.json: gpt2/seed-42, {others} {why}"
    ]
    assert told(models={"gpt2": models["gpt2"]}) == [
        f"not in the table and results.json: gpt2/lr-0.003/seed-42, {others} {why}{seeds}"
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"hidden_size": 16}, r"hidden_size \(32 there, 16 now\)"),
        ({"steps": 13}, r"steps \(12 there, 13 now\)"),
        ({"models": {"gpt2": {"learning_rate": 1e-2}}}, r"models.gpt2.learning_rate \(0.003 there, 0.01 now\)"),
        ({"models": {"gpt2": {"config": {"n_inner": 8}, "learning_rate": 3e-3}}}, r"models.gpt2.config \(\{\} there"),
        ({"models": {"llama": {"learning_rate": 3e-3}}, "batch_size": 2}, r"batch_size \(4 there, 2 now\)"),
        ({"models": {"llama": {"learning_rate": 3e-3}}, "optimizer": "muon"}, r"optimizer \(null there, .muon. now\)"),
    ],
)
def test_a_folder_of_another_protocol_is_left_alone(run, gpt2_alone, tmp_path, changes, key):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(ValueError, match=rf"holds gpt2/seed-42, run with other settings: .*{key}.*--out"):
        run(**({"models": GPT2} | changes))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_a_recurrent_model_of_ones_own_carries_its_state(run, monkeypatch, tmp_path, capsys):
    own = {"transformers": RecurrentConfig.model_type, "learning_rate": 1e-2, "carry_state": True, "carry_reset": 0.5}
    results, _ = run(models={"own": own})
    (found,) = results["runs"]
    assert found["held_out_perplexity"] != found["held_out_perplexity_without_carry"]
    # It does not take the cache that `generate` hands it.
    folder = tmp_path / "out" / "own" / "seed-42" / "model"
    message = r"'own_gru' does not generate \(AttributeError: .*\); its class must take .* a DynamicCache unless"
    with pytest.raises(ValueError, match=message):
        stream_text(folder, "w1", max_new_tokens=2, temperature=0.0, top_k=0, seed=0)
    assert capsys.readouterr().out == "<unk>\n"  # the prompt; the error is to stand on a line of its own

    def closed(*_, **options):
        raise BrokenPipeError

    monkeypatch.setattr(RecurrentForCausalLM, "generate", closed)
    with pytest.raises(BrokenPipeError):  # no fault of the model
        stream_text(folder, "w1", max_new_tokens=2, temperature=0.0, top_k=0, seed=0)


def test_a_class_of_ones_own_that_cannot_be_trained(run, monkeypatch):
    def fails(self, input_ids, **_):
        raise TypeError("no use")

    monkeypatch.setattr(RecurrentForCausalLM, "forward", fails)
    monkeypatch.setattr(RecurrentModel, "forward", fails)
    with pytest.raises(
        ValueError, match=r"\(TypeError: no use\); what a class of your own must take and return stands"
    ):
        run(models={"own": {"transformers": RecurrentConfig.model_type, "learning_rate": 1e-2}})


def test_another_text_is_told_by_name(run, gpt2, tmp_path):
    other = write_text(tmp_path / "other.txt", documents=280)
    with pytest.raises(
        ValueError, match=r"run with other settings: the text \(there text\.txt as it was then\); give another"
    ):
        run(only=["gpt2"], dataset=str(other))


def test_only_what_is_trained_has_to_fit(run, tmp_path):
    peers = {"gpt2": {"learning_rate": 1e-3}, "llama": {"learning_rate": 1e-3, "config": {"n_inner": 2}}}
    with pytest.raises(ValueError, match=r"models\.llama: config\.n_inner: llama has no such field"):
        run(models=peers)
    results, lines = run(models=peers, only=["gpt2"])
    assert [found["model_name"] for found in results["runs"]] == ["gpt2"]
    assert any(
        re.search(r"held-out perplexity .* \(\d+\.\d% of the held-out tokens are <unk>\), 12 steps", line)
        for line in lines
    )


def test_files_of_others_are_left_alone(run, tmp_path):
    cache = tmp_path / "out" / ".triton" / "cache" / "abc"
    cache.mkdir(parents=True)
    for name in ("run.json", "result.json"):
        (cache / name).write_text('{"num_warps": 4}')
    results, _ = run(models={"gpt2": {"learning_rate": 3e-3}})
    assert len(results["runs"]) == 1


def test_files_that_are_not_of_a_benchmark_are_not_written_over(run, text, tmp_path):
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "protocol.yaml").write_text("steps: 3  # a few")
    with pytest.raises(ValueError, match=r"holds protocol\.yaml that no benchmark wrote, which would be lost"):
        run(models=GPT2)
    (out / "results.json").touch()
    check_ours(out, report=False)  # which leaves a protocol beside results alone
    (out / "results.json").unlink()
    (out / "protocol.yaml").unlink()
    (out / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"holds report\.html and plots that no benchmark wrote, which would be lost"):
        check_ours(out, report=True)
    # A report whose run and results were removed, for the run to be made again.
    write_protocol(check_protocol(settings(text, models=GPT2), "tiny"), out)
    check_ours(out, report=True)
    (out / "results.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(ValueError, match=r"results\.json there is none of a benchmark .* and would be written over"):
        check_results(out)


def test_a_run_that_was_copied_under_another_name_is_refused(run, gpt2_alone, tmp_path):
    for folder in ("gpt2/seed-43", "llama/seed-42", "gpt2/lr-0.01/seed-42"):
        shutil.copytree(tmp_path / "out" / "gpt2" / "seed-42", tmp_path / "out" / folder)
        with pytest.raises(
            ValueError, match=rf"{folder}: its run.json is of \w+ [\w.]+; give the folder its name back, or move it"
        ):
            run(models=GPT2)
        shutil.rmtree(tmp_path / "out" / folder)


def test_what_changes_no_run_may_change(run, gpt2_alone):
    more = {"gpt2": {"learning_rate": 3e-3, "learning_rate_source": "a grid"}, "llama": {"learning_rate": 3e-3}}
    more["llama"]["match_parameters"] = False  # so small that GPT-2's positions are more than 2%
    free = {"checkpoint_seconds": 5.0, "description": "other words", "device": "auto", "log_interval": 6}
    results, lines = run(models=more, seeds=[42, 43], **free)
    assert sum(line.startswith("finished: gpt2") for line in lines) == 1
    assert [(found["model_name"], found["seed"]) for found in results["runs"]] == [
        ("gpt2", 42),
        ("gpt2", 43),
        ("llama", 42),
        ("llama", 43),
    ]


def test_other_text_is_another_run(run, gpt2_alone, tmp_path):
    other = write_text(tmp_path / "text.txt", documents=200)
    with pytest.raises(ValueError, match=r"other settings: the text \(there text\.txt as it was then\)"):
        run(models=GPT2, dataset=str(other))
