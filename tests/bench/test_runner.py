"""A benchmark from a protocol to results.json."""

import copy
import dataclasses
import io
import json
import math
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from benchmarks.published import RESULTS
from resnet_bk.bench import data as data_module
from resnet_bk.bench import held_out, later, run_folder, runner
from resnet_bk.bench import run as run_module
from resnet_bk.bench.audit import Audit
from resnet_bk.bench.protocol import check_protocol, load_protocol
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import summarize
from resnet_bk.bench.run import audit_lengths, validation_steps
from resnet_bk.bench.runner import bench, deterministic
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.training import NonFiniteLossError, RunSpec
from tests.bench.own_model import OwnConfig, OwnForCausalLM
from tests.bench.tiny_bench import settings, write_text

REPORT_KEYS = """
    model_name dataset_name config final_loss final_perplexity best_perplexity training_time total_tokens vocab_size
    forward_flops backward_flops optimizer_flops total_flops_per_step total_training_flops peak_memory_mb
    model_size_mb epoch_losses epoch_perplexities epoch_times
""".split()  # noqa: SIM905
OUR_KEYS = """
    seed parameters parameters_without_embeddings held_out_perplexity test_perplexity tokens_per_second
    seconds_per_step steps backend device audit profile learning_rate learning_rates_tried carry_state
    held_out_perplexity_without_carry held_out_loss bits_per_character unk_rate buckets audit_detail head log
    validation_log run_folder peak_memory_kind held_out_perplexity_overlapping
""".split()  # noqa: SIM905


def test_every_setting_of_a_protocol_reaches_the_training():
    given = {
        "optimizer": "muon", "weight_decay": 0.3, "betas": [0.5, 0.6], "clip": 0.7, "warmup_steps": 5,
        "final_lr_ratio": 0.8, "dtype": "bfloat16", "device": "cpu", "log_interval": 3, "checkpoint_seconds": 4.0,
        "steps": 11, "learning_rates": [0.9], "embedding_rate": 3.0,
    }  # fmt: skip
    entry = {"carry_state": True, "carry_reset": 0.2, "head": "model"}
    protocol = check_protocol({"name": "x", "dataset": "x", "models": {"resnet-bk": entry}, **given}, "x")
    run = run_module.Run("resnet-bk", 0.9, 7, Path("runs"))
    del given["learning_rates"]
    expected = RunSpec(run.title, learning_rate=0.9, seed=7, **entry, **{**given, "betas": (0.5, 0.6)})
    untouched = [field.name for field in fields(RunSpec) if getattr(expected, field.name) == field.default]
    assert not untouched  # a setting that is dropped is seen
    assert run_module.run_spec(protocol, run, steps_per_epoch=100) == expected
    shorter = protocol.model_copy(update={"steps": None, "epochs": 2, "warmup_steps": None})
    found = run_module.run_spec(shorter, run, steps_per_epoch=100)
    assert (found.steps, found.warmup_steps) == (200, 20)


