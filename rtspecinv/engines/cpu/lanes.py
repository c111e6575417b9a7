"""Vectors of eight numbers (SIMD) for compiled code.

LLVM vectorizes simple loops only, so the transforms use explicit vectors. `Lanes` holds WIDTH numbers of one
precision, in as many registers as the machine needs for them, and supports the arithmetic of numbers.

Compiled code gets memory as plain addresses (`pointers`), without bounds checks and reference counts:
counting references to arrays takes more than a tenth of the time of the arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

WIDTH = 8
I32 = ir.IntType(32)

# Allows a * b + c in one instruction; NaN and infinity keep their meaning.
FLAGS = ("contract", "nsz")


class Lanes(types.Type):
    """Numba type of a vector: WIDTH numbers of `dtype`."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        number = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(number, WIDTH))


def _register(op: Callable[..., Any], instruction: str) -> None:
    """Compile `op` of two Lanes to one vector instruction."""

    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            both = len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]
            return signature(args[0], *args) if both else None

    @lower_builtin(op, Lanes, Lanes)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=FLAGS)


_register(operator.add, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")


@intrinsic
def unpack(typingctx: Any, kind: Any, numbers: Any) -> Any:
    """Return a named tuple `kind` of the first numbers of an array."""
    result = types.NamedTuple([numbers.dtype] * len(kind.instance_class._fields), kind.instance_class)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[1])(context, builder, args[1]).data
        values = [builder.load(builder.gep(data, [I32(i)])) for i in range(len(result))]
        return context.make_tuple(builder, sig.return_type, values)

    return result(kind, numbers), codegen


@intrinsic
def pointers(typingctx: Any, addresses: Any, number: Any) -> Any:
    """Return a named tuple of addresses as pointers to numbers of the precision of `number`."""
    result = types.NamedTuple([types.CPointer(number)] * len(addresses), addresses.instance_class)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = context.get_value_type(result[0])
        made = [builder.inttoptr(address, pointer) for address in cgutils.unpack_tuple(builder, args[0])]
        return context.make_tuple(builder, sig.return_type, made)

    return result(addresses, number), codegen


@intrinsic
def load(typingctx: Any, pointer: Any, index: Any) -> Any:
    """Return the lanes at positions `index`, `index + 1`, ... from a pointer on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place, align = _place(context, builder, sig.args[0], *args)
        return builder.load(place, align=align)

    return Lanes(pointer.dtype)(pointer, types.intp), codegen


@intrinsic
def store(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write lanes to positions `index`, `index + 1`, ... from a pointer on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place, align = _place(context, builder, sig.args[0], *args[:2])
        builder.store(args[2], place, align=align)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, value), codegen


@intrinsic
def broadcast(typingctx: Any, value: Any) -> Any:
    """Return lanes that all hold one number."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        nothing = ir.Constant(context.get_value_type(sig.return_type), ir.Undefined)
        first = builder.insert_element(nothing, args[0], I32(0))
        return builder.shuffle_vector(first, nothing, _places([0] * WIDTH))

    return Lanes(value)(value), codegen


@intrinsic
def total(typingctx: Any, value: Any) -> Any:
    """Return the sum of all lanes, computed by repeatedly adding one half to the other."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (lanes,), n = args, WIDTH
        while n > 1:
            n //= 2
            low, high = (builder.shuffle_vector(lanes, lanes, _places(range(i, i + n))) for i in (0, n))
            lanes = builder.fadd(low, high, flags=FLAGS)
        return builder.extract_element(lanes, I32(0))

    return value.dtype(value), codegen


@intrinsic
def root(typingctx: Any, value: Any) -> Any:
    """Return the square roots of lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        n_bits = 32 if sig.args[0].dtype == types.float32 else 64
        name = f"llvm.sqrt.v{WIDTH}f{n_bits}"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name), [args[0]]
        )

    return value(value), codegen


@intrinsic
def reverse(typingctx: Any, value: Any) -> Any:
    """Return the lanes in reverse order."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], _places(range(WIDTH - 1, -1, -1)))

    return value(value), codegen


@intrinsic
def interleave(typingctx: Any, even: Any, odd: Any) -> Any:
    """Return `(e0 o0 e1 o1 ...)`, in two halves."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.pack_array(builder, _zip(builder, *args))

    return types.UniTuple(even, 2)(even, odd), codegen


