"""A GPU emulated on the host, by the machine of the tests: proves that the checks run, and takes its time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from cases import Array
from gpu_places import DTYPES, Device, Library
from stepspec.cuda.copies import to_host
from stepspec.cuda.driver import use

TESTS = Path(__file__).parents[1] / "tests"


class Emulated(Library):
    """Arrays on the emulated device."""

    name = "emulated"
    dtypes = DTYPES

    def __init__(self, driver: Any, make: Any) -> None:
        self.driver, self.make = driver, make

    def own(self, values: Array) -> Any:
        return self.make(self.driver, np.array(values, order="C"))

    def strided(self, values: Array) -> Any:
        return self.make(self.driver, np.array(values, order="F"))

    def shifted(self, values: Array) -> Any:
        # whatever its address is, its memory is its own
        return self.own(values)

    def view(self, array: Any) -> Any:
        return array

    def back(self, array: Any) -> Array:
        return to_host(array)

    def random(self, shape: tuple[int, ...], scale: float) -> Any:
        return self.own(np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(scale))

    def stream(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def late(self, array: Any) -> Any:
        return array


@contextlib.contextmanager
def emulated() -> Iterator[Device]:
    """Let stepspec use the emulated driver meanwhile, and yield arrays there."""
    sys.path.insert(0, str(TESTS))
    try:
        from emulated_driver import DeviceArray, EmulatedDriver

        driver = EmulatedDriver()
        with use(driver):
            yield Emulated(driver, DeviceArray)
    finally:
        sys.path.remove(str(TESTS))
