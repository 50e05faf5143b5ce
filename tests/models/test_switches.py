"""What each switch of the configuration promises beside the invariants: less work, and learning to do less."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from resnet_bk.bench.flops.count import depends_on_text, step_flops
from resnet_bk.layers import HaltingUnit, Readout, SiteGate, SwiGLU
from resnet_bk.ops import record_backends
from tests.mixers import CHAINS, reading
from tests.models.configs import BITWISE, GRID, VOCAB_SIZE, build, tokens


def rows_seen(model, ids, kinds):
    """Tokens that pass each module of these kinds, by name."""
    seen = Counter()

    def count(name):
        return lambda module, arguments, output: seen.update({name: output.numel() // output.shape[-1]})

    handles = [
        module.register_forward_hook(count(name)) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    return seen


def set_bias(model, kind, value):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, kind):
                module.bias.fill_(value)


def train(model, steps, rate=1e-2, schedule=None):
    """Adam on random words; the measures of every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    measured = []
    for step in range(steps):
        if schedule is not None:
            model.set_progress(schedule(step))
        ids = tokens(4, 32, seed=step)
        output = model.train()(ids, labels=ids)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        measured.append(output.measures)
    return measured


def test_halted_tokens_pass_no_network_and_read_nothing():
    model, ids = build("adaptive-matrix"), tokens(3, 50)
    output = model.base_model(ids)
    seen = rows_seen(model, ids, (SwiGLU, Readout))
    networks = [seen[f"model.layers.{block}.feed_forward"] for block in range(4)]
    assert networks[0] == 150
    assert networks == sorted(networks, reverse=True)
    assert networks[3] < 100
    assert networks == [seen[f"model.layers.{block}.mixer.readout"] for block in range(4)]
    assert_close(output.measures["depth"], torch.tensor(sum(networks) / 150))


def test_nobody_goes_on_when_all_have_halted():
    model, ids = build("adaptive-vector-moe"), tokens(2, 9)
    set_bias(model, HaltingUnit, 40.0)
    output = model.base_model(ids)
    assert output.measures["depth"] == 1
    assert output.measures["ponder"] == 2
    # The output is the state after the first block, and the others still carry their chains.
    first = model.model.layers[0](model.model.embed_tokens(ids)).hidden
    assert_close(output.last_hidden_state, model.model.norm(first))
    assert all(torch.count_nonzero(state.chain[1]) for state in output.cache.states())


