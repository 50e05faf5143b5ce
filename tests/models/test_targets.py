"""Losses of targets that are not shifted, in one call and through what wraps a model; models of half precision."""

import copy

import accelerate
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from tests.models.configs import build, tokens

PLAIN = "matrix-conv-gate-dense-untied"


@pytest.mark.parametrize("name", [PLAIN, "pointer-modulus", "adaptive-matrix"])
def test_targets_are_labels_that_are_not_shifted(name):
    model = build(name, dtype=torch.float64)
    rows, packed = tokens(2, 13), torch.tensor([[0] * 5 + [1] * 8, [0] * 9 + [1] * 4])
    whole = model(rows, labels=rows, document_ids=packed)
    targets = rows[:, 1:].masked_fill(packed[:, 1:] != packed[:, :-1], -100)
    found = model(rows[:, :-1], targets=targets, document_ids=packed[:, :-1])
    assert found.logits is None
    if found.aux_loss is None:
        assert_close(found.loss, whole.loss, rtol=1e-10, atol=0)
    # From segment to segment no target is lost.
    cache, parts = None, []
    for part in (slice(0, 5), slice(5, 12)):
        output = model(rows[:, part], targets=rows[:, 1:][:, part], reduction="none", cache=cache, use_cache=True)
        cache = output.cache
        parts.append(output.loss)
    reached = model.target_losses(rows[:, :-1], rows[:, 1:], reduction="none")
    assert reached.cache is None
    assert_close(torch.cat(parts, dim=1), reached.loss, rtol=1e-9, atol=1e-12)
    logits = model(rows[:, :-1], targets=rows[:, 1:], reduction="sum", return_logits=True)
    assert_close(logits.loss, reached.loss.sum(), rtol=1e-10, atol=0)
    expected = F.cross_entropy(logits.logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
    assert_close(logits.loss, expected, rtol=1e-10, atol=0)


def test_losses_of_targets_go_through_what_wraps_the_model(tmp_path):
    """Accelerate patches `forward` and `DistributedDataParallel` stands around it."""
    model = build(PLAIN).train()
    rows = tokens(2, 9)
    ids, targets = rows[:, :-1], rows[:, 1:]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids, targets=targets).loss
    exact = model(ids, targets=targets).loss
    assert rounded != exact
    exact.backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        wrapped.zero_grad()
        cache = wrapped(ids, targets=targets, use_cache=True).cache.detach()
        output = wrapped(ids, targets=targets, use_cache=True)
        output.loss.backward()
        for found, expected in zip(wrapped.parameters(), model.parameters(), strict=True):
            assert_close(found.grad, expected.grad)
        assert wrapped(ids, targets=targets, cache=cache, use_cache=True).cache.get_seq_length() == 16
    finally:
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
        assert_close(prepared.target_losses(ids, targets).loss, rounded, rtol=0, atol=0)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def loaded(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "half",
    [
        loaded,
        lambda model, folder: copy.deepcopy(model).bfloat16(),
        lambda model, folder: copy.deepcopy(model).half(),
        lambda model, folder: copy.deepcopy(model).to("cpu", torch.bfloat16),
        lambda model, folder: AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16),
    ],
    ids=["loaded", "bfloat16()", "half()", "to", "from_config"],
)
def test_a_model_of_half_precision_keeps_its_chains_and_choices_in_float32(half, tmp_path):
    model = build("pointer-switched")
    made = half(model, tmp_path)
    parts = (".chain.", "pointer.", ".site_gate.", ".halting.")
    for (key, parameter), original in zip(made.named_parameters(), model.parameters(), strict=True):
        kept = any(part in key for part in parts)
        assert (parameter.dtype == torch.float32) is kept, key
        if kept and key.endswith("chain.bias"):  # a start is no random number
            assert torch.equal(parameter, original)  # never rounded
    ids = tokens(2, 9)
    output = made.train()(ids, labels=ids, return_logits=True)
    output.loss.backward()
    expected = copy.deepcopy(made).float()(ids, labels=ids).loss
    assert_close(output.loss.float(), expected, rtol=0.02, atol=0)  # bfloat16 has 8 bits, 0.4%, a rounding
    for key, parameter in made.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), key
    assert {parameter.dtype for parameter in made.double().parameters()} == {torch.float64}
