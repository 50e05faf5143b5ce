"""Numbers on which kernels and the shapes of their results agree. Imports nothing: shapes are known without numba."""

# Squared: vectors much shorter than 1e-3 stay short in place of having their rounding errors blown up.
EPSILON = 1e-6
# Tokens of a task, and of a partial sum of the gradient of the bias.
TOKENS = 128
