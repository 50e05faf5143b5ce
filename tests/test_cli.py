"""The command line: what each command prints of a finished benchmark, and its exit code."""

import json
import shutil

import pytest
import torch

from resnet_bk.bench import run_folder
from resnet_bk.bench.audit import target
from resnet_bk.bench.trained import perplexities
from resnet_bk.data import load_corpus
from resnet_bk.data.saved_tokenizer import read_tokenizer
from tests.bench.tiny_bench import write_text
from tests.command_line import assert_bad_call, call, tiny_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    yield from tiny_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def finished(home):
    """OUT of a benchmark that is done."""
    done = call("bench", home / "tiny.yaml", "--out", home / "out")
    assert done.exit_code == 0, done.output
    assert "resnet-bk" in done.stdout
    assert "gpt2" in done.stdout
    return home / "out"


def test_bench_writes_results_and_report(finished):
    results = json.loads((finished / "results.json").read_text())
    assert [run["model_name"] for run in results["runs"]] == ["resnet-bk", "gpt2"]
    assert (finished / "report.html").stat().st_size > 1000
    assert list((finished / "plots").glob("*.png"))


def test_a_second_call_skips_and_rebuilds_the_report(finished, home):
    before = (finished / "gpt2" / "seed-42" / "result.json").stat().st_mtime_ns
    (finished / "report.html").unlink()
    done = call("bench", home / "tiny.yaml", "--out", finished)
    assert done.exit_code == 0
    assert done.stdout.count("finished: ") == 2
    assert (finished / "report.html").exists()
    assert (finished / "gpt2" / "seed-42" / "result.json").stat().st_mtime_ns == before


def test_train_is_one_model_without_a_report(finished, home, tmp_path):
    done = call("train", home / "tiny.yaml", "--model", "gpt2", "--out", tmp_path, "--set", "steps=2")
    assert done.exit_code == 0
    assert str(tmp_path / "gpt2" / "seed-42") in done.stdout.splitlines()
    assert not (tmp_path / "report.html").exists()
    for command in (("report", tmp_path), ("compare", finished, tmp_path)):
        assert_bad_call(call(*command), "holds runs and no results.json", "`resnet-bk bench` with the same options")
    same = ("--models", "gpt2", "--out", tmp_path, "--set", "steps=2")
    assert call("bench", home / "tiny.yaml", *same).stdout.count("finished: ") == 1
    assert call("report", tmp_path).exit_code == 0
    assert (tmp_path / "report.html").exists()


def test_train_leaves_the_protocol_of_results_as_it_is(home, tmp_path):
    same = ("--set", "steps=2", "--out", tmp_path)
    assert call("bench", home / "tiny.yaml", *same, "--models", "gpt2").exit_code == 0
    before = (tmp_path / "protocol.yaml").read_text()
    assert call("train", home / "tiny.yaml", *same, "--model", "gpt2", "--set", "seeds=[7]").exit_code == 0
    assert (tmp_path / "protocol.yaml").read_text() == before


def test_the_test_split_is_read_where_it_is_asked_for(home):
    out = home / "tested"
    only = ("bench", home / "tiny.yaml", "--models", "gpt2", "--set", "steps=2", "--out", out)
    for flags, known in (((), False), (("--test",), True)):
        assert call(*only, *flags).exit_code == 0
        (found,) = json.loads((out / "results.json").read_text())["runs"]
        assert (found["test_perplexity"] is not None) is known


