"""CPU kernels of a real matrix state whose gains and decays are known, and the adjoint where sites erase.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks of CHUNK sites, W numbers in a vector.
Arrays are flat: query and key [B, T, H, K], value [B, T, H, V], gain and decay float64 [B, T, H], erase [B, T, H] or
empty where nothing is erased, output [B, T, H, V], S [B, H, K, V]; inside, a state is a tile of W columns, [K, W].

    S_t = gain_t k_t v_t^T + decay_t (1 - erase_t k_t k_t^T) S_{t-1}             y_t = q_t^T S_t

A column of S knows nothing of the others, with r_t = S_{t-1}^T k_t, what the site meets:

    S_t = k_t u_t^T + decay_t S_{t-1}                    u_t = gain_t v_t - decay_t erase_t r_t

Adjoint (bars are cotangents), from the last site to the first:

    Sbar_t = q_t ybar_t^T + the part of Sbar_{t+1} that reaches S_t (behind the last site: the cotangent of the final S)
    ubar_t = Sbar_t^T k_t                                rbar_t = -decay_t erase_t ubar_t
    S_{t-1} receives decay_t Sbar_t + k_t rbar_t^T
    qbar_t = S_t ybar_t                                  kbar_t = Sbar_t u_t + S_{t-1} rbar_t
    vbar_t = gain_t ubar_t                               gainbar_t = v_t . ubar_t
    decaybar_t = sum(S_{t-1} Sbar_t) - erase_t r_t . ubar_t      erasebar_t = -decay_t r_t . ubar_t

For float32 states decays are rounded so that their products do not drift (`propagate/rounding.py`), from the left for
S and from the right for Sbar. decaybar is summed in float64, since most of it may cancel in the gradient of a hopping.
Order of the work, tiles and checkpoints are those of `propagate/cpu.py`. The adjoint where nothing is erased:
`cpu_adjoint.py`.
"""

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.propagate.rounding import exact, share, within
from resnet_bk.ops.simd import lanes, load, row_sums, scratch, spread, store, wide, zeros
from resnet_bk.ops.sizes import PROPAGATE_CHUNK as CHUNK


