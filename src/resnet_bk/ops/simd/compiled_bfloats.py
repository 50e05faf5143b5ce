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

INT16 = ir.IntType(16)


def _check(array: Any, dtype: Any) -> bool:
    """Whether an array holds bfloat16, beside numbers of `dtype`."""
    bfloats = array.dtype == types.int16 and dtype == types.float32
    if array.dtype != dtype and not bfloats:
        raise TypeError(f"{array} must be of {dtype} or, beside float32, of bfloat16 (int16)")
    return bool(bfloats)


def _all(builder: Any, count: Any, lanes: int) -> Any:
    """Whether no lane is masked: machines without AVX512BW go through masked ones one by one."""
    return builder.icmp_signed(">=", count, count.type(lanes))


def _rounded(builder: Any, x: Any) -> Any:
    """bfloat16 nearest to each float32, ties to even, as 16-bit integers.

    LLVM's own conversion is a call of the C library for each number where the processor has none.
    """
    bits = ir.VectorType(INT32, x.type.count)

    def all_lanes(value: int) -> Any:
        return _constants(bits, [value] * x.type.count)

    number = builder.bitcast(x, bits)
    last = builder.and_(builder.lshr(number, all_lanes(16)), all_lanes(1))
    rounded = builder.lshr(builder.add(number, builder.add(last, all_lanes(0x7FFF))), all_lanes(16))
    rounded = builder.select(builder.fcmp_unordered("uno", x, x), all_lanes(0x7FC0), rounded)
    return builder.trunc(rounded, ir.VectorType(INT16, x.type.count))


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
        with builder.if_else(_all(builder, args[2], vector.lanes)) as (then, otherwise):
            with then:
                whole, after_whole = builder.load(pointer, align=2), builder.block
            with otherwise:
                part = _masked(builder, "load", halves, halves, [pointer, INT32(2), mask, nothing])
                after_part = builder.block
        loaded = builder.phi(halves)
        loaded.add_incoming(whole, after_whole)
        loaded.add_incoming(part, after_part)
        return builder.bitcast(builder.shl(builder.zext(loaded, bits), _constants(bits, [16] * vector.lanes)), kind)

    return vector(array, types.intp, types.intp, like), codegen


@intrinsic
def store_as(typingctx: Any, array: Any, i: Any, count: Any, x: Any) -> Any:
    bfloats = _check(array, x.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, mask = _address(context, builder, sig.args[0], *args[:2]), _mask(builder, args[2], x.lanes)
        if not bfloats:
            _masked_store(builder, args[3], pointer, mask, x.dtype.bitwidth // 8)
            return context.get_dummy_value()
        halves = _rounded(builder, args[3])
        pointer = builder.bitcast(pointer, halves.type.as_pointer())
        with builder.if_else(_all(builder, args[2], x.lanes)) as (then, otherwise):
            with then:
                builder.store(halves, pointer, align=2)
            with otherwise:
                _masked(builder, "store", halves.type, ir.VoidType(), [halves, pointer, INT32(2), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, x), codegen
