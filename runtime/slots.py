"""How an entry makes the arguments of a kernel's function of the slots of its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
from llvmlite import ir
from numba import float64, types

from stepspec.compilation import intrinsic
from stepspec.layout import Layout, Parameter
from stepspec.pointers import place
from stepspec.storage import INT, make, width


@dataclass(frozen=True)
class _Piece:
    """Some rows (elements, if flat) of a tensor, in LLVM: what `arguments` is given."""

    tables: Any
    tensor: Any
    start: Any
    count: Any
    columns: Any
    values: Any
    room: Any
    grad: Any
    noise: Any


def arguments_of(layout: Layout) -> Callable[..., Any]:
    """Return `arguments(tables, tensor, start, count, columns, values, room, grad, noise)`.

    It makes the arguments of the function for the `count` rows (elements, if flat) from `start` on. Buffers
    and what is drawn begin at `values`, `room` bytes apart. `grad` is the address of the first row of a
    gradient that is not dense, `noise` that of the first row's words: what a layout does not need may be 0.
    """
    kinds = [layout.kind(parameter) for parameter in layout.parameters]
    result = types.Tuple(kinds)

    @intrinsic
    def arguments(
        typing: Any,
        tables: Any,
        tensor: Any,
        start: Any,
        count: Any,
        columns: Any,
        values: Any,
        room: Any,
        grad: Any,
        noise: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            piece, made = _Piece(*given), []
            for slot, (parameter, kind) in enumerate(zip(layout.parameters, kinds, strict=True)):
                if parameter.role == "scalar":
                    made.append(_scalar(context, builder, piece, slot, kind))
                elif slot in layout.places:
                    base = builder.add(piece.values, builder.mul(piece.room, INT(layout.places[slot])))
                    made.append(_array(context, builder, layout, piece, slot, base))
                else:
                    base = _base(builder, layout, piece, slot)
                    made.append(_array(context, builder, layout, piece, slot, base))
            return context.make_tuple(builder, signature.return_type, made)

        return result(tables, tensor, start, count, columns, values, room, grad, noise), generate

    return arguments


def _scalar(context: Any, builder: Any, piece: _Piece, slot: int, number: Any) -> Any:
    value = _load(builder, piece, slot, ir.DoubleType())
    return context.cast(builder, value, float64, number)


def _load(builder: Any, piece: _Piece, slot: int, kind: Any) -> Any:
    return builder.load(place(builder, piece.tables, INT(slot), piece.tensor, kind))


def _base(builder: Any, layout: Layout, piece: _Piece, slot: int) -> Any:
    """Return the address of an array's first element in the piece."""
    parameter = layout.parameters[slot]
    if parameter.name == "grad" and layout.formats.gradient != "dense":
        return piece.grad
    start = {"element": builder.mul(piece.start, piece.columns), "row": piece.start, "column": INT(0)}
    offset = builder.mul(start[parameter.role], INT(width(layout.storage(parameter.name))))
    return builder.add(_load(builder, piece, slot, INT), offset)


def _array(context: Any, builder: Any, layout: Layout, piece: _Piece, slot: int, base: Any) -> Any:
    parameter = layout.parameters[slot]
    kind = layout.kind(parameter)
    extents = {
        "element": [builder.mul(piece.count, piece.columns)] if layout.flat else [piece.count, piece.columns],
        "row": [piece.count],
        "column": [piece.columns],
    }
    copy = None
    if parameter.name == "weight" and layout.formats.copy:
        offset = builder.mul(builder.mul(piece.start, piece.columns), INT(width(layout.formats.copy)))
        copy = builder.add(_load(builder, piece, layout.tail("copy"), INT), offset)
    return make(context, builder, kind, base, extents[parameter.shape], copy, piece.noise)


def results_of(parameters: Sequence[Parameter], returns: int) -> Callable[..., Any]:
    """Return `store(tables, tensor, value)`: a number or a tuple, into the slots behind the parameters."""

    @intrinsic
    def store(typing: Any, tables: Any, tensor: Any, value: Any) -> Any:
        each = list(value) if isinstance(value, types.BaseTuple) else [value]
        if len(each) != returns:
            raise numba.errors.TypingError(f"the kernel returns {len(each)} values, not {returns}")

        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            tables, tensor, value = given
            several = isinstance(signature.args[2], types.BaseTuple)
            for k, kind in enumerate(each):
                one = builder.extract_value(value, k) if several else value
                number = context.cast(builder, one, kind, float64)
                target = place(builder, tables, INT(len(parameters) + k), tensor, ir.DoubleType())
                builder.store(number, target)
            return context.get_dummy_value()

        return types.void(tables, tensor, value), generate

    return store
