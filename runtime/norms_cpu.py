"""The norms of many gradients in compiled kernels: one parallel region, however many tensors there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepspec import cpu
from stepspec.arrays import addresses, is_plain
from stepspec.batches import NONE
from stepspec.canonical import BLOCK
from stepspec.formats import Formats
from stepspec.reductions import Reduction
from stepspec.states import Array

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

NORM = Reduction("norm")


@cpu.elements("grad", norm="norm")
def collect(grad: Any, norm: Any, scale: float) -> None:
    """Collect the terms of the norm."""
    for i in range(grad.size):
        norm[i] = scale * grad[i]


def norms(grads: Sequence[Array], scale: float) -> Floats:
    """Return the norm of each gradient times `scale`, shape (n,); those not C-contiguous are copied."""
    held = tuple(grad if is_plain(grad) else np.require(grad, requirements=("C", "A")) for grad in grads)
    sizes = np.array([grad.size for grad in held], np.int64)
    ones, results = np.ones_like(sizes), np.empty(len(held))
    partials, scratch = _partials(sizes)
    rows = {
        "grad": addresses(held),
        "norm": partials,
        "scale": np.full(len(held), scale),
    }
    entries = {dtype: collect.address(Formats.plain(dtype.name)) for dtype in {grad.dtype for grad in held}}
    tensors, starts, counts = _chunks(sizes)
    table = _table([rows.get(slot.name, ones) for slot in collect.slots])
    finish = _table([partials, sizes, ones, results])
    addressed = np.array([entries[grad.dtype] for grad in held], np.int64)
    collecting = _items(addressed[tensors], table, tensors, starts, counts)
    finishing = _items(NORM.finish_address("float64"), finish, np.arange(len(held)), 0 * ones, ones)
    cpu.run(_work((collecting, counts), (finishing, ones)))
    del scratch  # the last use of what `partials` points to
    return results


def _partials(sizes: Int64s) -> tuple[Int64s, Floats]:
    """Return the addresses of scratch for the partial results of each tensor, and the scratch."""
    counts = np.maximum(1, -(-sizes // BLOCK))
    scratch = np.empty(counts.sum())
    return scratch.ctypes.data + 8 * (np.cumsum(counts) - counts), scratch


def _chunks(sizes: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Cut tensors into chunks: of each chunk its tensor, where it starts, and how many elements it has."""
    chunks = -(-sizes // cpu.CHUNK)
    tensors = np.repeat(np.arange(sizes.size), chunks)
    starts = cpu.CHUNK * (np.arange(tensors.size) - np.repeat(np.cumsum(chunks) - chunks, chunks))
    return tensors, starts, np.minimum(cpu.CHUNK, sizes[tensors] - starts)


def _table(rows: Sequence[Array]) -> Int64s:
    return np.array([row.ctypes.data for row in rows], np.int64)


def _items(entries: Any, table: Int64s, tensors: Int64s, starts: Int64s, counts: Int64s) -> Int64s:
    columns = np.broadcast_arrays(entries, table.ctypes.data, tensors, starts, counts)
    return np.stack(columns, axis=1).astype(np.int64, copy=False)


def _work(first: tuple[Int64s, Int64s], then: tuple[Int64s, Int64s]) -> cpu.Work:
    """Return the work of two lists of items with their sizes: all of the first come before the second."""
    bounds = [_bounds(sizes) for _, sizes in (first, then)]
    early, late = (ends.size - 1 for ends in bounds)
    waves = [(0, early, NONE, 0, False), (early, early + late, 0, NONE, False)]
    latches = [(early, 0, 0, NONE)]
    return cpu.Work(
        np.concatenate([first[0], then[0]]),
        np.concatenate([bounds[0], bounds[0][-1] + bounds[1][1:]]),
        np.array(waves, np.int64),
        np.array(latches, np.int64),
    )


def _bounds(sizes: Int64s) -> Int64s:
    """Return the bounds of batches of about a chunk's elements; there is at least one, perhaps empty."""
    batch = (np.cumsum(sizes) - 1) // cpu.CHUNK
    return np.concatenate([[0], np.flatnonzero(np.diff(batch)) + 1, [sizes.size]])
