"""The memory's bandwidth, measured by a plain loop over as many arrays as a kernel walks."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from stepspec.overview import Streams
from timing import Timing

Words: TypeAlias = npt.NDArray[np.int64]

# Arrays of fewer elements may stay in a cache, where the figure would not be the memory's.
LEAST = 2**24
# Longer arrays would only take memory: far beyond the caches, bandwidth does not depend on the length.
MOST = 2**26
# Elements of each array in turn; element by element, as kernels go, has the same bandwidth.
CHUNK = 2048
WORD = 8


class Stream:
    """Walks arrays of `size` elements on `threads` threads: reads some, updates some in place, writes some.

    All arrays are seen as words of eight bytes, those of smaller elements being shorter. The threads are
    Python's: they sleep between steps, whereas those of OpenMP would spin beside the other contenders.
    """

    def __init__(self, streams: Streams, size: int, threads: int) -> None:
        self.label = f"stream of {streams}"
        length = min(size, MOST) // CHUNK * CHUNK
        # what was never written of an array of zeros is one page, read from the cache: hence ones
        self.groups = [
            tuple(np.ones(length * itemsize // WORD, np.int64) for itemsize in group)
            for group in (streams.read, streams.updated, streams.written)
        ]
        self.bytes = sum(
            array.nbytes * passes
            for group, passes in zip(self.groups, (1, 2, 1), strict=True)
            for array in group
        )
        self.chunks = length // CHUNK
        bounds = [self.chunks * k // threads for k in range(threads + 1)]
        self.first, *self.others = itertools.pairwise(bounds)
        self.pool = ThreadPoolExecutor(max(1, threads - 1))

    def prepare(self) -> None:
        """Nothing to lay out."""

    def step(self) -> None:
        running = [self.pool.submit(self.walk, *part) for part in self.others]
        self.walk(*self.first)
        for future in running:
            future.result()

    def walk(self, start: int, stop: int) -> int:
        """Walk through some chunks of all arrays, a chunk of each in turn."""
        # Numba has no empty tuples of arrays
        read, updated, written = (group or (EMPTY,) for group in self.groups)
        return int(walk(read, updated, written, self.chunks, start, stop))

    def weights(self) -> list[npt.NDArray[Any]]:
        return []

    def close(self) -> None:
        self.pool.shutdown()

    def bandwidth(self, timing: Timing) -> float:
        """Return the bandwidth of a timed step in GB/s."""
        return gigabytes(self.bytes, timing)


EMPTY = np.zeros(0, np.int64)


def gigabytes(moved: float, timing: Timing) -> float:
    """Return the bandwidth, in GB/s, of a step that moves so many bytes."""
    return moved / timing.median / 1e6


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` for the kernel below, typed as what it is: a function of untyped code."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)


@compiled
def walk(
    read: tuple[Words, ...],
    updated: tuple[Words, ...],
    written: tuple[Words, ...],
    chunks: int,
    start: int,
    stop: int,
) -> int:
    seen = 0  # returned, or the compiler would drop the reading
    for chunk in range(start, stop):
        for array in read:
            size = array.size // chunks
            part = array[chunk * size : (chunk + 1) * size]
            for i in range(part.size):
                seen ^= part[i]
        for array in updated:
            size = array.size // chunks
            part = array[chunk * size : (chunk + 1) * size]
            for i in range(part.size):
                part[i] += 1
        for array in written:
            size = array.size // chunks
            part = array[chunk * size : (chunk + 1) * size]
            for i in range(part.size):
                part[i] = chunk
    return seen
