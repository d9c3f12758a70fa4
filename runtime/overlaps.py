"""Which arrays of a call share memory: written ones must not, with each other or with a gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from stepspec.states import Array

Int64s = NDArray[np.int64]

# np.shares_memory solves a hard problem exactly; beyond this much work two arrays count as overlapping
_MAX_WORK = 100_000


def check_overlaps(written: Sequence[Array], gradients: Sequence[Array], what: Callable[[int], str]) -> None:
    """Raise ValueError, naming both, if a written array overlaps itself, another one or a gradient.

    `what` tells what messages call an array: ``the weight of 'fc1_weight' (index 0)``. Gradients are numbered
    behind what is written.
    """
    for k, array in enumerate(written):
        if _may_overlap_itself(array):
            raise ValueError(
                f"{what(k)} overlaps itself: several elements are the same memory; make a copy of it"
            )
    arrays = [*written, *gradients]
    bounds = np.array([byte_bounds(array) for array in arrays], np.int64).reshape(-1, 2)
    bounds[[array.size == 0 for array in arrays], 1] = -1
    for near in _clusters(bounds):
        if min(near) >= len(written) or _interleaved([arrays[k] for k in near], bounds[near, 0]):
            continue
        for one, two in _meeting(near, bounds):
            if (one < len(written) or two < len(written)) and _share(arrays[one], arrays[two]):
                raise ValueError(_message(what(one), what(two), same=arrays[one] is arrays[two]))


def _clusters(bounds: Int64s) -> Iterator[list[int]]:
    """Yield the positions of ranges that meet, directly or through others, in order of their starts."""
    order = np.argsort(bounds[:, 0], kind="stable")
    order = order[bounds[order, 1] >= 0]
    reach = np.maximum.accumulate(bounds[order, 1])
    cuts = np.flatnonzero(bounds[order[1:], 0] >= reach[:-1]) + 1
    edges = [0, *cuts.tolist(), order.size]
    for start, end in itertools.pairwise(edges):
        if end - start > 1:
            yield order[start:end].tolist()


def _meeting(near: Sequence[int], bounds: Int64s) -> Iterator[tuple[int, int]]:
    """Yield the pairs of a cluster whose ranges meet."""
    reaching: list[int] = []
    for k in near:
        reaching = [other for other in reaching if bounds[other, 1] > bounds[k, 0]]
        yield from ((other, k) for other in reaching)
        reaching.append(k)


def _interleaved(arrays: Sequence[Array], starts: Int64s) -> bool:
    """Tell, in a short time, that arrays lie between each other, as the columns of one matrix do.

    Pieces of memory that repeat with one period meet within one period, or not at all.
    """
    pieces = [_pieces(array) for array in arrays]
    period = math.gcd(*(stride for _, strides in pieces for stride in strides))
    lengths = np.array([length for length, _ in pieces], np.int64)
    if lengths.max() > period:
        return False
    order = np.argsort(starts % period)
    starts = (starts % period)[order]
    following = np.append(starts[1:], starts[0] + period)
    return bool((starts + lengths[order] <= following).all())


def _pieces(array: Array) -> tuple[int, list[int]]:
    """Return the bytes of the dense pieces that an array consists of, and the strides between them."""
    length = array.itemsize
    steps = sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
    while steps and steps[0][0] == length:
        length *= steps.pop(0)[1]
    return length, [stride for stride, _ in steps]


def _message(one: str, two: str, *, same: bool) -> str:
    if same:
        return f"{one} and {two} are the same array; each must be an array of its own"
    return f"{one} and {two} overlap in memory; copy one of them"


def _share(one: Array, two: Array) -> bool:
    """Tell whether two arrays whose bounds overlap share an element; interleaved views do not."""
    if one.flags.forc and two.flags.forc:
        return True
    try:
        return bool(np.shares_memory(one, two, max_work=_MAX_WORK))  # type: ignore[arg-type]  # the stubs know -1 and 0 only
    except np.exceptions.TooHardError:
        return True


def _may_overlap_itself(array: Array) -> bool:
    """Tell whether a stride is shorter than what smaller strides span: false of slices and transposes."""
    if array.flags.forc or array.size == 0:
        return False
    span = array.itemsize
    steps = [(abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1]
    for stride, length in sorted(steps):
        if stride < span:
            return True
        span += stride * (length - 1)
    return False
