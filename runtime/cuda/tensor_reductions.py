"""Reductions per tensor: the entries that collect partial results, and the one that finishes them.

A work item of a collecting pass is a block of an operand: the terms of elements, of numbers of the rows, or
of columns. Its result is one float64 in scratch for each reduction. The finishing pass has an item for each
reduction of a tensor: the threads of a block reduce the partial results in place, level by level, and write
the result into its row of numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from stepspec.canonical import BLOCK, LANES, NARROW
from stepspec.cuda.access import reader, word, writer
from stepspec.cuda.device_code import part
from stepspec.cuda.folds import folds
from stepspec.cuda.items import PART, TENSOR
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import ROWS
from stepspec.cuda.row_access import Access
from stepspec.cuda.scattered import locator
from stepspec.layout import TAIL, Layout
from stepspec.reductions import ENDINGS, Reduction

Function = Callable[..., Any]
Entry = Callable[[int, int, int], None]

_read, _write = reader("float64", "float64"), writer("float64", "float64")


def operands(kernel: Kernel, per: str) -> list[tuple[str, int, str]]:
    """Return what is reduced: over what, its place among what the function returns, its name."""
    reductions = enumerate(kernel.reduces.items())
    return [(r.over, place, name) for place, (name, r) in reductions if r.per == per]


def blocks_of(length: int) -> int:
    """Return how many blocks an operand has."""
    return (length + BLOCK - 1) // BLOCK


def collect_entry(kernel: Kernel, layout: Layout, over: str) -> Entry:
    """Return the entry that reduces blocks of a kernel's operands over elements, rows or columns."""
    access = Access(layout, (*layout.parameters, *TAIL, ROWS))
    wanted = [(place, name) for each, place, name in operands(kernel, "tensor") if each == over]
    fold = folds(tuple(kernel.reduces[name].kind for _, name in wanted))
    start, take, join, room = fold.start, fold.take, fold.join, fold.room
    begin, terms = _source(kernel, access, over, [place for place, _ in wanted])
    store = stored([access.slot(name) for _, name in wanted])
    is_flat = over != "element" or _is_flat(kernel, access)
    lanes_of = part(types.UniTuple(types.float64, len(wanted)))
    opened, length_of = access.opener(), _length(over, access.slot("rows"), access.slot("columns"))

    @lanes_of
    def fold_block(tensor: Any, lanes: Any, place: Any) -> Any:
        thread = np.int64(cuda.threadIdx.x)
        for first in range(0, BLOCK, 4 * LANES):
            offset = thread + first  # several are on their way before the first is used
            a, b = terms(tensor, place, offset), terms(tensor, place, offset + LANES)
            c, d = terms(tensor, place, offset + 2 * LANES), terms(tensor, place, offset + 3 * LANES)
            lanes = take(take(take(take(lanes, a), b), c), d)
        return lanes

    @lanes_of
    def fold_rest(tensor: Any, lanes: Any, place: Any, count: int, many: int) -> Any:
        offset = np.int64(cuda.threadIdx.x)
        if offset < many:  # lanes without a term change none
            while offset < count:
                lanes = take(lanes, terms(tensor, place, offset))
                offset += many
        return lanes

    def entry(table: int, items: int, count: int) -> None:
        shared, turn = cuda.shared.array(room, np.float64), 0
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            tensor, block = opened(table, item & TENSOR), item >> PART
            length, lanes = length_of(tensor), start()
            rest, place = length - block * BLOCK, begin(tensor, block * BLOCK)
            if is_flat and rest >= BLOCK:
                lanes = fold_block(tensor, lanes, place)
            else:
                many = LANES if length >= LANES else NARROW
                lanes = fold_rest(tensor, lanes, place, min(rest, BLOCK), many)
            results = join(lanes, shared, turn)
            turn = 1 - turn
            if cuda.threadIdx.x == 0:
                store(tensor, block, results)

    return entry


def _length(over: str, rows_slot: int, columns_slot: int) -> Function:
    """Return `length(tensor)` of an operand."""
    if over == "row":
        return lambda tensor: tensor[rows_slot]
    if over == "column":
        return lambda tensor: tensor[columns_slot]
    return lambda tensor: tensor[rows_slot] * tensor[columns_slot]


