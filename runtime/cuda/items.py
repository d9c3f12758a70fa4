"""Work items: which part of which tensor the threads of a block take up at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# threads of a block
THREADS = 256
# elements of an item of flat passes: a block of the canonical order
CHUNK = 4096
# an item is `tensor | part << PART`, and `item & TENSOR` its tensor
PART = 32
TENSOR = (1 << PART) - 1


def cut(tensors: Sequence[int], parts: Sequence[int]) -> NDArray[np.int64]:
    """Return the items of tensors that are cut into so many parts, int64 of shape (items,)."""
    counts = np.array(parts, np.int64)
    firsts = np.cumsum(counts) - counts
    numbers = np.arange(counts.sum(), dtype=np.int64) - np.repeat(firsts, counts)
    return np.repeat(np.array(tensors, np.int64), counts) | numbers << PART


def chunks(rows: int, columns: int) -> int:
    """Return how many chunks a tensor has."""
    return (rows * columns + CHUNK - 1) // CHUNK
