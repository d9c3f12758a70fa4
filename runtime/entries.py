"""From a kernel function to a compiled C function over tables of addresses.

Note [Entries]
Every entry has the C signature `void(int64 tables, int64 tensor, int64 start, int64 count)`. `tables` is
the address of one int64 per slot, the address of a row with one value per tensor: base addresses of
element, row and column arrays, float64 scalars, addresses of float64 scratch for buffers (their partial
results go there), and, last in row kernels, column counts. An entry makes arrays that start at 0 (LLVM
vectorizes those, but not a range of a longer array), rounds scalars once to the compute dtype, and calls
the function with all of them. It does without Python, unless a row kernel runs out of memory for its
buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import float64, types
from numba.core import cgutils
from numba.np.arrayobj import make_array, populate_array

from stepspec.canonical import BLOCK, ROW_BLOCK
from stepspec.compilation import inlined, inner, intrinsic
from stepspec.pointers import address_in, address_of, place, pointer, stack
from stepspec.reductions import Reduction, Step, flat_step, groups, row_step

Entry = Callable[[int, int, int, int], None]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel, or another slot of its table.

    role: "element", "row", "column" (arrays), "scalar", "buffer" (with its `reduction`), "result" (of a
    scalars kernel) or "columns" (the column counts of a row kernel).
    """

    name: str
    role: str
    reduction: Reduction | None = None


def elements_entry(function: Any, parameters: Sequence[Parameter], number: Any) -> Entry:
    """Return the entry of a flat kernel: `start` and `count` are elements."""
    arguments = _arguments(parameters, number, flat=True)
    buffers = [(slot, p.reduction) for slot, p in enumerate(parameters) if p.reduction]
    if not buffers:

        def entry(tables: int, tensor: int, start: int, count: int) -> None:
            function(*arguments(tables, tensor, start, count, 1, 0, 0))

        return entry
    reduce = _in_order([flat_step(group, number) for group in groups(buffers)])
    space, room = stack(len(buffers) * BLOCK, number), BLOCK * number.bitwidth // 8

    def reducing_entry(tables: int, tensor: int, start: int, count: int) -> None:
        values = address_of(space())
        for position in range(start, start + count, BLOCK):
            part = min(BLOCK, start + count - position)
            function(*arguments(tables, tensor, position, part, 1, values, room))
            reduce(tables, tensor, values, room, position, part)

    return reducing_entry


