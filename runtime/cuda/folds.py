"""The canonical order by the threads of a block: a lane is a thread, and halvings meet in registers.

Note [Folds by threads]
See Note [Canonical order]. A team of 256 threads, or of 8 neighbouring ones where the whole operand is
shorter than 256, folds the terms of a block of up to 4096: thread `l` takes those of lane `l`, in order.
Then the lanes are joined: those of 256 threads through shared memory down to the 32 of a warp, and these by
exchanging registers. Every warp does so, and every thread gets the result. One warp can do all by itself: a
thread takes eight lanes, and folds them as it would have found them in shared memory.

What one join has left in shared memory may still be read by a slow warp when a fast one comes to the next.
So there is room for two, and their `turn` alternates between 0 and 1: who is past a join's barrier knows
that all have read what the join before the last left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from stepspec.canonical import LANES, NARROW, larger
from stepspec.cuda.device_code import part

WARP = 32
# the mask of an exchange between all threads of a warp
_WHOLE_WARP = 0xFFFFFFFF


@dataclass(frozen=True)
class Folds:
    """Device functions that fold the terms of several reductions at once.

    Parameters
    ----------
    room
        How many float64 of shared memory `join` needs.
    start
        ``start() -> lanes``: the float64 that a lane of each reduction starts at, a tuple.
    take
        ``take(lanes, terms) -> lanes``: a tuple of terms, in any dtype, folded into the lanes.
    join
        ``join(lanes, shared, turn) -> results``: the lanes of all 256 threads. It holds one barrier.
    join_warp
        ``join_warp(lanes) -> results``: the lanes of a warp, of which a thread has those WARP apart, a tuple.
    join_narrow
        ``join_narrow(lanes) -> results``: the lanes of every 8 neighbouring threads.
    merge
        ``merge(lanes, results) -> lanes``: as `take`, for results of blocks.

    """

    room: int
    start: Callable[..., Any]
    take: Callable[..., Any]
    join: Callable[..., Any]
    join_warp: Callable[..., Any]
    join_narrow: Callable[..., Any]
    merge: Callable[..., Any]


@functools.cache
def folds(kinds: tuple[str, ...]) -> Folds:
    """Return what folds the terms of "norm", "sum", "mean" and "max" reductions, in this order."""
    each = [_KINDS[kind] for kind in kinds]
    starts, lanes_of = tuple(one.start for one in each), part(types.UniTuple(types.float64, len(each)))
    put, get = _placed([_put] * len(each)), _placed([_from_eight(one.fold) for one in each])
    meet = _halved([_met(one.fold) for one in each])

    def start() -> Any:
        return starts

    def exchange(lanes: Any, half: int) -> Any:
        while half:
            lanes = meet(lanes, half)
            half >>= 1
        return lanes

    def join(lanes: Any, shared: Any, turn: int) -> Any:
        first = turn * LANES
        put(lanes, shared, first + cuda.threadIdx.x)
        cuda.syncthreads()
        return exchange(get(lanes, shared, first + cuda.threadIdx.x % WARP), WARP // 2)

    def join_warp(lanes: Any) -> Any:
        a, b = merge(lanes[0], lanes[4]), merge(lanes[1], lanes[5])
        c, d = merge(lanes[2], lanes[6]), merge(lanes[3], lanes[7])
        return exchange(merge(merge(a, c), merge(b, d)), WARP // 2)

    def join_narrow(lanes: Any) -> Any:
        return exchange(lanes, NARROW // 2)

    take = _paired([_taken(one.load, one.fold) for one in each])
    merge = lanes_of(_paired([one.fold for one in each]))
    return Folds(
        room=2 * LANES * len(each),
        start=start,
        take=lanes_of(take),
        join=lanes_of(join),
        join_warp=lanes_of(join_warp),
        join_narrow=lanes_of(join_narrow),
        merge=merge,
    )


@dataclass(frozen=True)
class _Kind:
    start: float
    load: Callable[[Any], Any]
    fold: Callable[[float, float], float]


def _widened(x: Any) -> Any:
    return np.float64(x)


def _squared(x: Any) -> Any:
    wide = np.float64(x)
    return wide * wide


def _sum(a: float, b: float) -> float:
    return a + b


_SUM = _Kind(0.0, _widened, _sum)
_KINDS = {
    "norm": _Kind(0.0, _squared, _sum),
    "sum": _SUM,
    "mean": _SUM,
    "max": _Kind(-math.inf, _widened, larger),
}


def _taken(load: Any, fold: Any) -> Callable[..., Any]:
    def take(lane: float, term: Any) -> Any:
        return fold(lane, load(term))

    return take


def _put(lane: float, shared: Any, place: int) -> float:
    shared[place] = lane
    return lane


def _from_eight(fold: Any) -> Callable[..., Any]:
    """Return what folds lanes that lie WARP apart, from `place` on: the first three halvings."""

    def get(lane: float, shared: Any, place: int) -> Any:
        a = fold(shared[place], shared[place + 4 * WARP])
        b = fold(shared[place + 1 * WARP], shared[place + 5 * WARP])
        c = fold(shared[place + 2 * WARP], shared[place + 6 * WARP])
        d = fold(shared[place + 3 * WARP], shared[place + 7 * WARP])
        return fold(fold(a, c), fold(b, d))

    return get


def _met(fold: Any) -> Callable[..., Any]:
    """Return what folds a lane and that of the thread `half` away; in both the lower lane is first."""

    def meet(lane: float, half: int) -> Any:
        other = cuda.shfl_xor_sync(_WHOLE_WARP, lane, half)
        is_upper = cuda.threadIdx.x & half
        return fold(other if is_upper else lane, lane if is_upper else other)

    return meet


def _paired(each: list[Any]) -> Callable[..., Any]:
    """Return what applies each function to its two numbers."""
    one = each[0]
    if len(each) == 1:
        return lambda a, b: (one(a[0], b[0]),)
    others = _paired(each[1:])
    return lambda a, b: (one(a[0], b[0]), *others(a[1:], b[1:]))


def _placed(each: list[Any]) -> Callable[..., Any]:
    """Return what applies each function to its lane and its place in shared memory."""
    one = each[0]
    if len(each) == 1:
        return lambda lanes, shared, place: (one(lanes[0], shared, place),)
    others, further = _placed(each[1:]), 2 * LANES
    return lambda lanes, shared, place: (
        one(lanes[0], shared, place),
        *others(lanes[1:], shared, place + further),
    )


def _halved(each: list[Any]) -> Callable[..., Any]:
    """Return what folds the lanes of neighbouring threads, from `half` lanes on."""
    one = each[0]
    if len(each) == 1:
        return lambda lanes, half: (one(lanes[0], half),)
    others = _halved(each[1:])
    return lambda lanes, half: (one(lanes[0], half), *others(lanes[1:], half))
