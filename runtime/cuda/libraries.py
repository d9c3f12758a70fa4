"""The libraries that arrays on a device come from: how each is asked what its arrays are, and makes new ones.

Any object with `__cuda_array_interface__`, version 2 or 3, is one. Of PyTorch's tensors the cheap attributes
are read: the interface is denied to those that require a gradient, and says nothing of streams.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stepspec.cuda.driver import driver

# a handle of CUDA's: what names no stream is used in the order of the default one
DEFAULT_STREAM = 0
_LEGACY_STREAM, THREADS_STREAM = 1, 2  # the latter is another one in each thread


class Facts(NamedTuple):
    """What an array is: strides in bytes, None if C-contiguous."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    writeable: bool


class Library:
    """Arrays with `__cuda_array_interface__` of any library, here those of Numba too."""

    def facts(self, array: Any) -> Facts:
        """Return what an array is; TypeError, about an array whose name comes first, if it cannot be used."""
        interface = _interface(array)
        if interface.get("mask") is not None:
            raise TypeError("is masked; fill it in")
        self.streams([array])  # which it may name wrongly
        strides = interface.get("strides")
        return Facts(
            interface["data"][0] or 0,
            tuple(interface["shape"]),
            None if strides is None else tuple(strides),
            _dtype(interface["typestr"]),
            not interface["data"][1],
        )

    def device(self, array: Any) -> int | None:
        """Return the number of an array's device, None of one without elements."""
        interface = _interface(array)
        if 0 in interface["shape"]:
            return None
        found = driver().device_of(interface["data"][0])
        if found is None:
            raise TypeError("names memory of no CUDA device in __cuda_array_interface__")
        return found

    def streams(self, arrays: Sequence[Any]) -> set[int]:
        """Return the streams on which work with some arrays is under way."""
        named: set[Any] = {_interface(array).get("stream") for array in arrays}
        if 0 in named:
            raise ValueError(
                "__cuda_array_interface__ names stream 0, which is none: 1 is the legacy default stream, "
                "2 that of each thread"
            )
        return {DEFAULT_STREAM if stream == _LEGACY_STREAM else int(stream) for stream in named - {None}}

    def addresses(self, arrays: Sequence[Any]) -> list[int]:
        """Return where some arrays begin."""
        return [array.__cuda_array_interface__["data"][0] or 0 for array in arrays]

    def sizes(self, arrays: Sequence[Any]) -> list[object]:
        """Return what tells that arrays known by identity and address are as they were."""
        interfaces = (array.__cuda_array_interface__ for array in arrays)
        return [(each["shape"], each["typestr"], each.get("strides"), each["data"][1]) for each in interfaces]

    def kinds(self, arrays: Sequence[Any]) -> object:
        """Return what kernels depend on, to be compared: shapes, dtypes, strides and devices."""
        interfaces = [array.__cuda_array_interface__ for array in arrays]
        facts = [
            (each["shape"], each["typestr"], each.get("strides"), each["data"][1], each.get("mask"))
            for each in interfaces
        ]
        return facts, [driver().device_of(each["data"][0]) for each in interfaces if each["data"][0]]

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any | None:
        """Return a new C-contiguous array on the device of another one; None if the library makes none."""
        return None

    def full(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Any | None:
        """Return a new C-contiguous array of one value; None if the library makes none."""
        return None

    def converted(self, array: Any, dtype: np.dtype[Any]) -> Any | None:
        """Return a C-contiguous copy in another dtype; None if the library makes none."""
        return None


class Numba(Library):
    """`numba.cuda`: device arrays."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return a new C-contiguous array on the device of another one."""
        from numba import cuda

        with cuda.gpus[self.device(like) or 0]:
            return cuda.device_array(shape, dtype)


class CuPy(Library):
    """`cupy.ndarray`."""

    def device(self, array: Any) -> int | None:
        """Return the number of an array's device."""
        return int(array.device.id)

    def streams(self, arrays: Sequence[Any]) -> set[int]:
        """Return the library's current stream: it is the same for all arrays."""
        return super().streams(arrays[:1])

    def addresses(self, arrays: Sequence[Any]) -> list[int]:
        """Return where some arrays begin."""
        return [array.data.ptr for array in arrays]

    def sizes(self, arrays: Sequence[Any]) -> list[object]:
        """Return what tells that arrays known by identity and address are as they were."""
        return [(array.shape, array.strides) for array in arrays]

    def kinds(self, arrays: Sequence[Any]) -> object:
        """Return what kernels depend on, to be compared: shapes, dtypes, strides and devices."""
        return [(array.shape, array.dtype, array.strides, array.data.device_id) for array in arrays]

    def full(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Any | None:
        """Return a new C-contiguous array of one value."""
        with like.device:
            return sys.modules["cupy"].full(shape, value, dtype)

    def converted(self, array: Any, dtype: np.dtype[Any]) -> Any | None:
        """Return a C-contiguous copy in another dtype."""
        with array.device:
            return array.astype(dtype, order="C")


class Torch(Library):
    """`torch.Tensor`, parameters included. Work with tensors is under way on torch's current stream."""

    def __init__(self) -> None:
        torch: Any = sys.modules["torch"]
        self._torch, tensor = torch, torch.Tensor
        self._pointer, self._size, self._is_contiguous = tensor.data_ptr, tensor.size, tensor.is_contiguous
        self._device, self._stride = tensor.get_device, tensor.stride
        self._facts = operator.attrgetter("dtype", "layout")
        names = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
        self._dtypes = {getattr(torch, name): np.dtype(name) for name in names}

    def facts(self, array: Any) -> Facts:
        """Return what a tensor is; TypeError, about a tensor whose name comes first, if it cannot be used."""
        if array.layout is not self._torch.strided:
            raise TypeError(
                "is a sparse tensor; of g = grad.coalesce() make "
                "stepspec.RowSparse(g.values(), g.indices()[0], g.shape)"
            )
        dtype = self._dtypes.get(array.dtype)
        if array.dtype is self._torch.bfloat16:
            dtype = _bfloat16()
        if dtype is None:
            raise TypeError(f"has dtype {array.dtype}, which NumPy does not have; convert it with .float()")
        strides = None
        if not array.is_contiguous():
            strides = tuple([step * dtype.itemsize for step in array.stride()])
        return Facts(array.data_ptr(), tuple(array.shape), strides, dtype, True)

    def device(self, array: Any) -> int | None:
        """Return the number of a tensor's device."""
        return int(array.get_device())

    def streams(self, arrays: Sequence[Any]) -> set[int]:
        """Return torch's current stream of the arrays' device."""
        handle = int(self._torch.cuda.current_stream(arrays[0].get_device()).cuda_stream)
        return {DEFAULT_STREAM if handle == _LEGACY_STREAM else handle}

    def addresses(self, arrays: Sequence[Any]) -> list[int]:
        """Return where some tensors begin."""
        return [*map(self._pointer, arrays)]

    def sizes(self, arrays: Sequence[Any]) -> list[object]:
        """Return what tells that tensors known by identity and address are as they were."""
        return [[array.nbytes for array in arrays], [*map(self._stride, arrays)]]

    def kinds(self, arrays: Sequence[Any]) -> object:
        """Return what kernels depend on, to be compared: shapes, dtypes, strides and devices."""
        contiguous = [*map(self._is_contiguous, arrays)]
        strides = () if all(contiguous) else [*map(self._stride, arrays)]
        sizes, devices = [*map(self._size, arrays)], [*map(self._device, arrays)]
        return [*map(self._facts, arrays)], contiguous, strides, sizes, devices

    def full(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Any | None:
        """Return a new contiguous tensor of one value."""
        return self._torch.full(shape, value, dtype=self._own(dtype), device=like.device)

    def converted(self, array: Any, dtype: np.dtype[Any]) -> Any | None:
        """Return a contiguous copy in another dtype that requires no gradient."""
        contiguous = self._torch.contiguous_format
        return array.detach().to(self._own(dtype), copy=True, memory_format=contiguous)

    def _own(self, dtype: np.dtype[Any]) -> Any:
        return getattr(self._torch, dtype.name)


def library(array: Any) -> Library:
    """Return the library that an array comes from."""
    kind: Any = type(array)
    return library_of(kind)


@functools.cache
def library_of(kind: type) -> Library:
    """Return the library of a type of arrays."""
    roots = {base.__module__.partition(".")[0] for base in kind.__mro__}
    return _made(next((root for root in ("torch", "cupy", "numba") if root in roots), ""))


@functools.cache
def _made(root: str) -> Library:
    kinds: dict[str, type[Library]] = {"torch": Torch, "cupy": CuPy, "numba": Numba}
    return kinds.get(root, Library)()


def _interface(array: Any) -> dict[str, Any]:
    found: dict[str, Any] = array.__cuda_array_interface__
    return found


@functools.lru_cache(maxsize=64)
def _dtype(spelled: str) -> np.dtype[Any]:
    # NumPy knows no bfloat16: ml_dtypes, CuPy and PyTorch spell it as two bytes without a meaning
    return _bfloat16() if spelled in ("<V2", "|V2") else np.dtype(spelled)


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError("has dtype bfloat16, which needs ml_dtypes: pip install ml_dtypes") from None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found
