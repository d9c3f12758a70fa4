"""Many NumPy arrays at once: whether they are what they were, and where they lie. See Note [Bulk reading]."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from itertools import chain, product
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from stepspec import objects, reading_arrays
from stepspec.checks import ARRAY_TYPES
from stepspec.sparse import RowSparse
from stepspec.states import Array

Int64s = NDArray[np.int64]


class Snapshot:
    """What some arrays are: identity, memory, shape, strides, dtype and flags. It keeps them alive."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = tuple(arrays)
        # an id is one object's only as long as that is alive
        self._dtypes = {id(dtype): dtype for dtype in (array.dtype for array in self.arrays)}
        self.fields, self.extents = _described(self.arrays)

    @property
    def addresses(self) -> Int64s:
        """Where the memory of each array begins."""
        return self.fields[:, 1]

    @property
    def odd(self) -> Int64s:
        """The positions of arrays that kernels cannot walk where they lie."""
        return np.flatnonzero(self.fields[:, 4] & objects.PLAIN != objects.PLAIN)

    def unchanged(self, arrays: Sequence[Any]) -> bool:
        """Tell whether `arrays` are the same objects, in order, and nothing about them has changed."""
        if len(arrays) != len(self.arrays) or not all(map(operator.is_, arrays, self.arrays)):
            return False
        fields, extents = _described(self.arrays)
        same = np.array_equal(fields[:, :-1], self.fields[:, :-1])
        return same and np.array_equal(extents, self.extents)