def test_other_text_than_the_protocols(home, tmp_path):
    other = write_text(tmp_path / "other.txt", documents=280)
    done = call("train", home / "tiny.yaml", "--data", other, "--set", "steps=2", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    run = tmp_path / "out" / "resnet-bk" / "seed-42"
    assert json.loads((run / "run.json").read_text())["protocol"]["dataset"] == str(other)
    orders = ("ngrams", home / "tiny.yaml", "--orders", "1", "--json")
    of_ours, of_other, of_test = (
        json.loads(call(*orders, *further).stdout) for further in ((), ("--data", other), ("--split", "test"))
    )
    assert (of_ours["split"], of_test["split"]) == ("validation", "test")
    perplexities = [found["ngrams"][0]["perplexity"] for found in (of_ours, of_other, of_test)]
    assert len(set(perplexities)) == 3
    assert_bad_call(call(*orders, "--split", "tset"), "--split tset: ", "has train, validation, test, all; name")


def test_eval_repeats_the_benchmarks_figure(finished):
    for model in ("resnet-bk", "gpt2"):
        folder = finished / model / "seed-42"
        done = call("eval", folder, "--json")
        assert done.exit_code == 0
        found, result = json.loads(done.stdout), json.loads((folder / "result.json").read_text())
        assert found["perplexity"] == pytest.approx(result["held_out_perplexity"], rel=1e-6)
        assert found["bits_per_character"] == pytest.approx(result["bits_per_character"], rel=1e-6)
        assert found["perplexity_without_carry"] == result["held_out_perplexity_without_carry"]
    done = call("eval", folder, "--split", "test")
    assert "gpt2 on text.txt, test: perplexity" in done.stdout
    assert "not carried" not in done.stdout
    assert " with the state not carried, " in call("eval", finished / "resnet-bk" / "seed-42").stdout


def test_eval_on_other_text(finished, home, tmp_path):
    for split in ("train", "validation"):
        write_text(tmp_path / f"{split}.txt", documents=40)
    done = call("eval", finished / "gpt2" / "seed-42", "--data", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["dataset_name"] == tmp_path.name
    assert json.loads(done.stdout)["notes"] == []
    short = tmp_path / "short.txt"
    short.write_text("w1 w2 w3 w4 w5 w6")
    done = call("eval", finished / "gpt2" / "seed-42", "--data", short, "--split", "all")
    assert "the whole text has 7 tokens: its 4 rows have 2 each, less than a segment of" in done.stdout


def test_a_limit_of_the_training_text_is_of_the_text_of_the_run(finished, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(finished / "gpt2" / "seed-42", run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"protocol": record["protocol"] | {"data_limit": 100}}))
    own = call("eval", run, "--split", "train", "--json")
    assert own.exit_code == 0, own.output
    assert json.loads(own.stdout)["tokens"] == 99
    (tmp_path / "text").mkdir()
    for split in ("train", "validation"):
        write_text(tmp_path / "text" / f"{split}.txt", documents=20)
    other = call("eval", run, "--data", tmp_path / "text", "--split", "train", "--json")
    assert json.loads(other.stdout)["tokens"] > 20 * 20


def test_eval_on_text_that_has_changed(finished, home):
    text = home / "text.txt"
    before = text.read_text()
    try:
        text.write_text(before[: len(before) // 2])
        for command in (["eval"], ["lengths"], ["audit", "--leak-cost"]):
            done = call(*command, finished / "gpt2" / "seed-42")
            assert done.exit_code == 2
            assert "text.txt is no longer that of the run" in " ".join(done.output.split())
    finally:
        text.write_text(before)


def test_weights_of_another_model_of_the_same_name(finished, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(finished / "resnet-bk" / "seed-42", run)
    config = json.loads((run / "model" / "config.json").read_text())
    del config["induction_heads"]  # as models of before have it
    (run / "model" / "config.json").write_text(json.dumps(config))
    done = call("eval", run)
    assert_bad_call(done, "was trained before chains were scaled", "with the code of its commit", "train it again")
    (run / "model" / "config.json").write_text(json.dumps(config | {"model_type": "mine"}))
    says = "holds a model of type 'mine', which is no causal language model of transformers and not registered; give"
    for command in (("eval", run), ("generate", run, "--prompt", "x")):
        assert_bad_call(call(*command), says)


@pytest.mark.parametrize("model", ["resnet-bk", "gpt2"])
def test_generate_continues_the_prompt(finished, model):
    arguments = ("generate", finished / model / "seed-42", "--prompt", "w2 nonsense w2", "--max-new-tokens", 8)
    first, again, other = call(*arguments), call(*arguments), call(*arguments, "--seed", 5)
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("w2 <unk> w2 ")
    assert first.stdout.count("<unk>") == 1  # what it writes are words
    assert first.stdout == again.stdout != other.stdout
    greedy = call(*arguments, "--temperature", 0)
    assert greedy.exit_code == 0
    # The likeliest word, whatever the draws.
    assert greedy.stdout == call(*arguments, "--temperature", 0, "--seed", 5).stdout
    assert greedy.stdout == call(*arguments, "--top-k", 1, "--seed", 5).stdout
    assert call("generate", finished / model / "seed-42", "--prompt", "", "--max-new-tokens", 3).exit_code == 0
    for wrong in ("inf", "1e-40"):
        assert_bad_call(
            call(*arguments, "--temperature", wrong), f"--temperature {wrong}: must be 0, ", "0.001 to 1000"
        )


def test_generate_from_a_model_that_was_not_trained_here(finished, tmp_path):
    """A folder as `save_pretrained` of a model and of its tokenizer leaves it."""
    run = finished / "resnet-bk" / "seed-42"
    folder = tmp_path / "saved"
    shutil.copytree(run / "model", folder)
    arguments = ("--prompt", "w2 w3", "--max-new-tokens", 8, "--temperature", 0)
    assert call("generate", folder, *arguments).stdout == call("generate", run, *arguments).stdout

    tokenizer = read_tokenizer(folder)
    tokenizer.add_special_tokens({"sep_token": "<sep>"})  # beyond the model's embeddings, and in no text
    tokenizer.save_pretrained(folder)
    assert call("generate", folder, *arguments).stdout == call("generate", run, *arguments).stdout
    shutil.copytree(run / "model", folder, dirs_exist_ok=True)
    tokenizer = read_tokenizer(folder)
    words = tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(folder)
    known = len(tokenizer) - words
    assert_bad_call(
        call("generate", folder, *arguments), f"tokenizer has {known + 2} words and its model embeddings of {known}"
    )
    shutil.copytree(run / "model", folder, dirs_exist_ok=True)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    assert_bad_call(call("generate", folder, "--prompt", ""), "--prompt ''", "give a text to continue")
    assert_bad_call(call("generate", folder, "--prompt", "w1 \udcff"), "--prompt 'w1 \\udcff'", "no text in UTF-8")
    (folder / "tokenizer.json").unlink()
    assert_bad_call(call("generate", folder, *arguments), f"{folder} holds a model and no tokenizer.json")


def test_generate_and_inspect_a_model_of_linear_attention(home):
    """`transformers` cannot count what such a model has read."""
    name = "gated-deltanet"
    sets = ("--set", f"models.{name}={{learning_rate: 1e-3, carry_state: true}}")
    done = call("train", home / "tiny.yaml", "--model", name, "--out", home / "linear", *sets)
    assert done.exit_code == 0, done.output
    run = home / "linear" / name / "seed-42"
    done = call("generate", run, "--prompt", "w2", "--max-new-tokens", 4)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("w2 ")
    done = call("inspect", run, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"]["bytes_per_token"] == 0


@pytest.fixture(scope="module")
def adaptive(home):
    """A finished run of a model whose tokens may halt after the first of two blocks."""
    fields = (
        "num_layers=2",
        "models.resnet-bk.learning_rate=0.02",
        "models.resnet-bk.config.adaptive_computation=true",
    )
    sets = [part for field in fields for part in ("--set", field)]
    assert call("train", home / "tiny.yaml", "--out", home / "adaptive", *sets).exit_code == 0
    return home / "adaptive" / "resnet-bk" / "seed-42"


def test_an_early_exit(adaptive):
    late, early = (
        json.loads(call("eval", adaptive, "--json", *options).stdout) for options in ([], ["--early-exit", 1e-9])
    )
    assert (late["early_exit_threshold"], early["early_exit_threshold"]) == (None, 1e-9)
    assert early["measures"]["depth"] == 1 < late["measures"]["depth"] - 0.2
    assert early["perplexity"] != late["perplexity"]
    shown = call("eval", adaptive, "--early-exit", 1e-9).stdout
    assert ", early exit at 1e-09, " in shown
    assert ", 1.00 blocks a token" in shown
    prompt = ("generate", adaptive, "--prompt", "w2", "--max-new-tokens", 30)
    assert call(*prompt, "--early-exit", 1e-9).stdout != call(*prompt).stdout


def test_an_early_exit_that_cannot_be(finished, adaptive):
    for command in (["eval"], ["generate", "--prompt", "w2"]):
        for model, kind in (("resnet-bk", "resnet_bk"), ("gpt2", "gpt2")):
            done = call(*command, finished / model / "seed-42", "--early-exit", 0.5)
            assert_bad_call(done, f"--early-exit 0.5: no token of this {kind} halts", "leave the option out")
        done = call(*command, adaptive, "--early-exit", 1.0)
        assert_bad_call(done, "--early-exit 1.0: ", "early_exit_threshold=1.0 must be at most halting_threshold=0.99")
        for value in ("0", "nan"):
            done = call(*command, adaptive, "--early-exit", value)
            assert_bad_call(done, f"--early-exit {float(value)}: ", "must be above 0 and at most 1")


def test_generate_beyond_the_positions(finished):
    done = call("generate", finished / "gpt2" / "seed-42", "--prompt", "w1", "--max-new-tokens", 16)
    assert_bad_call(done, "has 16 positions; ask for at most 15")
    done = call("generate", finished / "gpt2" / "seed-42", "--prompt", "w1 " * 16, "--max-new-tokens", 1)
    assert_bad_call(done, "has 16 positions; shorten the prompt to 15 or less")


def test_flops_of_a_run_are_of_its_steps(finished, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(finished / "gpt2" / "seed-42", run)
    record = json.loads((run / "run.json").read_text())
    record["protocol"] |= {"steps": None, "data_limit": 10_000_000}
    (run / "run.json").write_text(json.dumps(record))
    found, result = json.loads(call("flops", run, "--json").stdout), json.loads((run / "result.json").read_text())
    assert found["steps"] == result["steps"] == 12
    assert found["total_training_flops"] == result["total_training_flops"]


def test_flops_of_a_protocol(finished, home):
    result = json.loads((finished / "gpt2" / "seed-42" / "result.json").read_text())
    found = json.loads(call("flops", home / "tiny.yaml", "--set", "vocab_size=64", "--json").stdout)
    assert set(found) == {"resnet-bk", "gpt2"}
    assert found["gpt2"]["total_flops_per_step"] == result["total_flops_per_step"]
    table = call("flops", home / "tiny.yaml", "--models", "gpt2").stdout
    assert f"{found['gpt2']['forward_flops']:,}" in table
    assert "resnet-bk" not in table


def test_audit_of_everything_that_has_a_name(finished, home):
    short = ("--protocol", home / "tiny.yaml", "--lengths", "2,9")
    for name, kind in (
        ("gpt2", "--quick"),
        ("llama", "--quick"),
        ("resnet-bk-seed-causal", "--full"),
        (finished / "resnet-bk" / "seed-42", "--full"),
        (finished / "gpt2" / "seed-42" / "model", "--quick"),
        (finished / "gpt2" / "seed-42" / "model" / "config.json", "--quick"),
        ("mistral", "--quick"),
    ):
        of_run = name == finished / "resnet-bk" / "seed-42"  # has a protocol of its own
        done = call("audit", name, kind, *short[2 if of_run else 0 :])
        assert done.exit_code == 0, done.output
        assert f"{name}: causal. " in done.stdout
        assert "leaks" not in done.stdout
    for name in ("resnet-bk-seed", "bert"):
        done = call("audit", name, *short)
        assert done.exit_code == 1
        assert f"{name}: leaks. changing token 1 moves the logits at 0, before it, by " in done.stdout
        assert "(plain, eval mode, float32, 2 tokens)" in done.stdout


def test_audit_as_json_and_as_the_benchmark_makes_it(home):
    protocol = ("--protocol", home / "tiny.yaml")
    done = call("audit", "mamba2", *protocol, "--lengths", "2,9", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["model"], found["verdict"], found["first_leak"], found["device"]) == ("mamba2", "causal", None, "cpu")
    notes = {check["note"] for check in found["checks"] if check["outcome"] == "not run"}
    assert notes == {"takes none of document_ids, position_ids"}
    done = call("audit", "resnet-bk-seed", *protocol, "--quick", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["verdict"], found["first_leak"]) == ("leaks", 0)
    assert "checks" not in found
    assert "gpt2: causal. " in call("audit", "gpt2", *protocol, "--quick").stdout


def test_audit_with_the_cost_of_the_leak(finished, home):
    short = ("--protocol", home / "tiny.yaml", "--quick", "--leak-cost", "--segments", 4)
    done = call("audit", "resnet-bk-seed", *short, "--steps", 3, "--json")
    assert done.exit_code == 1
    cost = json.loads(done.stdout)["leak_cost"]
    assert [row["steps"] for row in cost["rows"]] == [3, 3]
    assert cost["bought_in_training"] == cost["rows"][1]["whole"] - cost["rows"][0]["whole"]
    run, short = finished / "resnet-bk" / "seed-42", short[2:]
    done = call("audit", run, *short, "--set", "device=cpu")
    assert done.exit_code == 0, done.output
    assert "as saved" in done.stdout
    assert "later tokens of the segment buy" in done.stdout
    done = call("audit", run, *short, "--steps", 3)
    assert_bad_call(done, "--steps 3", "has its weights and no causal twin", "leave it out")
    done = call("audit", run / "model", "--protocol", home / "tiny.yaml", *short, "--set", "hidden_size=16")
    assert_bad_call(done, "--set hidden_size=16", "has a shape of its own", "leave it out")


def test_audit_of_a_run_reads_no_other_settings(finished):
    run = finished / "gpt2" / "seed-42"
    for options, message in [
        (("--set", "sequence_length=7"), "--set sequence_length=7: "),
        (("--protocol", "seed"), "--protocol seed: "),
    ]:
        done = call("audit", run, "--quick", *options)
        assert_bad_call(done, message, "is a finished run with", "of its own")
    assert_bad_call(call("audit", run, "--quick", "--set", "device=tpu"), "device='tpu'")


def test_report_from_results(finished):
    """Of a folder in `test_train_is_one_model_without_a_report`."""
    (finished / "report.html").unlink()
    done = call("report", finished / "results.json")
    assert done.exit_code == 0
    assert (finished / "report.html").exists()
    assert_bad_call(
        call("report", finished / "report.html"), "report.html is no folder; name the folder of a benchmark"
    )
    assert_bad_call(call("report", finished / "gpt2" / "seed-42"), "is the folder of a run; name that of the benchmark")
    assert_bad_call(call("bench", finished), "is a folder of results; its protocol is", "protocol.yaml")


def test_unwritable_out(home):
    text = (home / "text.txt").read_bytes()
    assert_bad_call(call("bench", home / "tiny.yaml", "--out", home / "text.txt" / "out"), "--out", "is not a folder")
    assert (home / "text.txt").read_bytes() == text


def test_a_folder_whose_lock_may_not_be_taken(finished, home, tmp_path, monkeypatch):  # whose text is in the cache
    def denied(self):
        raise PermissionError(13, "Permission denied", str(tmp_path / "out" / ".lock"))

    monkeypatch.setattr(run_folder.FileLock, "acquire", denied)
    done = call("bench", home / "tiny.yaml", "--out", tmp_path / "out")
    assert_bad_call(done, "--out", "Permission denied", "name another folder")


def test_a_model_without_weights(finished, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(finished / "gpt2" / "seed-42", run)
    (run / "model" / "model.safetensors").unlink()
    assert_bad_call(call("generate", run, "--prompt", "x"), f"{run / 'model'} cannot be read")
    (run / "model" / "model.safetensors").write_bytes(b"cut off")
    assert_bad_call(
        call("generate", run, "--prompt", "x"), f"{run / 'model'} cannot be read", "train it again with another --out"
    )
    shutil.rmtree(run / "model")
    assert_bad_call(call("eval", run), "came without its weights")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"diverged": "its loss is nan at step 3"}))
    assert_bad_call(call("eval", run), "the training diverged. its loss is nan at step 3")


@pytest.mark.parametrize("content", ["{", None], ids=["damaged", "missing"])
def test_a_model_without_its_tokenizer(finished, tmp_path, content):
    run = tmp_path / "seed-42"
    shutil.copytree(finished / "gpt2" / "seed-42", run)
    (run / "model" / "tokenizer.json").unlink()
    if content:
        (run / "model" / "tokenizer.json").write_text(content)
    for command in (["eval", run], ["generate", run, "--prompt", "x"], ["audit", run, "--leak-cost"]):
        assert_bad_call(call(*command), f"the tokenizer in {run / 'model'} cannot be read", "restore it")


def test_out_of_another_protocol(finished, home):
    done = call("bench", home / "tiny.yaml", "--out", finished, "--set", "steps=13")
    assert_bad_call(done, "steps (12 there, 13 now)", "--out")


def test_run_folder_that_is_the_folder_above(finished):
    assert_bad_call(call("eval", finished), "is no run folder", "gpt2/seed-42")


def test_a_run_that_is_not_finished(finished, tmp_path):
    shutil.copy(finished / "gpt2" / "seed-42" / "run.json", tmp_path)
    for command in (["eval", tmp_path], ["generate", tmp_path, "--prompt", "w2"]):
        assert_bad_call(call(*command), "holds no model", "resumes it")


def test_a_result_that_came_without_its_weights(finished, tmp_path):
    for name in ("run.json", "result.json"):
        shutil.copy(finished / "gpt2" / "seed-42" / name, tmp_path)
    assert_bad_call(call("eval", tmp_path), "holds no model", "without its weights", "another --out")


def test_audit_of_a_type_that_does_not_come_small(monkeypatch):
    def refuses(config, seed):
        raise KeyError("rope")

    monkeypatch.setattr(target, "build_model", refuses)
    assert_bad_call(call("audit", "mistral"), "'mistral'", "cannot build it small (KeyError", "save_pretrained")


def test_ctrl_c_where_nothing_is_trained(finished, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(perplexities, "evaluate_folder", stopped)
    done = call("eval", finished / "gpt2" / "seed-42")
    assert (done.exit_code, done.stderr.strip()) == (130, "stopped")


def test_the_device_of_a_finished_run(finished):
    run = finished / "resnet-bk" / "seed-42"
    assert json.loads(call("eval", run, "--json", "--device", "cpu").stdout)["device"] == "cpu"
    prompt = ("generate", run, "--prompt", "w2", "--max-new-tokens", 3)
    assert call(*prompt, "--device", "cpu").stdout == call(*prompt).stdout
    for command in (["eval", run], ["lengths", run], list(prompt)):
        assert_bad_call(call(*command, "--device", "tpu"), "device=tpu: must be auto", "set one of them")
        if not torch.cuda.is_available():
            assert_bad_call(call(*command, "--device", "cuda"), "device=cuda: PyTorch sees no CUDA GPU here")


def test_text_without_splits_is_read_whole(finished, tmp_path):
    run, file = finished / "resnet-bk" / "seed-42", write_text(tmp_path / "other.txt", documents=60)
    part, whole = (
        json.loads(call("eval", run, "--data", file, "--split", split, "--json").stdout)
        for split in ("validation", "all")
    )
    assert (part["divided"], whole["divided"]) == (True, False)
    assert whole["tokens"] > 10 * part["tokens"]
    shown = call("eval", run, "--data", file).stdout
    assert (
        "other.txt came without splits, and validation is a part of it (90/5/5); --split all reads the whole" in shown
    )
    assert "came without splits" not in call("eval", run, "--data", file, "--split", "all").stdout
    assert_bad_call(call("eval", run, "--split", "all"), "--split all: ", "was trained on a part of this text")
    assert_bad_call(
        call("eval", run, "--split", "tset"), "--split tset: ", "has train, validation, test, all; name one"
    )


def test_the_text_of_the_training_by_another_name_is_no_other_text(finished, tmp_path):
    run = finished / "resnet-bk" / "seed-42"
    dataset = json.loads((run / "run.json").read_text())["protocol"]["dataset"]
    (tmp_path / "other.txt").write_text(*load_corpus(dataset).documents("train"))
    refused = call("eval", run, "--data", tmp_path / "other.txt", "--split", "all")
    assert refused.exit_code == 2
    assert f"other.txt, --split all: is the text that {run} was trained on; take" in refused.stderr.splitlines()[-1]
    assert call("eval", run, "--split", "train").exit_code == 0  # by that name it is meant
