"""Where an element of a pass lies: its row, its column, and its gradient if that is row-sparse.

Note [Scattered gradients]
A row-sparse gradient is an array of its present rows, and a sorted list of their numbers. A pass over all
rows finds each one there by halving: a flat pass among those that its chunk may touch, which are found once.
A lazy pass goes over the present rows themselves: a fixed number of parts take runs of them by turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from stepspec.cuda.access import word
from stepspec.cuda.device_code import intrinsic, part
from stepspec.cuda.items import CHUNK, PART, TENSOR, THREADS, chunks
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import Pass, pass_name
from stepspec.cuda.row_access import Access
from stepspec.layout import Layout
from stepspec.storage import width

Function = Callable[..., Any]

# parts of the present rows of a lazy tensor, at most: more than blocks of threads run at a time
LAZY_PARTS = 2048
_FOUR = types.UniTuple(types.int64, 4)


@intrinsic
def _small_quotient(typing: Any, number: Any, divisor: Any) -> Any:
    """Return the quotient of numbers below 2**32, in the instructions of 32-bit numbers."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        short = context.get_value_type(types.uint32)
        number, divisor = (builder.trunc(value, short) for value in given)
        return builder.zext(builder.udiv(number, divisor), given[0].type)

    return types.int64(types.int64, types.int64), generate


@part(types.int64)
def first_at_least(rows: int, low: int, high: int, limit: int) -> int:
    """Return the position of the first row that is not below the limit, `high` if there is none.

    `rows` is the address of sorted row numbers, of which those from position `low` to `high` are looked at.
    """
    while low < high:
        middle = (low + high) >> 1
        if word(rows, middle) < limit:
            low = middle + 1
        else:
            high = middle
    return low


@part(types.int64)
def rows_further(offset: int, columns: int) -> Any:
    """Return how many rows lie before a column number that may be up to CHUNK beyond the row's end."""
    if columns >= CHUNK:
        return 1 if offset >= columns else 0
    return _small_quotient(offset, columns)


def gradient_beside(access: Access) -> Function:
    """Return `beside(gradient, column)`: the address of an element of a row's gradient, 0 if it is absent."""
    size = width(access.layout.formats.grad)

    def beside(gradient: int, column: int) -> int:
        return gradient + column * size if gradient != 0 else 0

    return beside


def gradient_of(access: Access) -> Function:
    """Return `gradient(tensor, row, low, high)`: the address of a row's gradient, 0 if it is absent.

    Present rows are looked at from position `low` to `high`. In a lazy pass `low` is the row's position.
    """
    layout = access.layout
    if layout.formats.gradient == "dense" or not access.has("grad"):
        return _none
    present_rows, columns, grad = map(access.slot, ("present_rows", "columns", "grad"))
    size = width(layout.formats.grad)

    @part(types.int64)
    def lazy(tensor: Any, row: int, low: int, high: int) -> Any:
        return tensor[grad] + low * tensor[columns] * size

    @part(types.int64)
    def scattered(tensor: Any, row: int, low: int, high: int) -> int:
        position = first_at_least(tensor[present_rows], low, high, row)
        found = position < high and word(tensor[present_rows], position) == row
        return tensor[grad] + position * tensor[columns] * size if found else 0

    return scattered if layout.scattered else lazy


def _none(tensor: Any, row: int, low: int, high: int) -> int:
    return 0


def finder(access: Access) -> Function:
    """Return `find(tensor, position)`: a row, and the address of its gradient if that is row-sparse.

    The position is that of the row, or of one of the present rows if the gradient is lazy.
    """
    gradient, present_rows, present = gradient_of(access), access.slot("present_rows"), access.slot("present")

    def lazy(tensor: Any, position: int) -> tuple[int, int]:
        row = word(tensor[present_rows], position)
        return row, gradient(tensor, row, position, position + 1)

    def other(tensor: Any, row: int) -> tuple[int, int]:
        return row, gradient(tensor, row, 0, tensor[present])

    return lazy if access.lazy else other


