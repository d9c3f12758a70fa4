"""Copies of arrays between any strides, on the device: for arrays that kernels cannot walk where they lie.

Note [Strided copies]
The table of a launch is the number of words in a record, then a record for each copy: addresses of source and
target, bytes of an element, number of elements, number of axes; then, for as many axes as any array has, the
extents and both strides in bytes. A work item is a chunk of elements of one record.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stepspec.cuda.launches import THREADS, Action, blocks, loaded
from stepspec.cuda.recipes import Pass
from stepspec.cuda.staging import Shipment
from stepspec.cuda.tables import WORD, cut
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.cuda.driver import Driver

# a shadow of what is read, and of what is written
Pair = tuple[Array, Array]


class Copies:
    """Copies of some arrays to others of their shapes and dtypes, all in one launch.

    Parameters
    ----------
    driver, device
        Where the arrays lie.
    pairs
        Shadows of arrays with at least one element.

    """

    def __init__(self, driver: Driver, device: int, pairs: Sequence[Pair]) -> None:
        self._driver, self._device = driver, device
        self._pairs = [(source, target) for source, target in pairs if source.size]
        axes = max((source.ndim for source, _ in self._pairs), default=0)
        records = np.array([_record(source, target, axes) for source, target in self._pairs], np.int64)
        self._table = np.append(records.size // max(1, len(records)), records.ravel())
        chunks = _pass().parts
        self._items = cut(range(len(records)), [chunks(source.size, 1) for source, _ in self._pairs])
        self._code, self._function = loaded(driver, device, _pass())
        self._memory = driver.allocate(device, self._table.nbytes + self._items.nbytes)
        self._is_sent = False

    def send(self, shipment: Shipment, stream: int) -> None:
        """Copy the table to the device, unless it is there."""
        if not self._is_sent:
            shipment.send(self._memory.address, np.concatenate([self._table, self._items]), stream)
            self._is_sent = True

    def launch(self, stream: int) -> list[Action]:
        """Return the launch, ready for a stream."""
        count = self._items.size
        if not count:
            return []
        table = self._memory.address
        grid = blocks(self._driver, self._device, self._code, count)
        arguments = table, table + WORD * self._table.size, count
        return [self._driver.prepare(self._function, grid, THREADS, arguments, stream)]


def _record(source: Array, target: Array, axes: int) -> list[int]:
    unused = [0] * (axes - source.ndim)
    head = [source.ctypes.data, target.ctypes.data, source.itemsize, source.size, source.ndim]
    extents, strides = [*source.shape, *unused], [*source.strides, *unused]
    return [*head, *extents, *strides, *target.strides, *unused]


@functools.cache
def _pass() -> Pass:
    from stepspec.cuda.entries import chunks
    from stepspec.cuda.strided_entry import strided_entry

    return Pass.of("stepspec.cuda.strided", (), chunks, strided_entry)
