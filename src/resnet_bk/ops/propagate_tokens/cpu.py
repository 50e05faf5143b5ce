"""CPU kernels of the propagation of tokens, and their exact adjoint.

Shape legend: B batch, T sites, H heads, K key size, N different words. Arrays are flat: query and key [B, T, H, K],
log_transmission, found and hits [B, T, H], tokens and targets [B, T], numbers below N, document [B, T] or empty.

A task sweeps one head of one row. It carries N_t = sum_{j <= t} (tau_{j+1} ... tau_t) k_j, and for every word x the
part M_t[x] of the sites with that word:

    n_t = q_t . N_t            m_t = q_t . M_t[y_t]

A site touches two words, its own and its target. What the other columns lose is not worked out until they are touched:
a column holds what it was at that site, beside the site, and R_t = sum of log tau since the cut says how much is left.
So the time is linear in T, and of the vocabulary a task sees N marks, `touched`.

Adjoint (bars are cotangents), from the last site to the first: with

    P_j    = sum_{t >= j} nbar_t exp(R_t - R_j) q_t
    Q_j[x] = the same with mbar_t, over the sites t with y_t = x

    qbar_t = nbar_t N_t + mbar_t M_t[y_t]          kbar_j = P_j + Q_j[x_j]

a_tj depends on R_t and on R_j, so that Rbar_t = q_t . qbar_t - k_t . kbar_t, and log tau_s has the sum of Rbar_t over
the sites t >= s of its chain. N and M are formed again on the way. All of it is float64, whatever the inputs are.
"""

import math

import numpy as np
from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, Integers, kernel


@register_jitable
def begins(document: Integers, site: int, t: int) -> bool:
    """Whether a chain begins at site t of a row, which is `site` of all."""
    return t == 0 or (document.size > 0 and document[site] != document[site - 1])


@register_jitable
def scale(numbers: Floats, factor: float) -> None:
    for k in range(numbers.size):
        numbers[k] *= factor


@register_jitable
def bring_up(column: Floats, since: float, valid: bool) -> None:
    """Leaves exp(`since`) of a column, or nothing where it is of another chain or of none."""
    if valid:
        scale(column, math.exp(since))
    else:
        column.fill(0.0)


@kernel
def forward(
    begin: int,
    end: int,
    query: Floats,
    key: Floats,
    log_transmission: Floats,
    tokens: Integers,
    targets: Integers,
    document: Integers,
    found: Floats,
    hits: Floats,
    words: int,
    sites: int,
    heads: int,
    keys: int,
) -> None:
    for task in range(begin, end):
        row, head = task // heads, task % heads
        total = np.zeros(keys, dtype=np.float64)
        columns = np.empty((words, keys), dtype=np.float64)
        touched = np.full(words, -1, dtype=np.int64)
        reach = np.zeros(sites + 1, dtype=np.float64)  # the last is of no site: what untouched words point at
        first = 0  # site of the chain
        for t in range(sites):
            site = row * sites + t
            chain, vector = site * heads + head, (site * heads + head) * keys
            if begins(document, site, t):
                first = t
                total.fill(0.0)
            else:
                step = np.float64(log_transmission[chain])
                reach[t] = reach[t - 1] + step
                scale(total, math.exp(step))
            own, wanted = tokens[site], targets[site]
            bring_up(columns[own], reach[t] - reach[touched[own]], touched[own] >= first)
            touched[own] = t
            n = 0.0
            for k in range(keys):
                total[k] += key[vector + k]
                columns[own, k] += key[vector + k]
                n += query[vector + k] * total[k]
            m = 0.0
            if touched[wanted] >= first:
                for k in range(keys):
                    m += query[vector + k] * columns[wanted, k]
                m *= math.exp(reach[t] - reach[touched[wanted]])
            found[chain], hits[chain] = n, m


@kernel
def backward(
    begin: int,
    end: int,
    found_bar: Floats,
    hits_bar: Floats,
    query: Floats,
    key: Floats,
    log_transmission: Floats,
    tokens: Integers,
    targets: Integers,
    document: Integers,
    query_bar: Floats,
    key_bar: Floats,
    log_bar: Floats,
    words: int,
    sites: int,
    heads: int,
    keys: int,
) -> None:
    for task in range(begin, end):
        row, head = task // heads, task % heads
        total = np.zeros(keys, dtype=np.float64)
        columns = np.empty((words, keys), dtype=np.float64)
        touched = np.full(words, -1, dtype=np.int64)
        reach = np.zeros(sites + 1, dtype=np.float64)  # the last is of no site: what untouched words point at
        slope = np.zeros(sites, dtype=np.float64)  # q . qbar
        bar = np.empty(keys, dtype=np.float64)
        first = 0
        for t in range(sites):  # as in `forward`; a function that both call made the two take 1.8 times as long
            site = row * sites + t
            chain, vector = site * heads + head, (site * heads + head) * keys
            if begins(document, site, t):
                first = t
                total.fill(0.0)
            else:
                step = np.float64(log_transmission[chain])
                reach[t] = reach[t - 1] + step
                scale(total, math.exp(step))
            own, wanted = tokens[site], targets[site]
            bring_up(columns[own], reach[t] - reach[touched[own]], touched[own] >= first)
            touched[own] = t
            for k in range(keys):
                total[k] += key[vector + k]
                columns[own, k] += key[vector + k]
                bar[k] = found_bar[chain] * total[k]
            if touched[wanted] >= first:
                weight = hits_bar[chain] * math.exp(reach[t] - reach[touched[wanted]])
                for k in range(keys):
                    bar[k] += weight * columns[wanted, k]
            for k in range(keys):
                query_bar[vector + k] = bar[k]
                slope[t] += query[vector + k] * bar[k]
        total.fill(0.0)  # now P, and Q the columns
        touched.fill(sites)
        last, rest = sites - 1, 0.0
        for t in range(sites - 1, -1, -1):
            site = row * sites + t
            chain, vector = site * heads + head, (site * heads + head) * keys
            if t < sites - 1:
                if begins(document, site + 1, t + 1):
                    last, rest = t, 0.0
                    total.fill(0.0)
                else:
                    scale(total, math.exp(reach[t + 1] - reach[t]))
            own, wanted = tokens[site], targets[site]
            bring_up(columns[wanted], reach[touched[wanted]] - reach[t], touched[wanted] <= last)
            touched[wanted] = t
            for k in range(keys):
                total[k] += found_bar[chain] * np.float64(query[vector + k])
                columns[wanted, k] += hits_bar[chain] * np.float64(query[vector + k])
                bar[k] = total[k]
            if touched[own] <= last:
                left = math.exp(reach[touched[own]] - reach[t])
                for k in range(keys):
                    bar[k] += left * columns[own, k]
            rest += slope[t]
            for k in range(keys):
                key_bar[vector + k] = bar[k]
                rest -= key[vector + k] * bar[k]
            log_bar[chain] = 0.0 if begins(document, site, t) else rest
