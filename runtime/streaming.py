"""Blocks of flat operands in the canonical order, folded part by part while memory brings the next parts.

Note [Streaming]
A flat kernel that reduces only reads, much and mostly from memory. So a block is not filled first and folded
then: each part of it, one term for each lane, is folded as soon as it is there, and buffers, lanes and what
they are made of stay in the first cache. Folding needs no memory; meanwhile it asks for what the function
will read soon, a line per step: of many lines at once most would have to wait for the others. It asks beyond
the end of a chunk, too, as mostly the next one follows there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepspec import canonical
from stepspec.canonical import BLOCK, LANES, Fold
from stepspec.compilation import inlined, inner
from stepspec.lanes import WIDTH, fill
from stepspec.pointers import advance, prefetch_near

PART = LANES
# elements from what is folded to what is asked for: further than memory is away, nearer than the first cache
# is large
AHEAD = 4 * PART

_STEP = 2 * WIDTH


def _begin(kind: Fold) -> Any:
    """Return `begin(lanes)`: the lanes of a block, without any terms."""
    start = kind.start

    @inlined
    def begin(lane_of: Any) -> None:
        for first in range(0, LANES, WIDTH):
            fill(advance(lane_of, first), start)

    return begin


def _go_on(kind: Fold) -> Any:
    """Return `go_on(lanes, terms, count, soon, width)`: a part is folded, whose buffer has room for PART.

    `soon` is an address in an array that has `width` bytes for each term.
    """
    take, start = kind.take, kind.start

    @inner
    def go_on(lane_of: Any, terms: Any, count: int, soon: int, width: int) -> None:
        end = (count + _STEP - 1) // _STEP * _STEP
        for k in range(count, end):  # more of what lanes start at changes none
            terms[k] = start
        for k in range(0, end, _STEP):
            prefetch_near(soon + k * width)
            take(advance(lane_of, k), advance(terms, k))
            take(advance(lane_of, k + WIDTH), advance(terms, k + WIDTH))

    return go_on


def _end(kind: Fold) -> Any:
    """Return `end(lanes)`: the result of a block, a float64."""
    join, halve = kind.join, kind.halve

    @inlined
    def end(lane_of: Any) -> Any:
        half = LANES // 2
        while half >= WIDTH:
            for first in range(0, half, WIDTH):
                join(advance(lane_of, first), advance(lane_of, first + half))
            half //= 2
        return halve(lane_of)

    return end


def folder(kind: Fold, narrow: Any) -> Callable[..., None]:
    """Return `fold(lanes, terms, position, count, end, soon, width, partials)`: a part of an operand.

    Parts come in order, in PART terms (the last one may have less), from a multiple of BLOCK to `end`, which
    is such a multiple or the operand's length. Whole blocks go to the float64 `partials`, one each. The
    lanes are LANES float64.
    """
    begin, go_on, finish = _begin(kind), _go_on(kind), _end(kind)

    @inlined
    def fold(
        lane_of: Any, terms: Any, position: int, count: int, end: int, soon: int, width: int, partials: Any
    ) -> None:
        after = position + count
        if after < LANES:  # only a whole operand begins and ends below LANES
            partials[0] = narrow(terms, count)
            return
        if position % BLOCK == 0:
            begin(lane_of)
        go_on(lane_of, terms, count, soon, width)
        if after % BLOCK == 0 or after == end:
            partials[position // BLOCK] = finish(lane_of)

    return fold


sum_part = folder(canonical.SUM, canonical.narrow_sum)
norm_part = folder(canonical.NORM, canonical.narrow_norm)
max_part = folder(canonical.MAX, canonical.narrow_max)
