"""The modulus state by the delta rule: a token replaces what the chain holds along its key."""

from typing import ClassVar

from resnet_bk.layers.modulus_propagator import ModulusPropagator


class DeltaPropagator(ModulusPropagator):
    """`ModulusPropagator` whose sites take out what they meet along their key, as much of it as they write:

        S_t = |L_t| (w_t k_t v_t^T + b_t (1 - w_t k_t k_t^T) S_{t-1}),   y_t = q_t^T S_t

    A sum over keys that are not orthogonal answers a query with all values whose keys are like it. With w = 1 what was
    there along k_t is gone, and k_t is answered by |L_t| v_t alone, until a key like it is written again.
    Where the factor comes from: `resnet_bk.ops.propagate_modulus`; the rule with a decay is that of Gated DeltaNet
    (arXiv 2412.06464).
    """

    name: ClassVar[str] = "delta"
    erases: ClassVar[bool] = True
