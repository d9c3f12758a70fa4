"""The norms of many gradients on GPUs: two launches for each dtype, and one wait for each device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepspec.batches import Shape
from stepspec.cuda.arrays import Quick, device_number, shadow
from stepspec.cuda.copies import Owned
from stepspec.cuda.driver import Driver, driver
from stepspec.cuda.items import THREADS
from stepspec.cuda.kernels import elements
from stepspec.cuda.launches import Action, blocks, loaded
from stepspec.cuda.passes import passes
from stepspec.cuda.staging import Shipment
from stepspec.cuda.strided import Copies
from stepspec.cuda.tables import Rows, Tables, Use
from stepspec.formats import Formats, spelled
from stepspec.states import Array

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

# sizes and dtypes of gradients, on a device
Kinds = tuple[tuple[int, str], ...]

# measurements kept for the next step
MOST = 8


@elements(reads=("grad",), reduces={"norm": "norm"})
def scaled(grad: Any, scale: Any) -> Any:
    """Return the terms of norm."""
    return scale * grad


def norms(grads: Sequence[Any], scale: float) -> Floats:
    """Return the norm of each gradient times `scale`, shape (n,).

    Parameters
    ----------
    grads
        Arrays on any devices, in any strides. What is under way on their streams comes first.
    scale
        A power of two.

    """
    seen, found = [shadow(grad) for grad in grads], np.zeros(len(grads))
    places: dict[int, list[int]] = {}
    for i, grad in enumerate(grads):
        if seen[i].size:
            places.setdefault(device_number(grad) or 0, []).append(i)
    for device, chosen in places.items():
        streams = Quick([grads[i] for i in chosen]).streams([grads[i] for i in chosen])
        found[chosen] = _on_device(device, [seen[i] for i in chosen], scale, streams or (0,))
    return found


def _on_device(device: int, seen: Sequence[Array], scale: float, streams: Sequence[int]) -> Floats:
    """Return the norms of what shadows on one device stand for; the work is put on the first stream."""
    first, *others = streams
    for stream in others:
        event = driver().event(device)
        event.record(stream)
        driver().wait(device, first, event)
    kinds = tuple([(array.size, spelled(array.dtype)) for array in seen])
    with _lock:
        measurement = _kept.pop((device, kinds), None)
    if measurement is None or measurement.driver is not driver():
        measurement = _Measurement(driver(), device, kinds)
    found = measurement.norms(seen, scale, first)
    with _lock:
        _keep(measurement, device, kinds)
    return found


_lock = threading.Lock()
# by device, sizes and dtypes; the last used stands last, one in use is not there
_kept: dict[tuple[int, Kinds], _Measurement] = {}


def _keep(measurement: _Measurement, device: int, kinds: Kinds) -> None:
    """Keep a measurement for the next step, and not too many, nor any of another driver."""
    _kept[device, kinds] = measurement
    excess = len(_kept) - MOST
    for key in [
        key for k, key in enumerate(_kept) if k < excess or _kept[key].driver is not measurement.driver
    ]:
        del _kept[key]


class _Measurement:
    """The launches that measure gradients of some sizes and dtypes, and the device memory they need."""

    def __init__(self, driver: Driver, device: int, kinds: Kinds) -> None:
        self.driver, self._device = driver, device
        self._addresses = np.zeros(len(kinds), np.int64)
        shapes = [Shape(1, size, Formats.plain(dtype), ()) for size, dtype in kinds]
        uses = []
        for dtype in dict.fromkeys(dtype for _, dtype in kinds):
            users = [i for i, (_, its) in enumerate(kinds) if its == dtype]
            collect, finish = passes(scaled, Formats.plain(dtype))
            uses.append(Use.of(collect, users, shapes))
        # the same for all
        uses.append(Use.of(finish, range(len(kinds)), shapes))
        self._loaded = [(use, *loaded(driver, device, use.run)) for use in uses]
        zeros = np.zeros(len(kinds), np.int64)
        slots = [slot for use in uses for slot in use.run.slots]
        fixed = {slot.name: zeros for slot in slots if slot.role == slot.name}
        fixed["rows"], fixed["columns"] = zeros + 1, np.array([size for size, _ in kinds], np.int64)
        rows = Rows(shapes, fixed, {"grad": self._addresses}, slots)
        self._tables = Tables(rows, len(kinds), uses)
        self._memory = driver.allocate(device, self._tables.size)
        self._shipment = Shipment(driver, device)

    def norms(self, seen: Sequence[Array], scale: float, stream: int) -> Floats:
        """Return the norms of what shadows stand for, times `scale`; wait for them."""
        base, shipment = self._memory.address, self._shipment
        shipment.reuse()  # the last measurement was waited for
        walked = [self._walked(array) for array in seen]
        pairs = [(one, other) for one, other in zip(seen, walked, strict=True) if one is not other]
        copies = Copies(self.driver, self._device, pairs) if pairs else None
        self._addresses[:] = [array.ctypes.data for array in walked]
        self._tables.inputs["scale"][:] = scale
        self._tables.send(base, lambda target, numbers: shipment.send(target, numbers, stream))
        launches = self._launches(stream)
        if copies:
            copies.send(shipment, stream)
            launches = copies.launch(stream) + launches
        with self.driver.current(self._device):
            self.driver.check([launch() for launch in launches])
        found = np.empty(len(seen))
        self.driver.copy_out(self._device, found, base + self._tables.result("norm"), stream)
        return found

    def _launches(self, stream: int) -> list[Action]:
        """Return the launches, ready for a stream."""
        launches, base = [], self._memory.address
        for (use, code, function), (table, items) in zip(self._loaded, self._tables.places, strict=True):
            grid = blocks(self.driver, self._device, code, use.items.size)
            arguments = base + table, base + items, use.items.size
            launches.append(self.driver.prepare(function, grid, THREADS, arguments, stream))
        return launches

    def _walked(self, array: Array) -> Array:
        """Return an array, or where it gets copied to as kernels walk it."""
        if array.flags.c_contiguous:
            return array
        return shadow(Owned(self._device, array.shape, array.dtype, None))
