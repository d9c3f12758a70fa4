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

from stepspec.cuda.items import THREADS, chunks, cut
from stepspec.cuda.launches import Action, blocks, loaded
from stepspec.cuda.recipes import Pass
from stepspec.cuda.staging import Shipment
from stepspec.cuda.tables import WORD
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.cuda.compilation import Code
    from stepspec.cuda.driver import Driver, Function, Memory

# a shadow of what is read, and of what is written
Pair = tuple[Array, Array]


class Copies:
    """Copies of some arrays to others of their shapes and dtypes, all in one launch.

    Parameters
    ----------
    driver, device
        Where the arrays lie.
    pairs
        Shadows of the arrays; `take` gives others.

    """

    def __init__(self, driver: Driver, device: int, pairs: Sequence[Pair] = ()) -> None:
        self._driver, self._device = driver, device
        self._memory: Memory | None = None
        self._retired: list[object] = []
        self._room = 0
        self._words: Array = np.zeros(0, np.int64)
        self._sent: Array | None = None
        self._loaded: tuple[Code, Function] | None = None
        self.take(pairs)

    def take(self, pairs: Sequence[Pair]) -> None:
        """Copy other arrays from now on; the memory of the table is used again."""
        pairs = [(source, target) for source, target in pairs if source.size]
        self._count = 0
        if not pairs:
            return
        axes = max(source.ndim for source, _ in pairs)
        records = np.array([_record(source, target, axes) for source, target in pairs], np.int64)
        items = cut(range(len(pairs)), [chunks(source.size, 1) for source, _ in pairs])
        self._words = np.concatenate([[records.shape[1]], records.ravel(), items])
        self._count = items.size
        self._loaded = self._loaded or loaded(self._driver, self._device, _pass())
        size = self._words.nbytes
        if self._memory is None or self._room < size:
            memory = self._driver.allocate(self._device, 2 * size)  # first: there may be none
            self._retired.append(self._memory)  # an earlier call may still read it
            self._sent = None
            self._memory, self._room = memory, 2 * size

    def send(self, shipment: Shipment, stream: int) -> None:
        """Copy the table to the device, unless it is there."""
        shipment.keep(*self._retired)
        self._retired.clear()
        if self._memory is None or (self._sent is not None and np.array_equal(self._sent, self._words)):
            return
        self._sent = None  # until it is sure
        shipment.send(self._memory.address, self._words, stream)
        self._sent = self._words

    def launch(self, stream: int) -> list[Action]:
        """Return the launch, ready for a stream, if there is anything to copy."""
        if not self._count or self._memory is None or self._loaded is None:
            return []
        code, function = self._loaded
        table = self._memory.address
        grid = blocks(self._driver, self._device, code, self._count)
        arguments = table, table + WORD * (self._words.size - self._count), self._count
        return [self._driver.prepare(function, grid, THREADS, arguments, stream)]


def _record(source: Array, target: Array, axes: int) -> list[int]:
    unused = [0] * (axes - source.ndim)
    head = [source.ctypes.data, target.ctypes.data, source.itemsize, source.size, source.ndim]
    extents, strides = [*source.shape, *unused], [*source.strides, *unused]
    return [*head, *extents, *strides, *target.strides, *unused]


@functools.cache
def _pass() -> Pass:
    from stepspec.cuda.strided_entry import strided_entry

    return Pass.of("stepspec.cuda.strided", (), chunks, strided_entry)