@kernel
def forward(
    begin: int,
    end: int,
    query: Floats,
    key: Floats,
    value: Floats,
    gain: Floats,
    decay: Floats,
    erase: Floats,
    initial_memory: Floats,
    output: Floats,
    memory: Floats,
    checkpoints: Floats,
    keep: bool,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """checkpoints [B, H, tiles, N, K, W] receives the state at the start of each chunk if `keep`."""
    width, largest = lanes(query), wide.largest(query)
    tiles = (values + width - 1) // width
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    size = keys * width
    erasing = erase.size > 0
    for task in range(begin, end):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        states = scratch(query, count * tiles * size)
        shares = wide.scratch(count)  # of the decay before
        steps = scratch(query, 2 * CHUNK * count)  # gain and decay of a chunk, rounded
        for part in range(count * tiles):
            h, low = part // tiles, part % tiles * width
            shares[h] = 0
            for k in range(keys):
                i = ((row * heads + base + h) * keys + k) * values + low
                store(states, part * size + k * width, width, load(initial_memory, i, values - low))
        for chunk in range(chunks):
            first = chunk * CHUNK
            length = min(CHUNK, sites - first)
            for step in range(length * count):
                h, site = step % count, (row * sites + first + step // count) * heads + base + step % count
                z = decay[site] + decay[site] * shares[h]
                steps[2 * step], steps[2 * step + 1] = within(gain[site], largest), within(z, largest)
                shares[h], _ = share(z, 0.0, exact(steps, 2 * step + 1), 0.0)
            for part in range(count * tiles):
                h, tile = part // tiles, part % tiles
                low, state = tile * width, part * size
                n = values - low
                if keep:
                    start = (((row * heads + base + h) * tiles + tile) * chunks + chunk) * size
                    for i in range(0, size, width):
                        store(checkpoints, start + i, width, load(states, state + i, width))
                for t in range(length):
                    site, step = (row * sites + first + t) * heads + base + h, 2 * (t * count + h)
                    d, u = spread(steps, step + 1), spread(steps, step) * load(value, site * values + low, n)
                    y = zeros(query)
                    if erasing:
                        r = zeros(query)
                        for k in range(keys):
                            r = r + spread(key, site * keys + k) * load(states, state + k * width, width)
                        u = u - d * spread(erase, site) * r
                    for k in range(keys):
                        i = state + k * width
                        s = spread(key, site * keys + k) * u + d * load(states, i, width)
                        store(states, i, width, s)
                        y = y + spread(query, site * keys + k) * s
                    store(output, site * values + low, n, y)
        for part in range(count * tiles):
            h, low = part // tiles, part % tiles * width
            for k in range(keys):
                i = ((row * heads + base + h) * keys + k) * values + low
                store(memory, i, values - low, load(states, part * size + k * width, width))


@kernel
def backward_erasing(
    begin: int,
    end: int,
    output_bar: Floats,
    has_output_bar: bool,
    memory_bar: Floats,
    query: Floats,
    key: Floats,
    value: Floats,
    gain: Floats,
    decay: Floats,
    erase: Floats,
    checkpoints: Floats,
    query_bar: Floats,
    key_bar: Floats,
    value_bar: Floats,
    gain_bar: Floats,
    decay_bar: Floats,
    erase_bar: Floats,
    initial_memory_bar: Floats,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """memory_bar [B, H, K, V] belongs to the final state; erase is not empty here."""
    width, largest = lanes(query), wide.largest(query)
    tiles = (values + width - 1) // width
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    size = keys * width
    rows = (keys + width - 1) // width * width
    for task in range(begin, end):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        carries = scratch(query, count * tiles * size)  # decay_{t+1} Sbar_{t+1} of each head and tile
        shares = wide.scratch(count)  # of the decay behind
        steps = scratch(query, 3 * CHUNK)  # of a chunk, rounded: gain; decay as S meets it, and as Sbar does
        states = scratch(query, (CHUNK + 1) * size)  # before the chunk, then after each of its sites
        q_rows = scratch(query, rows * width)  # summands of qbar_t and kbar_t, a row a key
        k_rows = scratch(query, rows * width)
        q_rows.fill(0)
        k_rows.fill(0)
        g_rows = scratch(query, CHUNK * width)  # summands of gainbar_t, a row a site
        g_sums = scratch(query, CHUNK)
        met = scratch(query, CHUNK * width)  # r_t, a row a site
        e_rows = scratch(query, CHUNK * width)  # summands of erasebar_t, a row a site
        e_sums = scratch(query, CHUNK)
        c_rows = wide.scratch(CHUNK * wide.LANES)  # summands of decaybar_t
        c_sums = wide.scratch(CHUNK)
        for part in range(count * tiles):
            h, low = part // tiles, part % tiles * width
            shares[h] = 0
            for k in range(keys):
                i = ((row * heads + base + h) * keys + k) * values + low
                store(carries, part * size + k * width, width, load(memory_bar, i, values - low))
        for step in range(chunks * count):
            chunk, h = chunks - 1 - step // count, step % count
            head, first = row * heads + base + h, chunk * CHUNK
            length = min(CHUNK, sites - first)
            f = 0.0
            for t in range(length):
                site = (row * sites + first + t) * heads + base + h
                z = decay[site] + decay[site] * f
                steps[3 * t], steps[3 * t + 1] = within(gain[site], largest), within(z, largest)
                f, _ = share(z, 0.0, exact(steps, 3 * t + 1), 0.0)
            for t in range(length - 1, -1, -1):
                site = (row * sites + first + t) * heads + base + h
                z = decay[site] + decay[site] * shares[h]
                steps[3 * t + 2] = within(z, largest)
                shares[h], _ = share(z, 0.0, exact(steps, 3 * t + 2), 0.0)
            g_rows.fill(0)
            e_rows.fill(0)
            c_rows.fill(0)
            for tile in range(tiles):
                low, carry = tile * width, (h * tiles + tile) * size
                n = values - low
                start = ((head * tiles + tile) * chunks + chunk) * size
                for i in range(0, size, width):
                    store(states, i, width, load(checkpoints, start + i, width))
                for t in range(length):
                    site = (row * sites + first + t) * heads + base + h
                    d, r = spread(steps, 3 * t + 1), zeros(query)
                    for k in range(keys):
                        r = r + spread(key, site * keys + k) * load(states, t * size + k * width, width)
                    store(met, t * width, width, r)
                    u = spread(steps, 3 * t) * load(value, site * values + low, n) - d * spread(erase, site) * r
                    for k in range(keys):
                        i = t * size + k * width
                        s = spread(key, site * keys + k) * u + d * load(states, i, width)
                        store(states, i + size, width, s)
                for t in range(length - 1, -1, -1):
                    site = (row * sites + first + t) * heads + base + h
                    g, d = spread(steps, 3 * t), spread(steps, 3 * t + 2)
                    v = load(value, site * values + low, n)
                    y = zeros(query)
                    if has_output_bar:
                        y = load(output_bar, site * values + low, n)
                    e, r = spread(erase, site), load(met, t * width, width)
                    u, u_bar = g * v - spread(steps, 3 * t + 1) * e * r, zeros(query)
                    c_low, c_high = wide.zeros(), wide.zeros()
                    for k in range(keys):
                        i, c = t * size + k * width, carry + k * width
                        store(q_rows, k * width, width, load(states, i + size, width) * y)
                        s_bar = load(carries, c, width) + spread(query, site * keys + k) * y
                        store(k_rows, k * width, width, u * s_bar)
                        u_bar = u_bar + spread(key, site * keys + k) * s_bar
                        store(carries, c, width, d * s_bar)
                        s_low, s_high = wide.halves(query, load(states, i, width))
                        b_low, b_high = wide.halves(query, s_bar)
                        c_low, c_high = c_low + s_low * b_low, c_high + s_high * b_high
                    store(value_bar, site * values + low, n, g * u_bar)
                    store(g_rows, t * width, width, load(g_rows, t * width, width) + v * u_bar)
                    r_bar = d * e * u_bar  # with the other sign
                    for k in range(keys):
                        i, c, row_k = t * size + k * width, carry + k * width, k * width
                        before = load(states, i, width)
                        store(k_rows, row_k, width, load(k_rows, row_k, width) - before * r_bar)
                        store(carries, c, width, load(carries, c, width) - spread(key, site * keys + k) * r_bar)
                    e_low, e_high = wide.halves(query, e * (r * u_bar))
                    c_low, c_high = c_low - e_low, c_high - e_high
                    store(e_rows, t * width, width, load(e_rows, t * width, width) - d * (r * u_bar))
                    i = t * wide.LANES
                    wide.store(c_rows, i, wide.LANES, wide.load(c_rows, i, wide.LANES) + c_low + c_high)
                    for k in range(0, keys, width):
                        i = site * keys + k
                        q_k, k_k = row_sums(q_rows, k * width), row_sums(k_rows, k * width)
                        if tile > 0:
                            q_k, k_k = load(query_bar, i, keys - k) + q_k, load(key_bar, i, keys - k) + k_k
                        store(query_bar, i, keys - k, q_k)
                        store(key_bar, i, keys - k, k_k)
            for i in range(0, CHUNK, width):
                store(g_sums, i, width, row_sums(g_rows, i * width))
                store(e_sums, i, width, row_sums(e_rows, i * width))
            for i in range(0, CHUNK, wide.LANES):
                store(c_sums, i, wide.LANES, row_sums(c_rows, i * wide.LANES))
            for t in range(length):
                site = (row * sites + first + t) * heads + base + h
                gain_bar[site], decay_bar[site], erase_bar[site] = exact(g_sums, t), c_sums[t], e_sums[t]
        for part in range(count * tiles):
            h, low = part // tiles, part % tiles * width
            for k in range(keys):
                i = ((row * heads + base + h) * keys + k) * values + low
                store(initial_memory_bar, i, values - low, load(carries, part * size + k * width, width))
