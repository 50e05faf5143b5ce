"""Models that somebody saved, without a run, and the text that they are measured on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.audit.leak_setup import leak_setup
from resnet_bk.bench.audit.target import audit_target
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import load_protocol
from resnet_bk.data.saved_tokenizer import read_tokenizer
from resnet_bk.models import ResNetBKSeedConfig, ResNetBKSeedForCausalLM
from tests.bench.own_model import ForgetfulConfig, ForgetfulForCausalLM
from tests.command_line import assert_bad_call, call, tiny_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of ResNet-BK, its model alone, and beside the same tokenizer a GPT-2 and a model that leaks."""
    for home in tiny_home(tmp_path_factory.mktemp("home"), steps=1):
        done = call("train", home / "tiny.yaml", "--out", home / "out")
        assert done.exit_code == 0, done.output
        shutil.copytree(home / "out" / "resnet-bk" / "seed-42" / "model", home / "saved")
        gpt2 = AutoConfig.for_model("gpt2", vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=24)
        AutoModelForCausalLM.from_config(gpt2).save_pretrained(home / "gpt2")
        leaking = ResNetBKSeedConfig(vocab_size=64, hidden_size=8, max_position_embeddings=16)
        ResNetBKSeedForCausalLM(leaking).save_pretrained(home / "leaking")
        for name in ("gpt2", "leaking"):
            shutil.copy(home / "saved" / "tokenizer.json", home / name)
            shutil.copy(home / "saved" / "tokenizer_config.json", home / name)
        yield home


