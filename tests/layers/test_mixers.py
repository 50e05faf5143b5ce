"""Every registered mixer: causality, state and padding, and its formula against dense linear algebra."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from resnet_bk.layers import MIXERS, QueryKey, ShortConvolution, find_boundaries, get_mixer
from resnet_bk.layers.modulus_propagator import READ_EPS
from resnet_bk.ops import propagate_modulus, surface_green
from resnet_bk.ops.unit_query_key import unit_length
from resnet_bk.ops.unit_query_key.sizes import EPSILON
from tests.mixers import CHAINS, reading

GATES = {"none": torch.ones_like, "silu": F.silu, "sigmoid": torch.sigmoid, "affine": lambda x: 1 + x}
every_gate = pytest.mark.parametrize("gate", GATES)
every_mixer = pytest.mark.parametrize("name", MIXERS)
CONFIG = SimpleNamespace(
    hidden_size=12,
    num_heads=3,
    key_dim=4,
    value_dim=5,
    state_channels=10,
    conv_size=0,
    output_gate="none",
    query_key_bias=0.0,
    induction_heads=0,
    potential_init=(-1.2, 1.2),
    absorption_min=1e-3,
    absorption_init=(0.05, 1.0),
    hopping_init=1.0,
    site_gain=1.0,
    backend="auto",
    gradient="exact",
)


def build(name, dtype=torch.float64, **overrides):
    torch.manual_seed(0)
    mixer = get_mixer(name).from_config(SimpleNamespace(**{**vars(CONFIG), **overrides})).to(dtype)
    for parameter in mixer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return mixer


def inputs(length=9, dtype=torch.float64):
    return torch.randn(2, length, 12, dtype=dtype, generator=torch.Generator().manual_seed(1))


def propagator(mixer, hidden):
    """Gamma_tj of every chain as the last row of the inverse of the first t sites, complex [B, H, T, T]."""
    a, b, eta = (part.transpose(1, 2) for part in mixer.chain(hidden, None))
    length = a.shape[-1]
    matrix = torch.diag_embed(torch.complex(a, -eta))
    matrix = matrix - torch.diag_embed(b[..., 1:], offset=1) - torch.diag_embed(b[..., 1:], offset=-1)
    gamma = torch.zeros_like(matrix)
    for t in range(length):
        gamma[..., t, : t + 1] = torch.linalg.inv(matrix[..., : t + 1, : t + 1])[..., t, :]
    return gamma


@pytest.mark.parametrize("conv_size", [0, 3])
@every_gate
@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_matrix_state_is_attention_with_the_propagator(gate, conv_size, bias):
    mixer, hidden = build("matrix", output_gate=gate, conv_size=conv_size, query_key_bias=bias), inputs()
    mixed = mixer.in_proj(hidden)
    if conv_size:
        mixed, _ = mixer.conv(mixed, None, None)
    query, key, value = mixed.split([12, 12, 15], dim=-1)
    query, key = (unit_length(x.unflatten(-1, (3, 4))) for x in (query, key))
    if bias:
        query, key = (unit_length(x + bias / 2) for x in (query, key))  # length `bias` over 4 equal numbers
    weights = torch.einsum("bthk,bjhk->bhtj", query, key) * propagator(mixer, hidden)
    y = torch.einsum("bhtj,bjhv->bthv", weights, value.unflatten(-1, (3, 5)).to(weights.dtype)).flatten(2)
    if gate != "none":
        y = y * GATES[gate](mixer.readout.gate_proj(hidden))
    expected = torch.stack([y.real, y.imag], dim=-1).flatten(2) @ mixer.readout.out_proj.weight.T
    assert_close(mixer(hidden)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("conv_size", [0, 3])
@every_gate
@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_modulus_state_is_attention_with_the_size_of_the_propagator(gate, conv_size, bias):
    mixer, hidden = build("modulus", output_gate=gate, conv_size=conv_size, query_key_bias=bias), inputs()
    mixed = mixer.in_proj(hidden)
    if conv_size:
        mixed, _ = mixer.conv(mixed, None, None)
    query, key, value = mixed.split([12, 12, 15], dim=-1)
    query, key = (unit_length(x.unflatten(-1, (3, 4))) for x in (query, key))
    if bias:
        query, key = (unit_length(x + bias / 2) for x in (query, key))  # length `bias` over 4 equal numbers
    value = value.unflatten(-1, (3, 5)) * (12**-0.5 * mixer.write_proj(hidden)).sigmoid().unsqueeze(-1)
    weights = torch.einsum("bthk,bjhk->bhtj", query, key) * propagator(mixer, hidden).abs()
    y = torch.einsum("bhtj,bjhv->bthv", weights, value)
    y = (y * (y.square().mean(-1, keepdim=True) + READ_EPS).rsqrt()).flatten(2)
    if gate != "none":
        y = y * GATES[gate](mixer.gate_proj(hidden))
    # float64 against an inverse of condition below 1e4.
    assert_close(mixer(hidden)[0], y @ mixer.out_proj.weight.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", reading("site_gain"))
def test_a_site_gain_is_a_factor_of_what_a_token_adds_to_its_site(name):
    bent, plain, hidden = build(name, site_gain=3.0), build(name), inputs()
    straight = plain(hidden)[0]
    with torch.no_grad():
        plain.chain.weight.mul_(3)
        if hasattr(plain, "write_proj"):
            plain.write_proj.weight.mul_(3)
    assert_close(bent(hidden)[0], plain(hidden)[0], rtol=1e-9, atol=1e-9)
    assert (bent(hidden)[0] - straight).abs().amax() > 1e-2


def test_delta_state_is_what_a_chain_carries_past_impurities():
    """Sites with a matrix in the space of keys: the states one after the other, from dense products."""
    mixer, hidden = build("delta", conv_size=3), inputs()
    mixed, _ = mixer.conv(mixer.in_proj(hidden), None, None)
    query, key, value = mixed.split([12, 12, 15], dim=-1)
    query, key = (unit_length(x.unflatten(-1, (3, 4))) for x in (query, key))
    value, write = value.unflatten(-1, (3, 5)), (12**-0.5 * mixer.write_proj(hidden)).sigmoid()
    green = propagator(mixer, hidden).diagonal(dim1=-2, dim2=-1).abs().mT
    hopping, state, y = mixer.chain(hidden, None).hopping, torch.zeros(2, 3, 4, 5, dtype=torch.float64), []
    for t in range(hidden.shape[1]):
        k, v, w = key[:, t, :, :, None], value[:, t, :, None, :], write[:, t, :, None, None]
        passing = torch.eye(4, dtype=torch.float64) - w * k @ k.mT
        state = green[:, t, :, None, None] * (w * k @ v + hopping[:, t, :, None, None] * passing @ state)
        y.append((query[:, t, :, None] @ state).squeeze(-2))
    y = torch.stack(y, 1)
    y = (y * (y.square().mean(-1, keepdim=True) + READ_EPS).rsqrt()).flatten(2)
    # float64 against an inverse of condition below 1e4.
    assert_close(mixer(hidden)[0], y @ mixer.out_proj.weight.T, rtol=1e-9, atol=1e-9)


def test_delta_state_answers_with_what_was_written_last():
    """Keys that are alike: with the gate open the last value written under a key is read, and nothing beside it."""
    mixer = build("delta", num_heads=1)
    key = F.normalize(torch.randn(4, dtype=torch.float64), dim=0)
    near = F.normalize(key + 0.3 * torch.randn(4, dtype=torch.float64), dim=0)
    keys, values = torch.stack([near, key])[None, :, None], torch.randn(1, 2, 1, 5, dtype=torch.float64)
    chain = [torch.full((1, 2, 1), x, dtype=torch.float64) for x in (0.5, 1.0, 0.2)]
    query = key.expand_as(keys)
    erased, _ = propagate_modulus(query, keys, values, *chain, erase=torch.ones_like(chain[0]))
    added, _ = propagate_modulus(query, keys, values, *chain)
    green = surface_green(*chain)[0][0, 1, 0].abs()
    assert mixer.erases
    assert_close(erased[0, 1, 0], green * values[0, 1, 0])
    assert (added[0, 1, 0] - green * values[0, 1, 0]).abs().max() > 0.01


@pytest.mark.parametrize("conv_size", [0, 3])
@every_gate
def test_vector_state_is_the_propagator_of_each_channel(gate, conv_size):
    mixer, hidden = build("vector", output_gate=gate, conv_size=conv_size), inputs()
    source = mixer.in_proj(hidden)
    if conv_size:
        source, _ = mixer.conv(source, None, None)
    gamma = propagator(mixer, hidden)
    y = torch.einsum("bhtj,bjh->bth", gamma, source.to(gamma.dtype))
    if gate != "none":
        y = y * GATES[gate](mixer.readout.gate_proj(hidden))
    expected = torch.stack([y.real, y.imag], dim=-1).flatten(2) @ mixer.readout.out_proj.weight.T
    # float64 against an inverse of condition below 1e4.
    assert_close(mixer(hidden)[0], expected, rtol=1e-9, atol=1e-9)


@every_mixer
def test_causal(name):
    mixer, hidden = build(name, conv_size=4, output_gate="silu"), inputs(20).requires_grad_()
    output = mixer(hidden)[0]
    for position in (0, 7, 18):
        (gradient,) = torch.autograd.grad(output[:, position].sum(), hidden, retain_graph=True)
        assert (gradient[:, position + 1 :] == 0).all()


@every_mixer
@pytest.mark.parametrize("conv_size", [0, 4])
def test_the_state_is_all_that_a_later_call_needs(name, conv_size):
    mixer, hidden = build(name, conv_size=conv_size), inputs(20)
    whole, last, _ = mixer(hidden)
    assert (last.convolution is None) == (conv_size == 0)
    state, pieces = None, []
    for piece in hidden.split([7, 1, 12], dim=1):
        output, state, _ = mixer(piece, None, state)
        pieces.append(output)
        sizes = [part.shape for part in state.chain]
        assert sizes == [part.shape for part in last.chain]
    assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert_close(state, last, rtol=1e-10, atol=1e-10)
    # A state of zeros is no state.
    zero = last.only(torch.tensor([False, False]))
    assert_close(mixer(hidden, None, zero)[0], whole, rtol=1e-10, atol=1e-10)


@every_mixer
def test_gradients(name):
    mixer = build(name, conv_size=3, output_gate="silu", backend="reference")
    hidden = inputs(4)[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda hidden: mixer(hidden)[0], (hidden,), atol=1e-6)


@pytest.mark.parametrize("cut", [False, True], ids=["one-document", "documents"])
@every_mixer
def test_gradients_of_parameters_and_behind_the_end_of_a_document(name, cut):
    mixer = build(name, conv_size=3, output_gate="silu", query_key_bias=0.7)
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    hidden = inputs(5)[:1].clone().requires_grad_()
    ids = torch.tensor([[0, 0, 1, 1, 1]])
    boundaries = find_boundaries(None, ids, shape=(1, 5)) if cut else None

    def out(hidden, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(mixer, given, (hidden, boundaries))[0]

    # Of random directions, one in all inputs together, for there are hundreds of parameters.
    assert torch.autograd.gradcheck(out, (hidden, *parameters), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", reading(CHAINS))
def test_backend_is_passed_on(name):
    with pytest.raises(ValueError, match="backend"):
        build(name, backend="abacus")(inputs())


def test_queries_and_keys_have_unit_length_and_start_in_step():
    both = torch.randn(2, 5, 2 * 3 * 64, generator=torch.Generator().manual_seed(2))
    layer = QueryKey(3, 64, bias=1.0)
    query, key = layer(both)
    assert query.shape == key.shape == (2, 5, 3, 64)
    for x in (query, key):
        assert_close(x.norm(dim=-1), torch.ones(2, 5, 3))
    # The means are off by what 30 random directions in 64 dimensions are off by, a few hundredths.
    assert (query * key).sum(-1).mean().item() == pytest.approx(0.5, abs=0.1)
    assert layer.bias.ndim == 1  # not decayed
    query, key = QueryKey(3, 64, bias=0.0)(both)
    assert (query * key).sum(-1).mean().item() == pytest.approx(0.0, abs=0.1)
    assert QueryKey(3, 64, bias=0.0).bias is None


def test_gradients_of_the_bias_of_queries_and_keys():
    layer = QueryKey(2, 3, bias=0.7).double()
    both = torch.randn(1, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def out(bias):
        return torch.func.functional_call(layer, {"bias": bias}, (both,))

    assert torch.autograd.gradcheck(out, (layer.bias.detach().clone().requires_grad_(),), atol=1e-6)


@every_mixer
def test_unknown_gate(name):
    with pytest.raises(ValueError, match="output_gate must be one of silu, sigmoid, affine, none, but got 'relu'"):
        build(name, output_gate="relu")


def test_unknown_mixer():
    with pytest.raises(ValueError, match=f"state must be one of {', '.join(sorted(MIXERS))}, but got 'tensor'"):
        get_mixer("tensor")


def test_unit_length():
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert_close(unit_length(x), x / (x.square().sum(-1, keepdim=True) + EPSILON).sqrt())
    assert torch.autograd.gradcheck(unit_length, (x,))
    assert torch.equal(unit_length(torch.zeros(2, 5)), torch.zeros(2, 5))
    assert unit_length(torch.ones(2, 5, dtype=torch.bfloat16)).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = unit_length(x.float())
    assert torch.equal(inside, unit_length(x.float()))
    large = unit_length(torch.full((2, 5), 1e15))
    assert_close(large, torch.full((2, 5), 5**-0.5))


def test_short_convolution_describes_itself():
    assert "channels=6, kernel_size=4" in repr(ShortConvolution(6, 4))
    text = repr(build("matrix"))
    assert "chains=3" in text
