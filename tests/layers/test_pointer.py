"""The pointer against its definition: every pair of tokens, one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from resnet_bk.layers import find_boundaries, pointer, pointer_gates
from resnet_bk.layers.pointer import Pointer
from resnet_bk.layers.pointer_mixture import mixed_logits, mixed_loss
from resnet_bk.layers.pointer_state import PointerState
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM
from resnet_bk.ops import dispatch, record_backends
from resnet_bk.ops.propagate.chunked import CHUNK
from resnet_bk.ops.propagate_tokens import pairs

D, V, HEADS, KINDS = 6, 11, 3, 2
ROUNDING_64 = {"rtol": 1e-10, "atol": 1e-12}


def build(dtype=torch.float64, **further):
    torch.manual_seed(0)
    layer = Pointer(D, V, **{"num_heads": HEADS, "key_dim": KINDS, "absorption_min": 1e-3, **further}).to(dtype)
    with torch.no_grad():  # all parts matter
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return layer


def inputs(batch, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, D, generator=generator, dtype=torch.float64)
    return hidden, torch.randint(V, (batch, length), generator=generator)


def definition(layer, hidden, ids):
    """P(v) given by the pointer's heads [T, V], and what they leave [T], for one row."""
    length = len(ids)
    previous = torch.cat([hidden.new_zeros(1, D), hidden[:-1]])
    kinds = (length, HEADS, layer.key_dim)
    query = (hidden @ layer.query.weight.T).view(kinds).softmax(-1)
    key = (previous @ layer.key.weight.T).view(kinds).softmax(-1)
    write = layer.write_proj(hidden).sigmoid()
    gates = F.linear(hidden, hidden.shape[-1] ** -0.5 * layer.gates.weight, layer.gates.bias).softmax(-1)
    sites = F.linear(hidden, hidden.shape[-1] ** -0.5 * layer.chain.weight, layer.chain.bias)
    a, b, eta = sites.chunk(3, dim=-1)
    b, eta = F.softplus(b), F.softplus(eta) + layer.chain.absorption_min
    smoothing = layer.log_smoothing.exp()
    green = torch.zeros(HEADS, dtype=torch.complex128)
    weights = torch.zeros(length, HEADS, dtype=torch.float64)  # |Gamma_tj| w_j
    copied, rest = torch.zeros(length, V, dtype=torch.float64), torch.zeros(length, dtype=torch.float64)
    for t in range(length):
        green = 1 / (torch.complex(a[t], -eta[t]) - b[t] ** 2 * green)
        weights = weights * (b[t] * green.abs())
        weights[t] = write[t] * green.abs()
        rest[t] = gates[t, 0]
        for h in range(HEADS):
            found = [float(weights[j, h] * (query[t, h] @ key[j, h])) for j in range(t + 1)]
            share = gates[t, 1 + h] / (sum(found) + smoothing[h])
            rest[t] += share * smoothing[h]
            for j in range(t + 1):
                copied[t, ids[j]] += share * found[j]
    return copied, rest


@pytest.mark.parametrize("targets", [False, True])
def test_its_state_sends_no_gradient(targets):
    hidden, ids = inputs(2, 7)
    pointed = build()(hidden.requires_grad_(), ids, **({"targets": ids} if targets else {}))
    assert pointed.copied.requires_grad
    assert not any(part.requires_grad for part in pointed.state)


@pytest.mark.parametrize("absorption_min", [1e-3, 0.5])
def test_its_chains_start_at_numbers(absorption_min):
    assert Pointer(D, V, num_heads=16, key_dim=2, absorption_min=absorption_min).chain.bias.isfinite().all()


@torch.no_grad()
def test_it_is_its_definition():
    layer = build()
    hidden, ids = inputs(2, 23)
    pointed = layer(hidden, ids)
    for row in range(2):
        copied, rest = definition(layer, hidden[row], ids[row])
        assert_close(pointed.copied[row], copied, **ROUNDING_64)
        assert_close(pointed.rest[row], rest, **ROUNDING_64)
    assert_close(pointed.copied.sum(-1) + pointed.rest, torch.ones(2, 23, dtype=torch.float64), **ROUNDING_64)


