"""Random bits that depend on nothing but a seed, a tensor and its step; what they become, in NumPy.

Note [Noise]
Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a key of two words
and a counter of four into four random words. The key is a hash of the seed and the tensor's name. The counter
of block b is (b's low word, b's high word, the tensor's update count, the stream). Elements of a weight are
numbered in C order, from 0. So whatever computes an element, on any path and in any chunk, finds the same
bits; what they become is integer arithmetic, or float64 in one sequence of operations, equal in compiled
kernels to the bit.

Stochastic rounding has stream 0: element e has word e % 4 of block e // 4. The n-th `normal()` of a rule, in
reading order, has stream n: element e has block e, all of it. Words 0 and 1 make u = (2 * k + 1) / 2**53 with
k < 2**52, words 2 and 3 v = m / 2**52 with m < 2**52, both exactly; sqrt(-2 * log(u)) * cos(2 * pi * v) in
float64 is the number (Box and Muller, 1958), between -8.6 and 8.6, and it is rounded once to the compute
dtype.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from stepspec import transcendental

# uint64 numbers: arrays here, scalars in compiled code
Words = Any

ROUNDS = 10
WORD_MASK = 0xFFFFFFFF
WORD = np.uint64(WORD_MASK)
SHIFT = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEP_0, STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
# the stream of a weight's rounding
ROUNDING = 0
# arguments of a kernel that are drawn -> the stream of each
STREAMS = {"normal" if stream == 1 else f"normal_{stream}": stream for stream in range(1, 9)}
# elements drawn at once, so that what is between stays in the cache
SLAB = 16384


def philox(
    c0: Words, c1: Words, c2: Words, c3: Words, k0: Words, k1: Words
) -> tuple[Words, Words, Words, Words]:
    """Return four random words from a counter of four and a key of two; all are uint64 below 2**32."""
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> SHIFT) ^ c1 ^ k0, p1 & WORD, (p0 >> SHIFT) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + STEP_0) & WORD, (k1 + STEP_1) & WORD
    return c0, c1, c2, c3


def tensor_key(seed: int, name: str) -> int:
    """Return the key of a tensor's noise as an int64: its bits are those of the hash, read little endian.

    Parameters
    ----------
    seed
        0 <= seed < 2**64.
    name
        The tensor's name, or its index as text if it has none.

    Raises
    ------
    OverflowError
        If the seed is out of range.

    """
    digest = hashlib.blake2b(
        name.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little")
    ).digest()
    return int.from_bytes(digest, "little", signed=True)


def words(key: int, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    """Return the random word of every element of a weight.

    Parameters
    ----------
    key
        From `tensor_key`.
    count
        The tensor's update count, of which the lower 32 bits are used.
    shape
        The weight's.

    Returns
    -------
    uint32 array of this shape

    """
    size = int(np.prod(shape, dtype=np.int64))
    found = _blocks(key, count, ROUNDING, np.arange(-(-size // 4), dtype=np.uint64))
    return np.stack(found, axis=1).astype(np.uint32).reshape(-1)[:size].reshape(shape)


def normals(key: int, count: int, stream: int, elements: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """Return the standard normal numbers of elements of a weight, see Note [Noise].

    Parameters
    ----------
    key
        From `tensor_key`.
    count
        The tensor's update count, of which the lower 32 bits are used.
    stream
        Which `normal()` of the rule, from 1.
    elements
        Their numbers, in C order of the weight: whole numbers from 0, of any shape.
    dtype
        What the numbers are rounded to: float32 or float64.

    Returns
    -------
    array of dtype, shaped like `elements`

    """
    flat = elements.reshape(-1).astype(np.uint64, copy=False)
    found = np.empty(flat.size, dtype)
    for start in range(0, flat.size, SLAB):
        part = slice(start, start + SLAB)
        found[part] = transcendental.normal(*_blocks(key, count, stream, flat[part]))
    return found.reshape(elements.shape)


def _blocks(key: int, count: int, stream: int, blocks: npt.NDArray[np.uint64]) -> tuple[Words, ...]:
    """Return the four words of each block."""
    step, number = np.full_like(blocks, count & WORD_MASK), np.full_like(blocks, stream)
    k0, k1 = np.uint64(key & WORD_MASK), np.uint64(key >> 32 & WORD_MASK)
    return philox(blocks & WORD, blocks >> SHIFT, step, number, k0, k1)


def round_stochastically(
    values: npt.NDArray[np.float32], dtype: np.dtype[Any], noise: npt.NDArray[np.uint32]
) -> npt.NDArray[Any]:
    """Round to half precision: up or down by chance, in proportion to the distances, so that the mean stays.

    Parameters
    ----------
    values
        float32, C-contiguous.
    dtype
        float16 or bfloat16.
    noise
        One word per value, same shape.

    Returns
    -------
    array of dtype
        What the dtype holds exactly stays as it is, as do infinities and NaN. Beyond the largest number, the
        next one up is infinity.

    """
    with np.errstate(all="ignore"):
        if dtype == np.float16:
            return _to_float16(values, noise)
        raised = (values.view(np.uint32) + (noise & np.uint32(0xFFFF))) >> np.uint32(16)
        by_chance = raised.astype(np.uint16).view(dtype)
        return np.where(np.isfinite(values), by_chance, values.astype(dtype))


def _to_float16(values: npt.NDArray[np.float32], noise: npt.NDArray[np.uint32]) -> npt.NDArray[np.float16]:
    low = np.uint32(0x1FFF)
    cut = ((values.view(np.uint32) + (noise & low)) & ~low).view(np.float32)
    normal = np.where(np.isfinite(values), cut, values).astype(np.float16)
    # below the smallest normal number: multiples of 2**-24
    tiny = np.abs(values) < np.float32(2.0**-14)
    scaled = np.where(tiny, np.abs(values) * np.float32(2.0**24), np.float32(0))
    below = np.floor(scaled)
    threshold = ((scaled - below) * np.float32(2.0**32)).astype(np.uint64)
    bits = below.astype(np.uint16) + (noise < threshold)
    signed = np.copysign(bits.astype(np.uint16).view(np.float16), values)
    return np.where(tiny, signed, normal).astype(np.float16)
