"""Checks of what a row-sparse gradient is made of; each raises TypeError or ValueError."""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepspec.formats import SUPPORTED, is_supported
from stepspec.places import ARRAY_TYPES, on_device, shadow, to_host


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return a gradient's shape as a tuple of Python ints."""
    try:
        lengths = tuple(operator.index(length) for length in shape)
    except TypeError:
        raise TypeError(f"shape must be a tuple of ints, such as the weight's, not {shape!r}") from None
    if not lengths or min(lengths) < 0 or max(lengths) > sys.maxsize:
        raise ValueError(
            f"shape must have one dimension or more, with lengths from 0 to {sys.maxsize}, not {lengths}"
        )
    return lengths


def checked_rows(rows: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return a copy of row numbers that lie within a shape, in the order given."""
    rows = to_host(rows)
    if isinstance(rows, np.ma.MaskedArray):
        raise TypeError("rows must not be masked; leave out what is with rows.compressed()")
    try:
        numbers = np.array(rows)
    except ValueError as error:
        raise ValueError(f"rows must be a list or an array of ints: {error}") from None
    if numbers.ndim != 1:
        raise ValueError(
            "rows must be a list or an array of one dimension, "
            f"not {type_name(rows)} of shape {numbers.shape}"
        )
    if not numbers.size:  # an empty list becomes an array of floats
        return np.empty(0, np.int64)
    if numbers.dtype.kind not in "iu":
        remedy = "; turn a mask into rows with np.flatnonzero" if numbers.dtype.kind == "b" else ""
        raise TypeError(f"rows must be ints, not of dtype {numbers.dtype}{remedy}")
    for k in np.flatnonzero((numbers < 0) | (numbers >= shape[0]))[:1]:
        known = f"rows are 0 to {shape[0] - 1}" if shape[0] else "there are no rows"
        raise ValueError(f"rows[{k}] = {numbers[k]} is out of range: {known} in shape {shape}")
    return numbers.astype(np.int64, copy=False)


def check_values(what: str, values: Any, rows: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError unless there is a row of values, of the right shape, for each row."""
    check_array(what, values)
    expected = (rows.size, *shape[1:])
    if tuple(values.shape) != expected:
        raise ValueError(
            f"{what} must have shape {expected}, for {rows.size} rows of a gradient of shape {shape}, "
            f"not {tuple(values.shape)}"
        )


def check_array(what: str, array: Any) -> None:
    """Raise TypeError unless an object is an array of a dtype that gradients can have."""
    array = shadow(array, what)
    if type(array) not in ARRAY_TYPES:
        raise TypeError(f"{what} must be a numpy.ndarray, not {type_name(array)}; convert it with np.asarray")
    if not is_supported(array.dtype):
        order = "" if array.dtype.isnative else " in foreign byte order"
        raise TypeError(
            f"{what} must have one of the dtypes {', '.join(SUPPORTED)}, not {array.dtype.name}{order}; "
            "convert it with .astype(np.float32)"
        )


def check_on_host(method: str, array: Any, remedy: str) -> None:
    """Raise TypeError if an array, whose numbers a method reads, is on a device."""
    if on_device(array):
        raise TypeError(
            f"{method} reads numbers on the host, and those of a {type_name(array)} are on a GPU: {remedy}"
        )


def type_name(value: object) -> str:
    """Return what messages call the type of an object."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
