"""The random words of a weight's elements, see Note [Noise]: in LLVM, for intrinsics."""

from __future__ import annotations

from typing import Any

from numba.cuda import types

from stepspec import noise
from stepspec.cuda.access import INT, SHORT
from stepspec.cuda.device_code import call


def words_of_four(context: Any, builder: Any, key: Any, count: Any, position: Any) -> list[Any]:
    """Return the words of the four elements that an element (an int64) stands among, 32 bits each.

    `key` and `count` are what the slots "noise_key" and "noise_count" hold.
    """
    block = builder.lshr(position, INT(2))
    low = builder.and_(count, INT(noise.WORD_MASK))
    given = [*_halves(builder, block), low, INT(noise.ROUNDING), *_halves(builder, key)]
    four = types.UniTuple(types.uint64, 4)
    found = call(context, builder, noise.philox, four, [types.uint64] * len(given), given)
    return [builder.trunc(builder.extract_value(found, k), SHORT) for k in range(4)]


def word_of(context: Any, builder: Any, key: Any, count: Any, position: Any) -> Any:
    """Return the word of one element."""
    words = words_of_four(context, builder, key, count, position)
    lane, chosen = builder.and_(position, INT(3)), words[0]
    for k in range(1, len(words)):
        chosen = builder.select(builder.icmp_signed("==", lane, INT(k)), words[k], chosen)
    return chosen


def _halves(builder: Any, value: Any) -> list[Any]:
    """Return the low and the high word of 64 bits."""
    return [builder.and_(value, INT(noise.WORD_MASK)), builder.lshr(value, INT(32))]