def test_a_run_records_everything(run, text, tmp_path):
    results, lines = run(test=True)
    assert set(results) == {"protocol", "environment", "data", "runs"}
    parse_results(results)
    json.dumps(results, allow_nan=False)
    ours, gpt2 = results["runs"]
    assert (ours["model_name"], gpt2["model_name"]) == ("resnet-bk", "gpt2")
    for found in (ours, gpt2):
        assert set(REPORT_KEYS + OUR_KEYS) <= set(found)
        assert found["audit"] == "causal"
        assert (found["steps"], found["total_tokens"]) == (12, 12 * 4 * 16)
        assert found["total_flops_per_step"] == sum(
            found[f"{part}_flops"] for part in ("forward", "backward", "optimizer")
        )
        assert found["total_training_flops"] == 12 * found["total_flops_per_step"]
        assert found["final_loss"] == found["epoch_losses"][-1]
        assert found["final_perplexity"] == pytest.approx(math.exp(found["final_loss"]))
        assert found["epoch_perplexities"] == [pytest.approx(math.exp(loss)) for loss in found["epoch_losses"]]
        assert len(found["epoch_losses"]) == len(found["epoch_times"]) == 1
        assert found["peak_memory_kind"].startswith("resident memory of the process")
        assert found["final_perplexity"] != found["held_out_perplexity"]
        assert found["held_out_perplexity"] == pytest.approx(math.exp(found["held_out_loss"]))
        assert [point["step"] for point in found["validation_log"]] == [4, 8, 12]
        assert found["validation_log"][-1]["perplexity"] == found["held_out_perplexity"]
        assert [line["step"] for line in found["log"]] == [4, 8, 12]
        assert 1 < found["test_perplexity"] < 64
        assert found["learning_rates_tried"] == [
            {"learning_rate": found["learning_rate"], "held_out_perplexity": found["held_out_perplexity"]}
        ]
        predicted = results["data"]["validation_tokens"] - 1
        for perplexity, view in (("held_out_perplexity", ""), ("held_out_perplexity_overlapping", "overlapping_")):
            documents, buckets = found[f"{view}document_nll"], found[f"{view}buckets"]
            assert len(documents) == len(results["data"]["document_tokens"])
            assert sum(documents) == pytest.approx(predicted * math.log(found[perplexity]), rel=1e-5)
            assert sum(bucket["tokens"] for bucket in buckets) == predicted
        bits = found["held_out_loss"] * predicted / math.log(2)
        assert found["bits_per_character"] == pytest.approx(bits / results["data"]["validation_characters"])
    assert ours["backend"].keys() == {"propagate_modulus", "surface_green", "linear_cross_entropy"}
    assert gpt2["backend"].keys() == {"linear_cross_entropy"}
    assert ours["held_out_perplexity_without_carry"] not in (None, ours["held_out_perplexity"])
    assert gpt2["held_out_perplexity_without_carry"] is None
    for found in (ours, gpt2):
        assert found["held_out_perplexity_overlapping"] not in (None, found["held_out_perplexity"])
    assert gpt2["config"]["n_positions"] == 16
    assert sum("held-out perplexity" in line for line in lines) == 2

    folder = tmp_path / "out" / "gpt2" / "seed-42"
    assert gpt2["run_folder"] == "gpt2/seed-42"
    present = {path.name for path in folder.iterdir()}
    assert present >= {"run.json", "log.jsonl", "tensorboard", "checkpoint", "model", "result.json"}
    published = json.loads((RESULTS / "quick" / "results.json").read_text())["runs"][0]
    came_later = {"later", *held_out.VIEWS["overlapping"]}  # the first of --test
    assert ours.keys() - came_later == gpt2.keys() - came_later == published.keys() - came_later
    for model in ("resnet-bk", "gpt2"):
        generation = json.loads(
            (folder.parents[1] / model / "seed-42" / "model" / "generation_config.json").read_text()
        )
        assert generation["suppress_tokens"] == [0, 2]  # <unk> and <pad>, which other tools drop in silence
    record = json.loads((folder / "run.json").read_text())
    assert set(record["data"]["fingerprints"]) == {"corpus", "tokenizer", "train_tokens", "validation_tokens"}
    assert record["environment"]["threads"] == torch.get_num_threads()
    # The resolved protocol can be run again.
    again = load_protocol(str(tmp_path / "out" / "protocol.yaml"))
    assert again.model_dump() == results["protocol"] == yaml.safe_load((tmp_path / "out" / "protocol.yaml").read_text())


def test_a_call_that_fails_leaves_the_results_of_the_models_before(text, monkeypatch, tmp_path, tmp_path_factory):
    def fails(grid, *arguments, **options):
        if grid.model == "gpt2":
            raise MemoryError
        return run_grid(grid, *arguments, **options)

    run_grid = runner.run_grid
    monkeypatch.setattr(runner, "run_grid", fails)
    with pytest.raises(MemoryError):
        bench(
            check_protocol(settings(text), "tiny"),
            tmp_path / "out",
            cache_dir=tmp_path_factory.getbasetemp() / "cache",
            console=Console(file=io.StringIO()),
        )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [found["model_name"] for found in results["runs"]] == ["resnet-bk"]