@intrinsic
def deinterleave(typingctx: Any, low: Any, high: Any) -> Any:
    """Return the even and the odd positions of two consecutive lanes; the inverse of `interleave`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = [builder.shuffle_vector(*args, _places(range(first, 2 * WIDTH, 2))) for first in (0, 1)]
        return cgutils.pack_array(builder, parts)

    return types.UniTuple(low, 2)(low, high), codegen


@intrinsic
def transpose(typingctx: Any, rows: Any) -> Any:
    """Return a tuple of WIDTH lanes, transposed as a matrix: lane i of row j becomes lane j of row i."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = cgutils.unpack_tuple(builder, args[0])
        # Row j, lane i sits at position 8 j + i. Zipping row j with row j + 4 rotates the six bits of every
        # position left by one; three rotations swap j and i.
        for _ in range(3):
            rows = [row for j in range(4) for row in _zip(builder, rows[j], rows[j + 4])]
        return cgutils.pack_array(builder, rows)

    return rows(rows), codegen


@intrinsic
def direction(typingctx: Any, real: Any, imag: Any, sign: Any) -> Any:
    """Return real and imaginary part of `c / |c|`, or the sign if |c| is below the smallest normal number.

    c is first scaled by a power of two, so that its squares neither overflow nor underflow.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        n_bits, n_mantissa, bias = (32, 23, 127) if sig.args[0].dtype == types.float32 else (64, 52, 1023)
        lanes, integer = args[0].type, ir.IntType(n_bits)
        integers = ir.VectorType(integer, WIDTH)
        fabs, sqrt = (
            cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(lanes, [lanes]), f"llvm.{name}.v{WIDTH}f{n_bits}"
            )
            for name in ("fabs", "sqrt")
        )

        def everywhere(number: Any, kind: Any) -> Any:
            return ir.Constant(ir.VectorType(kind, WIDTH), [number] * WIDTH)

        a, b = (builder.call(fabs, [part]) for part in args[:2])
        largest = builder.select(builder.fcmp_ordered(">", a, b), a, b)
        # 2**(bias - e) has the exponent bits 2 * bias - e.
        exponent = builder.and_(
            builder.bitcast(largest, integers), everywhere((2 * bias + 1) << n_mantissa, integer)
        )
        scale = builder.bitcast(builder.sub(everywhere((2 * bias) << n_mantissa, integer), exponent), lanes)
        zero = builder.fcmp_ordered("<", largest, everywhere(2.0 ** (1 - bias), lanes.element))
        ones, zeros = everywhere(1.0, lanes.element), everywhere(0.0, lanes.element)
        x = builder.select(zero, args[2], builder.fmul(args[0], scale))
        y = builder.select(zero, zeros, builder.fmul(args[1], scale))
        square = builder.fadd(builder.fmul(x, x), builder.fmul(y, y, flags=FLAGS), flags=FLAGS)
        root = builder.call(sqrt, [square], fastmath=("fast",))  # between 1 and 8
        inverse = builder.fdiv(ones, root, flags=("fast",))
        return cgutils.pack_array(builder, [builder.fmul(x, inverse), builder.fmul(y, inverse)])

    return types.UniTuple(real, 2)(real, imag, sign), codegen


def _place(context: Any, builder: Any, kind: Any, pointer: Any, index: Any) -> Any:
    """Return the address of lanes, and its alignment, which is that of a single number."""
    number = context.get_value_type(kind.dtype)
    place = builder.bitcast(builder.gep(pointer, [index]), ir.VectorType(number, WIDTH).as_pointer())
    return place, context.get_abi_sizeof(number)


def _places(indices: Any) -> ir.Constant:
    places = list(indices)
    return ir.Constant(ir.VectorType(I32, len(places)), places)


def _zip(builder: Any, even: Any, odd: Any) -> list[Any]:
    order = [i // 2 + WIDTH * (i % 2) for i in range(2 * WIDTH)]
    return [builder.shuffle_vector(even, odd, _places(half)) for half in (order[:WIDTH], order[WIDTH:])]
