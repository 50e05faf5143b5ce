"""Sizes on which the Triton kernels and the shapes of their results agree. Imports nothing: shapes are known without
triton.

Shape legend: B batch, T sites, H chains.
"""

# Sites of a piece of a chain. A summary reads the inputs a second time and adds 6 numbers a lane to them: little beside
# 64 sites.
PIECE = 64

# With so many chains the device (an H100 holds 270,336 threads) has enough to do without cutting them.
MANY_CHAINS = 131_072

# Sites of a chunk of the matrix state. Longer ones would move fewer states, but matrices [chunk, chunk] would no longer
# stay in registers.
CHUNK = 32


def piece_length(batch: int, sites: int, chains: int) -> int:
    """Sites that one lane sweeps: the whole chain where it is short or where there are many."""
    many = batch * chains >= MANY_CHAINS and sites * chains < 2**31  # places within a piece are 32 bits wide
    return sites if sites <= 2 * PIECE or many else PIECE


def pieces(batch: int, sites: int, chains: int) -> int:
    length = piece_length(batch, sites, chains)
    return (sites + length - 1) // length