def test_views_that_nobody_asks_for_are_not_measured(run):
    shown = {"held_out_perplexity_without_carry", "held_out_perplexity_overlapping", "test_perplexity_without_carry"}
    windows_alone = {"overlapping_document_nll", "overlapping_buckets"}
    (full,) = run(out="full", only=["resnet-bk"], test=True)[0]["runs"]
    assert all(full[key] is not None for key in shown)
    results, _ = run(out="bare", only=["resnet-bk"], test=True, held_out_views=[])
    (bare,) = results["runs"]
    assert all(bare[key] is None for key in shown | windows_alone)
    assert (bare["held_out_loss"], bare["test_perplexity"]) == (full["held_out_loss"], full["test_perplexity"])
    (windows,) = run(out="windows", only=["resnet-bk"], held_out_views=["overlapping"])[0]["runs"]
    assert windows["held_out_perplexity_without_carry"] is None
    assert windows["held_out_perplexity_overlapping"] == full["held_out_perplexity_overlapping"]
    assert bare.get("later") is None or [entry["figures"] for entry in bare["later"]] == [["test_perplexity"]]
    results, lines = run(out="bare", only=["resnet-bk"], test=True)
    (afterwards,) = results["runs"]  # measured with the weights that were saved
    assert all(afterwards[key] == full[key] for key in (*shown, *windows_alone, "test_perplexity"))
    assert [entry["figures"] for entry in afterwards["later"]] == [
        ["test_perplexity"],
        sorted({*shown, *windows_alone} - {"test_perplexity_without_carry"}),
        ["test_perplexity_without_carry"],
    ]
    assert all(entry["environment"] == full["environment"] for entry in afterwards["later"])
    assert [line for line in lines if "test perplexity" in line] == [
        f"resnet-bk  lr 0.01  seed 42: test perplexity without carry {full['test_perplexity_without_carry']:.2f}"
    ]  # the other one was there


def test_epochs_are_told_and_kept_apart_from_the_held_out_figures(run):
    only = {"gpt2": {"learning_rate": 3e-3}}
    results, lines = run(models=only, steps=None, epochs=3, data_limit=1200)
    (found,) = results["runs"]
    assert len(found["epoch_losses"]) == len(found["epoch_perplexities"]) == len(found["epoch_times"]) == 3
    assert found["final_perplexity"] == found["epoch_perplexities"][-1]
    assert found["best_perplexity"] == min(found["epoch_perplexities"])
    assert sum(found["epoch_times"]) == pytest.approx(found["training_time"])
    told = [line for line in lines if "epoch " in line]
    assert [line.split("epoch ")[1][:3] for line in told] == ["1/3", "2/3", "3/3"]
    assert f"perplexity {found['epoch_perplexities'][1]:.2f}" in told[1]


def test_the_best_rate_of_the_grid_trains_every_seed(run, tmp_path):
    results, _ = run(only=["gpt2"], learning_rates=[1e-5, 1e-2, 1e-4], seeds=[1, 2])
    for found in results["runs"]:
        tried = {point["learning_rate"]: point["held_out_perplexity"] for point in found["learning_rates_tried"]}
        assert list(tried) == [1e-5, 1e-2, 1e-4]
        assert found["learning_rate"] == min(tried, key=tried.get) == 1e-2
        assert found["run_folder"] == f"{found['model_name']}/lr-0.01/seed-{found['seed']}"
    assert [found["seed"] for found in results["runs"]] == [1, 2]
    assert results["runs"][0]["held_out_perplexity"] != results["runs"][1]["held_out_perplexity"]
    seeds = sorted(path.name for path in (tmp_path / "out" / "gpt2").glob("lr-1e-05/*"))
    assert seeds == ["seed-1"]  # only the first seed chooses