def test_the_probability_of_targets_is_that_among_all_words():
    layer = build()
    hidden, ids = inputs(2, 30)
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    everything = layer(hidden, ids)
    some = layer(hidden, ids, targets=targets)
    assert_close(some.rest, everything.rest)
    found = everything.copied.gather(2, targets.clamp_min(0).unsqueeze(2)).squeeze(2)
    assert_close(some.copied[:, :-1], found[:, :-1], **ROUNDING_64)
    at = torch.tensor([0, 3, 29])
    assert_close(layer(hidden, ids, at=at).copied, everything.copied[:, at], **ROUNDING_64)

    head = torch.nn.Linear(D, V, dtype=torch.float64)
    mixed = mixed_logits(head(hidden), everything)
    assert_close(mixed.exp().sum(-1), torch.ones(2, 30, dtype=torch.float64))
    for reduction in ("none", "mean", "sum"):
        expected = F.cross_entropy(mixed.flatten(0, 1), targets.flatten(), reduction=reduction)
        loss = mixed_loss(hidden, head, targets, some, reduction=reduction)
        assert_close(loss, expected.view(loss.shape), **ROUNDING_64)


def cut_at(*places, length=61, padding=0):
    """Two rows of documents that begin at `places`; `padding` on the left of the second row."""
    document_ids = torch.zeros(2, length, dtype=torch.int64)
    for place in places:
        document_ids[:, place:] += 1
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, :padding] = 0
    return find_boundaries(mask if padding else None, document_ids if places else None, shape=(2, length))


@pytest.mark.parametrize(
    "boundaries",
    [None, cut_at(3, 4, 8, 17, 40), cut_at(padding=21), cut_at(16, 30, padding=5)],
    ids=["whole", "documents", "padding", "both"],
)
@pytest.mark.parametrize("wanted", ["targets", "words", "some"])
# S is multiplied out in every row many times, in some rows at some pieces, and that where there is no compiled kernel.
@pytest.mark.parametrize(("largest", "compiled"), [(0.5, True), (4.0, True), (4.0, False)])
def test_pieces_give_what_all_pairs_give(wanted, boundaries, largest, compiled, monkeypatch):
    layer = build()
    hidden, ids = inputs(2, 61)
    options = {"targets": ids.roll(-1, 1)} if wanted == "targets" else {}
    if wanted == "some":
        options["at"] = torch.tensor([0, 7, 8, 33, 60])
    real = torch.ones(2, 61, dtype=torch.bool)
    if boundaries is not None and boundaries.real is not None:
        real = boundaries.real.squeeze(2).bool()
    if "at" in options:
        real = real[:, options["at"]]
    whole = layer(hidden, ids, boundaries, **options)
    monkeypatch.setattr(pointer, "PIECE", 8)
    monkeypatch.setattr(pointer, "LARGEST_SCALE", largest)
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", compiled and dispatch._HAS_NUMBA)
    with torch.no_grad():
        pieces = layer(hidden, ids, boundaries, **options)
        unkept = layer(hidden, ids, boundaries, **options, keep_state=False)
    assert_close(pieces.copied[real], whole.copied[real], **ROUNDING_64)
    assert_close(pieces.rest[real], whole.rest[real], **ROUNDING_64)
    assert torch.equal(unkept.copied, pieces.copied)
    assert_states_agree(pieces.state, whole.state)


def assert_states_agree(mine, other):
    assert_close(mine.total, other.total, **ROUNDING_64)
    assert_close(mine.green, other.green, **ROUNDING_64)
    scaled = [part.words.unflatten(2, (HEADS, KINDS)) * part.scale.exp()[:, None, :, None] for part in (mine, other)]
    assert_close(*scaled, **ROUNDING_64)


@torch.no_grad()
def test_states_are_handed_on_and_left_alone_where_nobody_wants_the_next():
    layer = build()
    hidden, ids = inputs(2, 61)
    whole = layer(hidden, ids)
    state, copied = None, []
    for start, stop in ((0, 1), (1, 30), (30, 61)):
        part = slice(start, stop)
        for _ in range(2):  # as often as one likes
            before = layer(hidden[:, part], ids[:, part], None, state, keep_state=False)
        pointed = layer(hidden[:, part], ids[:, part], None, state)
        assert torch.equal(before.copied, pointed.copied)
        state = pointed.state
        copied.append(pointed.copied)
    assert_close(torch.cat(copied, 1), whole.copied, **ROUNDING_64)
    assert_states_agree(state, whole.state)


def test_a_state_made_in_inference_mode_can_be_gone_on_from():
    layer = build()
    hidden, ids = inputs(1, 9)
    with torch.inference_mode():
        state = layer(hidden[:, :5], ids[:, :5]).state
    with torch.no_grad():
        assert_close(layer(hidden[:, 5:], ids[:, 5:], None, state).copied, layer(hidden, ids).copied[:, 5:])


