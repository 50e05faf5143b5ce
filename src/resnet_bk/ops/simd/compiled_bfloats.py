"""Reading and writing arrays of bfloat16 as LLVM instructions. Their meaning is in the package's docstring."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from resnet_bk.ops.simd.compiled import (
    INT32,
    _address,
    _constants,
    _mask,
    _masked,
    _masked_load,
    _masked_store,
    _vector,
)
from resnet_bk.ops.simd.compiled_tiles import _halfwords

INT16 = ir.IntType(16)


def _check(array: Any, dtype: Any) -> bool:
    """Whether an array holds bfloat16, beside numbers of `dtype`."""
    bfloats = array.dtype == types.int16 and dtype == types.float32
    if array.dtype != dtype and not bfloats:
        raise TypeError(f"{array} must be of {dtype} or, beside float32, of bfloat16 (int16)")
    return bool(bfloats)


@intrinsic
def load_as(typingctx: Any, array: Any, i: Any, count: Any, like: Any) -> Any:
    vector = _vector(like)
    bfloats = _check(array, vector.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        pointer, mask = _address(context, builder, sig.args[0], *args[:2]), _mask(builder, args[2], vector.lanes)
        if not bfloats:
            return _masked_load(builder, kind, pointer, mask, vector.dtype.bitwidth // 8)
        halves, bits = ir.VectorType(INT16, vector.lanes), ir.VectorType(INT32, vector.lanes)
        nothing = _constants(halves, [0] * vector.lanes)
        pointer = builder.bitcast(pointer, halves.as_pointer())
        loaded = _masked(builder, "load", halves, halves, [pointer, INT32(2), mask, nothing])
        return builder.bitcast(builder.shl(builder.zext(loaded, bits), _constants(bits, [16] * vector.lanes)), kind)

    return vector(array, types.intp, types.intp, like), codegen


@intrinsic
def store_as(typingctx: Any, array: Any, i: Any, count: Any, x: Any) -> Any:
    bfloats = _check(array, x.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, mask = _address(context, builder, sig.args[0], *args[:2]), _mask(builder, args[2], x.lanes)
        if bfloats:
            halves = _halfwords(builder, args[3])
            pointer = builder.bitcast(pointer, halves.type.as_pointer())
            _masked(builder, "store", halves.type, ir.VoidType(), [halves, pointer, INT32(2), mask])
        else:
            _masked_store(builder, args[3], pointer, mask, x.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, x), codegen