def figures(home, name):
    done = call("eval", home / name, "--data", home / "text.txt", "--protocol", home / "tiny.yaml", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_model_of_a_run_has_the_figures_of_the_run(home):
    saved = figures(home, "saved")
    run = json.loads(call("eval", home / "out" / "resnet-bk" / "seed-42", "--json").stdout)
    assert saved["carry_state"] is True
    assert saved["perplexity_without_carry"] > saved["perplexity"]
    (note,) = saved["notes"]
    assert "in 4 rows by segments of 16 tokens, in float32 (protocol tiny)" in note
    assert "whether the model was trained on this text is not known" in note
    other = {"model_name", "divided", "notes"}
    assert {key: value for key, value in saved.items() if key not in other} == {
        key: value for key, value in run.items() if key not in other
    }


def test_attention_carries_no_state(home):
    gpt2 = figures(home, "gpt2")
    assert (gpt2["audit"], gpt2["carry_state"], gpt2["perplexity_without_carry"]) == ("causal", False, None)
    assert 60 < gpt2["perplexity"] < 70  # untrained, of 64 words
    fewest = call("eval", home / "gpt2", "--data", home / "text.txt", "--set", "sequence_length=8", "--json")
    assert 60 < json.loads(fewest.stdout)["perplexity"] < 70


def test_a_model_that_leaks_has_no_perplexity(home):
    found = figures(home, "leaking")
    assert (found["audit"], found["perplexity"], found["overlapping_perplexity"]) == ("leaks", None, None)
    assert found["leaking_perplexity"] > 1
    assert found["notes"][1].startswith("audit: changing token")


def test_a_model_of_no_numbers_says_so(home, tmp_path):
    shutil.copytree(home / "saved", tmp_path / "saved")
    weights = load_file(home / "saved" / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    done = call("eval", tmp_path / "saved", "--data", home / "text.txt", "--protocol", home / "tiny.yaml")
    assert done.exit_code == 0, done.output
    assert "audit: not shown to be causal: the logits are not finite" in " ".join(done.stdout.split())


def test_what_the_tokenizer_adds_is_left_out_and_said(home, tmp_path):
    shutil.copytree(home / "gpt2", tmp_path / "gpt2")
    tokenizer = read_tokenizer(home / "gpt2")
    special = [(word, tokenizer.convert_tokens_to_ids(word)) for word in ("<pad>", "<eos>")]
    start = TemplateProcessing(single="<pad> $A <eos>", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = start
    tokenizer.save_pretrained(tmp_path / "gpt2")
    done = call("eval", tmp_path / "gpt2", "--data", home / "text.txt", "--protocol", home / "tiny.yaml", "--json")
    plain, found = figures(home, "gpt2"), json.loads(done.stdout)
    assert found["perplexity"] == plain["perplexity"]
    assert "without the <pad> that the tokenizer puts around every text" in found["notes"][1]  # <eos> is there


def test_text_is_drawn_as_the_call_says(home, tmp_path):
    """And not as a configuration beside the weights says."""
    asked = ("--prompt", "w2 w3", "--max-new-tokens", 12, "--temperature", 0)
    shutil.copytree(home / "saved", tmp_path / "saved")
    settings = json.loads((home / "saved" / "generation_config.json").read_text())
    changed = settings | {"repetition_penalty": 50.0, "do_sample": True, "top_p": 0.5}
    (tmp_path / "saved" / "generation_config.json").write_text(json.dumps(changed))
    assert call("generate", tmp_path / "saved", *asked).stdout == call("generate", home / "saved", *asked).stdout


def test_a_model_of_ones_own_without_a_cache_reads_the_whole_text_for_every_token(home):
    torch.manual_seed(0)
    model = ForgetfulForCausalLM(ForgetfulConfig(words=64)).eval()
    for parameter in model.parameters():  # large, so that what came before decides
        torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(home / "forgetful")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(home / "saved" / name, home / "forgetful")
    tokenizer = read_tokenizer(home / "forgetful")
    never = torch.tensor([tokenizer.pad_token_id, tokenizer.unk_token_id])
    ids = prompt = tokenizer("w2 w3", return_tensors="pt", add_special_tokens=False)["input_ids"]
    for _ in range(12):
        likeliest = model(ids).logits[:, -1].index_fill(1, never, -torch.inf).argmax(-1, keepdim=True)
        ids = torch.cat([ids, likeliest], dim=1)
    asked = ("--prompt", "w2 w3", "--max-new-tokens", 12, "--temperature", 0)
    found = call("generate", home / "forgetful", *asked).stdout.split()
    assert found == tokenizer.decode(ids[0]).split()
    assert len(found) == prompt.shape[1] + 12


def test_weights_are_float32_where_figures_are_of_float32(home):
    """Whatever the precision of what was saved, or of a configuration."""
    config = AutoConfig.from_pretrained(home / "gpt2")
    config.dtype = torch.bfloat16
    fresh = AutoModelForCausalLM.from_config(config)
    assert fresh.dtype == torch.bfloat16
    fresh.save_pretrained(home / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(home / "gpt2" / name, home / "half")
    protocol = load_protocol("quick", [], str(home / "text.txt"))
    assert audit_target(str(home / "half"), protocol).dtype == torch.bfloat16  # of which `inspect` tells
    assert build_model(config, 0).dtype == leak_setup(str(home / "half"), protocol).model.dtype == torch.float32


def test_bad_calls(home, tmp_path):
    text, saved = ("--data", home / "text.txt"), home / "saved"
    assert_bad_call(call("eval", saved), f"{saved} is a model and no run", "name the text with --data")
    longer = call("eval", home / "gpt2", *text)
    assert_bad_call(
        longer, "protocol quick: segments of 128 tokens", "gpt2 has 24 positions", "--set sequence_length=24"
    )
    assert_bad_call(call("flops", home / "gpt2"), "protocol seed: segments of 128 tokens", "this gpt2 has 24 positions")
    unread = call("eval", saved, *text, "--set", "data_limit=100")
    assert_bad_call(
        unread, "--set data_limit=100: is not read here, eval of a saved model reads batch_size, sequence_length, dtype"
    )
    assert_bad_call(call("eval", saved, *text, "--split", "tset"), "--split tset: text.txt has train, validation")
    run = home / "out" / "resnet-bk" / "seed-42"
    for option in (["--protocol", "quick"], ["--set", "batch_size=2"]):
        done = call("eval", run, *option)
        assert_bad_call(
            done, f"{' '.join(option)}: {run} is a run, and read as its own protocol", "leave the option out"
        )
    shutil.copytree(home / "gpt2", tmp_path / "small")
    few = AutoConfig.for_model("gpt2", vocab_size=40, n_embd=32, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(few).save_pretrained(tmp_path / "small")
    done = call("eval", tmp_path / "small", *text)
    assert_bad_call(done, "its tokenizer has 64 words and its model embeddings of 40", "save the tokenizer")
    (tmp_path / "small" / "tokenizer.json").unlink()
    assert_bad_call(call("eval", tmp_path / "small", *text), "holds a model and no tokenizer.json")


def test_what_is_said_twice_or_cannot_be_read(home):
    run, text = home / "out" / "resnet-bk" / "seed-42", ("--data", home / "text.txt", "--protocol", home / "tiny.yaml")
    twice = call("eval", home / "saved", *text, "--set", "device=cpu", "--device", "cpu")
    assert_bad_call(twice, "--set device=cpu: --device cpu says so too; leave one of the two out")
    assert_bad_call(call("eval", home / "saved", *text, "--device", ""), "device=: must be auto")
    again = call("audit", run, "--quick", "--set", "device=cpu", "--set", "device=auto")
    assert_bad_call(again, "--set device=auto: --set device=cpu was given before it; leave one out")
    long = call("audit", home / "gpt2", "--quick", "--lengths", "9,30")
    assert_bad_call(long, f"--lengths 30: {home / 'gpt2'} is made for 24 tokens; give lengths of at most that")


def test_a_length_that_was_asked_for_is_not_cut(home):
    given = ("--protocol", home / "tiny.yaml", "--quick", "--leak-cost", "--segments", 2)
    done = call("audit", home / "gpt2", *given, "--set", "sequence_length=30")
    assert_bad_call(done, f"--set sequence_length=30: {home / 'gpt2'} has 24 positions; give that or less")
