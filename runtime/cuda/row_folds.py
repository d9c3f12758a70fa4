"""Reductions along rows, in the canonical order, by teams of threads.

Note [Teams]
A row shorter than LANES is reduced by a team of 8 threads, one shorter than WIDE by a warp, and any other by
the whole block. See Note [Folds by threads]. In the first two cases warps wait for nobody, so that a block
has many rows under way. Of a row of more than BLOCK elements, the thread that is lane
`k % lanes` keeps what it folds of the result of block `k`, and after BLOCK blocks these are joined; their
results are kept and joined likewise, so that a row of any length needs no scratch. All 256 threads join, even
if they are more than the lanes: one that has taken no term changes no bit. All threads of a team, and of a
warp, take the same steps, whether there is a row for their team or not.
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
from stepspec.cuda.folds import WARP, folds
from stepspec.reductions import ENDINGS

Function = Callable[..., Any]

# columns from which on a block takes a row
WIDE = 2048
# elements that a thread asks for before it folds the first: the lanes of one where a warp takes a row
AHEAD = LANES // WARP
_NARROW_BITS, _WARP_BITS, BLOCK_BITS = 3, 5, 8


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
        `terms(given, column, apart)`: what is reduced of AHEAD elements, so far apart, as tuples.
    turn
        0 and 1 alternately for the folds of a row, see Note [Folds by threads].

    """
    fold, ended = folds(kinds), _ended(kinds, getattr(np, dtype))
    start, take, merge, join, join_narrow = fold.start, fold.take, fold.merge, fold.join, fold.join_narrow
    join_warp, lane = fold.join_warp, types.UniTuple(types.float64, len(kinds))
    before = _before(take, lane)
    in_turn, side_by_side = _in_turn(before), _side_by_side(before)

    @part(lane)
    def lane_of(given: Any, column: int, end: int, team: int) -> Any:
        found = start()
        while column < end:
            found = in_turn(found, terms(given, column, team), column, team, end)
            column += AHEAD * team
        return found

    @part(types.UniTuple(lane, AHEAD))
    def lanes_of(given: Any, column: int, end: int) -> Any:
        one = start()
        found = (one, one, one, one, one, one, one, one)
        while column < end:
            found = side_by_side(found, terms(given, column, WARP), column, end)
            column += LANES
        return found

    @part(types.UniTuple(number_type(dtype), len(kinds)))
    def row(given: Any, count: int, columns: int, lane: int, team: int, shared: Any) -> Any:
        if team == WARP:
            return ended(join_warp(lanes_of(given, lane, count)), columns)
        blocks = max(1, _blocks(columns))
        many, many_longer = _lanes(blocks), _lanes(_blocks(blocks))
        results, kept, kept_longer = start(), start(), start()
        side, block, thread = turn, 0, np.int64(cuda.threadIdx.x)
        while block < blocks:
            lanes = lane_of(given, block * BLOCK + lane, min(count, (block + 1) * BLOCK), team)
            results = join(lanes, shared, side) if team == LANES else join_narrow(lanes)
            if thread == block & (many - 1):
                kept = merge(kept, results)
            side, block = 1 - side, block + 1
            if blocks > 1 and (block % BLOCK == 0 or block == blocks):
                results = join(kept, shared, side)
                if thread == (block - 1) // BLOCK & (many_longer - 1):
                    kept_longer = merge(kept_longer, results)
                side, kept = 1 - side, start()
        if blocks > 1:
            results = join(kept_longer, shared, side)
            cuda.syncthreads()
        return ended(results, columns)

    return row


def team_bits(columns: int) -> int:
    """Return the binary logarithm of how many threads a team for such rows has."""
    if columns < LANES:
        return _NARROW_BITS
    return _WARP_BITS if columns < WIDE else BLOCK_BITS


def _before(take: Function, lane: Any) -> Function:
    """Return what folds a term into a lane, but for an element beyond the end."""

    @part(lane)
    def one(found: Any, term: Any, column: int, end: int) -> Any:
        return take(found, term) if column < end else found

    return one


def _in_turn(one: Function) -> Function:
    """Return what folds terms of AHEAD elements, so far apart, into one lane."""

    def in_turn(found: Any, terms: Any, column: int, apart: int, end: int) -> Any:
        found = one(found, terms[0], column, end)
        found = one(found, terms[1], column + apart, end)
        found = one(found, terms[2], column + 2 * apart, end)
        found = one(found, terms[3], column + 3 * apart, end)
        found = one(found, terms[4], column + 4 * apart, end)
        found = one(found, terms[5], column + 5 * apart, end)
        found = one(found, terms[6], column + 6 * apart, end)
        return one(found, terms[7], column + 7 * apart, end)

    return in_turn


def _side_by_side(one: Function) -> Function:
    """Return what folds each of the terms of AHEAD elements, WARP apart, into a lane of its own."""

    def side_by_side(found: Any, terms: Any, column: int, end: int) -> Any:
        return (
            one(found[0], terms[0], column, end),
            one(found[1], terms[1], column + WARP, end),
            one(found[2], terms[2], column + 2 * WARP, end),
            one(found[3], terms[3], column + 3 * WARP, end),
            one(found[4], terms[4], column + 4 * WARP, end),
            one(found[5], terms[5], column + 5 * WARP, end),
            one(found[6], terms[6], column + 6 * WARP, end),
            one(found[7], terms[7], column + 7 * WARP, end),
        )

    return side_by_side


def _blocks(terms: int) -> int:
    return (terms + BLOCK - 1) // BLOCK


def _lanes(terms: int) -> int:
    """Return how many lanes an operand is folded in: a power of two."""
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
