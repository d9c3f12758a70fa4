"""The driver of NVIDIA's GPUs, through cuda.bindings.

Note [Freeing]
Memory is freed when its owner is collected, and a launch may still use it then. So the device's work is
waited for first: that happens when a plan is dropped, never in a step. An event's handle outlives the work.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stepspec.cuda.calls import Calls

if TYPE_CHECKING:
    from stepspec.cuda.driver import Compiled, Event, Function


class CudaDriver(Calls):
    """CUDA's driver, see `stepspec.cuda.driver.Driver` for what its methods do.

    Parameters
    ----------
    api
        The module cuda.bindings.driver, initialized.

    """

    @functools.cache  # noqa: B019 - one driver lives as long as the process
    def capability(self, device: int) -> tuple[int, int]:
        names = self.api.CUdevice_attribute
        return (
            self._attribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
            self._attribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
        )

    @functools.cache  # noqa: B019 - as above
    def multiprocessors(self, device: int) -> int:
        name = self.api.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        return self._attribute(name, device)

    def _attribute(self, name: Any, device: int) -> int:
        value: int = self.call("cuDeviceGetAttribute", name, device)
        return value

    def device_of(self, address: int) -> int | None:
        names = self.api.CUpointer_attribute
        self.refuse_fork("cuPointerGetAttribute")
        status, kind = self.api.cuPointerGetAttribute(names.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)
        if status == self.api.CUresult.CUDA_ERROR_INVALID_VALUE:  # CUDA does not know the address
            return None
        self.check_status("cuPointerGetAttribute", status)
        if int(kind) != int(self.api.CUmemorytype.CU_MEMORYTYPE_DEVICE):
            return None
        device: int = self.call("cuPointerGetAttribute", names.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address)
        return device

    def allocate(self, device: int, size: int) -> CudaMemory:
        with self.current(device):
            return CudaMemory(self, device, int(self.call("cuMemAlloc", max(size, 1))))

    def pin(self, size: int) -> CudaPinned:
        with self.current(next(iter(self.contexts), 0)):
            address = int(self.call("cuMemHostAlloc", max(size, 1), self.api.CU_MEMHOSTALLOC_PORTABLE))
        return CudaPinned(self, address, size)

    def copy_in(self, device: int, target: int, source: int, size: int, stream: int) -> None:
        with self.current(device):
            self.call("cuMemcpyHtoDAsync", target, source, size, stream)

    def copy_out(self, device: int, target: npt.NDArray[Any], source: int, stream: int) -> None:
        with self.current(device):
            self.call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream)
            self.call("cuStreamSynchronize", stream)

    def load(self, device: int, code: Compiled) -> tuple[int, Any]:
        with self.current(device):
            module = self.call("cuModuleLoadData", code.cubin)
            return device, self.call("cuModuleGetFunction", module, code.symbol.encode())

    def prepare(
        self, function: Function, grid: int, threads: int, arguments: tuple[int, ...], stream: int
    ) -> Callable[[], object]:
        # what CUDA takes are the addresses of the values, which stand behind them
        count = len(arguments)
        packed = np.empty(2 * count, np.int64)
        packed[:count] = packed.ctypes.data + 8 * np.arange(count, 2 * count)
        packed[count:] = arguments
        blocks, block, shared = (grid, 1, 1), (threads, 1, 1), 0
        return functools.partial(
            self.api.cuLaunchKernel, function[1], *blocks, *block, shared, stream, packed, 0
        )

    def check(self, results: Iterable[object]) -> None:
        result: Any
        for result in results:
            self.check_status("cuLaunchKernel", result[0])

    def event(self, device: int) -> CudaEvent:
        with self.current(device):
            flags = self.api.CUevent_flags.CU_EVENT_DISABLE_TIMING
            return CudaEvent(self, device, self.call("cuEventCreate", flags))

    def wait(self, device: int, stream: int, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        with self.current(device):
            self.call("cuStreamWaitEvent", stream, event.handle, 0)

    def synchronize(self, device: int, stream: int) -> None:
        with self.current(device):
            self.call("cuStreamSynchronize", stream)

    def capturing(self, device: int, stream: int) -> bool:
        with self.current(device):
            status = self.call("cuStreamIsCapturing", stream)
        return bool(status != self.api.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)

    def query(self, device: int, event: Any) -> bool:
        """Whether an event has happened."""
        with self.current(device):
            (status,) = self.api.cuEventQuery(event)
        if status == self.api.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self.check_status("cuEventQuery", status)
        return True

    def free(self, name: str, handle: Any, devices: tuple[int, ...]) -> None:
        """Free memory that these devices, or all, may still use, see Note [Freeing]."""
        for device in devices or tuple(self.contexts):
            self.release("cuCtxSynchronize", device)
        self.release(name, next(iter(devices or self.contexts), 0), handle)


class CudaMemory:
    """Memory of a device."""

    def __init__(self, driver: CudaDriver, device: int, address: int) -> None:
        self.address = address
        weakref.finalize(self, driver.free, "cuMemFree", address, (device,)).atexit = False


class CudaPinned:
    """Page-locked memory of the host; its array keeps it alive."""

    def __init__(self, driver: CudaDriver, address: int, size: int) -> None:
        self.address = address
        memory = (ctypes.c_uint8 * size).from_address(address)
        # the array's base, so that views of the array keep the memory
        weakref.finalize(memory, driver.free, "cuMemFreeHost", address, ()).atexit = False
        self.array = np.ctypeslib.as_array(memory)


class CudaEvent:
    """An event of a device."""

    def __init__(self, driver: CudaDriver, device: int, handle: Any) -> None:
        self._driver, self._device, self.handle = driver, device, handle
        weakref.finalize(self, driver.release, "cuEventDestroy", device, handle).atexit = False

    def record(self, stream: int) -> None:
        with self._driver.current(self._device):
            self._driver.call("cuEventRecord", self.handle, stream)

    def done(self) -> bool:
        return self._driver.query(self._device, self.handle)
