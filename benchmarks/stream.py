"""The memory's bandwidth, measured by a plain loop with as many streams as SGD with momentum has."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from results import gigabytes
from timing import Timing

Floats: TypeAlias = npt.NDArray[np.float32]

# Arrays of fewer elements may stay in a cache, where the figure would not be the memory's.
LEAST = 2**24


class Stream:
    """Reads three arrays of `size` elements and writes two of them in place, on `threads` threads.

    The threads are Python's: they sleep between steps, whereas those of OpenMP would spin beside the others.
    """

    bytes_per_element = 20

    def __init__(self, size: int, threads: int) -> None:
        self.label = "stream"
        self.arrays = [np.full(size, value, np.float32) for value in (0.5, 0.25, 0.125)]
        bounds = [size * k // threads for k in range(threads + 1)]
        self.first, *self.others = [slice(*pair) for pair in itertools.pairwise(bounds)]
        self.pool = ThreadPoolExecutor(max(1, threads - 1))

    def prepare(self) -> None:
        """Nothing to lay out."""

    def step(self) -> None:
        running = [self.pool.submit(stream, *self.part(other)) for other in self.others]
        stream(*self.part(self.first))
        for future in running:
            future.result()

    def bandwidth(self, timing: Timing) -> float:
        """Return the bandwidth of a timed step in GB/s."""
        return gigabytes(self.arrays[0].size * self.bytes_per_element, timing)

    def part(self, piece: slice) -> list[Floats]:
        return [array[piece] for array in self.arrays]


def compiled(function: Callable[..., None]) -> Any:
    """`numba.njit` for the kernel below, typed as what it is: a function of untyped code."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)


@compiled
def stream(a: Floats, b: Floats, c: Floats) -> None:
    half = np.float32(0.5)
    for i in range(a.size):
        a[i] = half * a[i] + b[i]
        c[i] = half * c[i] + b[i]
