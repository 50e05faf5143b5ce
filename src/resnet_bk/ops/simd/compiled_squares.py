"""Squares of matrix products as LLVM's AMX instructions. Their meaning is in the package's docstring."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from resnet_bk.ops.simd.compiled import _address
from resnet_bk.ops.simd.compiled_tiles import _call, _typing
from resnet_bk.ops.sizes import SQUARE

# The unit has eight registers of 16 rows of 64 bytes: four hold a square, two its left operand, two its right one.
REGISTERS, ROWS, ROW_BYTES = 8, 16, 64
NUMBERS = ROW_BYTES // 4  # a row, float32 or pairs of bfloat16
SIDE = SQUARE // ROWS
LEFT, RIGHT = SIDE * SIDE, SIDE * SIDE + SIDE

INT8 = ir.IntType(8)
VOID = ir.VoidType()


def _configuration() -> ir.Constant:
    """What `ldtilecfg` reads: the one palette there is, then bytes a row (two bytes each) and rows of all registers."""
    memory = bytearray(64)
    memory[0] = 1
    for register in range(REGISTERS):
        memory[16 + 2 * register] = ROW_BYTES
        memory[48 + register] = ROWS
    return ir.Constant(ir.ArrayType(INT8, len(memory)), memory)


@intrinsic
def squares_open(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        constant = _configuration()
        place = cgutils.alloca_once(builder, constant.type)
        builder.store(constant, place)
        _call(builder, "llvm.x86.ldtilecfg", VOID, [builder.bitcast(place, INT8.as_pointer())])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def squares_close(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _call(builder, "llvm.x86.tilerelease", VOID, [])
        return context.get_dummy_value()

    return types.void(), codegen


def _squares(onto: bool) -> Any:
    @intrinsic
    def squares(typingctx, out, io, so, left, il, sl, right, ir_, sr, depth):  # type: ignore[no-untyped-def]
        if not _typing(out, left, right):
            raise TypeError(f"a square takes pairs of bfloat16 (int32), but got {left} and {right}")
        sig = types.void(out, io, so, left, il, sl, right, ir_, sr, depth)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, io, so, _, il, sl, _, ir_, sr, depth = args

            def constant(n: int) -> Any:
                return ir.Constant(io.type, n)

            def register(n: int) -> Any:
                return ir.Constant(INT8, n)

            def move(instruction: str, n: int, argument: int, position: Any, stride: Any) -> None:
                place = _address(context, builder, sig.args[argument], args[argument], position)
                pointer = builder.bitcast(place, INT8.as_pointer())
                step = builder.mul(stride, constant(4))
                _call(builder, f"llvm.x86.{instruction}", VOID, [register(n), pointer, step])

            def down(start: Any, stride: Any, m: int) -> Any:
                return builder.add(start, builder.mul(stride, constant(ROWS * m)))

            def move_out(instruction: str) -> None:
                for m in range(SIDE):
                    for n in range(SIDE):
                        position = builder.add(down(io, so, m), constant(NUMBERS * n))
                        move(instruction, SIDE * m + n, 0, position, so)

            if onto:
                move_out("tileloadd64")
            else:
                for n in range(LEFT):
                    _call(builder, "llvm.x86.tilezero", VOID, [register(n)])
            before = builder.block
            loop, behind = builder.append_basic_block("depth"), builder.append_basic_block("behind")
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(io.type)
            k.add_incoming(constant(0), before)
            for m in range(SIDE):
                move("tileloadd64", LEFT + m, 3, builder.add(down(il, sl, m), k), sl)
            for n in range(SIDE):
                at = builder.add(builder.add(ir_, builder.mul(sr, k)), constant(NUMBERS * n))
                move("tileloadd64", RIGHT + n, 6, at, sr)
            for m in range(SIDE):
                for n in range(SIDE):
                    operands = [register(SIDE * m + n), register(LEFT + m), register(RIGHT + n)]
                    _call(builder, "llvm.x86.tdpbf16ps", VOID, operands)
            following = builder.add(k, constant(NUMBERS))
            k.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, behind)

            builder.position_at_end(behind)
            move_out("tilestored64")
            return context.get_dummy_value()

        return sig, codegen

    return squares


squares_zero = _squares(onto=False)
squares_onto = _squares(onto=True)
