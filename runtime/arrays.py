"""Reading many NumPy arrays at once: whether they are what they were, and where they lie.

Note [Bulk reading]

Asking 1000 arrays for pointer, dtype and shape in Python takes almost a millisecond, more than the update of
1000 small tensors. Compiled code reads the same in some 10 microseconds from the C struct of `numpy.ndarray`,
whose layout is part of NumPy's ABI (``PyArrayObject_fields``). The arrays come in a tuple, whose memory holds
their addresses. The GIL is held meanwhile, so nobody changes them. A self-test at import compares readings
with Python's answers; should it fail, as on an interpreter with other object headers, Python does it all.
"""

from __future__ import annotations

import ctypes
import operator
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
from numba import int64, types
from numpy.typing import NDArray

from stepspec.checks import ARRAY_TYPES
from stepspec.compilation import compile_entry, source_stamp
from stepspec.pointers import at
from stepspec.states import Array

Int64s = NDArray[np.int64]

# positions in the object, in words of 8 bytes: type, data, number of dimensions, shape, strides, dtype, flags
_TYPE, _DATA, _NDIM, _SHAPE, _STRIDES, _DESCR, _FLAGS = 1, 2, 3, 4, 5, 7, 8
_INT = 0xFFFFFFFF
_C_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400
_PLAIN = _C_CONTIGUOUS | _ALIGNED
_WATCHED = _PLAIN | _WRITEABLE
# columns of a description: id, data, number of dimensions, id of the dtype, watched flags
_WIDTH = 5


def _unchanged(objects: int, count: int, fields: int, extents: int) -> int:
    """Return 1 if objects are the described arrays; only those, which are alive, are looked into."""
    want, extent = at(fields, int64), at(extents, int64)
    position = 0
    for i in range(count):
        address = at(objects, int64)[i]
        if address != want[_WIDTH * i]:
            return 0
        array = at(address, int64)
        if array[_DATA] != want[_WIDTH * i + 1] or array[_NDIM] & _INT != want[_WIDTH * i + 2]:
            return 0
        if array[_DESCR] != want[_WIDTH * i + 3] or array[_FLAGS] & _WATCHED != want[_WIDTH * i + 4]:
            return 0
        shape, strides = at(array[_SHAPE], int64), at(array[_STRIDES], int64)
        for k in range(want[_WIDTH * i + 2]):
            if shape[k] != extent[position] or strides[k] != extent[position + 1]:
                return 0
            position += 2
    return 1


def _accept(objects: int, count: int, expected: int, written: int, pointers: int) -> int:
    """Return 1 if objects are plain arrays as expected that meet no written one; note where they lie.

    `expected`: int64s, the addresses of the accepted types, of descriptions, of extents, of sizes in bytes.
    `written`: the addresses of sorted starts and ends of disjoint ranges, and their number.
    """
    kinds, want = at(at(expected, int64)[0], int64), at(at(expected, int64)[1], int64)
    extent, sizes = at(at(expected, int64)[2], int64), at(at(expected, int64)[3], int64)
    starts, ends = at(at(written, int64)[0], int64), at(at(written, int64)[1], int64)
    position = 0
    for i in range(count):
        array = at(at(objects, int64)[i], int64)
        if array[_TYPE] != kinds[0] and array[_TYPE] != kinds[1]:
            return 0
        if array[_NDIM] & _INT != want[_WIDTH * i + 2] or array[_DESCR] != want[_WIDTH * i + 3]:
            return 0
        if array[_FLAGS] & _PLAIN != _PLAIN:
            return 0
        shape = at(array[_SHAPE], int64)
        for k in range(want[_WIDTH * i + 2]):
            if shape[k] != extent[position]:
                return 0
            position += 2
        first = array[_DATA]
        at(pointers, int64)[i] = first
        low, high = 0, at(written, int64)[2]
        while low < high:
            middle = (low + high) // 2
            if ends[middle] <= first:
                low = middle + 1
            else:
                high = middle
        if low < at(written, int64)[2] and starts[low] < first + sizes[i]:
            return 0
    return 1


def _locate(objects: int, count: int, pointers: int) -> int:
    """Write where the memory of some arrays begins."""
    for i in range(count):
        at(pointers, int64)[i] = at(at(objects, int64)[i], int64)[_DATA]
    return 1


def _compile(function: Callable[..., int]) -> Callable[..., int]:
    """Compile a function of int64s; called through ctypes, it keeps the GIL."""
    width = function.__code__.co_argcount
    name = f"arrays.{function.__name__}"
    entry = cast(Callable[..., None], function)
    address = compile_entry(entry, types.int64(*[types.int64] * width), name, source_stamp(function))
    return cast(Callable[..., int], ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * width)(address))


