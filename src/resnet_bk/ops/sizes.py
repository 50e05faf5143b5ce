"""Sizes on which the kernels and the shapes of their results agree. Imports nothing: shapes are known without numba."""

# A vector register of AVX-512; machines with narrower ones take two or four.
VECTOR_BYTES = 64

# Sites between two kept states of a sweep over chains. The states of a chunk, rebuilt in the backward sweep, take
# 17 to 34 KiB for 64 chains in float64: they stay in a first-level cache of 48 KiB, or the second-level one.
SWEEP_CHUNK = 16

# Sites between two kept states of the matrix state; a multiple of the numbers in a vector and of TILE_ROWS. The states
# of a chunk, rebuilt in the backward sweep, take 64 KiB for 16 keys and 256 KiB for 64: they stay in a second-level
# cache.
PROPAGATE_CHUNK = 32

# Tokens of a task of kernels that treat each token by itself, and of a partial sum over tokens.
TASK_TOKENS = 128

# A tile of a matrix product: rows times vectors of columns, kept in 16 of the 32 registers of AVX-512 as it is summed.
TILE_ROWS = 4
TILE_COLUMNS = 4

# A side of a square of products on AMX: two registers of 16 rows, or of 16 columns of float32.
SQUARE = 32
