"""Arrays of PyTorch and CuPy that stand in for those on a GPU: how each is asked, and what it makes."""

import ctypes
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from emulated_driver import DeviceArray, EmulatedDriver

import stepspec
from stepspec.cuda import libraries
from stepspec.cuda.arrays import Quick, device_number, shadows
from stepspec.cuda.driver import use
from stepspec.places import copied, new, on_device, shadow, to_host, writing

MATRIX = np.arange(24, dtype=np.float32).reshape(4, 6)
STREAM = 77


class HostDriver:
    """Copies within the host's memory, where PyTorch's tensors are without a GPU."""

    def copy_out(self, device: int, target: Any, source: int, stream: int) -> None:
        assert (device, stream) == (0, STREAM)
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def copy_in(self, device: int, target: int, source: int, size: int, stream: int) -> None:
        assert (device, stream) == (0, STREAM)
        ctypes.memmove(target, source, size)

    def pin(self, size: int) -> Any:
        array = np.zeros(size, np.uint8)
        return SimpleNamespace(array=array, address=array.ctypes.data)

    def synchronize(self, device: int, stream: int) -> None:
        assert (device, stream) == (0, STREAM)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """PyTorch, whose tensors pretend to be on device 0, with work under way on one stream."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(torch.Tensor, "get_device", lambda tensor: 0)
    current = SimpleNamespace(cuda_stream=STREAM)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    libraries.library_of.cache_clear()
    libraries._made.cache_clear()
    with use(HostDriver()):  # type: ignore[arg-type]  # what copies need of a driver
        yield torch
    libraries.library_of.cache_clear()
    libraries._made.cache_clear()


def test_tensors_that_require_a_gradient_are_weights(torch: Any) -> None:
    weight = torch.nn.Parameter(torch.from_numpy(MATRIX.copy()).t())
    assert weight.requires_grad
    assert on_device(weight)
    seen = shadow(weight)
    assert (seen.shape, seen.strides, seen.dtype) == ((6, 4), (4, 24), np.dtype(np.float32))
    assert seen.ctypes.data == weight.data_ptr()
    writing(weight, MATRIX.T + 1)()
    assert to_host(weight).tolist() == weight.tolist() == (MATRIX.T + 1).tolist()


def test_bfloat16_is_that_of_ml_dtypes(torch: Any) -> None:
    tensor = torch.arange(5, dtype=torch.bfloat16)
    assert shadow(tensor).dtype == ml_dtypes.bfloat16
    assert to_host(tensor).tolist() == [0, 1, 2, 3, 4]
    master = copied(tensor, np.dtype(np.float32))
    assert (type(master), master.dtype) == (torch.Tensor, torch.float32)


def test_states_are_tensors(torch: Any) -> None:
    weight = torch.nn.Parameter(torch.arange(6, dtype=torch.float16).reshape(3, 2).t())
    opt = stepspec.SGD(momentum=0.9, multi_precision=True)
    state: dict[str, Any] = opt.create_state_multi_precision(0, weight)
    assert {name: (type(array), array.dtype) for name, array in state.items()} == {
        "mom": (torch.Tensor, torch.float32),
        "master": (torch.Tensor, torch.float32),
    }
    assert state["master"].tolist() == weight.tolist()
    assert state["master"].is_contiguous()
    assert not state["master"].requires_grad
    assert state["mom"].count_nonzero() == 0


@pytest.mark.parametrize("dtype", ["int64", "float8_e4m3fn"])
def test_other_dtypes_of_tensors_are_refused(torch: Any, dtype: str) -> None:
    tensor = torch.zeros(3, dtype=getattr(torch, dtype))
    with pytest.raises(TypeError, match=rf"the weight of tensor 0 has dtype .*{dtype}"):
        stepspec.SGD().create_state(0, tensor)


def test_the_message_about_sparse_tensors_is_the_remedy(torch: Any) -> None:
    indices, values = torch.tensor([[1, 3, 1]]), torch.ones(3, 6)
    grad = torch.sparse_coo_tensor(indices, values, (9, 6), check_invariants=True)
    with pytest.raises(
        TypeError, match=r"the gradient of tensor 0 is a sparse tensor; of g = grad.coalesce\(\)"
    ):
        shadows(stepspec.SGD()._label, [0], [torch.zeros(9, 6)], [grad], [{}])
    g = grad.coalesce()
    made = stepspec.RowSparse(g.values(), g.indices()[0], g.shape)
    assert made.rows.tolist() == [1, 3]
    assert made.shape == (9, 6)
    assert to_host(made.values)[0].tolist() == [2] * 6


def test_tensors_are_read_quickly(torch: Any) -> None:
    tensors = [torch.zeros(3, 4), torch.zeros(5, dtype=torch.float64)]
    quick = Quick(tensors)
    others = [torch.ones(3, 4), torch.ones(5, dtype=torch.float64)]
    found = quick.addresses(others)
    assert found is not None
    assert found.tolist() == [tensor.data_ptr() for tensor in others]
    assert quick.streams(others) == (STREAM,)
    for other in (
        torch.ones(4, 3),
        torch.ones(3, 4).double(),
        torch.ones(3, 4).bfloat16(),
        torch.ones(4, 3).t(),
        torch.ones(3, 4).to_sparse(),
        np.ones((3, 4), np.float32),
        None,
    ):
        assert quick.addresses([other, tensors[1]]) is None
    turned = Quick([torch.ones(4, 4).t()])
    assert turned.addresses([torch.zeros(4, 4).t()]) is not None
    assert turned.addresses([torch.zeros(4, 8)[:, ::2]]) is None


def test_a_parameter_with_other_memory_is_found_out(torch: Any) -> None:
    weight = torch.nn.Parameter(torch.zeros(6))
    quick = Quick([weight], keep=True)
    known = quick.addresses([weight])
    weight.data = torch.ones(6)
    found = quick.addresses([weight])
    assert known is not None
    assert found is not None
    assert found[0] == weight.data_ptr() != known[0]
    weight.data = weight.data[:5]
    assert quick.addresses([weight]) is None


def test_a_tensor_turned_where_it_lies_is_found_out(torch: Any) -> None:
    weight = torch.zeros(4, 4)
    quick = Quick([weight], keep=True)
    assert quick.addresses([weight]) is not None
    weight.t_()
    assert quick.addresses([weight]) is None


def test_tensors_of_the_host_are_refused_as_ever() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3)
    assert not on_device(tensor)
    with pytest.raises(
        TypeError, match=r"must be a numpy.ndarray, not torch.Tensor; pass its memory with .detach"
    ):
        stepspec.SGD().update([0], [tensor], [tensor], [{}])


# ---------------------------------------------------------------------- CuPy


class CuPyArray:
    """What of `cupy.ndarray` is used, over an array of an emulated device."""

    __module__ = "cupy"

    def __init__(self, array: DeviceArray) -> None:
        self.array, self.device = array, Device(array.device)
        self.data = SimpleNamespace(ptr=array.address, device_id=array.device)
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.array.__cuda_array_interface__ | {"stream": 1}

    def astype(self, dtype: Any, order: Any) -> "CuPyArray":
        assert Device.current == self.device.id
        values = self.array.numpy().astype(dtype, order=order)
        return CuPyArray(DeviceArray(self.array.driver, values, self.device.id))


class Device:
    """`cupy.cuda.Device`: a context that makes a device the current one."""

    current = 0

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> None:
        Device.current = self.id

    def __exit__(self, *error: object) -> None:
        Device.current = 0


def test_arrays_of_cupy_make_their_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, cupy = EmulatedDriver(), ModuleType("cupy")

    def full(shape: Any, value: float, dtype: Any) -> CuPyArray:
        return CuPyArray(DeviceArray(driver, np.full(shape, value, dtype), Device.current))

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cupy, "full", full, raising=False)
    with use(driver):
        weight = CuPyArray(DeviceArray(driver, MATRIX.T, 1))
        assert device_number(weight) == 1
        for made in (new(weight, (2,), np.dtype(np.float16), 3.0), copied(weight, np.dtype(np.float64))):
            assert type(made) is CuPyArray
            assert device_number(made) == 1
        assert to_host(made).tolist() == MATRIX.T.tolist()
        quick = Quick([weight])
        again = CuPyArray(DeviceArray(driver, MATRIX.T, 1))
        found = quick.addresses([again])
        assert found is not None
        assert found.tolist() == [again.array.address]
        assert quick.streams([again]) == (0,)
        for other in (DeviceArray(driver, MATRIX.T), DeviceArray(driver, MATRIX, 1)):
            assert quick.addresses([CuPyArray(other)]) is None
