"""A pointer to words that were seen: chains that carry the words themselves, and predict them again.

Shape legend: B batch, T tokens, D hidden size, H heads, K key size, V vocabulary.

A head is a chain whose value is the token as a one-hot vector, so that its state S [K, V] holds, for each of K kinds of
context, how much of each word stood in it:

    S_t = |L_t| (w_t k_t e(x_t)^T + b_t S_{t-1})
    (q_t^T S_t)_v = sum over j with x_j = v of a_tj,    a_tj = (q_t . k_j) |Gamma_tj| w_j

with L and Gamma as in `resnet_bk.ops.propagate_modulus`. Query and key are probabilities over the kinds; the key of a
token is made of the hidden state *before* it, the query of the hidden state that predicts the next one, so that a head
finds the words that followed contexts like the present one. With n = sum over j of a_tj the head proposes word v with
probability (q_t^T S_t)_v / (n + s), and leaves s / (n + s) to the rest of the model: little where it has seen much like
it. The proposals are mixed with the softmax p of the vocabulary by gates g_0, ..., g_H that sum to 1:

    P(v) = (1 - sum_h g_h n_h / (n_h + s_h)) p(v) + sum_h g_h (q_t^T S_t)_v / (n_h + s_h)

This is the continuous cache of Grave, Joulin and Usunier (arXiv 1612.04426) and the mixture of Merity et al. (arXiv
1609.07843) with the weights of a propagator and a state of fixed size in the place of a window of past tokens. A token
touches one column of S; what all columns lose is kept as one number a head.

The states are read and written as numbers: no gradient goes into tokens before the call. Within a call it is exact.
Where the probability of one target a token is wanted, as in training, `resnet_bk.ops.propagate_tokens` takes time and
memory linear in T. Where all words are wanted under autograd, a call forms all pairs of its tokens, T^2 numbers a head;
without autograd it goes piece by piece, so that its time is linear in T again. A token of generation, behind a state
that may be written to, is `resnet_bk.ops.pointer_step` on a CPU.
"""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk import ops
from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.chain import ChainProjection
from resnet_bk.layers.plain import is_plain
from resnet_bk.layers.pointer_gates import PointerGates
from resnet_bk.layers.pointer_mixture import Pointed
from resnet_bk.layers.pointer_state import PointerSites, PointerState
from resnet_bk.layers.precision import InputDtypeLinear, KeepsFloat32
from resnet_bk.ops import checks
from resnet_bk.ops.dispatch import beside_token, full_precision, takes_token
from resnet_bk.ops.pointer_step import pointer_step
from resnet_bk.ops.pointer_step.sizes import LARGEST_SCALE, SMALLEST
from resnet_bk.ops.propagate_tokens.pairs import PairWeights

# Inside the band, with memories of a few to a few hundred words.
POTENTIAL = (0.0, 0.8)
ABSORPTION = (0.005, 0.3)
# Of the projections to the kinds of context, for hidden states of size 1: kinds differ from the start.
KINDS_STD = 0.2
SMOOTHING = 0.1  # s at the start
PIECE = 256  # tokens at a time where no gradient is wanted


class KindsOfContext(InputDtypeLinear):
    """Hidden states to logarithms, up to a constant, of H heads' probabilities of K kinds of context.

    A plain linear map, as adapters that stand in for one expect it: the softmax is taken by its user."""

    def __init__(self, hidden_size: int, num_heads: int, key_dim: int) -> None:
        super().__init__(hidden_size, num_heads * key_dim, bias=False)
        self.output_parts = (key_dim,) * num_heads

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init.normal_(self.weight, std=KINDS_STD)


