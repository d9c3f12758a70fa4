"""The libraries whose arrays can lie on a GPU, as places for the arrays of contenders."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

import stepspec
import torch_peer
from cases import Array, Gradient
from places import Place

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Device(Place, Protocol):
    """Arrays of one library on one GPU.

    `dtypes` are the names of those that it has.
    """

    @property
    def dtypes(self) -> tuple[str, ...]: ...

    def strided(self, values: Array) -> Any:
        """Return an array with these values that is not C-contiguous, where it has two axes."""

    def shifted(self, values: Array) -> Any:
        """Return an array with these values whose address is one element off a multiple of 16 bytes."""

    def random(self, shape: tuple[int, ...], scale: float) -> Any:
        """Draw float32 numbers there."""

    def stream(self) -> AbstractContextManager[Any]:
        """Make a new stream the current one, as far as the library has such a thing."""

    def late(self, array: Any) -> Any:
        """Return an array that gets the same numbers on the current stream, after other work there."""


class Library:
    """What all libraries have in common: row-sparse gradients hold an array of values."""

    def lent(self, grad: Gradient) -> Any:
        if isinstance(grad, stepspec.RowSparse):
            return stepspec.RowSparse(self.own(grad.values), grad.rows, grad.shape)
        return self.own(grad)

    def renewed(self, grad: Any) -> Any:
        if isinstance(grad, stepspec.RowSparse):
            return stepspec.RowSparse(self.view(grad.values), grad.rows, grad.shape)
        return self.view(grad)

    def strided(self, values: Array) -> Any:
        return self.own(np.array(values.T, order="C")).T

    def own(self, values: Array) -> Any:
        raise NotImplementedError

    def view(self, array: Any) -> Any:
        raise NotImplementedError


class Torch(Library):
    """Tensors of PyTorch."""

    name = "torch"
    dtypes = DTYPES

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        if not self.torch.cuda.is_available():
            raise ImportError(f"torch {self.torch.__version__} finds no GPU")

    def own(self, values: Array) -> Any:
        return torch_peer.tensor(values.copy()).to("cuda")

    def view(self, array: Any) -> Any:
        return array.detach()

    def back(self, array: Any) -> Array:
        found: Array = torch_peer.array(array.detach())
        return found

    def shifted(self, values: Array) -> Any:
        whole = self.own(np.concatenate([values.ravel()[:1], values.ravel()]))
        return whole[1:].view(values.shape)

    def random(self, shape: tuple[int, ...], scale: float) -> Any:
        return self.torch.randn(shape, device="cuda").mul_(scale)

    def stream(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self.torch.cuda.stream(self.torch.cuda.Stream())
        return found

    def late(self, array: Any) -> Any:
        found = self.torch.zeros_like(array)
        self.torch.cuda._sleep(20_000_000)  # cycles: the step has long been queued when the copy begins
        return found.copy_(array)


class Cupy(Library):
    """Arrays of CuPy."""

    name = "cupy"
    dtypes = DTYPES[:3]

    def __init__(self) -> None:
        self.cupy = importlib.import_module("cupy")
        if not self.cupy.cuda.is_available():
            raise ImportError(f"CuPy {self.cupy.__version__} finds no GPU")

    def own(self, values: Array) -> Any:
        return self.cupy.asarray(values)

    def view(self, array: Any) -> Any:
        return array.view()

    def back(self, array: Any) -> Array:
        found: Array = self.cupy.asnumpy(array)
        return found

    def shifted(self, values: Array) -> Any:
        whole = self.own(np.concatenate([values.ravel()[:1], values.ravel()]))
        return whole[1:].reshape(values.shape)

    def random(self, shape: tuple[int, ...], scale: float) -> Any:
        return self.cupy.random.standard_normal(shape, self.cupy.float32) * self.cupy.float32(scale)

    @contextlib.contextmanager
    def stream(self) -> Any:
        with self.cupy.cuda.Stream(non_blocking=True) as stream:
            yield stream
            stream.synchronize()

    def late(self, array: Any) -> Any:
        found = self.cupy.zeros_like(array)
        for _ in range(200):  # passes over memory: the step has been queued before the last one ends
            found += array
        found[...] = array
        return found


class Numba(Library):
    """Device arrays of numba-cuda."""

    name = "numba"
    dtypes = DTYPES[:3]

    def __init__(self) -> None:
        self.cuda = importlib.import_module("numba.cuda")
        if not self.cuda.is_available():
            raise ImportError("numba-cuda finds no GPU")

    def own(self, values: Array) -> Any:
        return self.cuda.to_device(np.array(values, order="C"))

    def strided(self, values: Array) -> Any:
        # its transposed arrays are C-contiguous copies, and have two axes
        return self.cuda.to_device(np.array(values, order="F"))

    def view(self, array: Any) -> Any:
        return array.view(array.dtype)

    def back(self, array: Any) -> Array:
        found: Array = array.copy_to_host()
        return found

    def shifted(self, values: Array) -> Any:
        whole = self.own(np.concatenate([values.ravel()[:1], values.ravel()]))
        return whole[1:].reshape(values.shape)

    def random(self, shape: tuple[int, ...], scale: float) -> Any:
        return self.own(np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(scale))

    def stream(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def late(self, array: Any) -> Any:
        return array


LIBRARIES: dict[str, Callable[[], Device]] = {"torch": Torch, "cupy": Cupy, "numba": Numba}


def installed() -> tuple[list[Device], dict[str, str]]:
    """Return the libraries that find a GPU, and why the others do not."""
    found: list[Device] = []
    missing: dict[str, str] = {}
    for name, make in LIBRARIES.items():
        try:
            found.append(make())
        except Exception as error:  # noqa: BLE001 - an import may fail in any way: others may do
            missing[name] = f"{type(error).__name__}: {error}"
    return found, missing