def rows_entry(function: Any, parameters: Sequence[Parameter], number: Any) -> Entry:
    """Return the entry of a row kernel: `start` and `count` are rows."""
    arguments, last = _arguments(parameters, number, flat=False), len(parameters)
    buffers = [(slot, p.reduction) for slot, p in enumerate(parameters) if p.reduction]
    if not buffers:

        def entry(tables: int, tensor: int, start: int, count: int) -> None:
            function(*arguments(tables, tensor, start, count, address_in(tables, last, tensor), 0, 0))

        return entry
    reduce = _in_order([row_step(group, number) for group in groups(buffers)])
    many, size = len(buffers), number.bitwidth // 8

    @inner
    def some_rows(tables: int, tensor: int, start: int, end: int, columns: int, space: Any) -> None:
        values, room = address_of(pointer(space)), space.size // many
        at_once = (room // size - BLOCK) // max(1, columns)
        row = start
        while row < end:
            rows = min(at_once, end - row, ROW_BLOCK - row % ROW_BLOCK)
            function(*arguments(tables, tensor, row, rows, columns, values, room))
            reduce(tables, tensor, values, room, columns, row, rows, end)
            row += rows

    def reducing_entry(tables: int, tensor: int, start: int, count: int) -> None:
        columns = address_in(tables, last, tensor)
        space = np.empty(many * (max(BLOCK, columns) + BLOCK) * size, np.uint8)
        some_rows(tables, tensor, start, start + count, columns, space)

    return reducing_entry


def scalars_entry(function: Any, parameters: Sequence[Parameter], returns: int) -> Entry:
    """Return the entry of a scalars kernel: one call, all in float64."""
    arguments, store = _arguments(parameters, float64, flat=True), _results(len(parameters), returns)

    def entry(tables: int, tensor: int, start: int, count: int) -> None:
        store(tables, tensor, function(*arguments(tables, tensor, 0, 0, 0, 0, 0)))

    return entry


def _in_order(steps: Sequence[Step]) -> Step:
    """Return one step that takes all of them."""
    step, rest = steps[0], steps[1:]
    if not rest:
        return step
    others = _in_order(rest)

    @inlined
    def in_order(*place: int) -> None:
        step(*place)
        others(*place)

    return in_order


def _arguments(parameters: Sequence[Parameter], number: Any, *, flat: bool) -> Callable[..., Any]:
    """Return `arguments(tables, tensor, start, count, columns, values, room)` -> the function's arguments.

    Arrays and buffers have `count` rows (elements, if flat); buffers begin at `values`, `room` bytes apart.
    """
    vector, matrix = types.Array(number, 1, "C"), types.Array(number, 1 if flat else 2, "C")
    shapes = [p.reduction.over if p.reduction else p.role for p in parameters]
    kinds = {"element": matrix, "row": vector, "column": vector, "scalar": number}
    result = types.Tuple([kinds[shape] for shape in shapes])

    @intrinsic
    def arguments(
        typing: Any, tables: Any, tensor: Any, start: Any, count: Any, columns: Any, values: Any, room: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            tables, tensor, start, count, columns, values, room = given
            made, buffers = [], 0
            for slot, (parameter, shape) in enumerate(zip(parameters, shapes, strict=True)):
                if parameter.role == "scalar":
                    made.append(_load_scalar(context, builder, tables, slot, tensor, number))
                    continue
                extents = {
                    "element": [count] if flat else [count, columns],
                    "row": [count],
                    "column": [columns],
                }
                if parameter.role == "buffer":
                    base = builder.add(values, builder.mul(room, _int(buffers)))
                    buffers += 1
                else:
                    width = {"element": columns, "row": _int(1), "column": _int(0)}[shape]
                    offset = builder.mul(builder.mul(start, width), _int(number.bitwidth // 8))
                    base = builder.add(_load(builder, tables, slot, tensor, ir.IntType(64)), offset)
                made.append(_array(context, builder, kinds[shape], base, extents[shape]))
            return context.make_tuple(builder, signature.return_type, made)

        return result(tables, tensor, start, count, columns, values, room), generate

    return arguments


def _results(first: int, returns: int) -> Callable[..., Any]:
    """Return `store(tables, tensor, value)`: a number or a tuple, into `returns` slots from `first` on."""

    @intrinsic
    def store(typing: Any, tables: Any, tensor: Any, value: Any) -> Any:
        each = list(value) if isinstance(value, types.BaseTuple) else [value]
        if len(each) != returns:
            raise numba.errors.TypingError(f"the kernel returns {len(each)} values, not {returns}")

        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            tables, tensor, value = given
            for k, kind in enumerate(each):
                one = (
                    builder.extract_value(value, k)
                    if isinstance(signature.args[2], types.BaseTuple)
                    else value
                )
                number = context.cast(builder, one, kind, float64)
                builder.store(number, place(builder, tables, _int(first + k), tensor, ir.DoubleType()))
            return context.get_dummy_value()

        return types.void(tables, tensor, value), generate

    return store


def _int(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _load(builder: Any, tables: Any, slot: int, tensor: Any, kind: Any) -> Any:
    return builder.load(place(builder, tables, _int(slot), tensor, kind))


def _load_scalar(context: Any, builder: Any, tables: Any, slot: int, tensor: Any, number: Any) -> Any:
    return context.cast(builder, _load(builder, tables, slot, tensor, ir.DoubleType()), float64, number)


def _array(context: Any, builder: Any, kind: Any, base: Any, extents: Sequence[Any]) -> Any:
    """Return a C-contiguous array over foreign memory."""
    array, size = make_array(kind)(context, builder), _int(kind.dtype.bitwidth // 8)
    strides = [size] if len(extents) == 1 else [builder.mul(extents[1], size), size]
    populate_array(
        array,
        data=builder.inttoptr(base, array.data.type),
        shape=cgutils.pack_array(builder, extents),
        strides=cgutils.pack_array(builder, strides),
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()
