"""Sixteen numbers as one value of a Numba kernel: :class:`Lanes`, an LLVM vector.

A recurrent kernel works on sixteen sequences of a batch at once, one a lane. Written as loops over the lanes, sums over
synapses live in memory, and LLVM guards each short loop by checks whether its arrays overlap: three times the time. As
values, `number + weight * opening` reads like the equation of one sequence, and the sums stay in registers.

In compiled code:

- ``load(array, i)`` and ``store(array, i, lanes)`` move the elements 16·i to 16·i + 15 of a flat array,
  :func:`transpose` sixteen rows of sixteen;
- ``+ - * /`` between Lanes, or Lanes and a number, and ``-lanes``;
- :func:`fill`, :func:`total` and :func:`where_positive`; and, of numbers too, :func:`clip` and :func:`power_of_two`.

LLVM splits sixteen lanes into what the processor's registers hold: one of AVX-512, two of AVX2, four of NEON.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

LANES = 16

WIDE: bool = get_host_cpu_features().get("avx512f", False)
"""Whether sixteen single-precision lanes are one register, of which there are then 32; with AVX2 two of sixteen."""

# Numba types an intrinsic by the function that generates it; what compiled code calls has no first argument.
intrinsic: Any = numba_intrinsic


class Lanes(types.Type):
    """The Numba type of :data:`LANES` numbers of one float type."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes):
        super().__init__(manager, kind, ir.VectorType(manager[kind.dtype].get_value_type(), LANES))


