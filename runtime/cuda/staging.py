"""What goes from the host to a device: through page-locked memory that is not written before it was read.

See Note [Devices' order].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.cuda.driver import Driver, Pinned

# bytes of a shipment's memory, at least: a page
LEAST = 4096


class Shipment:
    """Copies of one call, and what must stay alive until its work on the device is done."""

    def __init__(self, driver: Driver, device: int) -> None:
        self._driver, self._device = driver, device
        self.event = driver.event(device)
        self._pinned: Pinned | None = None
        self._used = 0
        self._kept: list[object] = []
        # False from Ctrl-C on: nobody knows then when its work is done
        self.has_ended = False

    def reuse(self) -> None:
        """Begin anew: the work of the last call is done."""
        self.has_ended = False
        self._used = 0
        self._kept.clear()

    def end(self, stream: int) -> None:
        """Note where the work of the call ends."""
        self.event.record(stream)
        self.has_ended = True

    def keep(self, *objects: object) -> None:
        """Keep objects until the work is done."""
        self._kept.extend(objects)

    def send(self, target: int, numbers: Array, stream: int) -> None:
        """Copy an array to the device, in the order of the stream; the array may change at once."""
        if not numbers.nbytes:
            return
        pinned, start = self._room(numbers.nbytes)
        pinned.array[start : start + numbers.nbytes] = (
            np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
        )
        self._driver.copy_in(self._device, target, pinned.address + start, numbers.nbytes, stream)

    def _room(self, size: int) -> tuple[Pinned, int]:
        if self._pinned is None or self._used + size > self._pinned.array.size:
            self.keep(self._pinned)
            self._pinned = self._driver.pin(max(LEAST, 2 * (self._used + size)))
            self._used = 0
        start = self._used
        self._used += size
        return self._pinned, start


class Staging:
    """Shipments to one device, used in turn: as many as the host has calls ahead of the device."""

    def __init__(self, driver: Driver, device: int) -> None:
        self._driver, self._device = driver, device
        self._sent: list[Shipment] = []

    def take(self) -> Shipment:
        """Return a shipment that is not under way; it is under way from now on."""
        self._sent = [shipment for shipment in self._sent if shipment.has_ended]
        if self._sent and self._sent[0].event.done():
            shipment = self._sent.pop(0)
            shipment.reuse()
        else:
            shipment = Shipment(self._driver, self._device)
        self._sent.append(shipment)
        return shipment
