"""Numbers on which kernel and plain PyTorch agree. Imports nothing."""

# S is kept divided by exp(scale), and multiplied out before either leaves the range of float32.
LARGEST_SCALE = 60.0
SMALLEST = 1e-30  # probability or transmission under a logarithm
