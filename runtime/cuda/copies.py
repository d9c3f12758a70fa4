"""Numbers of arrays on a device: read back to the host, written from it, and new arrays of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from stepspec.cuda.arrays import shadow
from stepspec.cuda.driver import driver
from stepspec.cuda.libraries import DEFAULT_STREAM, library
from stepspec.places import Array

# bytes of page-locked memory that a new array is filled from
PIECE = 1 << 22


def to_host(array: Any) -> Array:
    """Return a copy with the shape, dtype and order of axes of an array on a device; wait for its stream."""
    seen = shadow(array)
    if not seen.size:
        return np.empty(seen.shape, seen.dtype)
    low, high = byte_bounds(seen)
    memory = np.empty(high - low, np.uint8)
    number, stream = _place(array)
    driver().copy_out(number, memory, low, stream)
    read = np.ndarray(seen.shape, seen.dtype, memory, _first(seen) - low, seen.strides)
    return read if read.flags.c_contiguous else np.ascontiguousarray(read).reshape(seen.shape)


def writing(array: Any, values: Array) -> Callable[[], object]:
    """Return what writes `values`, of the array's shape and dtype, into it, and waits for it.

    It cannot fail, unless the device does. Any thread may call it: the array's stream is waited for here.
    """
    seen = shadow(array)
    if not seen.size:
        return partial(int)
    number, stream = _place(array)
    driver().synchronize(number, stream)
    axes = _from_far_to_near(seen)
    target, source = seen.transpose(axes), values.transpose(axes)
    pinned = driver().pin(values.nbytes)
    pinned.array[: values.nbytes] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
    size, starts = _pieces(target)
    copies = [
        partial(driver().copy_in, number, start, pinned.address + k * size, size, stream)
        for k, start in enumerate(starts)
    ]
    return partial(_copy_and_wait, copies, number, stream, pinned)


def full(like: Any, shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Any:
    """Return a C-contiguous array of one value, of the library and on the device of another one."""
    made = library(like).full(like, shape, dtype, value)
    return _filled(_empty(like, shape, dtype), value) if made is None else made


def converted(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return a C-contiguous copy in another dtype, of the same library and on the same device."""
    own = library(array)
    made = own.converted(array, dtype)
    if made is None:
        numbers = to_host(array).astype(dtype)
        made = copied_to(array, numbers)
    return made


def copied_to(like: Any, numbers: Array) -> Any:
    """Return a C-contiguous copy of NumPy's numbers, of the library and on the device of another array."""
    made = full(like, numbers.shape, numbers.dtype, 0.0)
    writing(made, numbers)()
    return made


class Owned:
    """An array of ours, for libraries whose arrays cannot be made: memory with `__cuda_array_interface__`."""

    def __init__(self, device: int, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._memory = driver().allocate(device, size) if size else None
        self.device, self.shape, self.dtype = device, shape, dtype
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (0 if self._memory is None else self._memory.address, False),
            "strides": None,
            "stream": stream,
            "version": 3,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the numbers to memory of their own: that of the original lives as long as the original."""
        return _owned, (self.device, to_host(self))


def _owned(device: int, numbers: Array) -> Owned:
    made = Owned(device, numbers.shape, numbers.dtype, None)
    writing(made, numbers)()
    return made


def _empty(like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    made = library(like).empty(like, shape, dtype)
    if made is None:
        stream = like.__cuda_array_interface__.get("stream")
        made = Owned(library(like).device(like) or 0, shape, dtype, stream)
    return made


def _place(array: Any) -> tuple[int, int]:
    """Return device and stream of an array with elements."""
    own = library(array)
    number = own.device(array)
    return number or 0, next(iter(own.streams([array])), DEFAULT_STREAM)


def _filled(array: Any, value: float) -> Any:
    """Fill a contiguous array, piece by piece from one piece of the host's memory."""
    seen = shadow(array)
    if seen.size:
        number, stream = _place(array)
        piece = np.full(min(seen.size, PIECE // seen.itemsize), value, seen.dtype).view(np.uint8)
        pinned = driver().pin(piece.size)
        pinned.array[: piece.size] = piece
        start = _first(seen)
        copies = [
            partial(
                driver().copy_in,
                number,
                start + at,
                pinned.address,
                min(piece.size, seen.nbytes - at),
                stream,
            )
            for at in range(0, seen.nbytes, piece.size)
        ]
        _copy_and_wait(copies, number, stream, pinned)
    return array


def _copy_and_wait(copies: Sequence[Callable[[], None]], number: int, stream: int, source: object) -> None:
    """Copy from page-locked memory, which is given here to stay alive."""
    for copy in copies:
        copy()
    driver().synchronize(number, stream)


def _first(seen: Array) -> int:
    """Return the address of the first element."""
    return int(seen.__array_interface__["data"][0])


def _from_far_to_near(seen: Array) -> tuple[int, ...]:
    """Return the axes by stride, so that what lies together comes together."""
    return tuple(sorted(range(seen.ndim), key=lambda axis: -abs(seen.strides[axis])))


def _pieces(seen: Array) -> tuple[int, Iterator[int]]:
    """Return the bytes of the dense pieces that an array consists of, and where they begin, in C order."""
    size, inner = seen.itemsize, seen.ndim
    while inner and (seen.strides[inner - 1] == size or seen.shape[inner - 1] == 1):
        inner -= 1
        size *= seen.shape[inner]
    steps = [
        range(0, n * s, s) if s else [0] * n
        for n, s in zip(seen.shape[:inner], seen.strides[:inner], strict=True)
    ]
    first = _first(seen)
    return size, (first + sum(offsets) for offsets in itertools.product(*steps))
