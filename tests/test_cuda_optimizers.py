"""Every optimizer on arrays of a GPU, executed by the PTX machine: the bits of `step`."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from device_training import train_on_device
from emulated_driver import EmulatedDriver
from training import assert_same_bits, random_tensors, train

import stepspec
from stepspec.cuda.driver import use

SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (7,),
    (0, 3),
    (5, 0),
    (3, 5),
    (300, 1),
    (1, 300),
    (4, 5, 3),
    (67, 65),
)
NAMES = dict(enumerate(["a_weight", "a_bias", "gamma", "b_weight", "c_weight", "bias"]))


@pytest.fixture
def driver() -> Iterator[EmulatedDriver]:
    with use(EmulatedDriver()) as _:
        from stepspec.cuda.driver import driver

        used: Any = driver()
        yield used


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_device_has_the_bits_of_step(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, driver: EmulatedDriver
) -> None:
    weights = random_tensors(SHAPES, dtype)
    momentum = {"momentum": 0.9} if hasattr(optimizer_class, "momentum") else {}
    wd = {"wd": 0.05} if optimizer_class.uses_wd else {}
    options = {"clip_gradient": 0.7, "rescale_grad": -0.5, "param_idx2name": NAMES, **momentum, **wd}
    expected = train(optimizer_class(**options), weights, fused=False)
    assert_same_bits(expected, train_on_device(driver, optimizer_class(**options), weights))