@intrinsic
def keep_apart(typing_context):
    """Makes the function that calls it a function of its own in machine code, not part of its caller.

    LLVM keeps a loop's constants in registers only if the function around it is small.
    """

    def generate(context, builder, sig, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


# Arithmetic


def _spread(builder: ir.IRBuilder, number: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A number in every lane."""
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, first, everywhere)


def _lane_type(*arguments: types.Type) -> Lanes | None:
    """The type of an operation between Lanes, or Lanes and a number; None if it is of another kind."""
    lanes = {kind for kind in arguments if isinstance(kind, Lanes)}
    if len(lanes) == 1 and all(isinstance(kind, Lanes | types.Float | types.Integer) for kind in arguments):
        return lanes.pop()
    return None


def _as_lanes(context: Any, builder: ir.IRBuilder, value: ir.Value, kind: types.Type, lanes: Lanes) -> ir.Value:
    if isinstance(kind, Lanes):
        return value
    return _spread(builder, context.cast(builder, value, kind, lanes.dtype), context.get_value_type(lanes))


def _define(operation: Callable, instruction: str) -> None:
    """Types and lowers an operator of Lanes as one LLVM instruction, free to be contracted with another."""

    class Operation(AbstractTemplate):
        def generic(self, args, kws):
            lanes = _lane_type(*args)
            return None if lanes is None else signature(lanes, *args)

    infer_global(operation)(Operation)

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        values = [_as_lanes(context, builder, *pair, lanes) for pair in zip(args, sig.args, strict=True)]
        return getattr(builder, instruction)(*values, flags=("contract", "arcp", "nsz"))

    for left, right in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(operation, left, right)(lower)


for _name, _instruction in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    _define(getattr(operator, _name), _instruction)
    _define(getattr(operator, f"i{_name}"), _instruction)


@infer_global(operator.neg)
class _Negation(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], *args) if isinstance(args[0], Lanes) else None


@lower_builtin(operator.neg, Lanes)
def _negate(context, builder, sig, args):
    return builder.fneg(args[0])


# Memory


def _address(context: Any, builder: ir.IRBuilder, array: types.Array, value: ir.Value, index: ir.Value) -> ir.Value:
    """The address of the index-th sixteen elements of a flat array, as a pointer to a vector."""
    data = context.make_array(array)(context, builder, value).data
    vector = ir.VectorType(context.get_value_type(array.dtype), LANES)
    return builder.gep(builder.bitcast(data, vector.as_pointer()), [index])


@intrinsic
def load(typing_context, array, index):
    """The elements 16·index to 16·index + 15 of a flat, contiguous array."""
    lanes = Lanes(array.dtype)

    def generate(context, builder, sig, args):
        index_value = context.cast(builder, args[1], sig.args[1], types.intp)
        pointer = _address(context, builder, sig.args[0], args[0], index_value)
        return builder.load(pointer, align=context.get_abi_sizeof(context.get_value_type(array.dtype)))

    return lanes(array, index), generate


@intrinsic
def store(typing_context, array, index, lanes):
    """Writes Lanes to the elements 16·index to 16·index + 15 of a flat, contiguous array."""

    def generate(context, builder, sig, args):
        index_value = context.cast(builder, args[1], sig.args[1], types.intp)
        pointer = _address(context, builder, sig.args[0], args[0], index_value)
        builder.store(args[2], pointer, align=context.get_abi_sizeof(context.get_value_type(array.dtype)))
        return context.get_dummy_value()

    return types.void(array, index, lanes), generate


@intrinsic
def transpose(typing_context, source, source_begin, source_stride, target, target_begin, target_stride):
    """Copies a 16 × 16 block between flat arrays, transposed: from rows ``stride`` elements apart to such rows.

    Four rounds of exchanges: rows 8 apart swap their halves, then rows 4 apart their quarters, and so on.
    """

    def generate(context, builder, sig, args):
        kind, item = sig.args[0], context.get_value_type(sig.args[0].dtype)
        vector, align = ir.VectorType(item, LANES), context.get_abi_sizeof(item)

        def addresses(array, array_kind, begin, stride):
            data = context.make_array(array_kind)(context, builder, array).data
            for row in range(LANES):
                offset = builder.add(begin, builder.mul(stride, ir.Constant(stride.type, row)))
                yield builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        rows = [builder.load(address, align=align) for address in addresses(args[0], kind, args[1], args[2])]
        for distance in (8, 4, 2, 1):
            upper = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
            lower = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
            picks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), pick) for pick in (upper, lower)]
            for row in range(LANES):
                if not row & distance:
                    pair = rows[row], rows[row + distance]
                    rows[row], rows[row + distance] = (builder.shuffle_vector(*pair, pick) for pick in picks)
        for row, address in zip(rows, addresses(args[3], sig.args[3], args[4], args[5]), strict=True):
            builder.store(row, address, align=align)
        return context.get_dummy_value()

    index = types.intp
    return types.void(source, index, index, target, index, index), generate


@intrinsic
def fill(typing_context, number):
    """A number in every lane."""
    lanes = Lanes(number)

    def generate(context, builder, sig, args):
        return _spread(builder, args[0], context.get_value_type(lanes))

    return lanes(number), generate


@intrinsic
def total(typing_context, lanes):
    """The sum over the lanes, by halves: the same order on every machine."""

    def generate(context, builder, sig, args):
        value, count = args[0], LANES
        while count > 1:
            count //= 2
            halves = [
                builder.shuffle_vector(
                    value, value, ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(begin, begin + count)))
                )
                for begin in (0, count)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return lanes.dtype(lanes), generate


# Choices and bits


def _constant(kind: types.Type, llvm_type: ir.Type, number: float) -> ir.Constant:
    return ir.Constant(llvm_type, [number] * LANES if isinstance(kind, Lanes) else number)


@intrinsic
def where_positive(typing_context, condition, then, otherwise):
    """``then`` in lanes where the condition (Lanes) is positive, elsewhere ``otherwise``: Lanes or numbers."""

    def generate(context, builder, sig, args):
        zero = _constant(condition, args[0].type, 0.0)
        choices = [_as_lanes(context, builder, *pair, condition) for pair in zip(args[1:], sig.args[1:], strict=True)]
        return builder.select(builder.fcmp_ordered(">", args[0], zero), *choices)

    return condition(condition, then, otherwise), generate


@intrinsic(prefer_literal=True)
def clip(typing_context, x, bound):
    """A number or Lanes limited to ±bound, an integer literal. NaN stays."""
    if not isinstance(bound, types.IntegerLiteral):
        return None

    def generate(context, builder, sig, args):
        value = args[0]
        for comparison, limit in (("<", -bound.literal_value), (">", bound.literal_value)):
            edge = _constant(x, value.type, float(limit))
            value = builder.select(builder.fcmp_ordered(comparison, value, edge), edge, value)
        return value

    return x(x, bound), generate


@intrinsic
def power_of_two(typing_context, rounded):
    """2^k from a number or Lanes k + 1.5·2^m, whose last bits are k: they go to the exponent, its bias is added."""
    mantissa, bias = (23, 127) if getattr(rounded, "dtype", rounded) == types.float32 else (52, 1023)

    def generate(context, builder, sig, args):
        width: ir.Type = ir.IntType(32 if mantissa == 23 else 64)
        if isinstance(rounded, Lanes):
            width = ir.VectorType(width, LANES)
        bits = builder.bitcast(args[0], width)
        bits = builder.shl(bits, _constant(rounded, width, mantissa))
        bits = builder.add(bits, _constant(rounded, width, bias << mantissa))
        return builder.bitcast(bits, args[0].type)

    return rounded(rounded), generate