def test_a_model_that_leaks_gets_no_perplexity(run):
    results, lines = run(models={"bert": {"transformers": "bert", "learning_rate": 1e-2}}, test=True)
    (found,) = results["runs"]
    assert found["audit"] == "leaks"
    assert found["first_leak"] == 0
    assert "moves the logits at 0" in found["audit_detail"]
    for key in ("held_out_perplexity", "held_out_loss", "test_perplexity", "bits_per_character"):
        assert found[key] is None
    assert found["buckets"] == found["validation_log"] == []
    assert found["final_loss"] > 0
    assert any("LEAKS" in line for line in lines)
    parse_results(results)


@pytest.mark.parametrize("sparse", [None, 0.5])
def test_a_model_that_skips_by_what_the_text_is_is_looked_at_once_more_when_it_is_trained(sparse, run, monkeypatch):
    verdicts, looked_at = iter((Audit("causal", None, "fresh"), Audit("leaks", 3, "trained"))), []

    def look(model, *arguments, **options):
        looked_at.append(copy.deepcopy(model.state_dict()))
        return next(verdicts)

    monkeypatch.setattr(run_module, "audit_causality", look)
    ours = {"learning_rate": 1e-2, "config": {} if sparse is None else {"sparse_bk": sparse}}
    results, lines = run(models={"resnet-bk": ours})
    (found,) = results["runs"]
    assert len(looked_at) == (1 if sparse is None else 2)
    if sparse is None:
        assert (found["audit"], found["audit_detail"]) == ("causal", "fresh")
        return
    assert not torch.equal(*(weights["lm_head.weight"] for weights in looked_at))
    assert (found["audit"], found["first_leak"], found["audit_detail"]) == ("leaks", 3, "trained")
    assert found["held_out_perplexity"] is None
    assert found["validation_log"] == found["document_nll"] == []
    assert any("LEAKS" in line for line in lines)
    parse_results(results)


def exploding(monkeypatch, *rates):
    """Training at these rates breaks down."""
    train = run_module.train

    def breaks_down(model, stream, spec, folder, **options):
        if spec.learning_rate in rates:
            raise NonFiniteLossError(f"{spec.name}: the training loss is nan at step 3 of 12", 3)
        return train(model, stream, spec, folder, **options)

    monkeypatch.setattr(run_module, "train", breaks_down)


def test_a_rate_that_breaks_down_is_out_of_the_grid(run, monkeypatch):
    exploding(monkeypatch, 1e-2)
    results, lines = run(only=["gpt2"], learning_rates=[1e-2, 1e-4])
    assert results["runs"][0]["learning_rate"] == 1e-4
    assert results["runs"][0]["learning_rates_tried"][0] == {"learning_rate": 1e-2, "held_out_perplexity": None}
    assert "out of the grid: gpt2  lr 0.01  seed 42: the training loss is nan at step 3 of 12" in lines


def test_no_rate_is_left(run, monkeypatch):
    exploding(monkeypatch, 3e-3, 1e-2)
    with pytest.raises(NonFiniteLossError, match="nan at step 3"):
        run(only=["gpt2"])
    with pytest.raises(
        ValueError, match=r"gpt2: no rate of the grid \[0.003, 0.01\] could be trained. gpt2  lr 0.003 "
    ):
        run("grid", only=["gpt2"], learning_rates=[3e-3, 1e-2])


def test_a_rate_at_which_the_model_leaks_is_not_taken_before_one_at_which_it_does_not(run, monkeypatch):
    """Its training loss is in nats, and less than any perplexity."""
    verdicts = iter([Audit("causal", None, ""), Audit("leaks", 3, ""), *[Audit("causal", None, "")] * 2])
    monkeypatch.setattr(run_module, "audit_causality", lambda *arguments, **options: next(verdicts))
    ours = {"learning_rate": 1e-2, "config": {"sparse_bk": 0.5}}
    results, _ = run("grid", models={"resnet-bk": ours}, learning_rates=[3e-3, 1e-2])
    (found,) = results["runs"]
    assert (found["learning_rate"], found["audit"]) == (1e-2, "causal")