def test_depth_falls_under_a_rising_ponder_cost():
    depths = []
    for cost in (0.0, 0.2, 1.0):
        model = build("adaptive-matrix", ponder_cost=cost, halting_threshold=0.95)
        set_bias(model, HaltingUnit, -2.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for step in range(30):
            ids = tokens(4, 32, seed=step)
            output = model.train()(ids, labels=ids)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        depths.append(float(output.measures["depth"]))
    assert depths[0] > 3.5
    assert depths[2] < depths[1] - 0.5 < depths[0] - 1.0


def test_removed_sites_pass_no_projection():
    model, ids = build("sparse-matrix"), tokens(3, 50)
    kept = [round(float(share) * 150) for share in shares(model, ids)]
    seen = rows_seen(model, ids, (Readout,))
    assert [seen[f"model.layers.{block}.mixer.readout"] for block in range(2)] == kept
    assert all(30 < count < 120 for count in kept)
    everywhere = rows_seen(model, ids, (SwiGLU,))
    assert set(everywhere.values()) == {150}


def choices(model, ids):
    """What every gate chose, in order."""
    found = []
    handles = [
        module.register_forward_hook(lambda module, arguments, choice: found.append(choice))
        for module in model.modules()
        if isinstance(module, SiteGate)
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    return found


def shares(model, ids):
    return [choice.share.detach() for choice in choices(model, ids)]


def test_a_chain_without_any_site():
    model, ids = build("sparse-matrix", dtype=torch.float64), tokens(2, 9)
    set_bias(model, SiteGate, -50.0)
    output = model(ids, use_cache=True)
    assert output.measures["kept"] == 0
    for state in output.past_key_values.states():
        assert all(torch.count_nonzero(part) == 0 for part in (state.convolution, *state.chain))
    # Every token stands alone.
    assert_close(output.logits, torch.cat([model(token).logits for token in ids.split(1, dim=1)], dim=1))


@pytest.mark.parametrize("name", ["adaptive-matrix", "sparse-modulus", "all-matrix"])
def test_rows_filled_up_change_nothing(name):
    """In rows of several documents, of padding, in a single row and in a text cut in two."""
    plain, mixed = (build(name, dtype=torch.float64, mixed_precision=precision) for precision in ("none", "bf16"))
    ids = tokens(3, 128)
    documents = torch.tensor([[0] * 70 + [1] * 58, [0] * 3 + [1] * 64 + [2] * 61, [0] * 128])
    mask = torch.ones_like(ids)
    mask[1, :50] = 0
    for row, options in ((ids, {"document_ids": documents}), (ids, {"attention_mask": mask}), (ids[:1], {})):
        expected, found = (model(row, **options, use_cache=True) for model in (plain, mixed))
        seen = options.get("attention_mask", torch.ones_like(row)) != 0
        assert_close(found.logits[seen], expected.logits[seen])
        for state, other in zip(found.cache.states(), expected.cache.states(), strict=True):
            assert_close(state.chain, other.chain)
            assert_close(state.convolution, other.convolution)
    cache, pieces = None, []
    for piece in ids.split([66, 62], dim=1):
        output = mixed(piece, past_key_values=cache, use_cache=True)
        cache = output.cache
        pieces.append(output.logits)
    assert_close(torch.cat(pieces, dim=1), plain(ids).logits)


@pytest.mark.parametrize("name", ["adaptive-matrix", "sparse-modulus", "sparse-vector-moe", "all-delta"])
def test_bfloat16_meets_few_numbers_of_rows(name):
    # In float64 autocast rounds nothing, so that the rows filled up must change nothing.
    ids = tokens(4, 64)
    plain, mixed = (build(name, dtype=torch.float64, mixed_precision=precision) for precision in ("none", "bf16"))
    expected, found = (model(ids, labels=ids, use_cache=True) for model in (plain, mixed))
    for output in (expected, found):
        output.loss.backward()
    assert_close(found.logits, expected.logits)
    assert_close(found.loss, expected.loss)
    for parameter, other in zip(mixed.parameters(), plain.parameters(), strict=True):
        assert_close(parameter.grad, other.grad)
    for state, other in zip(found.cache.states(), expected.cache.states(), strict=True):
        assert_close(state.chain, other.chain)
    kinds = (SwiGLU, nn.Linear)
    exact, rounded = (
        set().union(*(rows_seen(model, tokens(4, 64, seed=seed), kinds).values() for seed in range(3)))
        for model in (plain, mixed)
    )
    assert len(rounded) < len(exact)
    if mixed.config.multi_scale is None:  # there the numbers are of fewer tokens
        assert any(rows % 8 for rows in exact)
        assert all(rows % 8 == 0 for rows in rounded)


@pytest.mark.parametrize("target", [0.3, 0.7])
def test_the_share_follows_its_target(target):
    model = build("sparse-vector-moe", sparse_bk=target, sparsity_loss_coef=10.0, sparsity_schedule=0.5)
    set_bias(model, SiteGate, 2.0)
    measured = train(model, 60, schedule=lambda step: step / 60)
    kept = [float(measures["kept"]) for measures in measured]
    assert kept[0] > 0.9
    assert abs(sum(kept[-10:]) / 10 - target) < 0.1
    # On the way down: half-way through the schedule it is between the two.
    assert target + 0.05 < sum(kept[12:18]) / 6 < 0.98


def test_shorter_scales_run_on_fewer_tokens():
    model = build("scales-nested-vector")
    seen = rows_seen(model, tokens(2, 64), (SwiGLU,))
    assert [seen[f"model.layers.{block}.feed_forward"] for block in range(5)] == [128, 64, 32, 64, 128]


def test_mixed_precision_of_the_configuration_is_autocast():
    ids = tokens(2, 40)
    plain, mixed = (
        build("matrix-conv-gate-dense-untied"),
        build("matrix-conv-gate-dense-untied", mixed_precision="bf16"),
    )
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(ids, labels=ids)
    found = mixed(ids, labels=ids, use_cache=True)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)
    assert not torch.equal(plain(ids).logits, found.logits)
    found.loss.backward()
    assert {parameter.grad.dtype for parameter in mixed.parameters()} == {torch.float32}
    assert {part.dtype for state in found.cache.states() for part in state.chain} == {torch.complex64}
    assert mixed.base_model(ids).last_hidden_state.dtype == torch.float32


@pytest.mark.parametrize("state", reading(CHAINS))
@pytest.mark.parametrize(("gradient", "ran"), [("exact", "numba"), ("diagonal", "diagonal"), ("autograd", "reference")])
def test_gradient_of_the_configuration(state, gradient, ran):
    name = next(name for name in BITWISE if GRID[name]["state"] == state and "gradient" not in GRID[name])
    ids, model = tokens(2, 12), build(name, gradient=gradient)
    with record_backends() as seen:
        logits = model(ids).logits
    assert set().union(*(backends for operator, backends in seen.items() if operator.startswith("propagate"))) == {ran}
    assert_close(logits, build(name)(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adaptive-matrix", "sparse-matrix", "scales-matrix", "all-matrix"])
def test_flops_count_what_ran(name):
    ids = tokens(2, 48)
    model = build(name)
    work = step_flops(model, 2, 48, ids).forward_flops
    assert depends_on_text(model.config) == (name != "scales-matrix")
    # The same model with nothing skipped.
    set_bias(model, SiteGate, 50.0)
    set_bias(model, HaltingUnit, -50.0)
    full = step_flops(model, 2, 48, ids).forward_flops
    assert full > work if depends_on_text(model.config) else full == work
    plain = build("matrix-conv-gate-dense-untied", num_hidden_layers=model.config.num_hidden_layers)
    if model.config.multi_scale is not None and name == "scales-matrix":
        assert work < step_flops(plain, 2, 48, ids).forward_flops


def linear_flops(model, ids):
    """Of all linear maps of one forward pass, by the rows that they saw."""
    sizes = {name: module.weight.numel() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return sum(2 * rows * sizes[name] for name, rows in rows_seen(model, ids, nn.Linear).items())


@pytest.mark.parametrize("name", ["adaptive-matrix", "sparse-matrix"])
def test_flops_count_every_row_that_is_skipped(name):
    ids = tokens(2, 48)
    model = build(name)
    work, of_linear = step_flops(model, 2, 48, ids).forward_flops, linear_flops(model, ids)
    kept = [choice.keep.sum(1) for choice in choices(model, ids)]
    set_bias(model, SiteGate, 50.0)
    set_bias(model, HaltingUnit, -50.0)
    assert linear_flops(model, ids) - of_linear > 0.05 * of_linear
    # What is left is the chains', by their sites: those that a gate keeps, with the filling of the shorter row.
    sites = [int(counts.max()) + (2 if counts.min() < counts.max() else 0) for counts in kept] or [48]
    texts = [tokens(2, length) for length in sites]
    chains = [step_flops(model, *text.shape, text).forward_flops - linear_flops(model, text) for text in texts]
    assert work - of_linear == pytest.approx(sum(chains) / len(chains), rel=1e-9)


def test_progress_reaches_the_schedule():
    model = build("sparse-matrix", sparsity_schedule=1.0)
    set_bias(model, SiteGate, 50.0)
    ids = tokens(2, 8) % VOCAB_SIZE
    losses = []
    for progress in (0.0, 0.5, 1.0):
        model.set_progress(progress)
        losses.append(float(model.base_model(ids).measures["sparsity"]))
    assert losses == pytest.approx([0.0, 0.0625, 0.25])


def test_every_block_has_a_share_of_its_own():
    model = build("sparse-by-block", sparsity_loss_coef=10.0, sparsity_schedule=0.5)
    assert [block.site_gate is None for block in model.model.layers] == [True, False, False]
    set_bias(model, SiteGate, 2.0)
    train(model, 60, schedule=lambda step: step / 60)
    kept = [float(share) for share in shares(model, tokens(8, 32, seed=99))]
    assert kept == pytest.approx([0.5, 0.7], abs=0.12)
