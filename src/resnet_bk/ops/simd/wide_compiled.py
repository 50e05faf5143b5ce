"""The operations of `wide` as LLVM instructions. Their meaning is in that module's docstring."""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, register_jitable

from resnet_bk.ops.simd.compiled import (
    LLVM_TYPES,
    Vector,
    _address,
    _constants,
    _indices,
    _mask,
    _masked_load,
    _masked_store,
    _to_boundary,
    _vector,
)
from resnet_bk.ops.sizes import VECTOR_BYTES

WIDE = Vector(types.float64)
LANES = WIDE.lanes
LARGEST = float(np.finfo(np.float32).max)


def _narrow(vector: Vector, count: int) -> ir.VectorType:
    """`count` numbers of the dtype that an array has in memory."""
    return ir.VectorType(LLVM_TYPES[vector.dtype], count)


def _widened(builder: Any, x: Any) -> Any:
    if isinstance(x.type.element, ir.DoubleType):
        return x
    return builder.fpext(x, ir.VectorType(ir.DoubleType(), x.type.count))


def _rounded(builder: Any, x: Any, kind: ir.VectorType) -> Any:
    """x in the precision of `kind`; what float32 cannot hold becomes its largest number, and NaN stays NaN."""
    if isinstance(kind.element, ir.DoubleType):
        return x
    x = builder.fptrunc(x, kind)
    for symbol, bound in ((">", LARGEST), ("<", -LARGEST)):
        limit = _constants(kind, [bound] * kind.count)
        x = builder.select(builder.fcmp_ordered(symbol, x, limit), limit, x)
    return x


@register_jitable
def scratch(size: int) -> Any:
    buffer = np.empty(size + LANES, np.float64)
    start: Any = _to_boundary(buffer)  # type: ignore[call-arg]
    return buffer[start : start + size]


def _constant(typingctx: Any, value: float) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _constants(context.get_value_type(WIDE), [value] * LANES)

    return WIDE(), codegen


@intrinsic
def zeros(typingctx: Any) -> Any:
    return _constant(typingctx, 0.0)


@intrinsic
def ones(typingctx: Any) -> Any:
    return _constant(typingctx, 1.0)


@intrinsic
def largest(typingctx: Any, array: Any) -> Any:
    value = float(np.finfo(_vector(array).dtype.name).max)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.DoubleType(), value)

    return types.float64(array), codegen


@intrinsic
def load(typingctx: Any, array: Any, i: Any, count: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, mask = _address(context, builder, sig.args[0], *args[:2]), _mask(builder, args[2], LANES)
        x = _masked_load(builder, _narrow(vector, LANES), pointer, mask, array.dtype.bitwidth // 8)
        return _widened(builder, x)

    return WIDE(array, types.intp, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, i: Any, count: Any, x: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, mask = _address(context, builder, sig.args[0], *args[:2]), _mask(builder, args[2], LANES)
        x = _rounded(builder, args[3], _narrow(vector, LANES))
        _masked_store(builder, x, pointer, mask, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, WIDE), codegen


def _parts(builder: Any, pointer: Any, count: Any, vector: Vector) -> list[tuple[Any, Any, int]]:
    """Address, mask and first number of each register that LANES complex numbers fill: one of float32, two of float64.

    Only the first `count` complex numbers are unmasked.
    """
    numbers = builder.shl(count, count.type(1))
    return [
        (
            builder.gep(pointer, [count.type(start)]),
            _mask(builder, builder.sub(numbers, count.type(start)), vector.lanes),
            start,
        )
        for start in range(0, 2 * LANES, vector.lanes)
    ]


@intrinsic
def load_pairs(typingctx: Any, array: Any, i: Any, count: Any) -> Any:
    vector = _vector(array)
    result = types.UniTuple(WIDE, 2)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, kind = _address(context, builder, sig.args[0], *args[:2]), _narrow(vector, vector.lanes)
        registers = [
            _masked_load(builder, kind, place, mask, array.dtype.bitwidth // 8)
            for place, mask, _ in _parts(builder, pointer, args[2], vector)
        ]
        low, high = registers if len(registers) == 2 else (registers[0], ir.Constant(kind, ir.Undefined))
        parts = [
            _widened(builder, builder.shuffle_vector(low, high, _indices(list(range(part, 2 * LANES, 2)))))
            for part in range(2)
        ]
        return context.make_tuple(builder, result, parts)

    return result(array, types.intp, types.intp), codegen


@intrinsic
def store_pairs(typingctx: Any, array: Any, i: Any, count: Any, re: Any, im: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], *args[:2])
        re, im = (_rounded(builder, x, _narrow(vector, LANES)) for x in args[3:])
        # Lane k of the real part goes to place 2 k, of the imaginary part to 2 k + 1.
        order = [k // 2 + (k % 2) * LANES for k in range(2 * LANES)]
        for place, mask, start in _parts(builder, pointer, args[2], vector):
            x = builder.shuffle_vector(re, im, _indices(order[start : start + vector.lanes]))
            _masked_store(builder, x, place, mask, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, WIDE, WIDE), codegen


assert VECTOR_BYTES == 8 * LANES


@intrinsic
def halves(typingctx: Any, array: Any, x: Any) -> Any:
    vector = _vector(array)
    result = types.UniTuple(WIDE, 2)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x = args[1]
        if x.type.count == LANES:
            parts = [x, _constants(x.type, [0.0] * LANES)]
        else:
            places = (list(range(start, start + LANES)) for start in (0, LANES))
            parts = [_widened(builder, builder.shuffle_vector(x, x, _indices(place))) for place in places]
        return context.make_tuple(builder, result, parts)

    return result(array, vector), codegen
