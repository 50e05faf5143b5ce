"""The arguments of a call are looked at once."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from resnet_bk.models import call as module
from resnet_bk.models import modeling_resnet_bk
from tests.models.configs import build, tokens

STEPS = ("check_tokens", "check_cache", "packed_documents", "find_boundaries")


@pytest.fixture
def looked(monkeypatch):
    """How often each step of `read_call` ran."""
    found = Counter()
    for name in STEPS:
        step = getattr(module, name)

        def counted(*arguments, name=name, step=step, **options):
            found[name] += 1
            return step(*arguments, **options)

        monkeypatch.setattr(module, name, counted)
    return found


@pytest.mark.parametrize("name", ["modulus-as-it-is", "pointer-modulus"])
@torch.no_grad()
def test_a_causal_lm_looks_once(name, looked):
    model, ids = build(name), tokens(2, 9)
    mask, documents = torch.ones_like(ids), torch.tensor([[0] * 4 + [1] * 5] * 2)
    mask[0, :3] = 0
    first = model(ids, attention_mask=mask, document_ids=documents, use_cache=True)
    assert looked == dict.fromkeys(STEPS, 1)
    model(ids[:, :1], cache=first.cache, document_ids=documents[:, -1:], use_cache=True)
    assert looked == dict.fromkeys(STEPS, 2)


@torch.no_grad()
def test_a_base_model_alone_looks_for_itself(looked):
    build("modulus-as-it-is").base_model(tokens(2, 9))
    assert looked == dict.fromkeys(STEPS, 1)


@torch.no_grad()
def test_arguments_that_were_moved_since_are_looked_at_again(looked, monkeypatch):
    """As by the hooks of a device_map. What was found on the other device is not used."""
    model, ids, mask = build("modulus-as-it-is"), tokens(2, 9), torch.ones(2, 9)
    mask[0, :3] = 0
    expected = model(ids, attention_mask=mask).logits

    def elsewhere(*arguments, **options):
        return replace(module.read_call(*arguments, **options), device=torch.device("meta"), boundaries=None)

    looked.clear()
    with monkeypatch.context() as patched:
        calls = iter([elsewhere, module.read_call])
        patched.setattr(modeling_resnet_bk, "read_call", lambda *given, **options: next(calls)(*given, **options))
        found = model(ids, attention_mask=mask).logits
    assert torch.equal(found, expected)
    assert looked == dict.fromkeys(STEPS, 2)
