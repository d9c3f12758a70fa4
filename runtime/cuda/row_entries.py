"""Entries of kernels over rows that reduce along them: a team of threads does all that a row needs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from stepspec.cuda import reductions, scattered
from stepspec.cuda.access import word
from stepspec.cuda.device_code import part
from stepspec.cuda.folds import WARP
from stepspec.cuda.items import CHUNK, PART, TENSOR, THREADS
from stepspec.cuda.kernels import Kernel, Terms
from stepspec.cuda.recipes import Pass, pass_name
from stepspec.cuda.row_access import Access
from stepspec.cuda.row_folds import BLOCK_BITS, room_of, team_bits
from stepspec.cuda.row_steps import row_step
from stepspec.cuda.scattered import LAZY_PARTS, finder, parts_of
from stepspec.layout import TAIL, Layout, Parameter

Function = Callable[..., Any]


def passes_of(kernel: Kernel, layout: Layout, most: int = LAZY_PARTS) -> tuple[Pass, ...]:
    """Return the passes of a kernel over rows, with at most so many parts if it is lazy."""
    if kernel.reductions:
        return _reducing(kernel, layout)
    if not kernel.before and not kernel.row_writes:
        return scattered.passes_of(kernel, layout, most)
    return (_pass(kernel, layout, "", most),)


def _pass(kernel: Kernel, layout: Layout, what: str, most: int = LAZY_PARTS) -> Pass:
    name, parts = pass_name(kernel, layout, what), parts_of(layout, row_parts, most)
    return Pass.of(name, Access.of(layout).slots, parts, rows_entry, kernel, layout, most)


def _reducing(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    """Return the passes of a kernel that reduces: the numbers of its rows go to scratch before."""
    taken = set() if kernel.function is None else set(inspect.signature(kernel.function).parameters)
    terms = dict.fromkeys(term for _, term in kernel.row_reduces.values())
    given = dict.fromkeys(name for step in kernel.before for name in step.gives)
    values = {name: Parameter(name, "values") for name in given if name in taken or name in terms}
    found: list[Pass] = []
    if values:
        arrays, writes = (*kernel.arrays, *values.values()), {name: name for name in values}
        first = Kernel("rows", None, arrays, before=kernel.before, row_writes=writes)
        found.append(_pass(first, _layout_of(first, layout), "values"))
    if kernel.function is not None:
        arrays = (*kernel.arrays, *(slot for name, slot in values.items() if name in taken))
        over_elements = Kernel("rows", kernel.function, arrays, reduces=kernel.reduces)
        found += reductions.passes_of(over_elements, _layout_of(over_elements, layout))
    for name, (reduction, term) in kernel.row_reduces.items():
        over_rows = Kernel("rows", _itself(term), (values[term],), reduces={name: reduction})
        found += reductions.passes_of(over_rows, _layout_of(over_rows, layout))
    return tuple(found)


def _layout_of(kernel: Kernel, layout: Layout) -> Layout:
    """Return how a kernel that was made of another one finds its arrays."""
    parameters = tuple(slot for slot in kernel.slots if slot not in TAIL)
    return Layout.used(parameters, layout.formats, layout.results, flat=False)


@functools.cache
def _itself(name: str) -> Function:
    """Return a function of the number of a row that is called so, which returns it."""

    def row_number(value: Any) -> Any:
        return value

    parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    row_number.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]  # as documented
    return row_number


def rows_of_part(columns: int) -> int:
    """Return how many rows a part of a tensor has: a power of two, some for each team of a block."""
    return 1 << row_bits(columns)


def row_bits(columns: int) -> int:
    """Return the binary logarithm of that; division would take many registers."""
    bits = BLOCK_BITS - team_bits(columns)
    while max(1, columns) << bits + 1 <= CHUNK:
        bits += 1
    return bits


def row_parts(rows: int, columns: int) -> int:
    """Return how many parts a tensor has."""
    bits = row_bits(columns)
    return rows + (1 << bits) - 1 >> bits


def rows_entry(kernel: Kernel, layout: Layout, most: int) -> Callable[[int, int, int], None]:
    """Return the entry of a kernel over rows: a part is a run of rows, or every `parts`-th run if lazy."""
    access = Access.of(layout, (slot.name for slot in layout.parameters if slot.role == "values"))
    opened, run, lazy = access.opener(), _run(kernel, access), access.lazy
    parts = parts_of(layout, row_parts, most)
    columns_slot, rows_slot, limit_slot = access.slot("columns"), access.slot("rows"), access.limit_slot
    rounds = [tuple(step.reduces.values()) for step in kernel.before if isinstance(step, Terms)]
    room = max(map(room_of, rounds), default=1)

    def entry(table: int, items: int, count: int) -> None:
        shared = cuda.shared.array(room, np.float64)
        k = np.int64(cuda.blockIdx.x)
        while k < count:  # a range would divide
            item = word(items, k)
            tensor = opened(table, item & TENSOR)
            columns, limit = tensor[columns_slot], tensor[limit_slot]
            bits = row_bits(columns)
            first = item >> PART << bits
            while first < limit:
                run(tensor, first, min(limit, first + (1 << bits)), shared)
                first = first + (parts(tensor[rows_slot], columns) << bits) if lazy else limit
            k += cuda.gridDim.x

    return entry


def _run(kernel: Kernel, access: Access) -> Function:
    """Return `run(tensor, first, end, shared)`: rows, or present rows by position, some for each team."""
    row_numbers, find, step = access.row_numbers(), finder(access), row_step(kernel, access)
    columns_slot = access.slot("columns")

    @part(types.none)
    def run(tensor: Any, first: int, end: int, shared: Any) -> None:
        columns, thread = tensor[columns_slot], np.int64(cuda.threadIdx.x)
        bits = team_bits(columns)
        team, lane = 1 << bits, thread & ((1 << bits) - 1)
        # threads beyond the last row help those of their warp, which waits for no other one
        ahead = (thread & -WARP) >> bits
        while first + ahead < end:
            position = first + (thread >> bits)
            row, gradient = find(tensor, min(position, end - 1))
            count = columns if position < end else -1
            step(tensor, row_numbers(tensor, row), (row, gradient, count, lane, team), shared)
            first += THREADS >> bits

    return run
