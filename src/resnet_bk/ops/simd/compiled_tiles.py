"""Tiles of matrix products as LLVM instructions. Their meaning is in the package's docstring."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from resnet_bk.ops.simd.compiled import INT32, _address, _broadcast, _constants, _indices, _suffix, _vector
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOAT = _BFloat()


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _multiply_add(builder: Any, pairs: bool, left: Any, right: Any, total: Any) -> Any:
    lanes = total.type.count
    if not pairs:
        return _call(builder, f"llvm.fmuladd.{_suffix(total.type)}", total.type, [left, right, total])
    halves = ir.VectorType(BFLOAT, 2 * lanes)
    operands = [total, builder.bitcast(left, halves), builder.bitcast(right, halves)]
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", total.type, operands)


def _typing(out: Any, left: Any, right: Any) -> bool:
    """Whether the operands are pairs of bfloat16."""
    dtype = _vector(out).dtype
    pairs = left.dtype == types.int32 and dtype == types.float32
    if left.dtype != right.dtype or (left.dtype != dtype and not pairs):
        raise TypeError(
            f"a tile takes operands of its own precision, one of float32 pairs of bfloat16 (int32) too, but {out} got "
            f"{left} and {right}"
        )
    return bool(pairs)


def _tile(start: str, vectors: int) -> Any:
    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typingctx, out, io, so, offsets, ib, left, il, row, step, right, ir_, sr, depth
    ):
        pairs = _typing(out, left, right)
        sig = types.void(out, io, so, offsets, ib, left, il, row, step, right, ir_, sr, depth)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            sums = context.get_value_type(_vector(out))
            operand = ir.VectorType(INT32, sums.count) if pairs else sums
            index = args[1].type
            _, io, so, _, ib, _, il, row, step, _, ir_, sr, depth = args

            def constant(n: int) -> Any:
                return ir.Constant(index, n)

            def pointer(argument: int, position: Any, kind: Any) -> Any:
                return builder.bitcast(_address(context, builder, sig.args[argument], args[argument], position), kind)

            def places() -> list[Any]:
                return [
                    pointer(
                        0,
                        builder.add(builder.add(io, builder.mul(so, constant(m))), constant(n * sums.count)),
                        sums.as_pointer(),
                    )
                    for m in range(TILE_ROWS)
                    for n in range(vectors)
                ]

            if start == "zero":
                first = [_constants(sums, [0.0] * sums.count)] * (TILE_ROWS * vectors)
            elif start == "out":
                first = [builder.load(place, align=4) for place in places()]
            else:
                first = []
                for m in range(TILE_ROWS):
                    address = _address(context, builder, sig.args[3], args[3], builder.add(ib, constant(m)))
                    first += [_broadcast(builder, builder.load(address), sums.count)] * vectors
            before = builder.block
            loop, behind = builder.append_basic_block("depth"), builder.append_basic_block("behind")
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(index)
            k.add_incoming(constant(0), before)
            totals = [builder.phi(sums) for _ in first]
            at_left = builder.add(il, builder.mul(k, step))
            at_right = builder.add(ir_, builder.mul(k, sr))
            columns = [
                builder.load(
                    pointer(9, builder.add(at_right, constant(n * sums.count)), operand.as_pointer()),
                    align=4,
                )
                for n in range(vectors)
            ]
            grown = []
            for m in range(TILE_ROWS):
                at = builder.add(at_left, builder.mul(row, constant(m)))
                scalar = builder.load(_address(context, builder, sig.args[5], args[5], at))
                wide = _broadcast(builder, scalar, sums.count)
                for n in range(vectors):
                    grown.append(_multiply_add(builder, pairs, wide, columns[n], totals[m * vectors + n]))
            following = builder.add(k, constant(1))
            k.add_incoming(following, loop)
            for total, initial, value in zip(totals, first, grown, strict=True):
                total.add_incoming(initial, before)
                total.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, behind)

            builder.position_at_end(behind)
            for place, value in zip(places(), grown, strict=True):
                builder.store(value, place, align=4)
            return context.get_dummy_value()

        return sig, codegen

    return tile


tile_from = _tile("offsets", TILE_COLUMNS)
tile_from_narrow = _tile("offsets", 1)
tile_zero = _tile("zero", TILE_COLUMNS)
tile_onto = _tile("out", TILE_COLUMNS)
tile_zero_half = _tile("zero", TILE_COLUMNS // 2)
tile_onto_half = _tile("out", TILE_COLUMNS // 2)
tile_zero_narrow = _tile("zero", 1)
tile_onto_narrow = _tile("out", 1)


@intrinsic
def transpose(typingctx: Any, out: Any, io: Any, so: Any, array: Any, i: Any, s: Any) -> Any:
    vector = _vector(array)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, io, so, _, i, s = args
        kind, count = context.get_value_type(vector), vector.lanes

        def row(argument: int, start: Any, stride: Any, m: int) -> Any:
            place = builder.add(start, builder.mul(stride, ir.Constant(stride.type, m)))
            address = _address(context, builder, sig.args[argument], args[argument], place)
            return builder.bitcast(address, kind.as_pointer())

        align = array.dtype.bitwidth // 8
        rows = [builder.load(row(3, i, s, m), align=align) for m in range(count)]
        # Blocks of `side` rows and columns beside the diagonal change places with one another, for each power of 2.
        side = 1
        while side < count:
            firsts = [j if not j & side else count + j - side for j in range(count)]
            seconds = [j + side if not j & side else count + j for j in range(count)]
            for m in range(count):
                if not m & side:
                    a, b = rows[m], rows[m + side]
                    rows[m] = builder.shuffle_vector(a, b, _indices(firsts))
                    rows[m + side] = builder.shuffle_vector(a, b, _indices(seconds))
            side *= 2
        for m in range(count):
            builder.store(rows[m], row(0, io, so, m), align=align)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, array, types.intp, types.intp), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _multiply_add(builder, False, *args)

    return a(a, b, c), codegen


@intrinsic
def sum_lanes(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind, scalar = args[0].type, args[0].type.element
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(scalar, [scalar, kind]), f"llvm.vector.reduce.fadd.{_suffix(kind)}"
        )
        # The order of a tree: lane by lane would take four times as long.
        return builder.call(function, [ir.Constant(scalar, 0.0), args[0]], fastmath=("reassoc",))

    return x.dtype(x), codegen


# exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2, ln 2 in two parts so that r is exact, and Taylor's
# polynomial of degree 6, whose rest is (ln(2) / 2)^7 / 7! = 1.2e-7.
_LOWEST = -87.0  # behind it 2^n leaves the normal numbers
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the integer nearest to a small number in the last bits
_LN2 = (0.693145751953125, 1.428606765330187e-06)
_TAYLOR = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)


@intrinsic
def exponential(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        bits = ir.VectorType(INT32, kind.count)

        def all_lanes(value: float) -> Any:
            return _constants(kind, [value] * kind.count)

        def fma(a: Any, b: Any, c: Any) -> Any:
            return _call(builder, f"llvm.fma.v{kind.count}f32", kind, [a, b, c])

        # Ordered: a NaN stays.
        x = builder.select(builder.fcmp_ordered("<", args[0], all_lanes(_LOWEST)), all_lanes(_LOWEST), args[0])
        rounded = fma(x, all_lanes(1.4426950408889634), all_lanes(_ROUND))
        n = builder.fsub(rounded, all_lanes(_ROUND))
        r = fma(n, all_lanes(-_LN2[1]), fma(n, all_lanes(-_LN2[0]), x))
        value = all_lanes(_TAYLOR[0])
        for coefficient in _TAYLOR[1:]:
            value = fma(value, r, all_lanes(coefficient))
        shift = builder.shl(builder.bitcast(rounded, bits), _constants(bits, [23] * kind.count))
        return builder.bitcast(builder.add(builder.bitcast(value, bits), shift), kind)

    return x(x), codegen


def _halfwords(builder: Any, x: Any) -> Any:
    """bfloat16 nearest to each float32, as 16-bit integers."""
    count = x.type.count
    rounded = builder.fptrunc(x, ir.VectorType(BFLOAT, count))
    return builder.bitcast(rounded, ir.VectorType(ir.IntType(16), count))


@intrinsic
def store_halves(typingctx: Any, array: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = _halfwords(builder, args[2])
        place = _address(context, builder, sig.args[0], *args[:2])
        builder.store(halves, builder.bitcast(place, halves.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), codegen


@intrinsic
def store_joined(typingctx: Any, array: Any, i: Any, low: Any, high: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count = args[2].type.count
        order = [k // 2 + (k % 2) * count for k in range(2 * count)]
        halves = [_halfwords(builder, x) for x in args[2:]]
        joined = builder.shuffle_vector(*halves, _constants(ir.VectorType(INT32, 2 * count), order))
        place = _address(context, builder, sig.args[0], *args[:2])
        builder.store(joined, builder.bitcast(place, joined.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, low, high), codegen


@intrinsic
def load_halves(typingctx: Any, array: Any, i: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[2].type
        halves = ir.VectorType(ir.IntType(16), kind.count)
        bits = ir.VectorType(INT32, kind.count)
        place = builder.bitcast(_address(context, builder, sig.args[0], *args[:2]), halves.as_pointer())
        wide = builder.zext(builder.load(place, align=4), bits)
        return builder.bitcast(builder.shl(wide, _constants(bits, [16] * kind.count)), kind)

    return like(array, types.intp, like), codegen
