"""The canonical order of every sum, norm and maximum: the same bits for any threads, chunks and layout.

Note [Canonical order]
An operand (already in the compute dtype) is cut into blocks of 4096 consecutive elements in C order. In it
element `i` goes to lane `i % L`: L is 256, or 8 where the *whole operand* is shorter than 256. Lanes start at
+0.0 (-inf for max), take their elements in order, in float64, and are folded in halves (lane `l` with lane
`l + L/2`) down to one. The results of the blocks are an operand for the same rule, until one is left. A norm
squares its elements after widening; the levels above add. max folds as `larger(lane, element)`.

Columns: the rows of a block of 256 rows are taken in order into one lane per column, which starts at +0.0
(-inf); the results of the blocks are rows for the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
from numba import float64, types

from stepspec import lanes
from stepspec.compilation import inlined, inner
from stepspec.lanes import WIDTH, fill
from stepspec.pointers import advance, pointer, stack

BLOCK = 4096
ROW_BLOCK = 256
LANES = 256
NARROW = 8


_wide_lanes = stack(LANES, types.float64)
_narrow_lanes = stack(NARROW, types.float64)


@inlined
def larger(a: float, b: float) -> float:
    """Return the larger of two, NaN if one is NaN; of equal ones (zeros) the second."""
    return a if a > b or a != a else b


@inlined
def widen_and_square(x: Any) -> float:
    """Return the square of x, taken in float64."""
    wide: float = float64(x)
    return wide * wide


@dataclass(frozen=True)
class Fold:
    """A reduction: `load` widens a number, `fold` folds two; the others are of `stepspec.lanes`."""

    load: Callable[[Any], float]
    fold: Callable[[float, float], float]
    take: Any
    join: Any
    halve: Any
    start: float


_take_sum, _take_max = lanes.folder(lanes.add), lanes.folder(lanes.larger)
_take_squares = lanes.folder(lanes.add_square, lanes.add_exact_square)
_halve_sum, _halve_max = lanes.halver(lanes.add), lanes.halver(lanes.larger)

SUM = Fold(float64, add, _take_sum, _take_sum, _halve_sum, 0.0)
NORM = Fold(widen_and_square, add, _take_squares, _take_sum, _halve_sum, 0.0)
MAX = Fold(float64, larger, _take_max, _take_max, _halve_max, -np.inf)


def _narrow(kind: Fold) -> Any:
    """Return `narrow(terms, count)`: a block of an operand of less than LANES terms -> float64."""
    load, fold, take, halve, start = kind.load, kind.fold, kind.take, kind.halve, kind.start

    @inlined
    def narrow(terms: Any, count: int) -> Any:
        lane_of, whole = _narrow_lanes(), count // NARROW * NARROW
        fill(lane_of, start)
        for k in range(0, whole, NARROW):
            take(lane_of, advance(terms, k))
        for lane in range(NARROW - 1):  # constant indices once unrolled: lanes stay in registers
            if lane < count - whole:
                lane_of[lane] = fold(lane_of[lane], load(terms[whole + lane]))
        return halve(lane_of)

    return narrow


def _wide(kind: Fold) -> Any:
    """Return `wide(terms, count)`: a block of a longer operand -> float64.

    Lanes that meet in the first two halvings are taken together, which leaves a quarter of them and keeps
    them in registers.
    """
    load, take, join, halve, start = kind.load, kind.take, kind.join, kind.halve, kind.start
    quarter = LANES // 4

    @inner
    def wide(terms: Any, count: int) -> Any:
        lane_of, rest, whole = _wide_lanes(), _wide_lanes(), count // LANES * LANES
        if whole < count:  # more of what lanes start at changes none
            for lane in range(count - whole):
                rest[lane] = load(terms[whole + lane])
            for lane in range(count - whole, LANES):
                rest[lane] = start
        for first in range(0, quarter, WIDTH):
            for lane in range(0, LANES, quarter):
                fill(advance(lane_of, first + lane), start)
            for k in range(first, whole, LANES):
                for lane in range(0, LANES, quarter):
                    take(advance(lane_of, first + lane), advance(terms, k + lane))
            if whole < count:
                for lane in range(0, LANES, quarter):
                    join(advance(lane_of, first + lane), advance(rest, first + lane))
            join(advance(lane_of, first), advance(lane_of, first + 2 * quarter))
            join(advance(lane_of, first + quarter), advance(lane_of, first + 3 * quarter))
            join(advance(lane_of, first), advance(lane_of, first + quarter))
        for half in (quarter // 2, quarter // 4, quarter // 8):
            for first in range(0, half, WIDTH):
                join(advance(lane_of, first), advance(lane_of, first + half))
        return halve(lane_of)

    return wide


def _block(narrow: Any, wide: Any) -> Any:
    """Return `block(terms, count, length)`: `count` terms, a block of an operand of `length` -> float64."""

    @inlined
    def block(terms: Any, count: int, length: int) -> Any:
        if length < LANES:
            return narrow(terms, count)
        return wide(terms, count)

    return block


def _total(kind: Fold) -> Any:
    """Return `total(partials, count)`: the results of blocks, reduced in place until one is left.

    They are few, so that this is the rule as it stands, which takes the least time to compile.
    """
    fold, start = kind.fold, kind.start

    @inner
    def total(partials: Any, count: int) -> Any:
        lane_of = _wide_lanes()
        while count != 1:  # none: the empty operand's value
            many, blocks = LANES if count >= LANES else NARROW, max(1, (count + BLOCK - 1) // BLOCK)
            for k in range(blocks):
                for lane in range(many):
                    lane_of[lane] = start
                for i in range(k * BLOCK, min(count, (k + 1) * BLOCK)):
                    lane_of[i & (many - 1)] = fold(lane_of[i & (many - 1)], partials[i])
                half = many >> 1
                while half:
                    for lane in range(half):
                        lane_of[lane] = fold(lane_of[lane], lane_of[lane + half])
                    half >>= 1
                partials[k] = lane_of[0]
            count = blocks
        return partials[0]

    return total


def _whole(narrow: Any, wide: Any, total: Any) -> Any:
    """Return `whole(terms, length)`: an operand of any length -> float64."""

    @inner
    def blocks(terms: Any, length: int, partials: Any) -> Any:
        results = pointer(partials)
        for k in range(partials.size):
            first = k * BLOCK
            results[k] = wide(advance(terms, first), min(BLOCK, length - first))
        return total(results, partials.size)

    @inner
    def whole(terms: Any, length: int) -> Any:
        if length < LANES:
            return narrow(terms, length)
        if length <= BLOCK:
            return wide(terms, length)
        return blocks(terms, length, np.empty((length + BLOCK - 1) // BLOCK, np.float64))

    return whole


def _column_fold(kind: Fold) -> Any:
    """Return a function that folds `rows` rows, from row `row` of the operand on, into results[0:columns].

    A row that begins a block of ROW_BLOCK starts the lanes; the rows given stay within one block.
    """
    load, fold, start = kind.load, kind.fold, kind.start

    @inner
    def reduce(terms: Any, row: int, rows: int, columns: int, results: Any) -> None:
        if row % ROW_BLOCK == 0:
            for column in range(columns):
                results[column] = start
        for k in range(rows):
            for column in range(columns):
                results[column] = fold(results[column], load(terms[k * columns + column]))

    return reduce


def _column_total(kind: Fold) -> Any:
    """Return `total(partials, count, columns)`: `count` >= 1 rows, reduced in place into the first."""
    fold = kind.fold

    @inner
    def total(partials: Any, count: int, columns: int) -> None:
        while count > 1:
            blocks = (count + ROW_BLOCK - 1) // ROW_BLOCK
            for k in range(blocks):
                first, end = k * ROW_BLOCK, min(count, (k + 1) * ROW_BLOCK)
                # folding the lane's start with a first row gives that row: no lane is ever -0.0
                for column in range(columns):
                    partials[k * columns + column] = partials[first * columns + column]
                for row in range(first + 1, end):
                    for column in range(columns):
                        target = k * columns + column
                        partials[target] = fold(partials[target], partials[row * columns + column])
            count = blocks

    return total


narrow_sum, _wide_sum = _narrow(SUM), _wide(SUM)
narrow_norm, _wide_norm = _narrow(NORM), _wide(NORM)
narrow_max, _wide_max = _narrow(MAX), _wide(MAX)

sum_block = _block(narrow_sum, _wide_sum)
norm_block = _block(narrow_norm, _wide_norm)
max_block = _block(narrow_max, _wide_max)

sum_total = _total(SUM)
max_total = _total(MAX)

sum_whole = _whole(narrow_sum, _wide_sum, sum_total)
norm_whole = _whole(narrow_norm, _wide_norm, sum_total)
max_whole = _whole(narrow_max, _wide_max, max_total)

sum_columns = _column_fold(SUM)
norm_columns = _column_fold(NORM)
max_columns = _column_fold(MAX)

sum_column_total = _column_total(SUM)
max_column_total = _column_total(MAX)