def test_a_held_out_loss_that_is_no_number(run, monkeypatch):
    def poisoned(*arguments, **options):
        return dataclasses.replace(evaluate(*arguments, **options), nll=math.nan)

    evaluate = held_out.evaluate
    monkeypatch.setattr(held_out, "evaluate", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"gpt2  lr 0.003  seed 42: the held-out loss is nan, .*smaller clip"):
        run(only=["gpt2"])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_that_diverges_is_recorded_and_the_others_are_run(seed, run, monkeypatch, tmp_path):
    train = run_module.train

    def breaks_down(model, stream, spec, folder, **options):
        if spec.seed == seed and "gpt2" in spec.name:
            raise NonFiniteLossError(f"{spec.name}: the training loss is nan at step 3 of 12", 3)
        return train(model, stream, spec, folder, **options)

    monkeypatch.setattr(run_module, "train", breaks_down)
    models = {"gpt2": {"learning_rate": 3e-3}, "llama": {"learning_rate": 3e-3, "match_parameters": False}}
    for _ in range(2):  # the second call skips all of them, and still says so
        with pytest.raises(NonFiniteLossError, match=r"nan at step 3 of 12 All else is done and saved\."):
            run(seeds=[1, 2], models=models)
    finished = sorted(str(path.parent.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/*/result.json"))
    assert finished == [f"{model}/seed-{seed}" for model in ("gpt2", "llama") for seed in (1, 2)]
    monkeypatch.setattr(run_module, "train", train)
    results, _ = run(seeds=[3 - seed], models=models)
    assert [entry["held_out_perplexity"] is None for entry in results["runs"]] == [False] * 2
    lost = json.loads((tmp_path / "out" / "gpt2" / f"seed-{seed}" / "result.json").read_text())
    assert lost["diverged"] == f"gpt2  lr 0.003  seed {seed}: the training loss is nan at step 3 of 12"
    assert (lost["steps"], lost["total_tokens"]) == (3, results["runs"][0]["total_tokens"] * 3 // 12)
    collected = {"learning_rates_tried", "run_folder"}
    assert list(lost) == [key for key in results["runs"][0] if key not in collected]  # null where nothing was measured
    assert (lost["final_loss"], lost["forward_flops"], lost["leaking_perplexity"]) == (None, None, None)
    parsed = parse_results(results | {"runs": [lost, *results["runs"]]})
    assert [model.state for model in summarize(parsed)] == ["diverged", "ranked"]


def test_a_model_is_shown_when_its_whole_grid_is_done(run, tmp_path):
    rates = [1e-4, 1e-2]
    run(only=["gpt2"], learning_rates=rates)
    shutil.rmtree(tmp_path / "out" / "gpt2" / "lr-0.0001")
    results, _ = run(only=["resnet-bk"], learning_rates=rates)
    (found,) = results["runs"]
    assert found["model_name"] == "resnet-bk"
    assert [point["learning_rate"] for point in found["learning_rates_tried"]] == rates


def test_a_warm_up_that_never_ends(run, tmp_path):
    with pytest.raises(ValueError, match=r"warmup_steps=100000: must be below the \d+ steps .* null takes 10%"):
        run(steps=None, warmup_steps=100_000)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_before_everything_is_checked(run, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    for changes, message in [
        ({"dataset": "no/such/folder"}, "no/such/folder.*--data"),
        ({"dataset": str(tmp_path / "empty.txt")}, "empty.txt"),
        ({"batch_size": 10_000}, "too few for one batch"),
        ({"models": {"gpt2": {"learning_rate": 1e-3}, "nope": {"learning_rate": 1e-3}}}, "models.nope: unknown model"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**changes)
    assert not (tmp_path / "out").exists()


def test_the_test_split_is_read_where_it_is_named_and_once(run, tmp_path, monkeypatch):
    read, evaluated = [], []
    token_cache, evaluate = data_module.token_cache, later.evaluate
    monkeypatch.setattr(
        data_module,
        "token_cache",
        lambda corpus, split, *a, **k: read.append(split) or token_cache(corpus, split, *a, **k),
    )
    monkeypatch.setattr(later, "evaluate", lambda *a, **k: evaluated.append(1) or evaluate(*a, **k))
    results, _ = run(only=["gpt2"])
    assert set(read) == {"train", "validation"}
    assert results["runs"][0]["test_perplexity"] is None
    evaluated.clear()
    results, _ = run(only=["gpt2"], test=True)
    assert "test" in read
    assert len(evaluated) == 1
    measured = results["runs"][0]["test_perplexity"]
    results, _ = run(only=["gpt2"], test=True)
    assert len(evaluated) == 1
    assert results["runs"][0]["test_perplexity"] == measured > 1
    # Nor is one measured again that is no number, for which JSON has null.
    file = tmp_path / "out" / results["runs"][0]["run_folder"] / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test_perplexity": None}))
    results, _ = run(only=["gpt2"], test=True)
    assert len(evaluated) == 1
    assert results["runs"][0]["test_perplexity"] is None


def test_models_and_seeds_see_the_same_batches(run, monkeypatch):
    seen, train = [], run_module.train

    def looked_at(model, stream, *arguments, **options):
        class Seen:
            def next_batch(self):
                batch = stream.next_batch()
                batches.append(torch.stack(batch).clone())
                return batch

            def __getattr__(self, name):
                return getattr(stream, name)

        batches = []
        result = train(model, Seen(), *arguments, **options)
        seen.append(torch.stack(batches))
        return result

    monkeypatch.setattr(run_module, "train", looked_at)
    run(seeds=[1, 2])
    assert len(seen) == 4
    assert len(seen[0].unique(dim=0)) == 12  # of 13: the first one warms up, too
    assert all(torch.equal(found, seen[0]) for found in seen[1:])


def test_a_state_that_is_not_handed_on_whole_is_refused(run, tmp_path):
    """Mamba's cache continues the convolution over several tokens, and not the state."""
    mamba = {"transformers": "mamba", "learning_rate": 1e-2, "match_parameters": False}
    with pytest.raises(ValueError, match=r"models\.mamba: carry_state=true: its cache does not.*set it to false"):
        run(models={"mamba": mamba | {"carry_state": True}})
    own = {"transformers": OwnConfig.model_type, "learning_rate": 1e-2, "match_parameters": False, "carry_state": True}
    with pytest.raises(ValueError, match=r"models\.own: carry_state=true: its cache lacks detach, to, start_anew"):
        run(models={"own": own})
    assert not (tmp_path / "out").exists()


def test_a_model_of_ones_own_is_trained_and_read_again(run, tmp_path):
    own = {"transformers": OwnConfig.model_type, "learning_rate": 1e-2, "match_parameters": False}
    results, _ = run(models={"own": own})
    assert results["runs"][0]["audit"] == "causal"
    assert type(load_model(tmp_path / "out" / "own" / "seed-42" / "model")) is OwnForCausalLM


def test_an_infinity_in_a_configuration_is_the_same_the_second_time(run):
    fields = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "time_step_limit": [0.0, float("inf")]}
    mamba2 = {"transformers": "mamba2", "learning_rate": 1e-2, "match_parameters": False, "config": fields}
    run(models={"m": mamba2})
    _, lines = run(models={"m": mamba2})
    assert any(line.startswith("finished: m ") for line in lines)


def test_a_corpus_without_the_splits(run, tmp_path):
    for split in ("train", "validation"):
        write_text(tmp_path / f"{split}.txt")
    with pytest.raises(ValueError, match=r"--test: .* has no test split"):
        run(test=True, dataset=str(tmp_path))
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"test\.txt|split 'test'"):
        run(test=True, dataset=str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_one_benchmark_at_a_time(run, tmp_path):
    (tmp_path / "out").mkdir()
    with run_folder.locked(tmp_path / "out"), pytest.raises(ValueError, match="another resnet-bk is running there"):
        run()


def test_deterministic_is_for_a_while():
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_steps_at_which_to_validate():
    assert validation_steps(100, 5) == [20, 40, 60, 80]
    assert validation_steps(100, 1) == []
    assert validation_steps(2, 5) == [1]
    assert validation_steps(1, 5) == []


def test_lengths_to_audit():
    assert audit_lengths(128) == [2, 17, 65, 128]
    assert audit_lengths(12) == [2, 12]
