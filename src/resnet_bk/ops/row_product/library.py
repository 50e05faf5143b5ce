"""Registers the CPU kernel with PyTorch, as `resnet_bk.ops.modulus_step.library` does and for its reason.

Shape legend: as in `resnet_bk.ops.row_product`. The registered function expects checked inputs.
"""

import torch
from torch import Tensor


def _row_product(x: Tensor, weight: Tensor) -> Tensor:
    """As `resnet_bk.ops.row_product.row_product`."""
    from resnet_bk.ops.kernels import flat, launch
    from resnet_bk.ops.row_product import cpu

    y = _empty_output(x, weight)
    (batch, depth), rows = x.shape, weight.shape[0]
    if y.numel():
        tasks = -(-rows // cpu.ROWS)
        launch(cpu.forward, tasks, 2 * batch * depth * rows, flat(x), flat(weight), flat(y), batch, depth)
    return y


def _empty_output(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


_NAME = "resnet_bk::row_product"
torch.library.define(_NAME, torch.library.infer_schema(_row_product, mutates_args=()))
torch.library.impl(_NAME, "cpu", _row_product)
row_product = torch.ops.resnet_bk.row_product.default


@torch.library.register_fake(_NAME)
def _(x: Tensor, weight: Tensor) -> Tensor:
    return _empty_output(x, weight)
