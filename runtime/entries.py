"""From a kernel function to a compiled C function over tables of addresses.

Note [Entries]
Every entry has the C signature `void(int64 tables, int64 tensor, int64 start, int64 count)`. `tables` is
the address of one int64 per slot, the address of a row with one value per tensor: base addresses of
element, row and column arrays, float64 scalars, and addresses of float64 scratch for buffers (their partial
results go there). Behind the parameters of kernels over arrays stand the column counts; the addresses of
the int64 rows that a row-sparse gradient holds, and how many they are; the addresses of half precision
weights beside their masters; and for noise the key and the update count, all int64. A parameter that is
drawn has the key in its own slot, too. An entry makes arrays
that start at 0 (LLVM vectorizes those, but not a range of a longer array), rounds scalars once to the
compute dtype, and calls the function with all of them. It does without Python, unless it runs out of
memory.

The gradient of a dense entry has the weight's shape. A scattered entry has the same work items; its slot of
the gradient holds the address of the present rows, one after the other, and each piece is written among
zeros in scratch. A lazy entry takes `start` and `count` as `part` and `parts`: of p present rows it does
those from p * part // parts to p * (part + 1) // parts, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import float64, int64, uint32

from stepspec.canonical import BLOCK, LANES, ROW_BLOCK
from stepspec.compilation import inlined, inner
from stepspec.layout import Layout
from stepspec.memory import report
from stepspec.pieces import EXTRA_WORDS, Piece, fetcher, steps
from stepspec.pointers import LINE, address_in, address_of, at, pointer, stack
from stepspec.reductions import flat_step, groups, row_step
from stepspec.slots import arguments_of, results_of
from stepspec.storage import width
from stepspec.streaming import PART

Entry = Callable[[int, int, int, int], None]

# a lazy entry asks for the row that it reaches after so many others
AHEAD = 16


def elements_entry(function: Any, layout: Layout) -> Entry:
    """Return the entry of a flat kernel: `start` and `count` are elements."""
    if layout.formats.gradient == "lazy":
        return _lazy(function, layout)
    if layout.places or steps(layout):
        return _blocks(function, layout)
    arguments = arguments_of(layout)

    def entry(tables: int, tensor: int, start: int, count: int) -> None:
        function(*arguments(tables, tensor, start, count, 1, 0, 0, 0, 0))

    return entry


def rows_entry(function: Any, layout: Layout) -> Entry:
    """Return the entry of a row kernel: `start` and `count` are rows; out of memory, it reports so."""
    if layout.formats.gradient == "lazy":
        return _lazy(function, layout)
    columns_slot = layout.tail("columns")
    if layout.places or steps(layout):
        some_rows, space = _some_rows(function, layout), _space(layout)

        def pieces(tables: int, tensor: int, start: int, count: int) -> None:
            columns = address_in(tables, columns_slot, tensor)
            try:
                scratch = np.empty(space(columns), np.uint8)
                some_rows(tables, tensor, start, start + count, columns, 0, scratch)
            except Exception:  # noqa: BLE001  # Numba knows no other, and out of memory is all there is
                report()

        return pieces
    arguments = arguments_of(layout)

    def entry(tables: int, tensor: int, start: int, count: int) -> None:
        columns = address_in(tables, columns_slot, tensor)
        try:
            function(*arguments(tables, tensor, start, count, columns, 0, 0, 0, 0))
        except Exception:  # noqa: BLE001  # Numba knows no other, and out of memory is all there is
            report()

    return entry


def scalars_entry(function: Any, layout: Layout, returns: int) -> Entry:
    """Return the entry of a scalars kernel: one call, all in float64."""
    arguments, store = arguments_of(layout), results_of(layout.parameters, returns)

    def entry(tables: int, tensor: int, start: int, count: int) -> None:
        store(tables, tensor, function(*arguments(tables, tensor, 0, 0, 0, 0, 0, 0, 0)))

    return entry


def _blocks(function: Any, layout: Layout) -> Entry:
    """Return the entry of a flat kernel that takes pieces of a block, with scratch on the stack."""
    arguments, number, buffers, many = arguments_of(layout), layout.number, layout.buffers, len(layout.places)
    before = _in_order(steps(layout))
    after = _in_order([flat_step(group, number, _in_memory(layout)) for group in groups(buffers)])
    most = PART if buffers else BLOCK
    space, room = stack(many * most, number, LINE), most * layout.size
    lanes = stack(len(buffers) * LANES, float64, LINE)
    gradient = stack(most if layout.scattered else 0, number)
    noise = stack(most + EXTRA_WORDS if layout.formats.stochastic else 0, uint32)

    def entry(tables: int, tensor: int, start: int, count: int) -> None:
        values, dense, words = address_of(space()), address_of(gradient()), address_of(noise())
        lane_of, end = address_of(lanes()), start + count
        for position in range(start, end, most):
            size = min(most, end - position)
            before(Piece(tables, tensor, position, size, dense, words, values, room))
            word = words + 4 * (position % 4)
            function(*arguments(tables, tensor, position, size, 1, values, room, dense, word))
            after(tables, tensor, values, room, lane_of, position, size, end)

    return entry


def _in_memory(layout: Layout) -> list[tuple[int, int]]:
    """Return slot and element width of each array that a flat kernel reads from memory, in order."""
    scattered = "grad" if layout.scattered else ""
    found = [
        (slot, width(layout.storage(p.name)))
        for slot, p in enumerate(layout.parameters)
        if p.role == "element" and p.name != scattered
    ]
    return found or [(0, 0)]  # nothing but a scattered gradient: its first line is asked for again and again


def _space(layout: Layout) -> Any:
    """Return `space(columns)`: bytes of scratch for at least a row, or a block of elements."""
    many, scattered = len(layout.places), layout.scattered
    size, noisy = layout.size, layout.formats.stochastic

    @inlined
    def space(columns: int) -> int:
        most = max(BLOCK, columns)
        gradient, noise = most * size * scattered, (most + EXTRA_WORDS) * 4 * noisy
        return many * (most + BLOCK) * size + gradient + noise

    return space


def _some_rows(function: Any, layout: Layout) -> Any:
    """Return `some_rows(tables, tensor, start, end, columns, grad, space)`: as many rows at a time as fit."""
    arguments, number, scattered = arguments_of(layout), layout.number, layout.scattered
    before = _in_order(steps(layout))
    after = _in_order([row_step(group, number) for group in groups(layout.buffers)])
    many, size = len(layout.places), layout.size

    @inner
    def some_rows(
        tables: int, tensor: int, start: int, end: int, columns: int, grad: int, space: Any
    ) -> None:
        most = max(BLOCK, columns)
        values, room = address_of(pointer(space)), (most + BLOCK) * size
        scratch = values + many * room
        dense, words = scratch if scattered else grad, scratch + most * size * scattered
        at_once = most // max(1, columns)
        row = start
        while row < end:
            rows, position = min(at_once, end - row, ROW_BLOCK - row % ROW_BLOCK), row * columns
            before(Piece(tables, tensor, position, rows * columns, dense, words, values, room))
            word = words + 4 * (position % 4)
            function(*arguments(tables, tensor, row, rows, columns, values, room, dense, word))
            after(tables, tensor, values, room, columns, row, rows, end)
            row += rows

    return some_rows


def _lazy(function: Any, layout: Layout) -> Entry:
    """Return the entry that takes a part of the present rows, one row at a time."""
    assert not layout.buffers, "a lazy kernel reduces nothing"
    if steps(layout):
        return _lazy_in_pieces(function, layout)
    arguments, grad_slot, size = arguments_of(layout), layout.gradient, width(layout.formats.grad)
    columns_slot, rows_slot, present_slot = map(layout.tail, ("columns", "present_rows", "present"))
    fetch = fetcher(layout)

    def entry(tables: int, tensor: int, part: int, parts: int) -> None:
        columns, present = address_in(tables, columns_slot, tensor), address_in(tables, present_slot, tensor)
        rows, grad = at(address_in(tables, rows_slot, tensor), int64), address_in(tables, grad_slot, tensor)
        first, end = present * part // parts, present * (part + 1) // parts
        try:
            for k in range(first, end):
                fetch(tables, tensor, rows[min(k + AHEAD, end - 1)], columns)
                function(*arguments(tables, tensor, rows[k], 1, columns, 0, 0, grad + k * columns * size, 0))
        except Exception:  # noqa: BLE001  # Numba knows no other, and out of memory is all there is
            report()

    return entry


def _lazy_in_pieces(function: Any, layout: Layout) -> Entry:
    """Return the lazy entry of a kernel that needs scratch."""
    some_rows, space = _some_rows(function, layout), _space(layout)
    grad_slot, size = layout.gradient, width(layout.formats.grad)
    columns_slot, rows_slot, present_slot = map(layout.tail, ("columns", "present_rows", "present"))
    fetch = fetcher(layout)

    @inner
    def present_rows(tables: int, tensor: int, first: int, end: int, columns: int, scratch: Any) -> None:
        rows, grad = at(address_in(tables, rows_slot, tensor), int64), address_in(tables, grad_slot, tensor)
        for k in range(first, end):
            fetch(tables, tensor, rows[min(k + AHEAD, end - 1)], columns)
            some_rows(tables, tensor, rows[k], rows[k] + 1, columns, grad + k * columns * size, scratch)

    def entry(tables: int, tensor: int, part: int, parts: int) -> None:
        columns, present = address_in(tables, columns_slot, tensor), address_in(tables, present_slot, tensor)
        first, end = present * part // parts, present * (part + 1) // parts
        try:
            present_rows(tables, tensor, first, end, columns, np.empty(space(columns), np.uint8))
        except Exception:  # noqa: BLE001  # Numba knows no other, and out of memory is all there is
            report()

    return entry


@inlined
def _nothing(*piece: int) -> None:
    """Do nothing: the step of pieces that need none."""


def _in_order(steps: Sequence[Any]) -> Any:
    """Return one step that takes all of them, one after the other."""
    if not steps:
        return _nothing
    step, rest = steps[0], steps[1:]
    if not rest:
        return step
    others = _in_order(rest)

    @inlined
    def in_order(*piece: int) -> None:
        step(*piece)
        others(*piece)

    return in_order
