"""The noise of a weight's elements, see Note [Noise]: in LLVM, for intrinsics.

`key` and `count` are what the slots "noise_key" and "noise_count" hold; numbers of elements are int64.
"""

from __future__ import annotations

from typing import Any

from numba.cuda import types

from stepspec import noise, transcendental
from stepspec.cuda.access import INT, SHORT
from stepspec.cuda.device_code import call

_FOUR = [types.uint64] * 4


def words_of_four(context: Any, builder: Any, key: Any, count: Any, position: Any) -> list[Any]:
    """Return the words of the four elements that an element stands among, 32 bits each."""
    found = _block(context, builder, key, count, builder.lshr(position, INT(2)), noise.ROUNDING)
    return [builder.trunc(each, SHORT) for each in found]


def word_of(context: Any, builder: Any, key: Any, count: Any, position: Any) -> Any:
    """Return the word of one element."""
    words = words_of_four(context, builder, key, count, position)
    lane, chosen = builder.and_(position, INT(3)), words[0]
    for k in range(1, len(words)):
        chosen = builder.select(builder.icmp_signed("==", lane, INT(k)), words[k], chosen)
    return chosen


def normal_of(
    context: Any, builder: Any, key: Any, count: Any, position: Any, stream: int, number: Any
) -> Any:
    """Return the normal number of one element in a stream, rounded to the type `number`."""
    words = _block(context, builder, key, count, position, stream)
    found = call(context, builder, transcendental.normal, types.float64, _FOUR, words)
    return context.cast(builder, found, types.float64, number)


def _block(context: Any, builder: Any, key: Any, count: Any, block: Any, stream: int) -> list[Any]:
    """Return the four words of a block, as 64 bits each."""
    low = builder.and_(count, INT(noise.WORD_MASK))
    given = [*_halves(builder, block), low, INT(stream), *_halves(builder, key)]
    four = types.UniTuple(types.uint64, 4)
    found = call(context, builder, noise.philox, four, [types.uint64] * len(given), given)
    return [builder.extract_value(found, k) for k in range(4)]


def _halves(builder: Any, value: Any) -> list[Any]:
    """Return the low and the high word of 64 bits."""
    return [builder.and_(value, INT(noise.WORD_MASK)), builder.lshr(value, INT(32))]
