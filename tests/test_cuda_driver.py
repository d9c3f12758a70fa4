"""The driver of NVIDIA's GPUs against an API that takes notes, errors without one, the emulated driver."""

import ctypes
import gc
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda.bindings import driver as bindings
from emulated_driver import DeviceArray, EmulatedDriver
from ptx_machine import MachineError

import stepspec
from stepspec.cuda import driver as drivers
from stepspec.cuda.calls import CudaError
from stepspec.cuda.driver import Driver, MissingCuda
from stepspec.cuda.native import CudaDriver

OK = bindings.CUresult.CUDA_SUCCESS
HOST, DEVICE = 0x1000, 0x2000
CODE = SimpleNamespace(symbol="kernel", cubin=b"machine code", ptx="")


class Api:
    """cuda.bindings.driver, as far as it is used: it notes each call, and fails where it is told to."""

    CUresult = bindings.CUresult
    CUdevice_attribute = bindings.CUdevice_attribute
    CUpointer_attribute = bindings.CUpointer_attribute
    CUmemorytype = bindings.CUmemorytype
    CUevent_flags = bindings.CUevent_flags
    CUstreamCaptureStatus = bindings.CUstreamCaptureStatus
    CU_MEMHOSTALLOC_PORTABLE = bindings.CU_MEMHOSTALLOC_PORTABLE

    def __init__(self, **results: Any) -> None:
        self.pinned = (ctypes.c_uint8 * 64)()
        self.fails: dict[str, Any] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.contexts: list[Any] = []
        self.launched: list[tuple[Any, ...]] = []
        self._results = {
            "cuDriverGetVersion": 13000, "cuDeviceGetCount": 2,
            "cuDevicePrimaryCtxRetain": lambda device: f"context {device}",
            "cuMemAlloc": bindings.CUdeviceptr(DEVICE), "cuMemHostAlloc": ctypes.addressof(self.pinned),
            "cuModuleLoadData": "module", "cuModuleGetFunction": "function", "cuEventCreate": "event",
            "cuDeviceGetAttribute": lambda name, device: {75: 9, 76: 0, 16: 132}[int(name)],
            **results,
        }  # fmt: skip

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            status = self.fails.get(name, OK)
            if name not in self._results:
                return (status,)
            result = self._results[name]
            return status, result(*arguments) if callable(result) else result

        return call

    def cuGetErrorName(self, status: Any) -> tuple[Any, bytes]:  # noqa: N802 - CUDA's name
        return OK, status.name.encode()

    def cuGetErrorString(self, status: Any) -> tuple[Any, bytes]:  # noqa: N802 - CUDA's name
        return OK, b"what it means"

    def cuCtxPushCurrent(self, context: Any) -> tuple[Any]:  # noqa: N802 - CUDA's name
        self.contexts.append(context)
        self.calls.append(("push", context))
        return (OK,)

    def cuCtxPopCurrent(self) -> tuple[Any, Any]:  # noqa: N802 - CUDA's name
        self.calls.append(("pop",))
        return OK, self.contexts.pop()

    def cuLaunchKernel(self, *arguments: Any) -> tuple[Any]:  # noqa: N802 - CUDA's name
        packed = arguments[9]
        values = [ctypes.c_int64.from_address(int(address)).value for address in packed[: len(packed) // 2]]
        self.launched.append((*arguments[:9], values, self.contexts[-1]))
        return (self.fails.get("cuLaunchKernel", OK),)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def cuda(api: Api) -> CudaDriver:
    return CudaDriver(api)


def test_the_real_one_has_all_that_is_asked_of_a_driver(cuda: CudaDriver) -> None:
    real: Driver = cuda
    emulated: Driver = EmulatedDriver()
    assert real.capability(1) == emulated.capability(1) == (9, 0)
    assert real.multiprocessors(1) == 132


def put_on_stream(
    cuda: CudaDriver, function: Any, grid: int, arguments: tuple[int, ...], stream: int
) -> None:
    with cuda.current(function[0]):
        cuda.check([cuda.prepare(function, grid, 256, arguments, stream)()])


def test_launches_pass_the_values_behind_their_addresses(cuda: CudaDriver, api: Api) -> None:
    function = cuda.load(1, CODE)
    assert ("cuModuleLoadData", b"machine code") in api.calls
    assert ("cuModuleGetFunction", "module", b"kernel") in api.calls
    put_on_stream(cuda, function, 7, (1 << 40, -1, 3), 2)
    expected = ("function", 7, 1, 1, 256, 1, 1, 0, 2, [1 << 40, -1, 3], "context 1")
    assert api.launched == [expected]
    ready = cuda.prepare(function, 7, 256, (1 << 40, -1, 3), 2)
    gc.collect()
    with cuda.current(1):
        cuda.check([ready(), ready()])
    assert api.launched == [expected] * 3


def test_captured_streams_are_told(cuda: CudaDriver, api: Api) -> None:
    states = bindings.CUstreamCaptureStatus
    for status, told in zip(states, (False, True, True), strict=True):
        api._results["cuStreamIsCapturing"] = status
        assert cuda.capturing(1, 7) is told
    assert api.calls.count(("cuStreamIsCapturing", 7)) == 3


def test_contexts_are_left_as_they_were(cuda: CudaDriver, api: Api) -> None:
    target = np.zeros(3)
    cuda.copy_in(0, DEVICE, HOST, 24, 5)
    cuda.copy_out(1, target, DEVICE, 5)
    event = cuda.event(1)
    event.record(5)
    cuda.wait(1, 6, event)
    cuda.synchronize(0, 5)
    assert api.contexts == []
    assert ("cuMemcpyDtoHAsync", target.ctypes.data, DEVICE, 24, 5) in api.calls
    assert ("cuStreamWaitEvent", 6, "event", 0) in api.calls
    waited = api.names().index("cuMemcpyDtoHAsync") + 1
    assert api.calls[waited] == ("cuStreamSynchronize", 5)
    assert api.names().count("cuDevicePrimaryCtxRetain") == 2
    api.fails["cuMemAlloc"] = bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(CudaError, match="cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY, what it means"):
        cuda.allocate(0, 1 << 50)
    assert api.contexts == []


def test_a_current_context_is_not_pushed_again(cuda: CudaDriver, api: Api) -> None:
    with cuda.current(0):
        cuda.copy_in(0, DEVICE, HOST, 24, 5)
        cuda.synchronize(1, 5)
        cuda.copy_in(0, DEVICE, HOST, 24, 5)
    pushed = [call[1] for call in api.calls if call[0] == "push"]
    assert pushed == ["context 0", "context 1"]
    assert api.contexts == []


@pytest.mark.parametrize(
    ("kind", "device"),
    [(bindings.CUmemorytype.CU_MEMORYTYPE_DEVICE, 1), (bindings.CUmemorytype.CU_MEMORYTYPE_HOST, None)],
)
def test_addresses_of_devices(kind: Any, device: int | None) -> None:
    ordinal = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    api = Api(cuPointerGetAttribute=lambda name, address: 1 if name == ordinal else kind)
    cuda = CudaDriver(api)
    assert cuda.device_of(DEVICE) == device
    api.fails["cuPointerGetAttribute"] = bindings.CUresult.CUDA_ERROR_INVALID_VALUE
    assert cuda.device_of(DEVICE) is None
    api.fails["cuPointerGetAttribute"] = bindings.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError, match="cuPointerGetAttribute failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        cuda.device_of(DEVICE)


def test_a_launch_that_failed_is_named(cuda: CudaDriver, api: Api) -> None:
    function = cuda.load(0, CODE)
    api.fails["cuLaunchKernel"] = bindings.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError, match="cuLaunchKernel failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        put_on_stream(cuda, function, 1, (1, 2, 3), 0)
    assert api.contexts == []


def test_events_that_have_not_happened(cuda: CudaDriver, api: Api) -> None:
    event = cuda.event(0)
    assert event.done()
    api.fails["cuEventQuery"] = bindings.CUresult.CUDA_ERROR_NOT_READY
    assert not event.done()
    api.fails["cuEventQuery"] = bindings.CUresult.CUDA_ERROR_LAUNCH_FAILED
    with pytest.raises(CudaError, match="cuEventQuery"):
        event.done()


def test_memory_is_freed_after_its_devices_work(cuda: CudaDriver, api: Api) -> None:
    memory = cuda.allocate(1, 100)
    assert memory.address == DEVICE
    del memory
    assert [call for call in api.calls if call[0] in ("cuCtxSynchronize", "cuMemFree")] == [
        ("cuCtxSynchronize",),
        ("cuMemFree", DEVICE),
    ]
    assert api.contexts == []


def test_views_keep_pinned_memory(cuda: CudaDriver, api: Api) -> None:
    pinned = cuda.pin(64)
    view = pinned.array[8:16]
    view[:] = 5
    del pinned
    gc.collect()
    assert "cuMemFreeHost" not in api.names()
    assert api.pinned[8] == 5
    del view
    gc.collect()
    assert ("cuMemFreeHost", ctypes.addressof(api.pinned)) in api.calls


def test_an_event_is_destroyed_without_waiting(cuda: CudaDriver, api: Api) -> None:
    cuda.event(0)
    gc.collect()
    assert ("cuEventDestroy", "event") in api.calls
    assert "cuCtxSynchronize" not in api.names()


def test_freeing_after_an_error_raises_nothing(
    cuda: CudaDriver, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    memory = cuda.allocate(0, 100)
    failed = bindings.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    api.fails.update(cuCtxSynchronize=failed, cuMemFree=failed)
    with caplog.at_level("DEBUG", "stepspec"):
        del memory
        gc.collect()
    assert "cuMemFree failed: CUDA_ERROR_ILLEGAL_ADDRESS" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told(cuda: CudaDriver, api: Api) -> None:
    memory = cuda.allocate(0, 100)
    child = os.fork()
    if child == 0:
        before = len(api.calls)
        told = False
        try:
            cuda.synchronize(0, 0)
        except CudaError as error:
            told = "spawn" in str(error)
        del memory
        gc.collect()
        os._exit(0 if told and len(api.calls) == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    cuda.synchronize(0, 0)


def missing(api: Any) -> str:
    with pytest.raises(MissingCuda) as caught:
        drivers._check(api, 13)
    return str(caught.value)


def test_what_is_missing_is_said(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers._check(api, 13)

    def none() -> None:
        raise RuntimeError("libcuda.so.1 is nowhere")

    no_library = SimpleNamespace(cuDriverGetVersion=none)
    message = missing(no_library)
    assert "stepspec[cuda]" in message
    assert "found numba-cuda" in message
    assert "but no NVIDIA driver" in message
    assert "libcuda.so.1 is nowhere" in missing(no_library)
    old = missing(Api(cuDriverGetVersion=12040))
    assert "supports CUDA 12.4" in old
    assert "numba-cuda[cu12]" in old
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    none_visible = missing(Api(cuDeviceGetCount=0))
    assert "finds no GPU (CUDA_VISIBLE_DEVICES is '')" in none_visible
    api.fails["cuInit"] = bindings.CUresult.CUDA_ERROR_NO_DEVICE
    assert "CUDA_ERROR_NO_DEVICE, what it means" in missing(api)
    assert "fork" not in missing(api)
    api.fails["cuInit"] = bindings.CUresult.CUDA_ERROR_NOT_INITIALIZED
    assert "made by fork" in missing(api)


@pytest.mark.parametrize("name", ["cuda.bindings", "numba_cuda"])
def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(drivers, "_drivers", [])
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingCuda, match=r"pip install 'stepspec\[cuda\]'.*found numba-cuda \d") as caught:
        drivers.driver()
    assert isinstance(caught.value.__cause__, ImportError)


def test_another_driver_is_used_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_drivers", [])
    monkeypatch.setattr(drivers, "_found", EmulatedDriver)
    own = drivers.driver()
    assert drivers.driver() is own
    other = EmulatedDriver()
    with drivers.use(other):
        assert drivers.driver() is other
    assert drivers.driver() is own


COPY = """
.version 9.0
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 a, .param .u64 b)
{
    .reg .b64 %d<5>;
    .reg .b32 %r<2>;
    ld.param.u64 %d0, [a];
    ld.param.u64 %d1, [b];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %d2, %r0, 4;
    add.s64 %d3, %d0, %d2;
    add.s64 %d4, %d1, %d2;
    ld.global.f32 %r1, [%d3];
    st.global.f32 [%d4], %r1;
    ret;
}
"""


@pytest.fixture
def emulated() -> EmulatedDriver:
    return EmulatedDriver(size=1 << 20)


def copied(driver: EmulatedDriver, source: DeviceArray, target: DeviceArray, stream: int) -> None:
    """Put a launch on a stream that copies 8 numbers."""
    code = SimpleNamespace(symbol="kernel", cubin=b"", ptx=COPY)
    driver.launch(driver.load(source.device, code), 1, 8, (source.address, target.address), stream)


def eight(driver: EmulatedDriver, first: float, device: int = 0, stream: int | None = 3) -> DeviceArray:
    return DeviceArray(driver, np.arange(first, first + 8, dtype=np.float32), device, stream=stream)


def test_emulated_work_is_done_when_something_waits(emulated: EmulatedDriver) -> None:
    a, b, c = (eight(emulated, first) for first in (0, 10, 20))
    copied(emulated, a, b, 3)
    copied(emulated, b, c, 4)
    assert emulated.pending() == 2
    emulated.synchronize(0, 4)
    assert (c._view() == np.arange(10, 18)).all()
    assert (b.numpy() == a.numpy()).all()
    assert emulated.launches == ["kernel", "kernel"]


def test_emulated_streams_wait_for_events(emulated: EmulatedDriver) -> None:
    a, b, c = (eight(emulated, first, stream=4) for first in (0, 10, 20))
    event = emulated.event(0)
    copied(emulated, a, b, 3)
    event.record(3)
    emulated.wait(0, 4, event)
    copied(emulated, b, c, 4)
    assert (c.numpy() == a._view()).all()
    assert event.done()


def test_emulated_copies_read_page_locked_memory_late(emulated: EmulatedDriver) -> None:
    pinned, memory = emulated.pin(16), emulated.allocate(0, 16)
    pinned.array[:] = 1
    emulated.copy_in(0, memory.address, pinned.address, 16, 0)
    pinned.array[:] = 2
    found = np.zeros(16, np.uint8)
    emulated.copy_out(0, found, memory.address, 1)
    assert (found == 2).all()
    with pytest.raises(MachineError, match="not page-locked"):
        emulated.copy_in(0, memory.address, found.ctypes.data, 16, 0)


def test_emulated_events_make_progress_when_asked(emulated: EmulatedDriver) -> None:
    a, b = eight(emulated, 0), eight(emulated, 10)
    event = emulated.event(0)
    assert event.done()
    copied(emulated, a, b, 3)
    event.record(3)
    assert [event.done(), event.done()] == [False, True]


def test_emulated_memory_is_freed_after_its_devices_work(emulated: EmulatedDriver) -> None:
    a, b = eight(emulated, 0), eight(emulated, 10)
    copied(emulated, a, b, 3)
    address = a.address
    del a
    gc.collect()
    assert emulated.waits == 1
    assert (b._view() == np.arange(8)).all()
    with pytest.raises(MachineError, match="not allocated"):
        emulated.memories[0].bytes_at(address, 4)


def test_emulated_devices_have_their_own_memory(emulated: EmulatedDriver) -> None:
    here, there = eight(emulated, 0), eight(emulated, 10, device=1)
    assert (emulated.device_of(here.address), emulated.device_of(there.address)) == (0, 1)
    assert emulated.device_of(np.zeros(1).ctypes.data) is None
    copied(emulated, here, there, 3)
    for _ in range(2):  # an error stays
        with pytest.raises(MachineError, match="outside all that is allocated"):
            emulated.synchronize(0, 3)
    emulated.synchronize(1, 3)


def test_device_arrays_keep_strides_and_say_what_they_are(emulated: EmulatedDriver) -> None:
    values = np.arange(24.0).reshape(4, 6)
    part = DeviceArray(emulated, values.T[1::2], stream=2, writeable=False)
    interface = part.__cuda_array_interface__
    assert interface["strides"] == (16, 48)
    assert interface["shape"] == (3, 4)
    assert interface["data"] == (part.address, True)
    assert (interface["stream"], interface["version"]) == (2, 3)
    np.testing.assert_array_equal(part.numpy(), values.T[1::2])
    whole = DeviceArray(emulated, values)
    assert whole.__cuda_array_interface__["strides"] is None
    assert DeviceArray(emulated, np.zeros((0, 3))).__cuda_array_interface__["data"][0] == 0


class Careless(EmulatedDriver):
    """Runs kernels without their barriers."""

    def load(self, device: int, code: Any) -> Any:
        return super().load(device, replace(code, ptx=re.sub(r"bar\.sync\s+0;", "", code.ptx)))


def test_a_kernel_without_its_barriers_is_found() -> None:
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    driver = Careless()
    with drivers.use(driver):
        weight: Any = DeviceArray(driver, values)
        grad: Any = DeviceArray(driver, values)
        stepspec.create("lars").fused_step([0], [weight], [grad], [{}])
        with pytest.raises(MachineError, match=r"ld\.shared\.f64 .* races with thread \d+ of block"):
            weight.numpy()
