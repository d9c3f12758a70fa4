"""Norms of gradients on emulated GPUs: the bits of the host's, in any storage, strides and place."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from device_training import placed
from emulated_driver import EmulatedDriver
from training import Array, random_tensors

from stepspec.cuda.driver import use
from stepspec.norms import measure

pytestmark = pytest.mark.xdist_group("ptx")

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SHAPES = [(), (0, 3), (5,), (255,), (17, 16), (4096,), (70, 61)]


@pytest.fixture
def driver() -> Iterator[EmulatedDriver]:
    emulated = EmulatedDriver()
    with use(emulated):
        yield emulated


def of_all_kinds(seed: int = 0) -> list[Array]:
    return [array for dtype in DTYPES for array in random_tensors(SHAPES, dtype, seed)]


def same(driver: EmulatedDriver, grads: list[Array], devices: list[int] | None = None, **how: Any) -> None:
    found = measure(
        [
            placed(driver, grad, device, **how)
            for grad, device in zip(grads, devices or [0] * len(grads), strict=True)
        ],
        True,
    )
    expected = measure(grads, True)
    assert found.values.tobytes() == expected.values.tobytes()
    assert found.exponents.tolist() == expected.exponents.tolist()


def test_gradients_of_all_dtypes_have_the_norms_of_the_host(driver: EmulatedDriver) -> None:
    same(driver, of_all_kinds())
    same(driver, of_all_kinds(seed=1))


def test_gradients_on_two_devices(driver: EmulatedDriver) -> None:
    grads = of_all_kinds()
    same(driver, grads, [i % 2 for i in range(len(grads))])


def test_large_and_small_doubles_are_measured_again(driver: EmulatedDriver) -> None:
    same(
        driver,
        [np.full(300, 1.5e300), np.full(3, 1e-200), np.ones(3), np.array([np.inf, 1.0]), np.array([np.nan])],
    )


def test_strided_gradients_are_copied(driver: EmulatedDriver) -> None:
    square = random_tensors([(66, 77)], np.float32, seed=5)[0]
    same(driver, [np.asfortranarray(square), square[::2, ::3], square])


def test_norms_wait_for_gradients_under_way_on_other_streams(driver: EmulatedDriver) -> None:
    grads = random_tensors([(300,), (5,)], np.float32)
    away = [placed(driver, np.zeros_like(grad), 0, stream=7 + k) for k, grad in enumerate(grads)]
    for late, grad in zip(away, grads, strict=True):
        pinned = driver.pin(grad.nbytes)
        pinned.array[: grad.nbytes] = grad.view(np.uint8)
        address = late.__cuda_array_interface__["data"][0]
        driver.copy_in(0, address, pinned.address, grad.nbytes, late.__cuda_array_interface__["stream"])
    assert measure(away, True).values.tobytes() == measure(grads, True).values.tobytes()


def test_measuring_again_pins_no_more_memory(driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locked memory takes long to get, and freeing it waits for the device."""
    sizes: list[int] = []
    pin = driver.pin

    def noted(size: int) -> Any:
        sizes.append(size)
        return pin(size)

    monkeypatch.setattr(driver, "pin", noted)
    for grad in [placed(driver, grad, 0) for grad in random_tensors([(300,)] * 4, np.float32, 0)]:
        measure([grad], True)
    assert len(sizes) == 1
