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
from operator import add
from typing import Any

import numpy as np
from numba import float64, types

from stepspec.compilation import inlined, inner
from stepspec.pointers import advance, pointer, stack

BLOCK = 4096
ROW_BLOCK = 256
LANES = 256
NARROW = 8


_lanes = stack(LANES, types.float64)


@inlined
def larger(a: float, b: float) -> float:
    """Return the larger of two, NaN if one is NaN; of equal ones (zeros) the second."""
    return a if a > b or a != a else b


@inlined
def widen_and_square(x: Any) -> float:
    """Return the square of x, taken in float64."""
    wide: float = float64(x)
    return wide * wide


def _block(load: Callable[[Any], float], fold: Callable[[float, float], float], start: float) -> Any:
    """Return `block(terms, count, length)`: `count` terms, a block of an operand of `length` -> float64."""

    @inner
    def block(terms: Any, count: int, length: int) -> Any:
        lanes, many = _lanes(), LANES if length >= LANES else NARROW
        if count == BLOCK:  # the usual one, with constant limits: lanes stay in registers
            for lane in range(LANES):
                value = start
                for k in range(0, BLOCK, LANES):
                    value = fold(value, load(terms[k + lane]))
                lanes[lane] = value
        else:
            for lane in range(many):
                lanes[lane] = start
            for k in range(0, count, many):
                for lane in range(min(many, count - k)):
                    lanes[lane] = fold(lanes[lane], load(terms[k + lane]))
        while many > 1:
            many //= 2
            for lane in range(many):
                lanes[lane] = fold(lanes[lane], lanes[lane + many])
        return lanes[0]

    return block


def _narrow_block(load: Callable[[Any], float], fold: Callable[[float, float], float], start: float) -> Any:
    """Return `narrow(terms, count)`: the same as `block` for less than LANES terms, several times faster.

    Every index into `lanes` is a constant once the loops are unrolled, so that they live in registers.
    """

    @inner
    def narrow(terms: Any, count: int) -> Any:
        lanes = _lanes()
        for lane in range(NARROW):
            lanes[lane] = start
        whole = count // NARROW * NARROW
        for k in range(0, whole, NARROW):
            for lane in range(NARROW):
                lanes[lane] = fold(lanes[lane], load(terms[k + lane]))
        for lane in range(NARROW - 1):
            if lane < count - whole:
                lanes[lane] = fold(lanes[lane], load(terms[whole + lane]))
        for lane in range(4):
            lanes[lane] = fold(lanes[lane], lanes[lane + 4])
        for lane in range(2):
            lanes[lane] = fold(lanes[lane], lanes[lane + 2])
        return fold(lanes[0], lanes[1])

    return narrow


def _total(block: Any) -> Any:
    """Return `total(partials, count)`: the results of blocks, reduced in place until one is left."""

    @inner
    def total(partials: Any, count: int) -> Any:
        while count != 1:  # none: the empty operand's value
            blocks = max(1, (count + BLOCK - 1) // BLOCK)
            for k in range(blocks):
                first = k * BLOCK
                partials[k] = block(advance(partials, first), min(BLOCK, count - first), count)
            count = blocks
        return partials[0]

    return total


def _whole(narrow: Any, block: Any, total: Any) -> Any:
    """Return `whole(terms)`: a contiguous 1-D operand of any length -> float64."""

    @inner
    def many(terms: Any, partials: Any) -> Any:
        source, results, length = pointer(terms), pointer(partials), terms.size
        for k in range(partials.size):
            first = k * BLOCK
            results[k] = block(advance(source, first), min(BLOCK, length - first), length)
        return total(results, partials.size)

    @inner
    def whole(terms: Any) -> Any:
        length = terms.size
        if length < LANES:
            return narrow(pointer(terms), length)
        return many(terms, np.empty((length + BLOCK - 1) // BLOCK, np.float64))

    return whole


def _column_fold(load: Callable[[Any], float], fold: Callable[[float, float], float], start: float) -> Any:
    """Return a function that folds `rows` rows, from row `row` of the operand on, into results[0:columns].

    A row that begins a block of ROW_BLOCK starts the lanes; the rows given stay within one block.
    """

    @inner
    def reduce(terms: Any, row: int, rows: int, columns: int, results: Any) -> None:
        if row % ROW_BLOCK == 0:
            for column in range(columns):
                results[column] = start
        for k in range(rows):
            for column in range(columns):
                results[column] = fold(results[column], load(terms[k * columns + column]))

    return reduce


def _column_total(fold: Callable[[float, float], float]) -> Any:
    """Return `total(partials, count, columns)`: `count` >= 1 rows, reduced in place into the first."""

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


sum_block = _block(float64, add, 0.0)
norm_block = _block(widen_and_square, add, 0.0)
max_block = _block(float64, larger, -np.inf)

sum_total = _total(sum_block)
max_total = _total(max_block)

sum_whole = _whole(_narrow_block(float64, add, 0.0), sum_block, sum_total)
norm_whole = _whole(_narrow_block(widen_and_square, add, 0.0), norm_block, sum_total)
max_whole = _whole(_narrow_block(float64, larger, -np.inf), max_block, max_total)

sum_columns = _column_fold(float64, add, 0.0)
norm_columns = _column_fold(widen_and_square, add, 0.0)
max_columns = _column_fold(float64, larger, -np.inf)

sum_column_total = _column_total(add)
max_column_total = _column_total(larger)
