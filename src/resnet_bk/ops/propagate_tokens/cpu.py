"""CPU kernels of the propagation of tokens, and their exact adjoint.

Shape legend: B batch, T sites, H heads, K key size, N different words. Arrays are flat: query and key [B, T, H, K],
log_transmission, found and hits [B, T, H], tokens and targets [B, T], numbers below N, document [B, T] or empty.

A task sweeps one head of one row. It carries N_t = sum_{j <= t} (tau_{j+1} ... tau_t) k_j, and for every word x the
part M_t[x] of the sites with that word:

    n_t = q_t . N_t            m_t = q_t . M_t[y_t]

A site touches two words, its own and its target. What the other columns lose is not worked out until they are touched:
a column holds what it was at that site, beside the site, and R_t = sum of log tau since the cut says how much is left.
So the time is linear in T and does not depend on N.

Adjoint (bars are cotangents), from the last site to the first: with

    P_j    = sum_{t >= j} nbar_t exp(R_t - R_j) q_t
    Q_j[x] = the same with mbar_t, over the sites t with y_t = x

    qbar_t = nbar_t N_t + mbar_t M_t[y_t]          kbar_j = P_j + Q_j[x_j]

a_tj depends on R_t and on R_j, so that Rbar_t = q_t . qbar_t - k_t . kbar_t, and log tau_s has the sum of Rbar_t over
the sites t >= s of its chain. N and M are formed again on the way. All of it is float64, whatever the inputs are.
"""

import math

import numpy as np
from numba import prange

from resnet_bk.ops.kernels import Floats, Integers, kernel


@kernel
def forward(
    query: Floats,
    key: Floats,
    log_transmission: Floats,
    tokens: Integers,
    targets: Integers,
    document: Integers,
    found: Floats,
    hits: Floats,
    words: int,
    batch: int,
    sites: int,
    heads: int,
    keys: int,
) -> None:
    for task in prange(batch * heads):
        row, head = task // heads, task % heads
        total = np.zeros(keys, dtype=np.float64)
        columns = np.empty(words * keys, dtype=np.float64)
        touched = np.full(words, -1, dtype=np.int64)
        reach = np.empty(sites, dtype=np.float64)
        first = 0  # site of the chain
        for t in range(sites):
            site = row * sites + t
            chain, vector = site * heads + head, (site * heads + head) * keys
            if t == 0 or (document.size > 0 and document[site] != document[site - 1]):
                first = t
                reach[t] = 0.0
                total.fill(0.0)
            else:
                step = np.float64(log_transmission[chain])
                reach[t] = reach[t - 1] + step
                decay = math.exp(step)
                for k in range(keys):
                    total[k] *= decay
            word = tokens[site]
            column = columns[word * keys : (word + 1) * keys]
            if touched[word] >= first:
                left = math.exp(reach[t] - reach[touched[word]])
                for k in range(keys):
                    column[k] *= left
            else:
                column.fill(0.0)
            touched[word] = t
            n = 0.0
            for k in range(keys):
                total[k] += key[vector + k]
                column[k] += key[vector + k]
                n += query[vector + k] * total[k]
            found[chain] = n
            word = targets[site]
            m = 0.0
            if touched[word] >= first:
                for k in range(keys):
                    m += query[vector + k] * columns[word * keys + k]
                m *= math.exp(reach[t] - reach[touched[word]])
            hits[chain] = m


@kernel
def backward(
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
    batch: int,
    sites: int,
    heads: int,
    keys: int,
) -> None:
    for task in prange(batch * heads):
        row, head = task // heads, task % heads
        total = np.zeros(keys, dtype=np.float64)
        columns = np.empty(words * keys, dtype=np.float64)
        touched = np.full(words, -1, dtype=np.int64)
        reach = np.empty(sites, dtype=np.float64)
        slope = np.empty(sites, dtype=np.float64)  # q . qbar
        bar = np.empty(keys, dtype=np.float64)
        first = 0
        for t in range(sites):  # as in `forward`
            site = row * sites + t
            chain, vector = site * heads + head, (site * heads + head) * keys
            if t == 0 or (document.size > 0 and document[site] != document[site - 1]):
                first = t
                reach[t] = 0.0
                total.fill(0.0)
            else:
                step = np.float64(log_transmission[chain])
                reach[t] = reach[t - 1] + step
                decay = math.exp(step)
                for k in range(keys):
                    total[k] *= decay
            word = tokens[site]
            column = columns[word * keys : (word + 1) * keys]
            if touched[word] >= first:
                left = math.exp(reach[t] - reach[touched[word]])
                for k in range(keys):
                    column[k] *= left
            else:
                column.fill(0.0)
            touched[word] = t
            for k in range(keys):
                total[k] += key[vector + k]
                column[k] += key[vector + k]
                bar[k] = found_bar[chain] * total[k]
            word = targets[site]
            if touched[word] >= first:
                column = columns[word * keys : (word + 1) * keys]
                weight = hits_bar[chain] * math.exp(reach[t] - reach[touched[word]])
                for k in range(keys):
                    bar[k] += weight * column[k]
            slope[t] = 0.0
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
                if document.size > 0 and document[site] != document[site + 1]:
                    last, rest = t, 0.0
                    total.fill(0.0)
                else:
                    decay = math.exp(reach[t + 1] - reach[t])
                    for k in range(keys):
                        total[k] *= decay
            word = targets[site]
            column = columns[word * keys : (word + 1) * keys]
            if touched[word] <= last:
                left = math.exp(reach[touched[word]] - reach[t])
                for k in range(keys):
                    column[k] *= left
            else:
                column.fill(0.0)
            touched[word] = t
            for k in range(keys):
                total[k] += found_bar[chain] * np.float64(query[vector + k])
                column[k] += hits_bar[chain] * np.float64(query[vector + k])
                bar[k] = total[k]
            word = tokens[site]
            if touched[word] <= last:
                column = columns[word * keys : (word + 1) * keys]
                left = math.exp(reach[touched[word]] - reach[t])
                for k in range(keys):
                    bar[k] += left * column[k]
            rest += slope[t]
            for k in range(keys):
                key_bar[vector + k] = bar[k]
                rest -= key[vector + k] * bar[k]
            begins = t == 0 or (document.size > 0 and document[site] != document[site - 1])
            log_bar[chain] = 0.0 if begins else rest