def _source(kernel: Kernel, access: Access, over: str, places: Sequence[int]) -> tuple[Function, Function]:
    """Return `begin(tensor, start)`, a place, and `terms(tensor, place, offset)`: those so far behind it."""
    assert kernel.function is not None, "what is reduced is what the function returns"
    call, pick = access.caller(kernel.function, access.per_row, len(kernel.reduces)), picked(places)
    numbers, terms = access.row_numbers(), part(types.UniTuple(access.number, len(places)))

    def begin(tensor: Any, start: int) -> int:
        return start

    @terms
    def flat(tensor: Any, place: int, offset: int) -> Any:
        return pick(call(tensor, tensor, place + offset, 0, 0))

    @terms
    def of_row(tensor: Any, place: int, offset: int) -> Any:
        return pick(call(tensor, numbers(tensor, place + offset), 0, 0, 0))

    @terms
    def of_column(tensor: Any, place: int, offset: int) -> Any:
        return pick(call(tensor, tensor, 0, place + offset, 0))

    if over != "element":
        return begin, of_row if over == "row" else of_column
    if _is_flat(kernel, access):
        return begin, flat
    find, locate = locator(access)

    @terms
    def of_element(tensor: Any, place: Any, offset: int) -> Any:
        row, column, element, gradient = locate(tensor, place, offset)
        return pick(call(tensor, numbers(tensor, row), element, column, gradient))

    return find, of_element


def _is_flat(kernel: Kernel, access: Access) -> bool:
    """Tell whether elements are found without their rows."""
    return kernel.form == "elements" and not access.layout.scattered


def picked(places: Sequence[int]) -> Function:
    """Return what picks some of the numbers of a tuple."""
    place = places[0]
    if len(places) == 1:
        return lambda values: (values[place],)
    others = picked(places[1:])
    return lambda values: (values[place], *others(values))


def stored(slots: Sequence[int]) -> Function:
    """Return `store(tensor, block, results)`: each is a partial result in the scratch behind its slot."""
    slot = slots[0]

    def last(tensor: Any, block: int, results: Any) -> None:
        _write(tensor[slot], block, results[0])

    if len(slots) == 1:
        return last
    others = stored(slots[1:])

    def first(tensor: Any, block: int, results: Any) -> None:
        _write(tensor[slot], block, results[0])
        others(tensor, block, results[1:])

    return first


def finish_entry(reductions: tuple[Reduction, ...]) -> Entry:
    """Return the entry whose item is one of the reductions of a tensor."""
    finish, room = _finish(reductions, 0, len(reductions)), folds(("sum",)).room

    def entry(table: int, items: int, count: int) -> None:
        shared = cuda.shared.array(room, np.float64)
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            finish(table, item & TENSOR, item >> PART, shared)

    return entry


def _finish(reductions: tuple[Reduction, ...], place: int, many: int) -> Function:
    """Return `finish(table, tensor, which, shared)` for the reductions from a place on."""
    reduction = reductions[place]
    # squares are only added from their blocks on
    total, end = _total("max" if reduction.kind == "max" else "sum"), ENDINGS[reduction.kind]
    over_columns, over_rows = reduction.over != "row", reduction.over != "column"

    def one(table: int, tensor: int, which: int, shared: Any) -> None:
        columns, rows = word(word(table, 2 * many), tensor), word(word(table, 2 * many + 1), tensor)
        length = (rows if over_rows else 1) * (columns if over_columns else 1)
        result = total(word(word(table, place), tensor), blocks_of(length), shared)
        if cuda.threadIdx.x == 0:
            _write(word(table, many + place), tensor, end(result, length))

    if place + 1 == many:
        return one
    others = _finish(reductions, place + 1, many)

    def some(table: int, tensor: int, which: int, shared: Any) -> None:
        if which == place:
            one(table, tensor, which, shared)
        else:
            others(table, tensor, which, shared)

    return some


@functools.cache
def _total(kind: str) -> Function:
    """Return `total(partials, count, shared)`: the results of blocks, reduced in place until one is left."""
    fold = folds((kind,))
    start, merge, join = fold.start, fold.merge, fold.join

    @part(types.float64)
    def total(partials: int, count: int, shared: Any) -> Any:
        turn, thread = 0, np.int64(cuda.threadIdx.x)
        while count != 1:  # none: the empty operand's value
            many, blocks = LANES if count >= LANES else NARROW, max(1, blocks_of(count))
            for k in range(blocks):
                lanes, i, end = start(), k * BLOCK + thread, min(count, (k + 1) * BLOCK)
                while i < end and thread < many:
                    lanes = merge(lanes, (_read(partials, i),))
                    i += many
                results = join(lanes, shared, turn)
                turn = 1 - turn
                if thread == 0:
                    _write(partials, k, results[0])
            cuda.syncthreads()
            count = blocks
        return _read(partials, 0)

    return total
