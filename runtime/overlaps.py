"""Which arrays of a call share memory: written ones must not, with each other or with a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.array_utils import byte_bounds

from stepspec.states import Array

# np.shares_memory solves a hard problem exactly; beyond this much work two arrays count as overlapping
_MAX_WORK = 100_000


@dataclass(frozen=True, slots=True)
class Operand:
    """One array of a call and what to call it in messages: ``the weight of 'fc1_weight' (index 0)``."""

    what: str
    array: Array


def check_overlaps(written: list[Operand], gradients: list[Operand]) -> None:
    """Raise ValueError, naming both, if a written array overlaps itself, another one or a gradient."""
    for operand in written:
        if _may_overlap_itself(operand.array):
            raise ValueError(
                f"{operand.what} overlaps itself: several elements are the same memory; make a copy of it"
            )
    ranges = [(*byte_bounds(o.array), o, True) for o in written if o.array.size]
    ranges += [(*byte_bounds(o.array), o, False) for o in gradients if o.array.size]
    ranges.sort(key=lambda item: item[0])
    reaching: list[tuple[int, int, Operand, bool]] = []
    for low, high, operand, writes in ranges:
        reaching = [item for item in reaching if item[1] > low]
        for _, _, other, other_writes in reaching:
            if (writes or other_writes) and _share(operand.array, other.array):
                raise ValueError(_message(other, operand))
        reaching.append((low, high, operand, writes))


def _message(one: Operand, two: Operand) -> str:
    if one.array is two.array:
        return f"{one.what} and {two.what} are the same array; each must be an array of its own"
    return f"{one.what} and {two.what} overlap in memory; copy one of them"


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
