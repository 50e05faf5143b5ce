"""A few vectors times a large matrix, for generation: each row of the matrix is read once, as it lies in memory."""

from torch import Tensor

from resnet_bk.ops.row_product import library

__all__ = ["row_product"]


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """y = x weight^T, without a derivative; `F.linear` differs from it by the rounding of sums.

    Both must be float32 or both float64 and of the shapes below: they are not checked again.

    Args:
        x: [B, D].
        weight: [R, D].

    Returns:
        y, [B, R], in the precision of the inputs.
    """
    found: Tensor = library.row_product(x, weight)
    return found