def locator(access: Access) -> tuple[Function, Function]:
    """Return how flat passes find what belongs to an element.

    Returns
    -------
    begin
        `begin(tensor, start)`: the place where a chunk begins. Of a lazy tensor, chunks are those of the
        present rows.
    locate
        `locate(tensor, place, offset)`: row, column, logical element and gradient's address of the element
        so far behind, `offset` < CHUNK.

    """
    columns_slot, present_rows, present = map(access.slot, ("columns", "present_rows", "present"))
    gradient, beside, lazy = gradient_of(access), gradient_beside(access), access.lazy

    @part(_FOUR)
    def begin(tensor: Any, start: int) -> Any:
        columns = tensor[columns_slot]
        row = start // columns
        column = start - row * columns
        if not scattered:
            return row, column, 0, 0
        rows, last = tensor[present_rows], row + rows_further(column + CHUNK - 1, columns)
        low = first_at_least(rows, 0, tensor[present], row)
        return row, column, low, first_at_least(rows, low, tensor[present], last + 1)

    @part(_FOUR)
    def locate(tensor: Any, place: Any, offset: int) -> Any:
        columns = tensor[columns_slot]
        row, column, low, high = place
        further = rows_further(column + offset, columns)
        row, column = row + further, column + offset - further * columns
        if lazy:
            low, row = row, word(tensor[present_rows], row)
        return row, column, row * columns + column, beside(gradient(tensor, row, low, high), column)

    scattered = access.layout.scattered
    return begin, locate


def parts_of(layout: Layout, whole: Function, most: int = LAZY_PARTS) -> Function:
    """Return `parts(rows, columns)`: those of a whole tensor, or a fixed number of them if it is lazy."""

    def lazy(rows: int, columns: int) -> Any:
        return min(most, whole(rows, columns))

    return lazy if layout.formats.gradient == "lazy" else whole


def passes_of(kernel: Kernel, layout: Layout, most: int = LAZY_PARTS) -> tuple[Pass, ...]:
    """Return the pass of a kernel that writes elements, each on its own, found by row and column."""
    name, parts = pass_name(kernel, layout), parts_of(layout, chunks, most)
    return (Pass.of(name, Access.of(layout).slots, parts, flat_entry, kernel, layout, most),)


def flat_entry(kernel: Kernel, layout: Layout, most: int) -> Callable[[int, int, int], None]:
    """Return the entry of such a kernel: a part is a chunk, or every `parts`-th of those of present rows."""
    assert kernel.function is not None, "such a kernel has a function of elements"
    access, parts = Access.of(layout), parts_of(layout, chunks, most)
    lazy = access.lazy
    opened, row_numbers, (begin, locate) = access.opener(), access.row_numbers(), locator(access)
    call = access.caller(kernel.function, access.per_row, len(kernel.writes))
    store = access.storer({name: position for position, name in enumerate(kernel.writes)})
    columns_slot, rows_slot, limit_slot = access.slot("columns"), access.slot("rows"), access.limit_slot

    @part(types.none)
    def chunk(tensor: Any, start: int, count: int) -> None:
        place, offset = begin(tensor, start), np.int64(cuda.threadIdx.x)
        while offset < count:
            row, column, element, gradient = locate(tensor, place, offset)
            store(tensor, element, call(tensor, row_numbers(tensor, row), element, column, gradient))
            offset += THREADS

    def entry(table: int, items: int, count: int) -> None:
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            tensor = opened(table, item & TENSOR)
            rows, columns = tensor[rows_slot], tensor[columns_slot]
            start, end = (item >> PART) * CHUNK, tensor[limit_slot] * columns
            while start < end:
                chunk(tensor, start, min(CHUNK, end - start))
                start = start + CHUNK * parts(rows, columns) if lazy else end

    return entry
