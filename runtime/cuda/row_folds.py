"""Reductions along rows, in the canonical order, by teams of threads.

Note [Teams]
A row shorter than LANES is reduced by a team of 8 threads, so that a block does 32 rows at a time; any other
by the whole block. See Note [Folds by threads]. Of a row of more than BLOCK elements, the thread that is lane
`k % lanes` keeps what it folds of the result of block `k`, and after BLOCK blocks these are joined; their
results are kept and joined likewise, so that a row of any length needs no scratch. All 256 threads join, even
if they are more than the lanes: one that has taken no term changes no bit. All threads of a block take the
same steps, whether there is a row for their team or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from stepspec.canonical import BLOCK, LANES, NARROW
from stepspec.cuda.access import number_type
from stepspec.cuda.device_code import part
from stepspec.cuda.folds import folds
from stepspec.reductions import ENDINGS

Function = Callable[..., Any]


def room_of(kinds: tuple[str, ...]) -> int:
    """Return how many float64 of shared memory the reductions need."""
    return folds(kinds).room


def row_fold(kinds: tuple[str, ...], dtype: str, terms: Function, turn: int) -> Function:
    """Return `fold(given, count, columns, lane, team, shared)`: the reductions of a row, as a tuple.

    `count` is the number of columns where there is a row for the thread, and below 1 else.

    Parameters
    ----------
    kinds
        "sum", "mean", "norm" or "max" of each.
    dtype
        The compute dtype, that results are rounded to.
    terms
        `terms(given, column)`: what is reduced, as a tuple.
    turn
        0 and 1 alternately for the folds of a row, see Note [Folds by threads].

    """
    fold, ended = folds(kinds), _ended(kinds, getattr(np, dtype))
    start, take, join, join_narrow = fold.start, fold.take, fold.join, fold.join_narrow
    long_row = _long_row(kinds, terms)

    @part(types.UniTuple(number_type(dtype), len(kinds)))
    def row(given: Any, count: int, columns: int, lane: int, team: int, shared: Any) -> Any:
        if columns > BLOCK:
            return ended(long_row(given, columns, shared), columns)
        lanes, column = start(), lane
        while column < count:
            lanes = take(lanes, terms(given, column))
            column += team
        lanes = join(lanes, shared, turn) if team == LANES else join_narrow(lanes)
        return ended(lanes, columns)

    return row


def _long_row(kinds: tuple[str, ...], terms: Function) -> Function:
    """Return `long_row(given, columns, shared)`: the reductions of a row of several blocks."""
    fold = folds(kinds)
    start, take, join, merge = fold.start, fold.take, fold.join, fold.merge

    @part(types.UniTuple(types.float64, len(kinds)))
    def block_of(given: Any, columns: int, block: int) -> Any:
        lanes, column = start(), block * BLOCK + cuda.threadIdx.x
        limit = min(columns, (block + 1) * BLOCK)
        while column < limit:
            lanes = take(lanes, terms(given, column))
            column += LANES
        return lanes

    @part(types.UniTuple(types.float64, len(kinds)))
    def long_row(given: Any, columns: int, shared: Any) -> Any:
        thread = np.int64(cuda.threadIdx.x)
        blocks = (columns + BLOCK - 1) // BLOCK
        many, many_longer = _lanes(blocks), _lanes((blocks + BLOCK - 1) // BLOCK)
        kept, kept_longer = start(), start()
        cuda.syncthreads()
        turn, block = 0, 0
        while block < blocks:
            results = join(block_of(given, columns, block), shared, turn)
            if thread == block % many:
                kept = merge(kept, results)
            turn, block = 1 - turn, block + 1
            if block % BLOCK == 0 or block == blocks:
                results = join(kept, shared, turn)
                if thread == (block - 1) // BLOCK % many_longer:
                    kept_longer = merge(kept_longer, results)
                turn, kept = 1 - turn, start()
        results = join(kept_longer, shared, turn)
        cuda.syncthreads()
        return results

    return long_row


def _lanes(terms: int) -> int:
    """Return how many lanes an operand is folded in."""
    return LANES if terms >= LANES else NARROW


def _ended(kinds: tuple[str, ...], number: Any) -> Function:
    """Return `ended(totals, columns)`: the numbers of a row, rounded once."""
    end = ENDINGS[kinds[0]]

    def one(totals: Any, columns: int) -> Any:
        return (number(end(totals[0], columns)),)

    if not kinds[1:]:
        return one
    others = _ended(kinds[1:], number)

    def ended(totals: Any, columns: int) -> Any:
        return one(totals, columns) + others(totals[1:], columns)

    return ended
