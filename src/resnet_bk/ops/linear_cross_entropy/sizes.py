"""Sizes of the compiled head, chosen by timing on two AVX-512 cores."""

# Tokens in a chunk: one tile wide (four where registers are narrower).
TOKENS = 64

# The same on AMX, at most. Its products are so fast that memory counts: W's gradient is read and written once a chunk.
AMX_TOKENS = 128

# Words in a block. Its logits for a chunk take 128 KiB (on AMX 256), its part of W 128 KiB for 64 columns: they stay in
# a second-level cache.
BLOCK = 512
