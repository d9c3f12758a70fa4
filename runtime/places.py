"""Where arrays lie: in memory of the host, as NumPy's do, or in that of a GPU.

What arrays on a GPU need is imported when the first one is seen.

Note [Shadows]
An array on a device is checked through its shadow: an array of NumPy's with the same address, shape, strides
and dtype, whose numbers nobody reads, since the host cannot. Code that looks only at such facts serves
arrays of both kinds. Whatever reads or writes numbers is given the array itself, and asks the functions here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

ARRAY_TYPES = (np.ndarray, np.memmap)


def on_device(array: object) -> bool:
    """Tell whether an object is an array in the memory of a GPU."""
    if type(array) in ARRAY_TYPES:
        return False
    # torch says so without the interface, which it denies to tensors that require a gradient
    known = getattr(array, "is_cuda", None)
    return known if isinstance(known, bool) else hasattr(array, "__cuda_array_interface__")


def shadow(array: Any, what: str = "the array") -> Array:
    """Return an array of NumPy's as it is, and the shadow of one on a device; see Note [Shadows].

    TypeError, naming `what`, for an array that kernels cannot use.
    """
    found: Array = _device("arrays").shadow(array, what) if on_device(array) else array
    return found


def to_host(array: Any) -> Array:
    """Return an array of NumPy's as it is, and of one on a device a copy; wait for what is under way."""
    found: Array = _device("copies").to_host(array) if on_device(array) else array
    return found


def new(like: Any, shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Any:
    """Return a C-contiguous array of one value, of the kind of array that `like` is, where that lies."""
    return (
        _device("copies").full(like, shape, dtype, value) if on_device(like) else np.full(shape, value, dtype)
    )


def copied(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return a C-contiguous copy in another dtype, of the same kind and in the same place."""
    return (
        _device("copies").converted(array, dtype) if on_device(array) else np.array(array, dtype, order="C")
    )


def beside(like: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays as they are; if another array is on a device, those on the host as copies there."""
    if not on_device(like):
        return dict(arrays)
    make = _device("copies").copied_to
    return {name: array if on_device(array) else make(like, array) for name, array in arrays.items()}


def writing(array: Any, values: Array) -> Callable[[], object]:
    """Return what writes NumPy's `values` into an array of their shape and dtype, and cannot fail."""
    if on_device(array):
        write: Callable[[], object] = _device("copies").writing(array, values)
        return write
    return partial(operator.setitem, array, ..., values)


def _device(name: str) -> ModuleType:
    """Import late what most processes never need."""
    import importlib

    return importlib.import_module(f"stepspec.cuda.{name}")