class Snapshot:
    """What some arrays are: identity, memory, shape, strides, dtype and flags. It keeps them alive."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = tuple(arrays)
        self._fields = np.array([_described(array) for array in arrays], np.int64).reshape(-1, _WIDTH)
        pairs = (pair for array in arrays for pair in zip(array.shape, array.strides, strict=True))
        self._extents = np.fromiter(chain.from_iterable(pairs), np.int64)
        self._described = len(self.arrays), self._fields.ctypes.data, self._extents.ctypes.data

    def unchanged(self, arrays: tuple[Any, ...]) -> bool:
        """Tell whether `arrays` are the same objects, in order, and nothing about them has changed."""
        if len(arrays) != len(self.arrays):
            return False
        return self._read(arrays) if BULK else self._ask(arrays)

    def _read(self, arrays: tuple[Any, ...]) -> bool:
        return unchanged(id(arrays) + _ITEMS, *self._described) == 1

    def _ask(self, arrays: tuple[Any, ...]) -> bool:
        """Do in Python what `_read` does."""
        if not all(map(operator.is_, arrays, self.arrays)):
            return False
        now = Snapshot(self.arrays)
        return np.array_equal(self._fields, now._fields) and np.array_equal(self._extents, now._extents)


class Gradients:
    """What the gradients of a call must be to be used where they lie.

    Parameters
    ----------
    alike
        C-contiguous gradients have the shapes and dtypes of these.
    written
        C-contiguous arrays, which gradients must not meet.
    """

    def __init__(self, alike: Sequence[Array], written: Sequence[Array]) -> None:
        self._shapes = [array.shape for array in alike]
        self._dtypes = [np.dtype(array.dtype.type) for array in alike]
        self._ranges = sorted((array.ctypes.data, array.nbytes) for array in written if array.size)
        self.pointers = np.zeros(len(alike), np.int64)
        described = [(0, 0, len(s), id(d), 0) for s, d in zip(self._shapes, self._dtypes, strict=True)]
        extents = [number for shape in self._shapes for length in shape for number in (length, 0)]
        columns: list[Any] = [described, extents, [array.nbytes for array in alike]]
        columns += [[start for start, _ in self._ranges], [start + size for start, size in self._ranges]]
        self._rows = [np.array(column, np.int64) for column in columns]
        fields, lengths, sizes, starts, ends = (row.ctypes.data for row in self._rows)
        self._expected = np.array([_KINDS.ctypes.data, fields, lengths, sizes], np.int64)
        self._written = np.array([starts, ends, len(self._ranges)], np.int64)
        tables = (self._expected, self._written, self.pointers)
        self._addresses = len(alike), *(table.ctypes.data for table in tables)

    def accept(self, grads: tuple[Any, ...]) -> bool:
        """Write the gradients' addresses to `pointers`; False if any needs a closer look."""
        return len(grads) == len(self._shapes) and (self._read(grads) if BULK else self._ask(grads))

    def _read(self, grads: tuple[Any, ...]) -> bool:
        return accept(id(grads) + _ITEMS, *self._addresses) == 1

    def _ask(self, grads: tuple[Any, ...]) -> bool:
        """Do in Python what `_read` does."""
        for i, grad in enumerate(grads):
            if type(grad) not in ARRAY_TYPES or grad.dtype is not self._dtypes[i]:
                return False
            if grad.shape != self._shapes[i]:
                return False
            if not is_plain(grad) or self.meets_written(grad):
                return False
            self.pointers[i] = grad.ctypes.data
        return True

    def meets_written(self, array: Array) -> bool:
        """Tell whether an array shares memory with a written one."""
        first = array.ctypes.data
        nearest = bisect_right(self._ranges, first, key=sum)
        return nearest < len(self._ranges) and self._ranges[nearest][0] < first + array.nbytes


def addresses(arrays: tuple[Array, ...]) -> Int64s:
    """Return where the memory of each array begins."""
    if not BULK:
        return np.array([array.ctypes.data for array in arrays], np.int64)
    found = np.empty(len(arrays), np.int64)
    locate(id(arrays) + _ITEMS, len(arrays), found.ctypes.data)
    return found


def is_plain(array: Array) -> bool:
    """Tell whether kernels can walk an array where it lies."""
    return array.flags.c_contiguous and array.flags.aligned


def _described(array: Array) -> tuple[int, int, int, int, int]:
    """Return id, address, number of dimensions, id of the dtype and watched flags."""
    flags = array.flags
    bits = _C_CONTIGUOUS * flags.c_contiguous | _ALIGNED * flags.aligned | _WRITEABLE * flags.writeable
    return id(array), array.ctypes.data, array.ndim, id(array.dtype), bits


def _bulk_reading_works() -> bool:
    """Compare the struct with Python's answers for arrays of many kinds."""
    # with other sizes the positions above could lie beyond the object
    if object.__basicsize__ != 16 or np.ndarray.__basicsize__ < 8 * (_FLAGS + 1):
        return False
    frozen, big = np.zeros((2, 3), np.float32), np.zeros((4, 5, 6))
    frozen.flags.writeable = False
    turned, odd, empty = np.asfortranarray(big), big[::2, 1:, ::-1], np.zeros((0, 3), np.float32)
    many: tuple[Array, ...] = (frozen, big, odd, turned, np.zeros(()), empty)
    plain: tuple[Array, ...] = (frozen, big)
    gradients = Gradients(plain, [turned])
    found = gradients._read(plain) and gradients.pointers.tolist() == [array.ctypes.data for array in plain]
    others: tuple[tuple[Any, Any], ...] = ((frozen, odd), (frozen, turned), (frozen, []), (big, frozen))
    refused = any(map(gradients._read, others)) or Gradients(plain, [big])._read(plain)
    return Snapshot(many)._read(many) and not Snapshot(plain)._read((frozen, odd)) and found and not refused


_KINDS = np.array([id(kind) for kind in ARRAY_TYPES])
# from the address of a tuple to its items
_ITEMS = tuple.__basicsize__
unchanged, accept, locate = _compile(_unchanged), _compile(_accept), _compile(_locate)
BULK = _bulk_reading_works()
