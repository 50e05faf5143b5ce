"""Of which tokens logits are computed, and that a wrong choice is refused before the cache goes on."""

import pytest
import torch
from torch.testing import assert_close

from tests.models.configs import build, tokens
from tests.models.test_seed_models import build as build_seed

FIRST, LAST = torch.tensor([0, 3]), torch.tensor([-1])


@pytest.mark.parametrize("name", ["modulus-as-it-is", "pointer-modulus"])
def test_logits_of_some_tokens(name):
    model = build(name)
    ids = tokens(2, 7)
    logits = model(ids).logits
    mask = torch.arange(7) % 2 == 0
    for kept, expected in (
        (2, logits[:, -2:]),
        (FIRST, logits[:, FIRST]),
        (LAST, logits[:, -1:]),
        (mask, logits[:, mask]),
    ):
        # 1e-6: the head sums over the same hidden states in another order.
        assert_close(model(ids, logits_to_keep=kept).logits, expected, rtol=1e-5, atol=1e-6)


WRONG = [
    (-1, "must be an int of at least 0, or a tensor of places, but got -1"),
    (True, "must be an int .* but got True"),
    (None, "must be an int .* but got None"),
    ([1, 2], r"must be an int .* but got \[1, 2\]"),
    (torch.tensor([0, 5]), r"must lie in \[-5, 5\), but got 5"),
    (torch.tensor([-6]), r"must lie in \[-5, 5\), but got -6"),
    (torch.tensor([[0]]), r".*a mask \(bool\) of \[5\], but got torch.int64 \(1, 1\)"),
    (torch.tensor([3], dtype=torch.uint8), r".*a mask \(bool\) of \[5\], but got torch.uint8 \(1,\)"),
    (torch.tensor([3], dtype=torch.int16), r".*a mask \(bool\) of \[5\], but got torch.int16 \(1,\)"),
    (torch.tensor([0.5]), r".*a mask \(bool\) of \[5\], but got torch.float32 \(1,\)"),
    (torch.ones(4, dtype=torch.bool), r".*a mask \(bool\) of \[5\], but got torch.bool \(4,\)"),
]


@pytest.mark.parametrize(("kept", "message"), WRONG)
def test_a_wrong_choice_leaves_the_cache_as_it_was(kept, message):
    model = build("pointer-modulus")
    ids = tokens(2, 12)
    cache = model(ids[:, :7]).cache
    with pytest.raises(ValueError, match=f"logits_to_keep {message}"):
        model(ids[:, 7:], cache=cache, logits_to_keep=kept)
    assert cache.get_seq_length() == 7
    assert_close(model(ids[:, 7:], cache=cache).logits, model(ids).logits[:, 7:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=f"logits_to_keep {message}"):
        build_seed("surface")(ids[:, :5], logits_to_keep=kept)