class Pointer(KeepsFloat32):
    """See the head of this file.

    Args:
        hidden_size: D.
        vocab_size: V.
        num_heads: H.
        key_dim: K.
        absorption_min: floor of the absorption.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, *, num_heads: int, key_dim: int, absorption_min: float
    ) -> None:
        super().__init__()
        self.hidden_size, self.vocab_size, self.num_heads, self.key_dim = hidden_size, vocab_size, num_heads, key_dim
        self.query = KindsOfContext(hidden_size, num_heads, key_dim)
        self.key = KindsOfContext(hidden_size, num_heads, key_dim)
        self.write_proj = InputDtypeLinear(hidden_size, num_heads)
        self.gates = PointerGates(hidden_size, num_heads)
        self.chain = ChainProjection(
            hidden_size,
            num_heads,
            potential_init=POTENTIAL,
            absorption_min=absorption_min,
            absorption_init=(max(ABSORPTION[0], 2 * absorption_min), max(ABSORPTION[1], 4 * absorption_min)),
            hopping_init=1.0,
        )
        self.log_smoothing = nn.Parameter(torch.empty(num_heads))
        self.keep_float32()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """What is not a layer of its own: the smoothing."""
        init.constant_(self.log_smoothing, math.log(SMOOTHING))

    @classmethod
    def from_config(cls, config: Any, hidden_size: int | None = None) -> Self:
        """By the fields of a configuration; for hidden states of `hidden_size` where it is not the configuration's."""
        return cls(
            hidden_size or config.hidden_size,
            config.vocab_size,
            num_heads=config.pointer_heads,
            key_dim=config.pointer_key_dim,
            absorption_min=config.absorption_min,
        )

    @property
    def state_shape(self) -> tuple[int, int]:
        """V and H K: what a row of `PointerState.words` is."""
        return self.vocab_size, self.num_heads * self.key_dim

    def check_state(self, state: PointerState) -> None:
        """Raises ValueError where `state` is of another vocabulary, of other heads or keys, or of another model's
        hidden states."""
        words, (_, heads, keys) = state.words.shape[1], state.total.shape
        found = (words or self.vocab_size, heads, keys, state.hidden.shape[1])  # no words where nothing is written yet
        wanted = (self.vocab_size, self.num_heads, self.key_dim, self.hidden_size)
        if found != wanted:
            described = "{} words, {} heads, {} numbers a head and hidden states of {}"
            raise ValueError(
                f"the state is of a pointer of {described.format(*found)}, but the model's has "
                f"{described.format(*wanted)}; start with an empty cache"
            )

    def initial_state(self, like: Tensor) -> PointerState:
        """The state before any token, for hidden states `like` [B, T, D]."""
        batch, _, width = like.shape
        dtype = torch.promote_types(like.dtype, torch.float32)
        heads, keys = self.num_heads, self.key_dim

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=like.device)

        green = zeros(heads, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64)
        return PointerState(green, zeros(0, heads * keys), zeros(heads), zeros(heads, keys), zeros(width))

    def forward(
        self,
        hidden: Tensor,
        input_ids: Tensor,
        boundaries: Boundaries | None = None,
        state: PointerState | None = None,
        *,
        targets: Tensor | None = None,
        at: Tensor | None = None,
        keep_state: bool = True,
    ) -> Pointed:
        """What the heads propose after each token.

        Args:
            hidden: last hidden states, [B, T, D].
            input_ids: the tokens, integers [B, T].
            boundaries: where chains are cut; tokens of padding are not written.
            state: before these tokens; None at the start.
            targets: the words whose probability is wanted, int64 [B, T], any number where none is; None for all words.
            at: places of the N tokens after which all words are wanted, int64 [N], rising; None for all T.
            keep_state: whether the state after the last token is wanted. It takes the memory of `state.words`, so that
                `state` is of no use afterwards; if not, `state` is left as it is. What is proposed after one token may
                then differ by the rounding of sums.

        Raises:
            ValueError: a state of another pointer, or tokens outside of the vocabulary (on a CPU).
        """
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with full_precision(hidden.device):
            hidden, input_ids = hidden.to(dtype), input_ids.long()
            state = self.initial_state(hidden) if state is None else state
            self.check_state(state)
            # Not where a graph holds the words, or the caller, or where they may not be written any more.
            held = targets is None and torch.is_grad_enabled()
            traced = torch.compiler.is_compiling()
            frozen = not traced and state.words.is_inference() and not torch.is_inference_mode_enabled()
            reuse = keep_state and not held and not frozen
            all_words = boundaries is None and targets is None
            if reuse and all_words and self._is_one_token(hidden, input_ids, state, at):
                return self._one_token(hidden, input_ids, state)
            checks.in_vocabulary(input_ids, self.vocab_size)
            sites = self._sites(hidden, boundaries, state)
            length = hidden.shape[1]
            piece = length if torch.is_grad_enabled() else PIECE
            copied, rest = [], []
            for start in (0,) if length <= piece else range(0, length, piece):
                part = slice(start, start + piece)
                seen, here = sites, at
                if length > piece:
                    seen = sites.part(start, piece)
                    here = None if at is None else at[(at >= start) & (at < start + piece)] - start
                wanted = None if targets is None else targets[:, part]
                write = keep_state or start + piece < length
                if write and not reuse:
                    after = state._replace(words=state.words.clone())
                    reuse = True  # from now on they are nobody else's
                else:
                    after = state
                pointed = self._piece(seen, input_ids[:, part], state, wanted, here)
                copied.append(pointed.copied)
                rest.append(pointed.rest)
                if write:
                    state = self._written(seen, input_ids[:, part], after)
            # A copy: a view would keep the hidden states of the whole call in memory.
            state = state._replace(green=sites.last_green, hidden=hidden[:, -1].detach().clone())
            return Pointed(torch.cat(copied, 1), torch.cat(rest, 1), state)

    def _is_one_token(self, hidden: Tensor, input_ids: Tensor, state: PointerState, at: Tensor | None) -> bool:
        """Whether this call, which asks for all words and whose state's words may be written to, is one that
        `resnet_bk.ops.pointer_step` can take over."""
        if not takes_token(hidden):  # `forward` has turned autocast off
            return False
        if hidden.shape[1] != 1 or input_ids.shape != hidden.shape[:2]:
            return False
        if at is not None and (at.numel() != 1 or int(at) != 0):
            return False
        # The weights of the chain are read beside it, which is right for this module and no other.
        if not is_plain(self.chain, ChainProjection):
            return False
        batch, _, width = hidden.shape
        heads, keys = self.num_heads, self.key_dim
        # Nothing has been written yet where there are no words.
        wanted = ((batch, heads), (batch, *self.state_shape), (batch, heads), (batch, heads, keys), (batch, width))
        if tuple(tuple(part.shape) for part in state) != wanted or state.green.dtype != hidden.dtype.to_complex():
            return False
        return beside_token(hidden, self.log_smoothing, *state[1:])

    def _one_token(self, hidden: Tensor, input_ids: Tensor, state: PointerState) -> Pointed:
        """The same as `forward` of a token behind a state, without a gradient; writes into `state.words`."""
        copied, rest, (green, scale, total) = pointer_step(
            self.query(hidden).squeeze(1),
            self.key(state.hidden.unsqueeze(1)).squeeze(1),
            self.write_proj(hidden).squeeze(1),
            self.gates(hidden).squeeze(1),
            self.chain.project(hidden).squeeze(1),
            self.log_smoothing,
            state.green,
            state.words,
            state.scale,
            state.total,
            input_ids.squeeze(1),
            absorption_min=self.chain.absorption_min,
        )
        after = PointerState(green, state.words, scale, total, hidden.squeeze(1).clone())
        return Pointed(copied.unsqueeze(1), rest.unsqueeze(1), after)

    def _sites(self, hidden: Tensor, boundaries: Boundaries | None, state: PointerState) -> PointerSites:
        previous = torch.cat([state.hidden.unsqueeze(1), hidden[:, :-1]], dim=1)
        potential, hopping, absorption = self.chain(hidden, boundaries)
        green, last_green = ops.surface_green(potential, hopping, absorption, initial_state=state.green)
        write = self.write_proj(hidden).sigmoid() * green.abs()
        log_transmission, segment = (green.abs() * hopping).clamp_min(SMALLEST).log(), None
        if boundaries is not None:
            # The key of a token behind a cut knows nothing of what was before it.
            previous = previous * boundaries.keep.to(hidden.dtype)
            segment = (1 - boundaries.keep).squeeze(2).long().cumsum(1)
            if boundaries.real is not None:
                write = write * boundaries.tokens_only(write)
        heads = (self.num_heads, self.key_dim)
        key = self.key(previous).unflatten(-1, heads).softmax(-1) * write.unsqueeze(-1)
        gates = self.gates(hidden).softmax(-1)
        query = self.query(hidden).unflatten(-1, heads).softmax(-1)
        return PointerSites(query, key, log_transmission, gates, segment, last_green.detach())

    def _piece(
        self, sites: PointerSites, ids: Tensor, state: PointerState, targets: Tensor | None, at: Tensor | None
    ) -> Pointed:
        """What the tokens of the piece found in each other, and in S what was before."""
        query, gates = sites.query.transpose(1, 2), sites.gates.transpose(1, 2)  # [B, H, T, ...]
        reached, unbroken = sites.since_start()
        old_query = query * (reached.to(query.dtype).exp() * unbroken).unsqueeze(3)
        found_before = (old_query * state.total.unsqueeze(2)).sum(3)
        smoothing = self.log_smoothing.to(query.dtype).exp()[:, None]

        def weights(found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """g / (n + s), what is left to the vocabulary, and q of all heads on S, [B, T, H K]."""
            weight = gates[:, 1:] / (found + found_before + smoothing)
            scaled = old_query * (weight * state.scale.exp().unsqueeze(2)).unsqueeze(3)
            return weight, gates[:, 0] + (weight * smoothing).sum(1), scaled.transpose(1, 2).flatten(2)

        inside = (sites.query, sites.key, sites.log_transmission)
        if targets is not None:
            wanted = targets.clamp(0, self.vocab_size - 1)
            found, hits = ops.propagate_tokens(*inside, ids, wanted, document=sites.segment)
            weight, rest, on_words = weights(found.transpose(1, 2))
            copied = (weight * hits.transpose(1, 2)).sum(1)
            if state.words.shape[1]:
                columns = state.words.flatten(0, 1).index_select(0, self._columns(wanted)).view(on_words.shape)
                copied = copied + (on_words * columns).sum(2)
            return Pointed(copied, rest, state)
        there = PairWeights(*inside, sites.segment).rows(0, ids.shape[1])
        weight, rest, on_words = weights(there.sum(3))
        there = (weight.unsqueeze(3) * there).sum(1)  # of all heads, [B, T, T]
        if at is not None:
            there, on_words, rest = (x.index_select(1, at) for x in (there, on_words, rest))
        if state.words.shape[1]:
            copied = on_words @ state.words.transpose(1, 2)
        else:
            copied = there.new_zeros(*there.shape[:2], self.vocab_size)
        copied = copied.scatter_add(2, ids.unsqueeze(1).expand(there.shape), there)
        return Pointed(copied, rest, state)

    def _columns(self, words: Tensor) -> Tensor:
        """Places of words [B, T] in `PointerState.words` with rows laid end to end, [B T]."""
        rows = torch.arange(words.shape[0], device=words.device).unsqueeze(1)
        return (rows * self.vocab_size + words).flatten()

    @torch.no_grad()
    def _written(self, sites: PointerSites, ids: Tensor, state: PointerState) -> PointerState:
        """The state after the piece; writes into `state.words`."""
        dtype = state.total.dtype
        log_left, joined = sites.until_end()
        arriving = sites.key.transpose(1, 2) * (log_left.to(dtype).exp() * joined).unsqueeze(3)  # [B, H, T, K]
        reached, unbroken = sites.since_start()
        log_decay, kept = reached[:, :, -1].to(dtype), unbroken[:, :, -1]
        total = state.total * (log_decay.exp() * kept).unsqueeze(2) + arriving.sum(2)
        words, scale = state.words, state.scale + log_decay
        if not words.shape[1]:
            words = total.new_zeros(len(ids), self.vocab_size, self.num_heads * self.key_dim)
            scale = torch.zeros_like(scale)
        else:
            cut = kept.expand(len(ids), 1) == 0
            due = (scale.abs() > LARGEST_SCALE).any(1, keepdim=True) | cut
            for row in due.flatten().nonzero().flatten().tolist():
                if bool(cut[row]):
                    words[row].zero_()
                else:  # a factor a column: a factor a head, broadcast, takes twice the time
                    words[row].mul_(scale[row].exp().repeat_interleave(self.key_dim))
            scale = scale.masked_fill(due, 0.0)
        arriving = (arriving * (-scale).exp()[:, :, None, None]).transpose(1, 2).flatten(2)
        words.view(-1, words.shape[2]).index_add_(0, self._columns(ids), arriving.flatten(0, 1))
        return state._replace(words=words, scale=scale, total=total)
