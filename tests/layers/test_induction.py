"""Heads that start as induction heads: what they read before any training, and how far their chains reach."""

import math

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.bench.time_scales import time_scales
from resnet_bk.layers import induction, modulus_propagator
from resnet_bk.layers.registry import get_mixer
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM
from resnet_bk.ops import surface_green

WORDS = 40


def fresh(**fields):
    torch.manual_seed(0)
    shape = {"vocab_size": 200, "hidden_size": 128, "num_hidden_layers": 1, "num_heads": 4, "induction_heads": 2}
    return ResNetBKForCausalLM(ResNetBKConfig(**{**shape, **fields})).eval()


def twice(seed=1):
    """WORDS words of the vocabulary, each but once, and then the same again: int64 [1, 2 * WORDS]."""
    words = torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:WORDS]
    return torch.cat([words, words])[None]


@pytest.fixture
def operands(monkeypatch):
    """Queries, keys and values of the last call of the operator, and what it read."""
    seen = {}
    operator = modulus_propagator.propagate_modulus

    def spy(query, key, value, *chain, **options):
        y, state = operator(query, key, value, *chain, **options)
        seen.update(query=query, key=key, value=value, y=y)
        return y, state

    monkeypatch.setattr(modulus_propagator, "propagate_modulus", spy)
    return seen


@pytest.mark.parametrize("state", ["modulus", "delta"])
@torch.no_grad()
def test_they_read_what_followed_before_any_training(state, operands):
    fresh(state=state, hidden_size=512)(twice())
    places = torch.arange(WORDS, 2 * WORDS - 1)
    query, key = (operands[name][0, :, 2:] for name in ("query", "key"))
    # The key behind a word is the query of that word.
    assert_close((query[places] * key[places - WORDS + 1]).sum(-1), torch.ones(len(places), 2), rtol=1e-3, atol=1e-3)

    def found(head):
        """Share of the places whose read is most like the value of the word that followed."""
        values = torch.nn.functional.normalize(operands["value"][0, :WORDS, head], dim=-1)
        likeness = operands["y"][0, places, head] @ values.T
        return (likeness.argmax(-1) == places - WORDS + 1).float().mean()

    assert min(found(2), found(3)) > 0.7
    assert max(found(0), found(1)) < 0.3


@pytest.mark.parametrize("heads", [0, 1, 4])
def test_how_many_they_are(heads):
    mixer = fresh(induction_heads=heads).model.layers[0].mixer
    queries, keys = mixer.in_proj.weight[: 2 * 128].view(2, 4, 32, 128)
    assert [torch.equal(q, k) for q, k in zip(queries, keys, strict=True)] == [n >= 4 - heads for n in range(4)]
    taps = mixer.conv.weight[: 3 * 128].view(3, 4, 32, 4)
    for n, lag in enumerate((0, 1, 0)):  # queries, keys, values
        single = torch.zeros(4)
        single[-1 - lag] = induction.TAP
        alone = [bool((taps[n, head] == single).all()) for head in range(4)]
        assert alone == [head >= 4 - heads for head in range(4)]
    bias = mixer.query_key.bias.view(2, 4, 32)
    assert [bool((bias[:, n] == 0).all()) for n in range(4)] == [n >= 4 - heads for n in range(4)]


def test_they_are_half_of_the_heads_where_keys_are_large_and_there_is_a_convolution():
    shape = {"hidden_size": 256, "num_heads": 4}
    for state in ("modulus", "delta"):
        assert ResNetBKConfig(**shape, state=state).induction_heads == 2
    assert ResNetBKConfig(hidden_size=252, num_heads=4).induction_heads == 0
    assert ResNetBKConfig(hidden_size=252, num_heads=4, key_dim=64).induction_heads == 2
    assert ResNetBKConfig(hidden_size=64, num_heads=1).induction_heads == 0
    assert ResNetBKConfig(**shape, conv_size=0).induction_heads == 0
    for state in ("matrix", "vector"):
        assert ResNetBKConfig(**shape, state=state).induction_heads == 0
    with pytest.raises(ValueError, match=r"induction_heads=1 has no effect with state='vector', .*, or set it to 0\)"):
        ResNetBKConfig(num_heads=4, state="vector", induction_heads=1)
    with pytest.raises(ValueError, match=r"induction_heads=1 takes a short convolution, not conv_size=0 \(set that to"):
        ResNetBKConfig(conv_size=0, induction_heads=1)
    with pytest.raises(ValueError, match=r"induction_heads=3 must be at most num_heads=2 \(lower it"):
        ResNetBKConfig(num_heads=2, induction_heads=3)
    for state in ("matrix", "modulus"):  # as a layer by itself
        config = ResNetBKConfig(num_heads=2, state=state, conv_size=0)
        config.induction_heads = 1
        with pytest.raises(
            ValueError, match=r"^induction_heads=1 takes a short convolution, not conv_size=0; set that"
        ):
            get_mixer(state).from_config(config)


def test_what_was_learned_is_loaded(tmp_path):
    model = fresh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    model.save_pretrained(tmp_path)
    loaded = ResNetBKForCausalLM.from_pretrained(tmp_path)
    for (name, found), known in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(found, known), name


def test_their_chains_remember_hundreds_of_tokens():
    words = torch.randint(200, (1, 1024), generator=torch.Generator().manual_seed(2))
    (chains,) = time_scales(fresh(hidden_size=256), words)
    assert min(chains["memory"][2:]) > 90
    assert max(chains["memory"][:2]) < 30


def test_a_large_floor_of_the_absorption_is_kept():
    chain = fresh(absorption_min=0.1, absorption_init=(0.2, 1.0)).model.layers[0].mixer.chain
    eta = torch.nn.functional.softplus(chain.bias[8:]) + chain.absorption_min
    assert_close(eta[2:], torch.full((2,), 0.2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("theta", [math.pi / 2.5, math.pi / 3.3])
def test_random_energies_localise(theta):
    """The decay that `ChainProjection` gives for a chain of random energies."""
    spread, sites, chains = 0.3, 4000, 64
    generator = torch.Generator().manual_seed(3)
    potential = 2 * math.cos(theta) + spread * torch.randn(1, sites, chains, dtype=torch.float64, generator=generator)
    one = torch.ones_like(potential)
    green, _ = surface_green(potential, one, 1e-9 * one)
    decay = -green.abs().log().mean().item()
    assert decay == pytest.approx(spread**2 / (8 * math.sin(theta) ** 2), rel=0.1)
