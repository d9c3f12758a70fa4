"""Reductions of kernels: partial results of a chunk in the canonical order, and the step that finishes them.

See Note [Canonical order] and Note [Entries]. A kernel fills buffers in the compute dtype; here they
become float64 partial results in scratch (one per block of 4096 elements, or per column and block of 256
rows). When all chunks of a tensor are done, its finish entry makes one number, or one array of column
results, of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import float64, int64

from stepspec import canonical
from stepspec.canonical import BLOCK, LANES, ROW_BLOCK
from stepspec.compilation import compile_entry, inlined, inner, source_stamp
from stepspec.pointers import address_in, at
from stepspec.streaming import AHEAD, max_part, norm_part, sum_part

SIGNATURE = numba.types.void(int64, int64, int64, int64)

# kind -> (a block, the blocks' results, rows into columns, the columns' results)
_SUM = (canonical.sum_block, canonical.sum_total, canonical.sum_columns, canonical.sum_column_total)
_NORM = (canonical.norm_block, canonical.sum_total, canonical.norm_columns, canonical.sum_column_total)
_MAX = (canonical.max_block, canonical.max_total, canonical.max_columns, canonical.max_column_total)
_KINDS: dict[str, tuple[Any, Any, Any, Any]] = {"norm": _NORM, "sum": _SUM, "mean": _SUM, "max": _MAX}


@dataclass(frozen=True)
class Reduction:
    """A reduction in a kernel: `kind` (norm, sum, mean, max) of a value that varies over `over`, `per` what.

    `over` is "element", "row" or "column" (the buffer's shape in row kernels); `per` is "tensor" (a
    float64 number) or "column" (an array in the compute dtype).
    """

    kind: str
    over: str = "element"
    per: str = "tensor"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"a reduction is one of {', '.join(_KINDS)}, not {self.kind!r}")
        if (self.over, self.per) not in _EXTENTS:
            raise ValueError(f"no reduction over {self.over!r} per {self.per!r}")

    def partials(self, rows: int, columns: int) -> int:
        """Return how many float64 of scratch a tensor of this shape needs."""
        if self.per == "column":
            return max(1, -(-rows // ROW_BLOCK)) * max(1, columns)
        length = {"element": rows * columns, "row": rows, "column": columns}[self.over]
        return max(1, -(-length // BLOCK))

    def finish_address(self, dtype: Any) -> int:
        """Return the address of the entry that finishes one tensor.

        Its table has four slots: an int64 row of scratch addresses, int64 rows of row and column counts,
        and the results: a float64 row (per tensor), or an int64 row of addresses of arrays of `dtype`
        (per column).
        """
        name = np.dtype(dtype).name if self.per == "column" else "float64"
        return _finish_address(self, name)


_EXTENTS = {("element", "tensor"), ("row", "tensor"), ("column", "tensor"), ("element", "column")}


@functools.cache
def _finish_address(reduction: Reduction, dtype: str) -> int:
    make = _finish_columns if reduction.per == "column" else _finish_tensor
    entry = make(reduction, getattr(numba, dtype))
    name = f"finish_{reduction.kind}_{reduction.over}_{reduction.per}-{dtype}"
    return compile_entry(entry, SIGNATURE, name, source_stamp(entry))


@inlined
def _root(total: float, length: int) -> float:
    return math.sqrt(total)


@inlined
def _quotient(total: float, length: int) -> float:
    return total / length


@inlined
def _as_it_is(total: float, length: int) -> float:
    return total


# what becomes of the total of so many numbers
ENDINGS: dict[str, Any] = {"norm": _root, "sum": _as_it_is, "mean": _quotient, "max": _as_it_is}


def _finish_tensor(reduction: Reduction, number: Any) -> Callable[..., None]:
    _, total, _, _ = _KINDS[reduction.kind]
    end, wide, high = ENDINGS[reduction.kind], reduction.over != "row", reduction.over != "column"

    def finish(tables: int, tensor: int, start: int, count: int) -> None:
        rows, columns = address_in(tables, 1, tensor), address_in(tables, 2, tensor)
        length = (rows if high else 1) * (columns if wide else 1)
        partials = at(address_in(tables, 0, tensor), float64)
        result = total(partials, (length + BLOCK - 1) // BLOCK)
        at(at(tables, int64)[3], float64)[tensor] = end(result, length)

    return finish


def _finish_columns(reduction: Reduction, number: Any) -> Callable[..., None]:
    _, _, fold, total = _KINDS[reduction.kind]
    end = ENDINGS[reduction.kind]

    def finish(tables: int, tensor: int, start: int, count: int) -> None:
        rows, columns = address_in(tables, 1, tensor), address_in(tables, 2, tensor)
        partials = at(address_in(tables, 0, tensor), float64)
        if rows == 0:
            fold(partials, 0, 0, columns, partials)
        total(partials, (rows + ROW_BLOCK - 1) // ROW_BLOCK, columns)
        results = at(address_in(tables, 3, tensor), number)
        for column in range(columns):
            results[column] = number(end(partials[column], rows))

    return finish


@dataclass(frozen=True)
class Group:
    """Neighbouring buffers with equal reductions: slot and number of the first one, and how many."""

    reduction: Reduction
    slot: int
    buffer: int
    count: int


def groups(buffers: Sequence[tuple[int, Reduction]]) -> tuple[Group, ...]:
    """Return the groups of buffers, given each one's slot and reduction; slots follow each other."""
    found: list[Group] = []
    for number, (slot, reduction) in enumerate(buffers):
        if found and found[-1].reduction == reduction:
            found[-1] = dataclasses.replace(found[-1], count=found[-1].count + 1)
        else:
            found.append(Group(reduction, slot, number, 1))
    return tuple(found)


