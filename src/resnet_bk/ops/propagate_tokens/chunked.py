"""Propagation of tokens in plain PyTorch on any device, by chains of sorted sites: linear in the sites in memory, and
in time but for a sort and the log2(T) passes of a scan.

Shape legend: B batch, T sites, E = 2T events, H heads, K key size.

Both sums are chains that carry the value 1 at every site; `propagate.chunked` runs them in matmuls inside chunks. For
n_t the sites stand as they are. For m_t a site is two events: it writes k_t under x_t, then it reads under y_t. Sorted
by word, and by time within a word, they are a chain a word, which from one event to the next, at sites s and t, keeps

    tau_{s+1} ... tau_t = exp(R_t - R_s)        R_t = sum of log tau since the cut

of its state, and is cut where the word or the document changes. What writes has a query of 0, what reads a key of 0.
"""

import torch
from torch import Tensor

from resnet_bk.ops.precision import widened
from resnet_bk.ops.propagate.chunked import propagate_through
from resnet_bk.ops.scan import linear_scan


def propagate_tokens(
    query: Tensor, key: Tensor, log_transmission: Tensor, tokens: Tensor, targets: Tensor, document: Tensor | None
) -> tuple[Tensor, Tensor]:
    """n and m, [B, T, H]; `resnet_bk.ops.propagate_tokens` explains the arguments."""
    (steps,) = widened(log_transmission)
    begins = torch.zeros_like(tokens, dtype=torch.bool)
    begins[:, 0] = True
    if document is not None:
        begins[:, 1:] = document.diff(dim=1) != 0
    steps = steps.masked_fill(begins.unsqueeze(2), 0.0)
    found = _chain(query, key, steps, begins)

    if document is None:
        reached = steps.cumsum(1)
    else:
        # A scan starts anew at a cut; of the difference of two sums over the whole row the rounding of what was before
        # the cut would be seen.
        goes_on = (~begins).to(steps.dtype).unsqueeze(2)
        reached = linear_scan(goes_on, steps, torch.zeros_like(steps[:, 0]))
    # A stable sort leaves the events of a word in the order of time.
    words, order = torch.stack([tokens, targets], 2).flatten(1).sort(dim=1, stable=True)
    site, chain = order // 2, begins.long().cumsum(1)

    def in_order(x: Tensor) -> Tensor:
        """[B, E, ...] sorted."""
        return x.gather(1, order.view(*order.shape, *[1] * (x.ndim - 2)).expand_as(x))

    reached = in_order(reached.repeat_interleave(2, 1))
    at = chain.gather(1, site)
    first = torch.ones_like(words, dtype=torch.bool)
    first[:, 1:] = (words.diff(dim=1) != 0) | (at.diff(dim=1) != 0)
    kept = torch.cat([reached[:, :1], reached.diff(dim=1)], 1).masked_fill(first.unsqueeze(2), 0.0)
    reads, writes = torch.zeros_like(query), torch.zeros_like(key)
    queries, keys = torch.stack([reads, query], 2).flatten(1, 2), torch.stack([key, writes], 2).flatten(1, 2)
    hits = _chain(in_order(queries), in_order(keys), kept, first)
    back = order.argsort(1)[:, 1::2]  # where the events that read have gone
    return found, hits.gather(1, back.unsqueeze(2).expand_as(found))


def _chain(query: Tensor, key: Tensor, steps: Tensor, begins: Tensor) -> Tensor:
    """sum_{j <= t} (q_t . k_j) exp(steps_{j+1} + ... + steps_t) of chains that begin where `begins` says, [B, T, H]."""
    batch, _, heads, keys = key.shape
    transmission = steps.exp().masked_fill(begins.unsqueeze(2), 0.0)
    value = torch.ones_like(key[..., :1])
    memory = key.new_zeros(batch, heads, keys, 1)
    output, _ = propagate_through(query, key, value, torch.ones_like(transmission), transmission, memory)
    return output.squeeze(3)
