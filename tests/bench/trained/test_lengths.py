"""Perplexity by place: one stream is the whole text, segments are texts, and what cannot be read is said."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from resnet_bk.bench.environment import environment
from resnet_bk.bench.trained.lengths import (
    cannot_carry,
    check_windows,
    long_documents,
    place_borders,
    read,
    split_documents,
    what_it_carries,
)
from resnet_bk.bench.trained.opened_run import open_run
from resnet_bk.models import PointerConfig, PointerForCausalLM, ResNetBKConfig, ResNetBKForCausalLM
from tests.bench.own_model import OwnConfig
from tests.command_line import call, trained_home

EOS = 1


def resnet_bk():
    return ResNetBKForCausalLM(
        ResNetBKConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_heads=2, initializer_range=0.3)
    )


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=8, initializer_range=0.3,
        )
    )  # fmt: skip


def mamba2():
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_heads=4, head_dim=8, state_size=8, n_groups=1,
            initializer_range=0.3,
        )
    )  # fmt: skip


def test_documents_end_with_their_eos_and_are_cut():
    tokens = np.array([5, 6, EOS, 7, EOS, 8, 9, 10, 11, EOS, 12, 13, 14, 15])
    assert [part.tolist() for part in split_documents(tokens, EOS)] == [
        [5, 6, EOS], [7, EOS], [8, 9, 10, 11, EOS], [12, 13, 14, 15],
    ]  # fmt: skip
    assert [part.tolist() for part in long_documents(tokens, EOS, 3, 9)] == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert [part.tolist() for part in long_documents(tokens, EOS, 3, 1)] == [[8, 9, 10, 11]]
    assert [part.tolist() for part in long_documents(tokens, EOS, 4, 9)] == [[8, 9, 10, 11, EOS]]
    assert long_documents(tokens, EOS, 5, 9) == []


@pytest.mark.parametrize(
    ("segment", "tokens", "borders"),
    [
        (512, 4096, [(0, 512), (512, 1024), (1024, 2048), (2048, 4096)]),
        (10, 25, [(0, 10), (10, 20), (20, 25)]),
        (10, 7, [(0, 7)]),
    ],
)
def test_places_double(segment, tokens, borders):
    assert place_borders(segment, tokens) == borders


def expected(model, words):
    logits = model(words[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten(), reduction="none").double()


@pytest.mark.parametrize("build", [resnet_bk, llama])
@pytest.mark.parametrize("head", ["fused", "model"])
@torch.no_grad()
def test_one_stream_is_the_whole_text_and_windows_see_what_is_in_them(build, head):
    torch.manual_seed(0)
    model, text = build().eval(), np.random.default_rng(0).integers(2, 40, size=8 * 10 + 4)
    words = torch.from_numpy(text).unsqueeze(0)
    carried = read(model, text, 8, head, "float32").losses
    assert_close(carried, expected(model, words), rtol=1e-3, atol=1e-4)
    for window in (4, 8, 16, 82):
        found = read(model, text, 8, head, "float32", window).losses
        assert len(found) == 83
        assert_close(found[:window], carried[:window], rtol=1e-3, atol=1e-4)
        half = window // 2
        for border in range(window, 83, half):  # to the next one all see from the last border but one on
            seen = expected(model, words[:, border - half : border + half + 1])
            assert_close(found[border : border + half], seen[half:], rtol=1e-3, atol=1e-4)
        assert window > 40 or not torch.allclose(carried[window:], found[window:], atol=1e-2)


def pointer():
    """A pointer that is used, on a Llama."""
    torch.manual_seed(0)
    model = PointerForCausalLM(PointerConfig(language_model=llama().config, pointer_heads=2))
    with torch.no_grad():
        model.pointer.gates.bias.zero_()
    return model.eval()


def test_a_pointer_goes_on_though_its_language_model_starts_again():
    text = np.random.default_rng(0).integers(0, 40, 31)
    carried = read(pointer(), text, 10, "fused", "float32").losses
    first, second = (read(pointer(), text[at : at + 11], 10, "fused", "float32").losses for at in (0, 10))
    assert torch.equal(carried[:10], first)
    assert not torch.isclose(carried[10:20], second).any()


def test_what_is_carried():
    carried = [what_it_carries(build().config) for build in (resnet_bk, mamba2, llama, pointer)]
    assert carried == ["a state", "a state", "keys and values", "the pointer's state alone"]
    assert what_it_carries(OwnConfig()) == "its cache"  # a model of somebody's own


@pytest.mark.parametrize("window", [0, -2, 5, 64, 100])
def test_windows_that_cannot_be_read(window):
    with pytest.raises(ValueError, match=rf"--windows {window}: must be an even number below the 64 tokens"):
        check_windows([window], 64)


def test_learned_positions_end_somewhere():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    sample = torch.arange(8).unsqueeze(0)
    assert cannot_carry(model, sample, 32) is None
    assert cannot_carry(model, sample, 33) == "it has positions for 32 tokens"
    assert cannot_carry(llama(), sample, 1000) is None
    assert cannot_carry(resnet_bk(), sample, 1000) is None
    assert cannot_carry(mamba2(), sample, 1000) is None
    assert cannot_carry(pointer(), sample, 1000) is None
    under = PointerForCausalLM(PointerConfig(language_model=model.config.to_dict(), pointer_heads=2, pointer_key_dim=2))
    assert cannot_carry(under, sample, 33) is None  # read segment by segment, each from its first position
    opt = OPTForCausalLM(
        OPTConfig(
            vocab_size=40, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, word_embed_proj_dim=16,
        )
    )  # fmt: skip
    assert cannot_carry(opt, sample, 33) == "it has positions for 32 tokens"


class Forgetful(LlamaForCausalLM):
    """Returns a cache and passes over the one that it is given."""

    @property
    def base_model(self):
        def forward(cache=None, **inputs):
            return self.model(**inputs)

        return forward


class Cacheless(LlamaForCausalLM):
    """Returns no cache."""

    @property
    def base_model(self):
        def forward(use_cache=None, **inputs):
            return self.model(use_cache=False, **inputs)

        return forward


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Forgetful, "its cache does not continue a text with several tokens at once"),
        (Cacheless, "it returns no cache"),
    ],
)
@pytest.mark.parametrize("length", [2, 3, 20])
def test_a_cache_that_does_not_carry(kind, problem, length):
    torch.manual_seed(0)
    assert cannot_carry(kind(llama().config), torch.arange(length).unsqueeze(0), 1000) == problem


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """With documents to read."""
    for folder in trained_home(tmp_path_factory.mktemp("lengths")):
        book = " ".join((folder / "text.txt").read_text().split())
        (folder / "book" / "validation").mkdir(parents=True)
        for number, text in enumerate((book[:3000], book[3000:3400], book[3400:9000])):
            (folder / "book" / "validation" / f"{number}.txt").write_text(text)
        yield folder


def test_the_command_writes_what_it_prints(home):
    runs = [home / "out" / name / "seed-42" for name in ("resnet-bk", "gpt2")]
    options = ("--data", home / "book", "--tokens", 200, "--documents", 3, "--windows", "16,64")
    done = call("lengths", *runs, *options, "--out", home / "found")
    assert done.exit_code == 0, done.output
    found = json.loads((home / "found" / "lengths.json").read_text())
    assert found["documents"] == 2
    assert found["places"] == [[0, 16], [16, 32], [32, 64], [64, 128], [128, 200]]
    ours, gpt2 = found["models"]
    assert [reading["name"] for reading in ours["readings"]] == ["carried", "window 16", "window 64"]
    carried, narrow, wide = ours["readings"]
    assert len(carried["perplexity"]) == 5
    # The first segment has nothing before it, and a window of 64 sees all of the first 64 tokens.
    assert carried["perplexity"][0] == pytest.approx(narrow["perplexity"][0], rel=1e-4)
    assert carried["perplexity"][:3] == pytest.approx(wide["perplexity"][:3], rel=1e-4)
    for place in range(5):
        mean = sum(losses[place] for losses in carried["document_losses"]) / 2
        assert carried["perplexity"][place] == pytest.approx(math.exp(mean))
    opened = open_run(runs[0], "validation", str(home / "book"))
    texts = long_documents(opened.tokens.tokens, opened.end, 200, 3)
    losses = torch.stack([read(opened.model, text, 16, opened.head, "float32").losses for text in texts])
    means = [losses[:, start:stop].mean().item() for start, stop in found["places"]]
    assert carried["perplexity"] == pytest.approx([math.exp(mean) for mean in means], rel=1e-4)
    problems = [reading["problem"] for reading in gpt2["readings"]]
    assert problems == ["it has positions for 16 tokens", None, "it has positions for 16 tokens"]
    assert gpt2["readings"][0]["perplexity"] is None
    assert (ours["segment"], ours["steps"], ours["carries"]) == (16, 3, "a state")
    assert "positions for 16 tokens" in " ".join(done.stdout.split())
    assert ours["trained_at_commit"] == (environment()["git_commit"] or "unknown")
    again = json.loads(call("lengths", *runs, *options, "--json").stdout)
    assert again["models"][0]["readings"][0]["perplexity"] == carried["perplexity"]
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "up to token 16 32 64 128 200" in lines
    shown = [f"{value:.1f}" for value in carried["perplexity"]]
    assert lines.index(f"carried {' '.join(shown)}") > lines.index("resnet-bk, seed 42")


def test_every_commit_that_trained_is_told(home, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(home / "out" / "gpt2" / "seed-42", run)
    record, result = (json.loads((run / name).read_text()) for name in ("run.json", "result.json"))
    record["environment"]["git_commit"] = "c" * 40  # of a call that found all trained and read the held-out text
    result["calls"] = [
        {"from_step": at, "environment": {"git_commit": letter * 40}} for at, letter in ((0, "a"), (2, "b"))
    ]
    (run / "run.json").write_text(json.dumps(record))
    (run / "result.json").write_text(json.dumps(result))
    found = call("lengths", run, "--data", home / "book", "--tokens", 200, "--windows", "16", "--json")
    assert json.loads(found.stdout)["models"][0]["trained_at_commit"] == f"{'a' * 40}, {'b' * 40}"


def test_windows_of_the_usual_sizes_as_far_as_the_document_goes(home):
    done = call("lengths", home / "out" / "resnet-bk" / "seed-42", "--data", home / "book", "--tokens", 100, "--json")
    (model,) = json.loads(done.stdout)["models"]
    assert [reading["name"] for reading in model["readings"]] == ["carried", "window 16", "window 64"]


def test_the_usual_windows_of_an_odd_segment_are_even(home):
    done = call(
        "train", home / "tiny.yaml", "--set", "sequence_length=15", "--model", "resnet-bk", "--out", home / "odd"
    )
    assert done.exit_code == 0, done.output
    done = call("lengths", home / "odd" / "resnet-bk" / "seed-42", "--data", home / "book", "--tokens", 100, "--json")
    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)["models"]
    assert [reading["name"] for reading in model["readings"]] == ["carried", "window 14", "window 60"]


def test_text_that_was_trained_on_is_refused(home):
    done = call("lengths", home / "out" / "resnet-bk" / "seed-42", "--split", "train", "--tokens", 20)
    assert done.exit_code == 2
    assert "was trained on it; take another split, or other text with --data" in done.stderr


def test_a_model_that_leaks(home, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(home / "out" / "resnet-bk" / "seed-42", run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"audit": "leaks"}))
    done = call("lengths", run, "--data", home / "book")
    assert done.exit_code == 2
    assert f"{run}: the model leaks and has no perplexity; leave it out" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out/resnet-bk/seed-42", "--tokens", "100000"], "--tokens 100000: no document of .* is that long"),
        (["out/resnet-bk/seed-42", "other/resnet-bk/seed-42"], "reads other tokens than"),
        (["out/resnet-bk"], "no run folder"),
        (["out/resnet-bk/seed-42", "--tokens", "100", "--windows", "15"], "--windows 15: must be an even number below"),
        (["out/resnet-bk/seed-42", "--tokens", "100", "--windows", "100"], "below the 100 tokens of a document"),
        (["out/resnet-bk/seed-42", "--split", "nowhere"], "nowhere"),
    ],
)
def test_bad_calls(home, arguments, message):
    done = call("lengths", *(home / part if "/" in part else part for part in arguments), "--data", home / "book")
    assert done.exit_code == 2
    # Before it, perhaps, what counting tokens has printed.
    assert re.search(rf"^error: .*{message}", done.stderr.splitlines()[-1])