# A step takes a group's values, in buffers `room` bytes apart, to their partial results in scratch.
Step = Callable[..., None]


_PARTS = {"norm": norm_part, "sum": sum_part, "mean": sum_part, "max": max_part}


def flat_step(group: Group, number: Any, arrays: Sequence[tuple[int, int]]) -> Step:
    """Return `step(tables, tensor, values, room, lanes, position, size, end)`: a part of a chunk up to `end`.

    `lanes` is the address of LANES float64 for every buffer. Each buffer asks memory for one of the arrays,
    given by their slots and the bytes of an element, see Note [Streaming].
    """
    fold = _PARTS[group.reduction.kind]
    slot, first, count = group.slot, group.buffer, group.count
    asked = [arrays[buffer % len(arrays)] for buffer in range(first, first + count)]
    slots, widths = (tuple(column) for column in zip(*asked, strict=True))

    @inner
    def step(
        tables: int, tensor: int, values: int, room: int, lanes: int, position: int, size: int, end: int
    ) -> None:
        for k in range(count):
            partials = at(address_in(tables, slot + k, tensor), float64)
            terms = at(values + (first + k) * room, number)
            lane_of = at(lanes + (first + k) * LANES * 8, float64)
            soon = address_in(tables, slots[k], tensor) + (position + AHEAD) * widths[k]
            fold(lane_of, terms, position, size, end, soon, widths[k], partials)

    return step


def row_step(group: Group, number: Any) -> Step:
    """Return `step(tables, tensor, values, room, columns, row, rows, end)`: rows from `row` on.

    They are rows of a chunk that ends before row `end`, and stay within one block of ROW_BLOCK. At the
    end of each buffer's room there is space for the BLOCK values of a block that is not whole yet.
    """
    return (_column_step if group.reduction.per == "column" else _tensor_step)(group, number)


def _column_step(group: Group, number: Any) -> Step:
    _, _, fold, _ = _KINDS[group.reduction.kind]
    slot, first, count = group.slot, group.buffer, group.count

    @inner
    def step(
        tables: int, tensor: int, values: int, room: int, columns: int, row: int, rows: int, end: int
    ) -> None:
        for k in range(count):
            partials = at(address_in(tables, slot + k, tensor) + row // ROW_BLOCK * columns * 8, float64)
            fold(at(values + (first + k) * room, number), row, rows, columns, partials)

    return step


def _tensor_step(group: Group, number: Any) -> Step:
    feed, width = _feed(group.reduction, number), group.reduction.over != "row"
    slot, first, count, every_row = group.slot, group.buffer, group.count, group.reduction.over != "column"

    @inner
    def step(
        tables: int, tensor: int, values: int, room: int, columns: int, row: int, rows: int, end: int
    ) -> None:
        if not every_row:  # all chunks have the same values: the first row of the tensor is enough
            row, rows, end = (0, 1, 1) if row == 0 else (0, 0, 0)
        wide = columns if width else 1
        for k in range(count):
            partials = at(address_in(tables, slot + k, tensor), float64)
            feed(values + (first + k) * room, room, row * wide, rows * wide, end * wide, partials)

    return step


def _feed(reduction: Reduction, number: Any) -> Step:
    """Return `feed(values, room, position, count, length, partials)` for any number of values."""
    block, _, _, _ = _KINDS[reduction.kind]
    size = number.bitwidth // 8

    @inner
    def feed(values: int, room: int, position: int, count: int, length: int, partials: Any) -> None:
        source, waiting = at(values, number), at(values + room - BLOCK * size, number)
        done = 0
        while done < count:
            fill = (position + done) % BLOCK
            take = min(BLOCK - fill, count - done)
            for i in range(take):
                waiting[fill + i] = source[done + i]
            done += take
            if fill + take == BLOCK or position + done == length:
                partials[(position + done - 1) // BLOCK] = block(waiting, fill + take, length)

    return feed
