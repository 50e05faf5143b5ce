"""The vector operations as LLVM instructions. Their meaning is in the package's docstring."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_jitable, register_model

from resnet_bk.ops.sizes import VECTOR_BYTES

INT32 = ir.IntType(32)
LLVM_TYPES = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


class Vector(types.Type):
    """As many numbers of one dtype as fit VECTOR_BYTES."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(LLVM_TYPES[vector.dtype], vector.lanes))


def _operator(symbol: Callable[..., Any], instruction: str) -> None:
    @infer_global(symbol)
    class Signature(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(symbol, Vector, Vector)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # "contract" lets a product and a sum fuse into one multiply-add; no other liberty is taken.
        return getattr(builder, instruction)(*args, flags=("contract",))


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_symbol, _instruction)


def _vector(array: Any) -> Vector:
    if not isinstance(array, types.Array) or array.ndim != 1 or array.layout != "C" or array.dtype not in LLVM_TYPES:
        raise TypeError(f"expected a contiguous one-dimensional array of float32 or float64, but got {array}")
    return Vector(array.dtype)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _constants(vector: ir.VectorType, values: list[Any]) -> ir.Constant:
    return ir.Constant(vector, values)


def _indices(values: list[int]) -> ir.Constant:
    return _constants(ir.VectorType(INT32, len(values)), values)


def _broadcast(builder: Any, scalar: Any, count: int) -> Any:
    vector = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(first, undefined, _indices([0] * count))


def _mask(builder: Any, count: Any, lanes: int) -> Any:
    """True in the first `count` lanes."""
    counts = _broadcast(builder, builder.trunc(count, INT32), lanes)
    return builder.icmp_signed("<", _indices(list(range(lanes))), counts)


def _suffix(vector: ir.VectorType) -> str:
    """How LLVM's functions name a vector."""
    names = {"float": "f32", "double": "f64", "i16": "i16"}
    return f"v{vector.count}{names[str(vector.element)]}"


def _masked(builder: Any, action: str, vector: ir.VectorType, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    name = f"llvm.masked.{action}.{_suffix(vector)}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _masked_load(builder: Any, vector: ir.VectorType, pointer: Any, mask: Any, alignment: int) -> Any:
    nothing = _constants(vector, [0.0] * vector.count)
    pointer = builder.bitcast(pointer, vector.as_pointer())
    return _masked(builder, "load", vector, vector, [pointer, INT32(alignment), mask, nothing])


def _masked_store(builder: Any, x: Any, pointer: Any, mask: Any, alignment: int) -> None:
    pointer = builder.bitcast(pointer, x.type.as_pointer())
    _masked(builder, "store", x.type, ir.VoidType(), [x, pointer, INT32(alignment), mask])


@intrinsic
def lanes(typingctx: Any, array: Any) -> Any:
    count = _vector(array).lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(types.intp), count)

    return types.intp(array), codegen


@intrinsic
def _to_boundary(typingctx: Any, array: Any) -> Any:
    """Numbers from the start of the array to the next address that is a multiple of a vector."""
    _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = context.get_value_type(types.intp)
        address = builder.ptrtoint(context.make_array(sig.args[0])(context, builder, args[0]).data, kind)
        missing = builder.and_(builder.neg(address), ir.Constant(kind, VECTOR_BYTES - 1))
        return builder.udiv(missing, ir.Constant(kind, array.dtype.bitwidth // 8))

    return types.intp(array), codegen


@register_jitable
def scratch(array: Any, size: int) -> Any:
    buffer = np.empty(size + lanes(array), array.dtype)  # type: ignore[call-arg]
    start = _to_boundary(buffer)
    return buffer[start : start + size]


@intrinsic
def zeros(typingctx: Any, array: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _constants(context.get_value_type(vector), [0.0] * vector.lanes)

    return vector(array), codegen


@intrinsic
def spread(typingctx: Any, array: Any, i: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _broadcast(builder, builder.load(_address(context, builder, sig.args[0], *args)), vector.lanes)

    return vector(array, types.intp), codegen


@intrinsic
def load(typingctx: Any, array: Any, i: Any, count: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], *args[:2])
        mask = _mask(builder, args[2], vector.lanes)
        return _masked_load(builder, context.get_value_type(vector), pointer, mask, array.dtype.bitwidth // 8)

    return vector(array, types.intp, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, i: Any, count: Any, x: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], *args[:2])
        _masked_store(builder, args[3], pointer, _mask(builder, args[2], vector.lanes), array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), codegen


def _halves(builder: Any, pointer: Any, count: Any, lanes: int) -> list[tuple[Any, Any]]:
    """Addresses and masks of the two vectors that `count` complex numbers fill."""
    numbers, width = builder.shl(count, count.type(1)), count.type(lanes)
    behind = builder.sub(numbers, width)
    return [
        (pointer, _mask(builder, numbers, lanes)),
        (builder.gep(pointer, [width]), _mask(builder, behind, lanes)),
    ]


@intrinsic
def load_pairs(typingctx: Any, array: Any, i: Any, count: Any) -> Any:
    vector = _vector(array)
    result = types.UniTuple(vector, 2)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, kind = _address(context, builder, sig.args[0], *args[:2]), context.get_value_type(vector)
        low, high = (
            _masked_load(builder, kind, place, mask, array.dtype.bitwidth // 8)
            for place, mask in _halves(builder, pointer, args[2], vector.lanes)
        )
        re = builder.shuffle_vector(low, high, _indices(list(range(0, 2 * vector.lanes, 2))))
        im = builder.shuffle_vector(low, high, _indices(list(range(1, 2 * vector.lanes, 2))))
        return context.make_tuple(builder, result, [re, im])

    return result(array, types.intp, types.intp), codegen


@intrinsic
def store_pairs(typingctx: Any, array: Any, i: Any, count: Any, re: Any, im: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], *args[:2])
        # Lane k of the real part goes to place 2 k, of the imaginary part to 2 k + 1.
        order = [k // 2 + (k % 2) * vector.lanes for k in range(2 * vector.lanes)]
        for half, (place, mask) in enumerate(_halves(builder, pointer, args[2], vector.lanes)):
            picked = _indices(order[half * vector.lanes : (half + 1) * vector.lanes])
            x = builder.shuffle_vector(args[3], args[4], picked)
            _masked_store(builder, x, place, mask, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector, vector), codegen


@intrinsic
def row_sums(typingctx: Any, array: Any, i: Any) -> Any:
    vector = _vector(array)
    count = vector.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = _address(context, builder, sig.args[0], *args)
        kind = context.get_value_type(vector)
        rows = []
        for r in range(count):
            pointer = builder.bitcast(builder.gep(start, [ir.Constant(args[1].type, r * count)]), kind.as_pointer())
            rows.append(builder.load(pointer, align=array.dtype.bitwidth // 8))
        # Each round joins two vectors, which hold `width` partial sums for each of their rows, into one that holds half
        # as many for each row of both: 2 (lanes - 1) shuffles and lanes - 1 sums for all the rows together.
        width = count
        while width > 1:
            firsts = [start + p for start in range(0, 2 * count, width) for p in range(width // 2)]
            seconds = [k + width // 2 for k in firsts]
            rows = [
                builder.fadd(
                    builder.shuffle_vector(a, b, _indices(firsts)), builder.shuffle_vector(a, b, _indices(seconds))
                )
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
            width //= 2
        return rows[0]

    return vector(array, types.intp), codegen
