"""The command line: calls that are refused, stopped, killed or of no help, and how each of them ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import typer
from rich.text import Text

from resnet_bk import cli
from resnet_bk.bench import runner as runner_module
from tests.command_line import PROGRAM, assert_bad_call, call, tiny_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    yield from tiny_home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["bench", "quick", "--data", "no/such/folder"], ["no/such/folder", "--data"]),
        (["bench", "mqar", "--data", "text.txt"], ["draws its own examples", "leave out --data"]),
        (["bench", "quik"], ["unknown protocol 'quik'", "did you mean quick"]),
        (["bench", "quick", "--set", "vocab_size=0"], ["vocab_size=0"]),
        (["bench", "quick", "--set", "hidden_size=65"], ["hidden_size=65", "num_heads=4", "take 68"]),
        (["bench", "quick", "--set", "hidden_sise=64"], ["hidden_sise: unknown key", "did you mean hidden_size"]),
        (["bench", "quick", "--models", "lama"], ["'lama'", "did you mean llama"]),
        (["bench", "quick", "--models", ","], ["no model is named", "leaving --models out takes all"]),
        (["bench", "quick", "--models", "llama", "--models", "gpt2"], ["--models: given twice; give it once"]),
        (["audit", "gpt2", "--full", "--quick"], ["--full: given beside --quick; give one of the two"]),
        (["bench", "quick", "--set", "steps=5", "--set", "steps=9"], ["--set steps=9: takes the place of --set steps"]),
        (["bench", "quick", "--set", "models.lama.learning_rate=1"], ["models.lama: unknown model", "llama"]),
        (["bench", "quick", "--set", "steps=[1"], ["--set steps", "not valid YAML"]),
        (["bench", "seed-local", "--set", "dataset=../no/such/place"], ["../no/such/place", "--data"]),
        (["train", "quick", "--model", "lama"], ["'lama'"]),
        (["flops", "quick", "--models", "lama"], ["'lama'"]),
        (["audit", "no-such-model"], ["'no-such-model'", "no folder"]),
        (["audit", "gpt2", "--steps", "5"], ["--steps 5", "--leak-cost only"]),
        (["audit", "gpt2", "--segments", "5"], ["--segments 5", "--leak-cost only"]),
        (["audit", "gpt2", "--data", "text.txt"], ["--data text.txt", "--leak-cost only"]),
        (["audit", "gpt2", "--lengths", "1,5"], ["--lengths '1,5'", "at least 2"]),
        (["lengths", "x", "--windows", "512,x"], ["--windows '512,x': must be integers of at least 2", "512,2048"]),
        (["lengths", "x", "--windows", "64,512,64"], ["--windows '64,512,64': holds a number twice; give each once"]),
        *(
            (["ngrams", "quick", "--orders", text], [f"--orders {text!r}: must be integers of at least 1", "1,2,5"])
            for text in ("", "0", "1,", "2;5", "five")
        ),
        (["audit", "gpt2", "--leak-cost", "--steps", "0"], ["--steps 0", "at least 1"]),
        (["audit", "gpt2", "--leak-cost", "--data", "no/such/text.txt"], ["no/such/text.txt", "--data"]),
        (["eval", "no/such/run"], ["no/such/run is no run folder"]),
        (["generate", "no/such/run", "--prompt", "x"], ["no/such/run is no run folder"]),
        (["report", "no/such/out"], ["results.json does not exist"]),
        (["bench", "small"], ["kyoto-wikipedia", "its text does not come with the package: give your own with --data"]),
    ],
    ids=lambda value: " ".join(value[:4]) if value[0] in ("bench", "train", "flops") else None,
)
def test_bad_calls(home, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    assert_bad_call(call(*arguments), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "work", "table"),
    [
        ("lengths", "trained.lengths.length_profiles", "trained.lengths_table.lengths_table"),
        ("repeats", "trained.repeats.repeat_losses", "trained.repeats_table.repeats_table"),
        ("ngrams", "ngrams.baselines.ngram_baselines", "ngrams.table.ngram_table"),
    ],
)
def test_a_file_is_written_before_anything_is_printed(tmp_path, monkeypatch, command, work, table):
    """For what is printed may not arrive."""

    def closed(found):
        raise BrokenPipeError

    monkeypatch.setattr(f"resnet_bk.bench.{work}", lambda *_, **__: {"ngrams": [], "split": "validation"})
    monkeypatch.setattr(f"resnet_bk.bench.{table}", closed)
    monkeypatch.setattr("resnet_bk.bench.resolve.run_folder", lambda path: path)
    call(command, "quick", "--out", tmp_path / "out")
    assert (tmp_path / "out" / f"{command}.json").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00 not UTF-8 \xff"], ids=["empty", "bytes"])
def test_bad_text(home, tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert_bad_call(call("bench", home / "tiny.yaml", "--data", path, "--out", tmp_path / "out"), "text.txt")
    assert not (tmp_path / "out").exists()


def test_bad_protocol_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\n  models: [")
    assert_bad_call(call("bench", path), "broken.yaml", "line 2: not valid YAML")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["see resnet-bk --help", "command"]),
        (["bench"], ["PROTOCOL", "see resnet-bk bench --help"]),
        (["bench", "quick", "--set", "seeds=42,43"], ["seeds='42,43': must be a list; write it with brackets"]),
        (["bench", "quick", "--out", ""], ["--out", "is empty; name a folder, or leave --out out"]),
        (["train", "quick", "--out=~nobody-of-this-name/x"], ["--out", "~nobody-of-this-name/x", "name a folder"]),
        (["bench", "quick", "--nonsense"], ["--nonsense", "see resnet-bk bench --help"]),
        (["nonsense"], ["'nonsense'", "see resnet-bk --help"]),
        (["generate", "x"], ["--prompt"]),
        (["lengths", "x", "--tokens", "0"], ["--tokens"]),
        (["lengths", "x", "--documents", "0"], ["--documents"]),
        (["generate", "x", "--prompt", "y", "--top-k", "-1"], ["--top-k"]),
        (["generate", "x", "--prompt", "y", "--max-new-tokens", "0"], ["--max-new-tokens"]),
        (["generate", "x", "--prompt", "y", "--temperature", "-1"], ["--temperature"]),
        (["generate", "x", "--prompt", "y", "--seed", "two"], ["--seed"]),
        (["generate", "x", "--prompt", "y", "--seed", "4294967296"], ["--seed"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_calls_that_cannot_be_read(arguments, parts):
    assert_bad_call(call(*arguments, name="resnet-bk"), *parts)


def test_results_in_the_home(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = call("ngrams", home / "tiny.yaml", "--orders", "1", "--out=~/found")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["found"]


def test_a_run_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("resnet_bk.bench.resolve.run_folder", lambda path: path)
    monkeypatch.chdir(tmp_path)
    for command in ("lengths", "repeats"):
        done = call(command, "out/llama/seed-1", "out/llama/seed-2", tmp_path / "out" / "llama" / "seed-1")
        assert_bad_call(done, "out/llama/seed-1, ", "given twice; name each run once")


def test_letters_that_the_output_cannot_take():
    program = "from resnet_bk import cli; cli.app = lambda: print('40.0 ± 0.5'); cli.main()"
    surroundings = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=surroundings, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "40.0 \\xb1 0.5\n")


def test_a_reader_that_goes_away_is_no_answer():
    command = subprocess.Popen([*PROGRAM, "flops", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.close()
    _, complaint = command.communicate(timeout=120)
    assert command.returncode == 141
    assert not any(word in complaint for word in (b"Traceback", b"Exception ignored"))


def test_a_table_whose_reader_goes_away_is_no_answer(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(SystemExit) as ended:
            cli.app(["flops", "gpt2"])
    assert ended.value.code == 141


def test_ctrl_c_says_how_to_go_on(home, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner_module, "bench", stopped)
    done = call("bench", home / "tiny.yaml")
    assert done.exit_code == 130
    assert "the same command goes on from the last checkpoint, where there is one" in done.stderr


def test_a_failure_that_is_no_fault_of_the_call_is_no_answer(home, monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError("of a GPU")

    monkeypatch.setattr(runner_module, "bench", fails)
    done = call("bench", home / "tiny.yaml", name="resnet-bk")
    assert done.exit_code == 3
    assert done.stderr.rstrip().endswith("MemoryError: of a GPU")


def test_help_imports_nothing_heavy():
    check = "import sys; from resnet_bk import cli; sys.exit(any(name in sys.modules for name in sys.argv[1:]))"
    heavy = ("torch", "transformers", "pydantic", "yaml")
    assert subprocess.run([sys.executable, "-c", check, *heavy], check=False).returncode == 0
    done = call("--help")
    assert done.exit_code == 0
    for command in ("bench", "train", "eval", "generate", "flops", "audit", "report"):
        assert command in done.stdout
    for command in ("bench", "train"):
        text = " ".join(call(command, "--help").stdout.replace("│", " ").split())  # wherever a box breaks its lines
        assert "small" in text
        assert ("mqar (recall)" in text) is (command == "bench")


def test_help_says_all_that_is_written():
    """Words in square brackets are markup of rich, which would not show them."""
    for name, command in typer.main.get_command(cli.app).commands.items():
        for text in (command.help, *(option.help for option in command.params if getattr(option, "help", None))):
            assert Text.from_markup(text).plain == text, name


@pytest.mark.sweep
def test_killed_and_started_again_is_never_stopped(home, tmp_path):
    """SIGKILL at some moment of training; the same command then ends with bitwise the weights and the loss."""
    arguments = ["train", str(home / "tiny.yaml"), "--model", "resnet-bk"]  # as `bench` does, without the report
    arguments += ["--set", "steps=40", "--set", "checkpoint_seconds=0.05"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*PROGRAM, *arguments, "--out", killed], env=environment, stderr=subprocess.DEVNULL)
    checkpoints = killed / "resnet-bk" / "seed-42" / "checkpoint"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("step-*"))) == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(checkpoints.glob("step-*"))
    assert not (killed / "resnet-bk" / "seed-42" / "result.json").exists()

    for out in (killed, whole):
        done = call(*arguments, "--out", out)
        assert done.exit_code == 0, done.output
    mine, theirs = killed / "resnet-bk" / "seed-42", whole / "resnet-bk" / "seed-42"
    assert (mine / "model" / "model.safetensors").read_bytes() == (theirs / "model/model.safetensors").read_bytes()
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (mine, theirs))
    for key in ("final_loss", "epoch_losses", "held_out_loss", "held_out_perplexity_without_carry", "buckets"):
        assert first[key] == second[key]
    assert [line["loss"] for line in first["log"]] == [line["loss"] for line in second["log"]]
    assert [call["from_step"] for call in second["calls"]] == [0]
    assert len(first["calls"]) == 2