def test_gradients():
    layer = build()
    hidden, ids = inputs(2, 7)
    targets = ids.roll(-1, 1)
    with torch.no_grad():
        state = layer(*inputs(2, 9, seed=2)).state
    hidden.requires_grad_()

    def proposed(hidden, *parameters):
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        options = {"targets": targets, "keep_state": False}
        pointed = torch.func.functional_call(layer, named, (hidden, ids, None, state), options)
        return pointed.rest, pointed.copied

    assert torch.autograd.gradcheck(proposed, (hidden, *layer.parameters()), nondet_tol=0.0)


def test_a_graph_over_all_words_outlives_the_next_call():
    layer = build()
    hidden, ids = inputs(1, 6)
    state = layer(*inputs(1, 9, seed=2)).state
    hidden.requires_grad_()
    first = layer(hidden, ids, None, state)
    with torch.no_grad():
        layer(*inputs(1, 5, seed=3), None, first.state)
    first.copied.sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_cuts_hide_what_was_before_exactly():
    layer = build(torch.float32)
    hidden, ids = inputs(1, 12)
    hidden = hidden.float()
    document_ids = torch.tensor([[0] * 5 + [1] * 7])
    boundaries = find_boundaries(None, document_ids, shape=(1, 12))
    whole = layer(hidden, ids, boundaries).copied[:, 5:]
    other = torch.cat([hidden[:, :5] + 1, hidden[:, 5:]], 1)
    assert torch.equal(layer(other, ids, boundaries).copied[:, 5:], whole)
    assert_close(layer(hidden[:, 5:], ids[:, 5:]).copied, whole)


def test_what_was_never_seen_is_never_proposed():
    layer = build(torch.float32)
    hidden, ids = inputs(1, 9)
    copied = layer(hidden.float(), ids).copied
    unseen = torch.ones(9, V, dtype=torch.bool)
    for t in range(9):
        unseen[t, ids[0, : t + 1]] = False
    assert torch.count_nonzero(copied[0][unseen]) == 0
    assert (copied[0][~unseen] > 0).all()


@pytest.mark.parametrize("token", [-1, V])
def test_a_token_of_another_vocabulary_is_refused(token):
    """Its place in the state would be that of a word of another row."""
    hidden, ids = inputs(2, 3)
    ids[0, 1] = token
    for wanted in (None, torch.zeros_like(ids)):
        with pytest.raises(ValueError, match=f"^tokens must be from 0 to 10, the words of .*, but got {token}; encode"):
            build()(hidden, ids, targets=wanted)


def model(**further):
    torch.manual_seed(0)
    fields = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "pointer_heads": 2}
    return ResNetBKForCausalLM(ResNetBKConfig(**fields, **further)).eval()


