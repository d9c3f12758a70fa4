"""What the CUDA target needs of a driver: memory, copies, launches, events; and which driver is in use.

Note [Devices' order]
Work is put on streams, and nothing here waits but `copy_out` and `synchronize`. What a stream's work still
reads or writes has to stay as it is, and alive, until the work is done: whoever reuses memory asks an event.
Memory that is collected too early is only safe because freeing it waits for its device.
A call makes its device's context current for itself; `with driver.current(device)` does so for many calls.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Function = Any

_EXTRA = "pip install 'stepspec[cuda]'"
_PACKAGES = ("numba-cuda", "cuda-bindings")


class MissingCuda(RuntimeError):  # noqa: N818 - named by what is missing, as users read it
    """Kernels cannot run on a GPU here: it says what is missing, what was found, and what helps."""


class Compiled(Protocol):
    """What is loaded: the machine code of one kernel, and the PTX it was made of."""

    @property
    def symbol(self) -> str: ...
    @property
    def cubin(self) -> bytes: ...
    @property
    def ptx(self) -> str: ...


class Memory(Protocol):
    """Memory of a device, freed when it is collected."""

    @property
    def address(self) -> int: ...


class Pinned(Protocol):
    """Page-locked memory of the host, freed when it is collected."""

    @property
    def address(self) -> int: ...
    @property
    def array(self) -> npt.NDArray[np.uint8]: ...


class Event(Protocol):
    """A place in the order of a stream's work."""

    def record(self, stream: int) -> None:
        """Put the event behind what the stream has to do."""

    def done(self) -> bool:
        """Whether all work before the last record is done; True if nothing was recorded."""


class Driver(Protocol):
    """The driver of all devices. A stream is a handle; 0 and 1 are the legacy one, 2 the thread's own."""

    def capability(self, device: int) -> tuple[int, int]:
        """Return the compute capability, such as (9, 0)."""

    def multiprocessors(self, device: int) -> int:
        """Return how many the device has."""

    def device_of(self, address: int) -> int | None:
        """Return on which device an address lies, None if it is not one of a device."""

    def allocate(self, device: int, size: int) -> Memory:
        """Return memory of a device, of any content."""

    def pin(self, size: int) -> Pinned:
        """Return page-locked memory, which all devices can copy from."""

    def copy_in(self, device: int, target: int, source: int, size: int, stream: int) -> None:
        """Copy from page-locked memory, asynchronously."""

    def copy_out(self, device: int, target: npt.NDArray[Any], source: int, stream: int) -> None:
        """Copy to an array of the host, C-contiguous, and wait for it."""

    def load(self, device: int, code: Compiled) -> Function:
        """Return a kernel to be launched on a device."""

    def event(self, device: int) -> Event:
        """Return an event for streams of a device."""

    def wait(self, device: int, stream: int, event: Event) -> None:
        """Let what the stream gets from now on wait for an event, on the device."""

    def synchronize(self, device: int, stream: int) -> None:
        """Wait until a stream's work is done."""

    def capturing(self, device: int, stream: int) -> bool:
        """Tell whether what a stream gets is not done, but recorded in a graph."""

    def current(self, device: int) -> AbstractContextManager[None]:
        """Make a device's context the thread's current one for a while, so that calls need not."""

    def prepare(
        self, function: Function, grid: int, threads: int, arguments: tuple[int, ...], stream: int
    ) -> Callable[[], object]:
        """Return a launch to be called again and again, within `current`: its results go to `check`.

        It puts `grid` blocks on a stream; all parameters are int64.
        """

    def check(self, results: Iterable[object]) -> None:
        """Raise the error of the first prepared launch that failed."""


_lock = threading.RLock()
# the one in use is the last
_drivers: list[Driver] = []


def driver() -> Driver:
    """Return the driver in use: CUDA's, found by the first call, if `use` has not named another.

    Raises
    ------
    MissingCuda
        If there is no driver, no GPU, or the extra is not installed.

    """
    if not _drivers:
        with _lock:
            if not _drivers:
                _drivers.append(_found())
    return _drivers[-1]


@contextlib.contextmanager
def use(other: Driver) -> Iterator[None]:
    """Use another driver, for tests; plans and arrays of one driver are not for another one."""
    _drivers.append(other)
    try:
        yield
    finally:
        _drivers.remove(other)


def missing_extra(error: ImportError) -> MissingCuda:
    """Return the error that says which packages are missing."""
    return MissingCuda(f"kernels on a GPU need the extra: {_EXTRA}; found {_installed()} ({error})")


def _installed() -> str:
    """Return which of the extra's packages there are."""
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def _found() -> Driver:
    try:
        import cuda.bindings
        import numba_cuda  # noqa: F401 - kernels are compiled with it: better to fail here
        from cuda.bindings import driver as api

        from stepspec.cuda.native import CudaDriver
    except ImportError as error:
        raise missing_extra(error) from error
    _check(api, int(cuda.bindings.__version__.partition(".")[0]))
    return CudaDriver(api)


def _check(api: Any, major: int) -> None:
    """Refuse a machine without a driver, with one that is too old for the bindings, or without a GPU."""
    try:
        status, version = api.cuDriverGetVersion()
    except (RuntimeError, OSError) as error:  # how the bindings tell that there is no library
        raise MissingCuda(
            f"kernels on a GPU need NVIDIA's driver beside the extra stepspec[cuda]; found {_installed()}, "
            f"but no NVIDIA driver ({error})"
        ) from error
    if status == api.CUresult.CUDA_SUCCESS and version < 1000 * major:
        raise MissingCuda(
            f"the NVIDIA driver supports CUDA {version // 1000}.{version % 1000 // 10}, and the installed "
            f"cuda-bindings need {major}.0: update the driver, or install packages for its CUDA, such as "
            f"numba-cuda[cu{version // 1000}]"
        )
    (status,) = api.cuInit(0)
    if status != api.CUresult.CUDA_SUCCESS:
        name, text = (what.decode() for _, what in (api.cuGetErrorName(status), api.cuGetErrorString(status)))
        forked = " A child made by fork cannot use CUDA where its parent did: start it by spawn."
        hint = forked if status == api.CUresult.CUDA_ERROR_NOT_INITIALIZED else ""
        raise MissingCuda(f"the NVIDIA driver finds no GPU: {name}, {text}{_visible()}.{hint}")
    _, count = api.cuDeviceGetCount()
    if not count:
        raise MissingCuda(f"the NVIDIA driver finds no GPU{_visible()}")


def _visible() -> str:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if chosen is None else f" (CUDA_VISIBLE_DEVICES is {chosen!r})"
