"""Reductions per column: a thread has a column, and takes the rows of a block of 256 in order.

The result of a block of rows is a float64 for each column, in scratch. The finishing pass reduces these in
place, level by level; each thread needs only those of its own column.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from stepspec.canonical import ROW_BLOCK
from stepspec.cuda.access import reader, word, writer
from stepspec.cuda.device_code import part
from stepspec.cuda.folds import folds
from stepspec.cuda.items import PART, TENSOR, THREADS
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import ROWS
from stepspec.cuda.row_access import Access
from stepspec.cuda.scattered import finder, gradient_beside
from stepspec.cuda.tensor_reductions import operands, picked, stored
from stepspec.layout import TAIL, Layout
from stepspec.reductions import ENDINGS, Reduction

Function = Callable[..., Any]
Entry = Callable[[int, int, int], None]

_read, _write = reader("float64", "float64"), writer("float64", "float64")


def collect_entry(kernel: Kernel, layout: Layout) -> Entry:
    """Return the entry whose item is a strip of THREADS columns of a block of rows."""
    access = Access(layout, (*layout.parameters, *TAIL, ROWS))
    wanted = [(place, name) for _, place, name in operands(kernel, "column")]
    fold = folds(tuple(kernel.reduces[name].kind for _, name in wanted))
    start, take, terms = fold.start, fold.take, _terms(kernel, access, [place for place, _ in wanted])
    store, opened = stored([access.slot(name) for _, name in wanted]), access.opener()
    rows_slot, columns_slot = access.slot("rows"), access.slot("columns")

    @part(types.UniTuple(types.float64, len(wanted)))
    def fold_rows(tensor: Any, row: int, end: int, column: int) -> Any:
        lanes = start()
        while row + 4 <= end:  # several are on their way before the first is used
            a, b = terms(tensor, row, column), terms(tensor, row + 1, column)
            c, d = terms(tensor, row + 2, column), terms(tensor, row + 3, column)
            lanes = take(take(take(take(lanes, a), b), c), d)
            row += 4
        while row < end:
            lanes = take(lanes, terms(tensor, row, column))
            row += 1
        return lanes

    def entry(table: int, items: int, count: int) -> None:
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            tensor = opened(table, item & TENSOR)
            rows, columns = tensor[rows_slot], tensor[columns_slot]
            strips = (columns + THREADS - 1) // THREADS
            block = (item >> PART) // strips
            column = ((item >> PART) - block * strips) * THREADS + np.int64(cuda.threadIdx.x)
            if column < columns:
                end = min(rows, (block + 1) * ROW_BLOCK)
                store(tensor, block * columns + column, fold_rows(tensor, block * ROW_BLOCK, end, column))

    return entry


def _terms(kernel: Kernel, access: Access, places: list[int]) -> Function:
    """Return `terms(tensor, row, column)`."""
    assert kernel.function is not None, "what is reduced is what the function returns"
    call, pick = access.caller(kernel.function, access.per_row, len(kernel.reduces)), picked(places)
    numbers, find, beside = access.row_numbers(), finder(access), gradient_beside(access)
    columns_slot = access.slot("columns")

    @part(types.UniTuple(access.number, len(places)))
    def terms(tensor: Any, row: int, column: int) -> Any:
        _, gradient = find(tensor, row)
        element = row * tensor[columns_slot] + column
        return pick(call(tensor, numbers(tensor, row), element, column, beside(gradient, column)))

    return terms


def finish_entry(reductions: tuple[Reduction, ...], dtype: str) -> Entry:
    """Return the entry whose item is a strip of THREADS columns of a tensor; results have this dtype."""
    many = len(reductions)
    finish = _finish(
        [(reduction.kind, place, many + place) for place, reduction in enumerate(reductions)], dtype
    )

    def entry(table: int, items: int, count: int) -> None:
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            tensor, column = item & TENSOR, (item >> PART) * THREADS + np.int64(cuda.threadIdx.x)
            columns, rows = word(word(table, 2 * many), tensor), word(word(table, 2 * many + 1), tensor)
            if column < columns:
                finish(table, tensor, rows, columns, column)

    return entry


def _finish(each: list[tuple[str, int, int]], dtype: str) -> Function:
    """Return `finish(table, tensor, rows, columns, column)`; each is a kind, its partials and its result."""
    kind, partials, results = each[0]
    total, end = _total("max" if kind == "max" else "sum"), ENDINGS[kind]
    number, write = getattr(np, dtype), writer(dtype, dtype)

    def one(table: int, tensor: int, rows: int, columns: int, column: int) -> None:
        result = total(word(word(table, partials), tensor), rows, columns, column)
        write(word(word(table, results), tensor), column, number(end(result, rows)))

    if len(each) == 1:
        return one
    others = _finish(each[1:], dtype)

    def some(table: int, tensor: int, rows: int, columns: int, column: int) -> None:
        one(table, tensor, rows, columns, column)
        others(table, tensor, rows, columns, column)

    return some


@functools.cache
def _total(kind: str) -> Function:
    """Return `total(partials, rows, columns, column)`: the results of blocks of rows, until one is left."""
    fold = folds((kind,))
    start, merge = fold.start, fold.merge

    @part(types.float64)
    def total(partials: int, rows: int, columns: int, column: int) -> Any:
        count = (rows + ROW_BLOCK - 1) // ROW_BLOCK
        if count == 0:
            return start()[0]
        while count > 1:
            blocks = (count + ROW_BLOCK - 1) // ROW_BLOCK
            for k in range(blocks):
                lane = start()
                for row in range(k * ROW_BLOCK, min(count, (k + 1) * ROW_BLOCK)):
                    lane = merge(lane, (_read(partials, row * columns + column),))
                _write(partials, k * columns + column, lane[0])
            count = blocks
        return _read(partials, column)

    return total
