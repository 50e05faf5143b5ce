"""The whole audit: mistakes of every kind are caught in the rows where they show, and sound models pass."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.audit import Check, FullAudit, Leak, audit_causality, full_audit
from resnet_bk.bench.audit.probe import Probe, embeddings_as_leaves
from resnet_bk.layers.registry import MIXERS
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM, ResNetBKSeedConfig, ResNetBKSeedForCausalLM
from tests.bench.leaky_models import WIDTH, WORDS, Attention, ByPosition, Convolution, Function, Leaky, OverTime
from tests.models.configs import VOCAB_SIZE, build

pytestmark = pytest.mark.sweep
LENGTHS = (2, 17)


def outcomes(audit, outcome):
    """(layout, mode, dtype) of the checks with this outcome."""
    return {(check.layout, check.mode, check.dtype) for check in audit.checks if check.outcome == outcome}


def test_a_sound_model_passes_every_check_by_bits():
    audit = full_audit(Leaky(Attention()), WORDS, lengths=LENGTHS)
    assert (audit.verdict, audit.first_leak) == ("causal", None)
    assert len(audit.checks) == 4 * 2 * 3
    assert {(check.outcome, check.decided_by, check.rounding) for check in audit.checks} == {("passes", "bits", 0.0)}
    assert audit.checks[0].lengths == LENGTHS
    assert audit.checks[0].changed_tokens == 1 + 3  # positions 1; 1, 8 and 16
    assert "in 24 checks moved no logit before them" in audit.detail


@pytest.mark.parametrize(
    "mixer",
    [
        lambda: Attention(sees=lambda i, j: j <= i + 1),
        lambda: Attention(sees=lambda i, j: i <= j),
        lambda: Convolution(left=1),
        lambda: Function(lambda hidden, real: hidden.mean(1, keepdim=True)),
        lambda: Function(lambda hidden, real: hidden.flip(1).cumsum(1).flip(1) / hidden.shape[1]),
    ],
    ids=["mask off by one", "mask the wrong way", "symmetric padding", "mean over time", "scan the wrong way"],
)
def test_mistakes_are_caught_at_the_first_position(mixer):
    audit = full_audit(Leaky(mixer()), WORDS, lengths=LENGTHS)
    assert audit.verdict == "leaks"
    leak = audit.first_leak.leak
    assert (leak.changed, leak.moved, leak.length) == (1, 0, 2)
    assert audit.detail.startswith("changing token 1 moves the logits at 0, before it, by ")
    assert audit.detail.endswith("(plain, eval mode, float32, 2 tokens)")
    assert all(check.leak is not None for check in audit.checks if check.layout == "plain")


def test_the_convolution_on_the_left_is_no_mistake():
    audit = full_audit(Leaky(Convolution(left=2)), WORDS, lengths=LENGTHS)
    # It knows nothing of documents although it takes document_ids; in every other layout it passes.
    assert {check.layout for check in audit.checks if check.outcome == "leaks"} == {"packed"}
    assert audit.first_leak.leak.moved > audit.first_leak.leak.changed
    assert "in another document" in audit.detail


def test_a_mistake_behind_the_border_of_a_block():
    mask = Attention(sees=lambda i, j: (j <= i) | ((j == i + 1) & (i >= 63)))
    leak = full_audit(Leaky(mask), WORDS, lengths=(2, 65, 130)).first_leak.leak
    assert (leak.changed, leak.moved, leak.length) == (64, 63, 65)


def test_a_leak_in_training_mode_only():
    audit = full_audit(Leaky(OverTime(WIDTH)), WORDS, lengths=LENGTHS)
    assert {mode for _, mode, _ in outcomes(audit, "leaks")} == {"train"}
    assert ("plain", "eval", "float32") in outcomes(audit, "passes")


def test_a_leak_through_padding_only():
    def mean_of_the_real(hidden, real):
        padded = (~real).any(1)[:, None, None]  # as where a mask takes another path through the model
        return padded * (hidden * real[..., None]).mean(1, keepdim=True)

    audit = full_audit(Leaky(Function(mean_of_the_real)), WORDS, lengths=LENGTHS)
    assert {layout for layout, _, _ in outcomes(audit, "leaks")} == {"left padding", "right padding"}


def test_padding_that_is_read():
    def next_one_if_padding(hidden, real):
        after = torch.cat([hidden[:, 1:], hidden[:, :1]], 1)
        return (
            after
            * (real & ~real.roll(-1, 1))[..., None]
            * (torch.arange(hidden.shape[1]) < hidden.shape[1] - 1)[:, None]
        )

    audit = full_audit(Leaky(Function(next_one_if_padding)), WORDS, lengths=LENGTHS)
    assert {layout for layout, _, _ in outcomes(audit, "leaks")} == {"right padding"}


def test_documents_that_are_not_kept_apart():
    audit = full_audit(Leaky(Attention(keeps_documents=False)), WORDS, lengths=LENGTHS)
    assert {layout for layout, _, _ in outcomes(audit, "leaks")} == {"packed"}
    leak = audit.first_leak.leak
    assert leak.sentence().startswith(
        f"changing token {leak.changed} moves the logits at {leak.moved}, in another document"
    )
    # Position ids promise nothing: what is seen is said, and only the past may not move.
    audit = full_audit(ByPosition(Attention()), WORDS, lengths=LENGTHS)
    assert audit.verdict == "causal"
    notes = {check.note for check in audit.checks if check.layout == "packed"}
    assert notes == {"by position_ids, which does not keep documents apart here"}
    audit = full_audit(ByPosition(Convolution(left=1)), WORDS, lengths=LENGTHS)
    assert ("packed", "eval", "float32") in outcomes(audit, "leaks")


def test_what_a_model_does_not_take_is_not_run():
    class Plain(Leaky):
        def forward(self, input_ids):
            return super().forward(input_ids)

    class NoHalf(nn.Module):
        def forward(self, hidden, real, document):
            if hidden.dtype == torch.bfloat16:
                raise NotImplementedError('"mixer" not implemented for BFloat16')
            return hidden.cumsum(1)

    audit = full_audit(Plain(NoHalf()), WORDS, lengths=LENGTHS)
    assert audit.verdict == "causal"
    assert outcomes(audit, "passes") == {
        ("plain", mode, dtype) for mode in ("eval", "train") for dtype in ("float32", "autocast")
    }
    notes = {check.layout: check.note for check in audit.checks if check.dtype == "float32"}
    assert notes["left padding"] == notes["right padding"] == "takes no attention_mask"
    assert notes["packed"] == "takes none of document_ids, position_ids"
    (note,) = {check.note for check in audit.checks if (check.layout, check.dtype) == ("plain", "bfloat16")}
    assert note == 'refused at 2 tokens: NotImplementedError: "mixer" not implemented for BFloat16'
    assert "20 checks were not run" in audit.detail
    assert all(check.decided_by is None for check in audit.checks if check.outcome == "not run")


@pytest.mark.parametrize(
    ("mixer", "reason"),
    [
        (Function(lambda hidden, real: hidden * float("nan")), "the logits are not finite"),
        (Function(lambda hidden, real: -hidden), "no logit moves, whatever the token"),
        (Function(lambda hidden, real: 1 / 0), "ZeroDivisionError"),
        (Function(lambda hidden, real: hidden), None),
    ],
)
def test_a_model_of_which_nothing_can_be_told(mixer, reason):
    model = Leaky(mixer)
    if reason is None:
        model.head = nn.Flatten(0, 1)
        reason = "must return logits of shape"
    with pytest.raises(ValueError, match="'strange' cannot be audited: .*" + reason):
        full_audit(model, WORDS, name="strange", lengths=LENGTHS)


def test_rounding_is_excused_by_the_gradient_and_shown():
    # As where experts regroup tokens: the last bits of a sum depend on which tokens stand beside it.
    audit = full_audit(Leaky(Function(lambda hidden, real: 1e-6 * hidden.detach().sum((0, 1)))), WORDS, lengths=LENGTHS)
    check = audit.checks[0]
    assert (check.outcome, check.decided_by) == ("passes", "gradient")
    assert 0 < check.rounding < 1e-4


def test_the_gradient_names_the_first_position():
    # Too small for its size to tell: tokens from 5 on see the next one.
    def tiny(hidden, real):
        index = torch.arange(hidden.shape[1])[:, None]
        return 1e-6 * torch.where(index >= 5, torch.cat([hidden[:, 1:], hidden[:, :1]], 1), 0)

    audit = full_audit(Leaky(Function(tiny)), WORDS, lengths=(17,))
    leak = audit.first_leak.leak
    assert (leak.changed, leak.moved, leak.decided_by) == (8, 7, "gradient")


def test_a_table_of_words_that_is_not_a_module():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WORDS, WIDTH))

        def forward(self, tokens):
            return self.weight[tokens]

    # Too small for its size to tell, so that the gradient is asked for.
    model = Leaky(Function(lambda hidden, real: 1e-6 * hidden.flip(1)))
    model.embedding = Table()
    with pytest.raises(ValueError, match=r"no nn\.Embedding looks up its tokens; the gradient test needs one"):
        full_audit(model, WORDS, lengths=(17,))


def test_a_second_table_of_words_is_seen_too():
    model = Leaky(Function(lambda hidden, real: hidden))
    model.second = nn.Embedding(WORDS, WIDTH)
    tokens = torch.arange(6).reshape(2, 3)
    with embeddings_as_leaves(model, tokens) as leaves:
        total = model(tokens).logits.sum() + model.second(tokens).sum() + model.second(tokens[:1]).sum()
        total.backward()
    assert [leaf.shape for leaf in leaves] == [(2, 3, WIDTH)] * 2
    assert all(leaf.grad is not None for leaf in leaves)


def test_the_model_and_the_random_numbers_are_left_alone():
    model = Leaky(Attention())
    before, generator = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    full_audit(model, WORDS, lengths=(5,))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), generator)


def test_groups_of_rows_find_the_same(monkeypatch):
    monkeypatch.setattr("resnet_bk.bench.audit.probe.LOGITS_AT_ONCE", 1)  # a row at a time
    model = Leaky(Attention(sees=lambda i, j: (j <= i) | ((j == i + 1) & (i >= 7))))
    leak = full_audit(model, WORDS, lengths=(17,)).first_leak.leak
    assert (leak.changed, leak.moved) == (8, 7)


def test_calls_with_a_graph_are_small(monkeypatch):
    monkeypatch.setattr("resnet_bk.bench.audit.probe.TOKENS_WITH_GRAPH", 40)
    shapes = {True: set(), False: set()}

    def seen(hidden, real):
        shapes[torch.is_grad_enabled()].add(tuple(hidden.shape[:2]))
        return hidden.cumsum(1)

    assert audit_causality(Leaky(Function(seen)), WORDS, lengths=(17, 65)).verdict == "causal"
    assert shapes[True] == {(2, 17), (1, 17), (1, 65)}
    assert all(rows > 2 for rows, _ in shapes[False])


def test_json():
    audit = full_audit(Leaky(Convolution(left=1)), WORDS, name="toy", lengths=LENGTHS)
    plain = json.loads(json.dumps(audit.as_dict(), allow_nan=False))
    assert (plain["model"], plain["verdict"], plain["first_leak"]) == ("toy", "leaks", 0)
    assert plain["checks"][0]["leak"]["decided_by"] == "size"
    infinite = Check("plain", "eval", "float32", "leaks", "size", (5,), 1, Leak(3, 1, float("inf"), 5, "size"))
    plain = FullAudit("toy", "leaks", (infinite,), 0.0).as_dict()
    assert "by inf" in plain["detail"]
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize(("words", "lengths"), [(1, [4]), (WORDS, [1, 4]), (WORDS, [])])
def test_nothing_to_audit(words, lengths):
    with pytest.raises(ValueError, match=f"vocab_size={words}, lengths="):
        full_audit(Leaky(Attention()), words, lengths=lengths)


SHAPE = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2}
PEERS = {
    "gpt2": {"num_attention_heads": 2},
    "llama": {"num_attention_heads": 2, "intermediate_size": 32},
    "mamba2": {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16},
}


@pytest.mark.parametrize("model_type", PEERS)
def test_peers_are_causal(model_type):
    torch.manual_seed(0)
    special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(model_type, **SHAPE, **special, **PEERS[model_type])
    audit = full_audit(AutoModelForCausalLM.from_config(config), WORDS, lengths=(2, 35))
    assert audit.verdict == "causal", audit.detail
    layouts = {check.layout for check in audit.checks if check.outcome == "passes"}
    assert layouts == {"plain", "left padding", "right padding"} | ({"packed"} if model_type != "mamba2" else set())


@pytest.mark.parametrize(
    "fields",
    [*({"state": state} for state in MIXERS), {"num_experts": 4}],
    ids=[*MIXERS, "moe"],
)
def test_resnet_bk_is_causal_in_every_check(fields):
    torch.manual_seed(0)
    model = ResNetBKForCausalLM(ResNetBKConfig(**SHAPE, num_heads=2, **fields))
    audit = full_audit(model, WORDS, lengths=(2, 67))
    assert audit.verdict == "causal", audit.detail
    assert {check.outcome for check in audit.checks} == {"passes"}


@pytest.mark.parametrize(
    ("name", "mixed_precision"),
    [
        # Each switch alone and all together; without switches or experts models are held to the bits in
        # test_invariants, all others to the rounding.
        *((name, "none") for name in ("adaptive-matrix", "scales-nested-vector", "sparse-modulus")),
        *((name, "none") for name in ("all-vector-moe", "pointer-switched")),
        *((name, "none") for name in ("diagonal-vector", "autograd-modulus")),
        *((name, "bf16") for name in ("matrix-conv-gate-dense-untied", "all-matrix")),
    ],
)
def test_no_switch_leaks(name, mixed_precision):
    audit = full_audit(build(name, mixed_precision=mixed_precision), VOCAB_SIZE, lengths=(2, 37))
    assert audit.verdict == "causal", audit.detail
    assert {check.outcome for check in audit.checks} == {"passes"}


@pytest.mark.parametrize(("green", "verdict"), [("two_sided", "leaks"), ("surface", "causal")])
def test_the_earlier_system_leaks_and_its_causal_form_does_not(green, verdict):
    torch.manual_seed(0)
    model = ResNetBKSeedForCausalLM(ResNetBKSeedConfig(**SHAPE, green=green))
    audit = full_audit(model, WORDS, lengths=(2, 35))
    assert audit.verdict == verdict, audit.detail
    if verdict == "leaks":
        assert (audit.first_leak.leak.changed, audit.first_leak.leak.moved) == (1, 0)
        assert {check.outcome for check in audit.checks if check.dtype == "float32"} == {"leaks"}
    else:
        assert {check.outcome for check in audit.checks} == {"passes"}


def test_a_text_too_short_for_a_layout():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SHAPE, **PEERS["llama"])
    audit = full_audit(AutoModelForCausalLM.from_config(config), WORDS, lengths=(2,))
    skipped = {check.layout for check in audit.checks if check.note == "no length is long enough"}
    assert skipped
    assert "plain" not in skipped


def test_dropout_is_set_aside():
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", **SHAPE, **PEERS["gpt2"], resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    model = AutoModelForCausalLM.from_config(config)
    probe = Probe(model)
    tokens = torch.zeros(1, 5, dtype=torch.int64)
    probe.model.train()
    drawn = probe(tokens, {})
    assert torch.equal(drawn, probe(tokens, {}))
    probe.model.eval()
    assert not torch.equal(drawn, probe(tokens, {}))  # it did draw
    assert full_audit(model, WORDS, lengths=(17,)).verdict == "causal"
