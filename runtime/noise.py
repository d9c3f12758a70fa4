"""Random bits that depend on nothing but a seed, a tensor and its step; stochastic rounding in NumPy.

Note [Noise]
Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a key of two words
and a counter of four into four random words. The key is a hash of the seed and the tensor's name. The counter
of block b is (b's low word, b's high word, the tensor's update count, the stream), and element e of a weight,
in C order, has word e % 4 of block e // 4. So whatever computes an element, on any path and in any chunk,
finds the same bits; what they become is integer or exact arithmetic, equal in compiled kernels to the bit.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

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
    blocks = np.arange(-(-size // 4), dtype=np.uint64)
    step, stream = np.full_like(blocks, count & WORD_MASK), np.full_like(blocks, ROUNDING)
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32 & 0xFFFFFFFF)
    found = philox(blocks & WORD, blocks >> SHIFT, step, stream, k0, k1)
    return np.stack(found, axis=1).astype(np.uint32).reshape(-1)[:size].reshape(shape)


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