class Gradients:
    """What the gradients of a call must be to be used where they lie, and where they do.

    Parameters
    ----------
    shapes, dtypes
        What C-contiguous gradients must have.
    sparse
        The positions of row-sparse gradients.
    written
        What gradients must not meet.

    Attributes
    ----------
    addresses
        Where the gradients' numbers begin, int64.
    rows, present
        Where the row numbers of row-sparse gradients begin, and how many they are, int64; 0 of dense ones.

    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[np.dtype[Any]],
        sparse: Sequence[int],
        written: Snapshot,
    ) -> None:
        count = len(shapes)
        self.shapes, self._sparse = shapes, frozenset(sparse)
        known = {dtype: np.dtype(dtype.type) for dtype in set(dtypes)}
        self._dtypes = [known[dtype] for dtype in dtypes]
        self.addresses, self.rows, self.present = np.zeros((3, count), np.int64)
        self._starts, self._ends = ranges(written)
        self._closer = np.zeros(count, np.int64)
        fields = np.zeros((count, objects.WIDTH), np.int64)
        fields[:, 2], fields[:, 3] = [*map(len, shapes)], [*map(id, self._dtypes)]
        lengths = np.fromiter(chain.from_iterable(shapes), np.int64)
        is_sparse, near = np.zeros((2, count), np.int64)
        is_sparse[[*sparse]] = 1
        # bytes; of a row-sparse gradient those of a row
        sizes = [math.prod(shape[1:] if i in self._sparse else shape) for i, shape in enumerate(shapes)]
        itemsizes = [dtype.itemsize for dtype in self._dtypes]
        self._table = objects.Table(
            reading_arrays.EXPECTED,
            count=count,
            array=id(np.ndarray),
            memmap=id(np.memmap),
            row_sparse=id(RowSparse),
            as_int=objects.AS_INT,
            fields=fields,
            extents=np.stack([np.append(lengths, 0), np.zeros(lengths.size + 1, np.int64)], axis=1),
            is_sparse=is_sparse,
            sizes=np.array(sizes, np.int64) * np.array(itemsizes, np.int64),
            starts=self._starts,
            ends=self._ends,
            ranges=len(self._starts),
            near=near,
            addresses=self.addresses,
            rows=self.rows,
            present=self.present,
            closer=self._closer,
            overflow=np.zeros(1, np.int64),
        )

    def accept(self, grads: tuple[Any, ...]) -> list[int]:
        """Note where gradients lie, one for each shape; return the positions that need a closer look."""
        return self._read(grads) if BULK else self._ask(grads)

    def _read(self, grads: tuple[Any, ...]) -> list[int]:
        closer = reading_arrays.accept(self._table.address, id(grads))
        return self._closer[:closer].tolist() if closer else []

    def _ask(self, grads: tuple[Any, ...]) -> list[int]:
        """Do in Python what `_read` does."""
        closer = [i for i, grad in enumerate(grads) if not self._is_usable(i, grad)]
        for i in set(range(len(grads))).difference(closer):
            self.point(i, grads[i])
        return closer

    def _is_usable(self, i: int, grad: Any) -> bool:
        values = grad
        if i in self._sparse:
            if type(grad) is not RowSparse or grad.shape != self.shapes[i] or not grad.is_whole():
                return False
            values = grad.values
        elif type(grad) not in ARRAY_TYPES or grad.shape != self.shapes[i]:
            return False
        return values.dtype is self._dtypes[i] and is_plain(values) and not self.meets_written(values)

    def point(self, i: int, grad: Array | RowSparse, values: Array | None = None) -> None:
        """Note where one gradient lies, its numbers perhaps in a copy."""
        if isinstance(grad, RowSparse):
            self.rows[i], self.present[i] = grad.rows.ctypes.data, grad.rows.size
            grad = grad.values
        self.addresses[i] = (grad if values is None else values).ctypes.data

    def meets_written(self, array: Array) -> bool:
        """Tell whether the memory that an array spans meets that of a written one."""
        if not array.size:
            return False
        low, high = byte_bounds(array)
        nearest = np.searchsorted(self._ends, low, "right")
        return bool(nearest < len(self._ends) and self._starts[nearest] < high)


def addresses(arrays: tuple[Array, ...]) -> Int64s:
    """Return where the memory of each array begins."""
    return np.ascontiguousarray(_described(arrays)[0][:, 1])


def is_plain(array: Array) -> bool:
    """Tell whether kernels can walk an array where it lies."""
    flags = array.flags
    return flags.c_contiguous and flags.aligned


def _described(arrays: tuple[Array, ...]) -> tuple[Int64s, Int64s]:
    """Return a row per array, see `objects.WIDTH`, and one per dimension: its length and stride."""
    if not BULK:
        return _described_slowly(arrays)
    fields = np.empty((len(arrays), objects.WIDTH), np.int64)
    extents = np.empty((sum([array.ndim for array in arrays]) + 1, 2), np.int64)
    extents[-1] = 0  # compiled code may look there
    reading_arrays.describe(id(arrays), len(arrays), fields.ctypes.data, extents.ctypes.data)
    return fields, extents


def _described_slowly(arrays: tuple[Array, ...]) -> tuple[Int64s, Int64s]:
    """Do in Python what compiled code does; all but where the struct keeps the shape."""
    fields = [
        (id(array), array.ctypes.data, array.ndim, id(array.dtype), _watched(array), 0) for array in arrays
    ]
    pairs = [pair for array in arrays for pair in zip(array.shape, array.strides, strict=True)]
    return np.array(fields, np.int64).reshape(-1, objects.WIDTH), np.array([*pairs, (0, 0)], np.int64)


def _watched(array: Array) -> int:
    flags = array.flags
    contiguous, aligned = objects.C_CONTIGUOUS * flags.c_contiguous, objects.ALIGNED * flags.aligned
    return contiguous | aligned | objects.WRITEABLE * flags.writeable


def ranges(written: Snapshot) -> tuple[Int64s, Int64s]:
    """Return the starts and ends of the memory that arrays span, sorted, what overlaps joined."""
    starts = written.addresses.copy()
    ends = starts + np.array([array.nbytes for array in written.arrays], np.int64)
    for i in written.odd:
        starts[i], ends[i] = byte_bounds(written.arrays[i])
    order = np.argsort(starts, kind="stable")
    order = order[ends[order] > starts[order]]
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    apart = np.flatnonzero(starts[1:] >= ends[:-1])
    none = np.zeros(starts.size and 1, np.int64)
    firsts, lasts = np.concatenate([none, apart + 1]), np.concatenate([apart, none + starts.size - 1])
    return starts[firsts], ends[lasts]


def _reading_works() -> bool:
    """Compare compiled reading with Python's answers for objects of many kinds."""
    # with other sizes the positions could lie beyond the object
    sizes = object.__basicsize__, tuple.__basicsize__, bytes.__basicsize__, RowSparse.__basicsize__
    if sizes != (16, 24, 33, 40) or np.ndarray.__basicsize__ < 8 * (objects.FLAGS + 1):
        return False
    frozen, big = np.zeros((2, 3), np.float32), np.zeros((4, 5, 6))
    frozen.flags.writeable = False
    turned, odd, empty = np.asfortranarray(big), big[::2, 1:, ::-1], np.zeros((0, 3), np.float32)
    many: tuple[Array, ...] = (frozen, big, odd, turned, np.zeros(()), empty)
    read, asked = Snapshot(many), _described_slowly(many)
    if not np.array_equal(read.fields[:, :-1], asked[0][:, :-1]) or not np.array_equal(
        read.extents, asked[1]
    ):
        return False
    usual = (frozen, big, RowSparse(big[1:3], [5, 7], (9, 5, 6)))
    other = RowSparse(big, range(4), (8, 5, 6))
    return all(
        _readers_agree(usual, (odd, turned, [], None, empty, other), written) for written in (turned, big)
    )


def _readers_agree(usual: tuple[Any, ...], others: Iterable[Any], written: Array) -> bool:
    """Tell whether both ways to accept gradients, usual ones and one other, say the same."""
    shapes, dtypes = [grad.shape for grad in usual], [grad.dtype for grad in usual]
    one, two = (Gradients(shapes, dtypes, [2], Snapshot([written])) for _ in "12")
    for i, other in product(range(3), (*others, *usual)):
        grads = (*usual[:i], other, *usual[i + 1 :])
        if one._read(grads) != two._ask(grads):
            return False
        rows = zip(
            (one.addresses, one.rows, one.present), (two.addresses, two.rows, two.present), strict=True
        )
        if not all(itertools.starmap(np.array_equal, rows)):
            return False
    return True


BULK = True  # for the test
BULK = _reading_works()
