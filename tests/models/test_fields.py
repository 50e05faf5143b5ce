"""Every field of the configuration reaches the model: a table of another value for each, and of what then differs.

`weights`: the parameters at the start, in name, shape or value. The others are looked at with equal parameters:
`logits` and `loss` in evaluation, `backends` that ran, `cache` returned where nothing is said.
"""

from typing import Any

import pytest
import torch
from torch import nn

from resnet_bk.models import PointerConfig, PointerForCausalLM, ResNetBKConfig, ResNetBKForCausalLM
from resnet_bk.ops import record_backends
from tests.mixers import CHAINS, reading
from tests.models.configs import ADAPTIVE, VOCAB_SIZE, tokens

SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2, "initializer_range": 0.2}
POINTER = {"pointer_heads": 2, "pointer_key_dim": 3}
EXPERTS = {"num_experts": 4, "intermediate_size": 24}
# field -> (another value, what else is said of both models, what differs)
FIELDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "vocab_size": (VOCAB_SIZE + 6, {}, "weights"),
    "hidden_size": (24, {}, "weights"),
    "num_hidden_layers": (3, {}, "weights"),
    "num_heads": (4, {}, "weights"),
    "state": ("delta", {}, "logits"),
    "key_dim": (6, {}, "weights"),
    "value_dim": (6, {}, "weights"),
    "state_channels": (24, {"state": "vector"}, "weights"),
    "intermediate_size": (40, {}, "weights"),
    "conv_size": (3, {}, "weights"),
    "output_gate": ("silu", {}, "logits"),
    "query_key_bias": (2.0, {}, "weights"),
    "induction_heads": (1, {}, "weights"),
    "num_experts": (4, {"intermediate_size": 24}, "weights"),
    "num_experts_per_tok": (1, EXPERTS, "logits"),
    "router_aux_loss_coef": (0.5, EXPERTS, "loss"),
    "potential_init": ((0.1, 0.2), {}, "weights"),
    "absorption_min": (0.02, {}, "logits"),
    "absorption_init": ((0.3, 0.4), {}, "weights"),
    "hopping_init": (0.5, {}, "weights"),
    "site_gain": (5.0, {}, "logits"),
    "value_residual": (True, {}, "weights"),
    "pointer_heads": (2, {}, "weights"),
    "pointer_key_dim": (5, POINTER, "weights"),
    "sandwich_norm": (True, {}, "weights"),
    "embedding_multiplier": (3.0, {}, "logits"),
    "rms_norm_eps": (0.5, {}, "logits"),
    "initializer_range": (0.1, {}, "weights"),
    "tie_word_embeddings": (True, {}, "weights"),
    "backend": ("reference", {}, "backends"),
    "gradient": ("autograd", {}, "backends"),
    "mixed_precision": ("bf16", {}, "logits"),
    "adaptive_computation": (True, {}, "weights"),
    "halting_threshold": (0.3, ADAPTIVE, "logits"),
    "ponder_cost": (0.5, ADAPTIVE, "loss"),
    "early_exit_threshold": (0.2, ADAPTIVE, "logits"),
    "multi_scale": ([1, 2], {}, "weights"),
    "sparse_bk": (0.5, {}, "weights"),
    "sparsity_loss_coef": (9.0, {"sparse_bk": 0.5}, "loss"),
    "sparsity_schedule": (1.0, {"sparse_bk": 0.5}, "loss"),
    "use_cache": (False, {}, "cache"),
}
# Read by `generate` of transformers alone.
OF_GENERATION = {"pad_token_id", "bos_token_id", "eos_token_id"}


def built(fields: dict[str, Any]) -> ResNetBKForCausalLM:
    torch.manual_seed(0)
    return ResNetBKForCausalLM(ResNetBKConfig(**SHAPE | fields)).eval()


def seen(model: ResNetBKForCausalLM) -> dict[str, Any]:
    ids = tokens(2, 30)
    model.set_progress(0.4)  # of the training, for schedules
    with record_backends() as backends:
        output = model(ids, labels=ids)
    cache = model(ids).cache is not None  # nobody reads on behind labels
    return {"logits": output.logits, "loss": output.loss, "backends": backends, "cache": cache}


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_the_table_has_every_field():
    own = set(ResNetBKConfig.__annotations__) - {"model_type", "keys_to_ignore_at_inference"}
    assert own == set(FIELDS) | OF_GENERATION


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_reaches_the_model(field):
    value, further, differs = FIELDS[field]
    one, other = built(further), built(further | {field: value})
    if differs == "weights":
        mine, others = one.state_dict(), other.state_dict()
        assert mine.keys() != others.keys() or not all(
            mine[name].shape == others[name].shape and torch.equal(mine[name], others[name]) for name in mine
        )
        return
    other.load_state_dict(one.state_dict())
    found, expected = seen(other), seen(one)
    assert not same(found[differs], expected[differs])
    if differs == "loss":
        assert torch.equal(found["logits"], expected["logits"])


OF_CHAINS = {"absorption_min": 0.01, "site_gain": 5.0, "backend": "reference"}
STARTS_OF_CHAINS = {"hopping_init": 0.5, "potential_init": [0.1, 0.2], "absorption_init": [0.3, 0.4]}


@pytest.mark.parametrize(
    ("state", "field", "value"),
    [(state, field, value) for field, value in OF_CHAINS.items() for state in reading(CHAINS, field)],
)
def test_a_field_of_chains_reaches_every_state(state, field, value):
    one, other = built({"state": state}), built({"state": state, field: value})
    other.load_state_dict(one.state_dict())
    differs = "backends" if field == "backend" else "logits"
    assert not same(seen(other)[differs], seen(one)[differs])


@pytest.mark.parametrize(
    ("state", "field", "value"),
    [(state, field, value) for field, value in STARTS_OF_CHAINS.items() for state in reading(CHAINS, field)],
)
def test_a_start_of_chains_reaches_every_state(state, field, value):
    one, other = (built({"state": state} | changed).state_dict() for changed in ({}, {field: value}))
    assert any("chain" in name and not torch.equal(weight, other[name]) for name, weight in one.items())


def test_norms_and_experts_of_every_block():
    model = built(EXPERTS | {"num_experts_per_tok": 3, "rms_norm_eps": 0.5})
    assert [block.feed_forward.num_experts_per_tok for block in model.model.layers] == [3, 3]
    norms = [module for module in model.modules() if type(module) is nn.RMSNorm]
    assert [norm.eps for norm in norms] == [0.5] * 5  # two a block, and the last one


@pytest.mark.parametrize("within", [True, False])
def test_the_floor_of_the_absorption_of_a_pointer(within):
    if within:
        pointer = built(POINTER | {"absorption_min": 0.02}).pointer
    else:
        config = PointerConfig(language_model=ResNetBKConfig(**SHAPE), **POINTER, absorption_min=0.02)
        pointer = PointerForCausalLM(config).pointer
    hidden = torch.full((1, 3, 16), -1e4)
    with torch.no_grad():
        pointer.chain.weight.fill_(1.0)
    assert pointer.chain(hidden, None).absorption.unique().tolist() == pytest.approx([0.02])
