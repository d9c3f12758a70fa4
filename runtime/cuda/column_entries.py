"""Passes of columns kernels: a function of a column's numbers, over arrays with a number for each column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import cuda

from stepspec.cuda import reductions
from stepspec.cuda.access import word
from stepspec.cuda.items import CHUNK, PART, TENSOR, THREADS
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import ROWS, Pass, pass_name
from stepspec.cuda.row_access import Access
from stepspec.layout import TAIL, Layout


def passes_of(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    """Return the passes of a columns kernel: it writes, or it reduces over columns."""
    if kernel.reduces:
        return reductions.passes_of(kernel, layout)
    slots = (*layout.parameters, *TAIL, ROWS)
    return (Pass.of(pass_name(kernel, layout), slots, column_chunks, columns_entry, kernel, layout),)


def column_chunks(rows: int, columns: int) -> int:
    """Return how many chunks the columns of a tensor make."""
    return -(-columns // CHUNK)


def columns_entry(kernel: Kernel, layout: Layout) -> Callable[[int, int, int], None]:
    """Return the entry of a columns kernel that writes: an item is a chunk of columns."""
    assert kernel.function is not None, "a columns kernel computes something"
    access = Access(layout, (*layout.parameters, *TAIL, ROWS))
    call = access.caller(kernel.function, (), len(kernel.writes))
    store = access.storer({name: place for place, name in enumerate(kernel.writes)})
    opened, columns_slot = access.opener(), access.slot("columns")

    def entry(table: int, items: int, count: int) -> None:
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            tensor, first = opened(table, item & TENSOR), (item >> PART) * CHUNK
            end, column = min(tensor[columns_slot], first + CHUNK), first + np.int64(cuda.threadIdx.x)
            while column < end:
                store(tensor, column, call(tensor, tensor, 0, column, 0))
                column += THREADS

    return entry
