"""A driver without GPUs: the PTX machine behind the interface of `stepspec.cuda.driver`, and arrays on it."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from emulated_queues import Queues, Work
from ptx_machine import Machine, MachineError, Memory

from stepspec.cuda.driver import Compiled, Event

Function = tuple[int, Machine, str]


class EmulatedDriver(Queues):
    """Some devices, whose work is done by the PTX machine when something waits for it.

    Parameters
    ----------
    count
        How many devices there are.
    size
        Bytes of memory of each.

    Attributes
    ----------
    launches
        The kernels launched, in the order in which they were queued.
    copied
        How many bytes `copy_in` was asked to copy.
    captured
        The streams that are said to be recorded in a graph.

    """

    def __init__(self, count: int = 2, size: int = 1 << 28) -> None:
        super().__init__([Memory(size) for _ in range(count)])
        self.launches: list[str] = []
        self.copied = 0
        self.captured: set[int] = set()
        self._loaded: dict[tuple[int, str], Function] = {}
        self._pinned: weakref.WeakSet[EmulatedPinned] = weakref.WeakSet()

    def capability(self, device: int) -> tuple[int, int]:
        return (9, 0)

    def multiprocessors(self, device: int) -> int:
        return 3

    def device_of(self, address: int) -> int | None:
        for device, memory in enumerate(self.memories):
            if memory.base <= address < memory.base + memory.size:
                return device
        return None

    def allocate(self, device: int, size: int) -> "EmulatedMemory":
        return EmulatedMemory(self, device, size)

    def pin(self, size: int) -> "EmulatedPinned":
        pinned = EmulatedPinned(size)
        self._pinned.add(pinned)
        return pinned

    def copy_in(self, device: int, target: int, source: int, size: int, stream: int) -> None:
        found = (p for p in self._pinned if p.address <= source and source + size <= p.address + len(p.array))
        pinned = next(found, None)
        if pinned is None:
            raise MachineError(f"{size} bytes at {source:#x} are not page-locked")
        start = source - pinned.address
        place = self.memories[device].bytes_at(target, size)

        def copy() -> None:
            place[:] = pinned.array[start : start + size]
            self.memories[device].mark_written(target, size)

        self.copied += size
        self.put(device, stream, copy)

    def copy_out(self, device: int, target: npt.NDArray[Any], source: int, stream: int) -> None:
        if not target.flags.c_contiguous:
            raise MachineError("copy_out needs a contiguous array")
        self.synchronize(device, stream)
        target[...] = self.memories[device].get(source, like=target)

    def copy(self, device: int, target: int, source: int, size: int, stream: int) -> None:
        """Copy within a device, as other libraries do."""
        self.put(device, stream, lambda: self.memories[device].copy(target, source, size))

    def load(self, device: int, code: Compiled) -> Function:
        if (device, code.ptx) not in self._loaded:
            self._loaded[device, code.ptx] = device, Machine(code.ptx), code.symbol
        return self._loaded[device, code.ptx]

    def launch(
        self, function: Function, grid: int, threads: int, arguments: tuple[int, ...], stream: int
    ) -> None:
        """Launch a kernel once, as other libraries do."""
        self.prepare(function, grid, threads, arguments, stream)()

    def prepare(
        self, function: Function, grid: int, threads: int, arguments: tuple[int, ...], stream: int
    ) -> Callable[[], object]:
        device, machine, name = function
        if not 0 < grid < 1 << 31:
            raise MachineError(f"{name}: a grid of {grid} blocks")
        memory = self.memories[device]

        def launch() -> None:
            self.launches.append(name)
            self.put(device, stream, lambda: machine.launch(memory, grid, arguments, threads))

        return launch

    def check(self, results: Iterable[object]) -> None:
        """Find nothing: what is wrong with a launch shows when its work is done."""
        list(results)

    def event(self, device: int) -> "EmulatedEvent":
        return EmulatedEvent(self, device)

    def wait(self, device: int, stream: int, event: Event) -> None:
        assert isinstance(event, EmulatedEvent)
        after = () if event.recorded is None else (event.recorded,)
        self.put(device, stream, lambda: None, after)

    def capturing(self, device: int, stream: int) -> bool:
        return stream in self.captured

    @contextmanager
    def current(self, device: int) -> Iterator[None]:
        """Do nothing: there are no contexts."""
        yield


class EmulatedMemory:
    """Memory of a device, freed when it is collected."""

    def __init__(self, driver: EmulatedDriver, device: int, size: int) -> None:
        self.address = driver.memories[device].allocate(size)
        weakref.finalize(self, driver.free, device, self.address).atexit = False


class EmulatedPinned:
    """Memory of the host that copies may start from."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(size, np.uint8)
        self.address: int = self.array.ctypes.data


class EmulatedEvent:
    """A place in a stream's queue; whoever asks whether it is done has its work done for the next time."""

    def __init__(self, driver: EmulatedDriver, device: int) -> None:
        self._driver, self._device = driver, device
        self.recorded: Work | None = None

    def record(self, stream: int) -> None:
        self.recorded = self._driver.mark(self._device, stream)

    def done(self) -> bool:
        if self.recorded is None:
            return True
        done = self.recorded.done
        self._driver.do(self.recorded)
        return done


class DeviceArray:
    """An array on an emulated device, as other libraries have them; it owns its memory.

    Parameters
    ----------
    driver
        Where it lives.
    array
        Its values, copied at once; its strides become the strides on the device.
    stream
        What the interface says about it: None, or a handle.
    writeable
        False if the interface is to forbid writing.

    """

    def __init__(
        self,
        driver: EmulatedDriver,
        array: npt.NDArray[Any],
        device: int = 0,
        *,
        stream: int | None = None,
        writeable: bool = True,
    ) -> None:
        self.driver, self.device, self.stream, self.writeable = driver, device, stream, writeable
        self.shape, self.dtype, self.strides = array.shape, array.dtype, array.strides
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
        self._memory = driver.allocate(device, high - low)
        self._extent = high - low
        self._offset = array.__array_interface__["data"][0] - low if array.size else 0
        self.address = self._memory.address + self._offset
        self.set(array)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        contiguous = np.empty(self.shape, self.dtype).strides == self.strides
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self._extent else 0, not self.writeable),
            "strides": None if contiguous else self.strides,
            "stream": self.stream,
            "version": 3,
        }

    def set(self, array: npt.NDArray[Any]) -> None:
        """Give it other values, at once and whatever is queued."""
        self._view()[...] = array
        self.driver.memories[self.device].mark_written(self._memory.address, self._extent)

    def numpy(self) -> npt.NDArray[Any]:
        """Return a copy, after the work of its stream (or of all streams, if it names none)."""
        if self.stream is None:
            self.driver.finish(self.device)
        else:
            self.driver.synchronize(self.device, self.stream)
        return self._view().copy()

    def _view(self) -> npt.NDArray[Any]:
        place = self.driver.memories[self.device].bytes_at(self._memory.address, self._extent)
        return np.ndarray(self.shape, self.dtype, place, self._offset, self.strides)