def test_embeddings_and_caches_that_do_not_fit_are_refused():
    lm = model()
    ids = torch.randint(V, (2, 5))
    with pytest.raises(ValueError, match=r"input_ids must be given where pointer_heads=2"):
        lm(inputs_embeds=lm.model.embed_tokens(ids))
    cache = lm.model(ids, use_cache=True).cache
    with pytest.raises(ValueError, match=r"cache \(past_key_values\) has seen 5 tokens and its pointer 0"):
        lm(ids, past_key_values=cache)
    cache = lm(ids, use_cache=True).cache
    with pytest.raises(
        ValueError, match=r"a pointer of 11 words, 2 heads, 16 numbers a head .* has 11 words, 2 heads, 3 n"
    ):
        model(pointer_key_dim=3)(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds must be given, but got neither"):
        lm()
    # What is refused leaves the cache as it was.
    with pytest.raises(ValueError, match="labels must be int64 of shape"):
        lm(ids, labels=ids[:, 1:], past_key_values=cache)
    assert cache.get_seq_length() == cache.pointer_tokens == 5


@torch.no_grad()
def test_a_call_for_the_cache_alone():
    lm = model()
    ids = torch.randint(V, (2, 9))
    output = lm(ids[:, :5], use_cache=True, return_logits=False)
    assert output.logits is None
    logits = lm(ids[:, 5:], past_key_values=output.cache).logits
    assert_close(logits, lm(ids).logits[:, 5:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_new_words_are_pointed_at_too():
    lm = model()
    cache = lm(torch.randint(V, (2, 5)), use_cache=True).cache
    lm.resize_token_embeddings(V + 5)
    ids = torch.tensor([[V + 2, 1, V + 2], [4, 4, 4]])
    output = lm(ids, labels=ids, use_cache=True)
    assert output.logits.shape == (2, 3, V + 5)
    assert_close(output.logits.exp().sum(-1), torch.ones(2, 3))
    written = output.cache.pointer.words.abs().sum(-1) > 0
    assert [row.nonzero().flatten().tolist() for row in written] == [[1, V + 2], [4]]
    with pytest.raises(ValueError, match="is of a pointer of 11 words"):
        lm(ids, past_key_values=cache)


def test_a_batch_without_anything_to_predict():
    lm = model().train()
    ids = torch.randint(V, (2, 5))
    lm(ids, labels=torch.full_like(ids, -100), num_items_in_batch=5).loss.backward()
    assert all(not parameter.grad.any() for parameter in lm.parameters() if parameter.grad is not None)


@torch.no_grad()
def test_the_state_keeps_nothing_of_the_tokens_but_itself():
    ids = torch.randint(V, (2, 50))
    state = model()(ids, use_cache=True).cache.pointer
    assert state.hidden.untyped_storage().nbytes() == state.hidden.nbytes


def test_the_start_survives_saving_and_half_precision(tmp_path):
    lm = model()
    assert_close(lm.pointer.gates.bias.detach(), torch.tensor([pointer_gates.VOCABULARY_BIAS, 0.0, 0.0]))
    assert_close(lm.pointer.log_smoothing.detach().exp(), torch.full((2,), pointer.SMOOTHING))
    assert 0.1 < lm.pointer.key.weight.detach().std() < 0.3
    lm.save_pretrained(tmp_path)
    half = ResNetBKForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.pointer.parameters()} == {torch.float32}
    ids = torch.randint(V, (2, 5))
    output = half(ids, use_cache=True)
    assert output.logits.dtype == torch.bfloat16
    assert output.cache.pointer.words.dtype == torch.float32


def test_loss_and_logits_in_one_call_leave_the_state_of_one():
    lm = model()
    ids = torch.randint(V, (2, 9))
    with torch.no_grad():
        both = lm(ids, labels=ids, use_cache=True)
        again = lm(ids, labels=ids, past_key_values=both.cache)
        expected = lm(torch.cat([ids, ids], 1), use_cache=True)
        assert_close(again.logits, expected.logits[:, 9:], rtol=1e-4, atol=1e-4)
        assert_close(again.cache.pointer.total, expected.cache.pointer.total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("boundaries", [None, cut_at(16, 30, padding=5)], ids=["whole", "both"])
@pytest.mark.parametrize("plain", ["pairs", "chunked"])
def test_training_without_compiled_kernels(boundaries, plain, monkeypatch):
    monkeypatch.setattr(pairs, "FEW_SITES", 512 if plain == "pairs" else 8)
    layer = build()
    hidden, ids = inputs(2, 61)
    results = []
    for compiled in (True, False):
        monkeypatch.setattr(dispatch, "_HAS_NUMBA", compiled)
        leaf = hidden.clone().requires_grad_()
        with record_backends() as seen:
            pointed = layer(leaf, ids, boundaries, targets=ids.roll(-1, 1))
        assert seen["propagate_tokens"] == {"numba" if compiled else plain}
        leaves = (leaf, *layer.parameters())
        results.append((pointed.copied, *torch.autograd.grad((pointed.copied / pointed.rest).sum(), leaves)))
    for mine, other in zip(*results, strict=True):
        assert_close(mine, other, **ROUNDING_64)


@torch.no_grad()
def test_a_row_that_is_cut_leaves_the_others_as_they_are():
    layer, (hidden, ids) = build(), inputs(2, 24)
    first = layer(hidden[:, :12], ids[:, :12]).state
    alone = layer(hidden[:1, 12:], ids[:1, 12:], None, PointerState(*(part[:1].clone() for part in first))).state
    document_ids = torch.tensor([[0] * 12, [0] * 5 + [1] * 7])
    boundaries = find_boundaries(
        None, document_ids, shape=(2, 12), past_length=12, last_document=torch.zeros(2, dtype=torch.int64)
    )
    both = layer(hidden[:, 12:], ids[:, 12:], boundaries, first).state
    assert bool(both.scale[0].all())
    assert not bool(both.scale[1].any())
    for mine, other in zip(both, alone, strict=True):
        assert_close(mine[:1], other, **ROUNDING_64)


@pytest.mark.parametrize("compiled", [True, False])
def test_training_keeps_no_pairs_of_tokens(compiled, monkeypatch):
    """Here nor in the graph: memory is linear in the segment."""
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", compiled)
    layer, length, kept = build(torch.float32), 600, []
    hidden, ids = inputs(2, length)
    boundaries = cut_at(250, 500, length=length)
    with (
        record_backends() as seen,
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x),
    ):
        layer(hidden.float().requires_grad_(), ids, boundaries, targets=ids)
    assert seen["propagate_tokens"] == {"numba" if compiled else "chunked"}
    # Of a token and head what a word has, or two events' pairs with those of a chunk.
    most = V if compiled else 2 * (CHUNK + 2)
    assert max(x.numel() for x in kept) <= 2 * length * HEADS * most
