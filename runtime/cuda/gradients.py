"""The gradients of calls on a device: where their numbers lie, and which rows the row-sparse ones hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stepspec.arrays import Snapshot, is_plain, ranges
from stepspec.checks import Entry, check_gradient
from stepspec.cuda.arrays import Quick, device_number, gradient_shadow, shadow
from stepspec.cuda.copies import Owned
from stepspec.cuda.staging import Shipment
from stepspec.cuda.tables import WORD
from stepspec.places import on_device
from stepspec.sparse import RowSparse
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.cuda.driver import Driver, Memory


class Written:
    """The memory that arrays span which a call writes."""

    def __init__(self, written: Snapshot) -> None:
        self._starts, self._ends = ranges(written)

    def meets(self, lows: Array, sizes: Array) -> bool:
        """Tell whether any of some pieces of memory meets it; an empty one meets nothing."""
        if not self._ends.size:
            return False
        nearest = np.searchsorted(self._ends, lows, "right")
        starts = self._starts[np.minimum(nearest, self._ends.size - 1)]
        return bool(((nearest < self._ends.size) & (starts < lows + sizes) & (sizes > 0)).any())


class GradientRows:
    """Rows of the tables, one entry per tensor, filled anew by every call.

    Attributes
    ----------
    addresses, present_rows, present, sparse, copied
        As of `stepspec.gradients.GradientRows`; row numbers lie on the device, see
        Note [Scattered gradients].
    moved
        Shadows of gradients that are not contiguous, and of the buffers that they must be copied to.

    """

    def __init__(self, driver: Driver, device: int, entries: Sequence[Entry]) -> None:
        self._driver, self._device = driver, device
        self._kinds = [(entry.formats.gradient, entry.values.dtype) for entry in entries]
        self._labels = [entry.label for entry in entries]
        self._weights = [entry.weight for entry in entries]
        self.sparse = tuple(i for i, entry in enumerate(entries) if isinstance(entry.grad, RowSparse))
        self._dense = [i for i in range(len(entries)) if i not in set(self.sparse)]
        self._places = self._dense if self.sparse else slice(None)
        self._sizes = np.array([entries[i].values.nbytes for i in self._dense], np.int64)
        # the bits of an address that are 0 if it is aligned
        self._below = np.array([entries[i].values.itemsize - 1 for i in self._dense], np.int64)
        self._written = Written(Snapshot([array for entry in entries for array in entry.written.values()]))
        self._reader: Quick | None = None
        self.addresses, self.present_rows, self.present = np.zeros((3, len(entries)), np.int64)
        self.copied: tuple[str, ...] = ()
        self.moved: list[tuple[Array, Array]] = []
        self._buffers: dict[int, Array] = {}
        # what an earlier call may still read
        self._retired: list[object] = []
        self._numbers = np.zeros(0, np.int64)
        self._memory: Memory | None = None
        self._room = 0
        self._sent: Array | None = None

    def fit(self, entries: Sequence[Entry]) -> bool:
        """Tell whether gradients of checked tensors are of the same dtypes, row-sparse where these are."""
        return self._kinds == [(entry.formats.gradient, entry.values.dtype) for entry in entries]

    def take(self, grads: tuple[Any, ...]) -> bool:
        """Take gradients as they lie, or copied; False if all checks are needed."""
        self.copied, self.moved = (), []
        if len(grads) != len(self._kinds):
            return False
        dense = self._dense_of(grads)
        found = None if self._reader is None else self._reader.addresses(dense)
        if found is not None and ((found & self._below).any() or self._written.meets(found, self._sizes)):
            return False
        shadows = self._looked_at(grads, range(len(grads)) if found is None else self.sparse)
        if shadows is None:
            return False
        if found is None:
            self._learn(dense, shadows)
        else:
            self.addresses[self._places] = found
        self._take(shadows)
        return True

    def take_checked(self, entries: Sequence[Entry], grads: tuple[Any, ...]) -> None:
        """Take checked gradients."""
        self.copied, self.moved = (), []
        shadows = {i: entry.grad for i, entry in enumerate(entries)}
        self._learn(self._dense_of(grads), shadows)
        self._take(shadows)

    def streams(self, grads: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the streams that taken gradients name."""
        if self._reader is not None and not self.sparse:
            return self._reader.streams(grads)
        values = [_values(grad) for grad in grads]
        return Quick(values).streams(values)

    def _dense_of(self, grads: tuple[Any, ...]) -> Sequence[Any]:
        return [grads[i] for i in self._dense] if self.sparse else grads

    def _learn(self, dense: Sequence[Any], shadows: Mapping[int, Any]) -> None:
        """Remember what gradients are, if they can all be used where they lie."""
        is_usable = all(is_plain(shadows[i]) for i in self._dense)
        self._reader = Quick(dense) if is_usable else None

    def send(self, shipment: Shipment, stream: int) -> None:
        """Copy the row numbers of row-sparse gradients to the device, unless they are there."""
        shipment.keep(*self._retired)
        self._retired.clear()
        numbers = self._numbers
        if self._memory is None or (self._sent is not None and np.array_equal(self._sent, numbers)):
            return
        sparse = list(self.sparse)
        counts = self.present[sparse]
        self.present_rows[sparse] = self._memory.address + WORD * (np.cumsum(counts) - counts)
        self._sent = None  # until it is sure
        shipment.send(self._memory.address, numbers, stream)
        self._sent = numbers

    def _looked_at(self, grads: tuple[Any, ...], positions: Sequence[int]) -> dict[int, Any] | None:
        """Return shadows of some gradients, after the checks of single tensors; None if all are needed."""
        found = {}
        for i in positions:
            what, given = f"the gradient of {self._labels[i]}", _values(grads[i])
            if not on_device(given) or device_number(given, what) not in (None, self._device):
                return None
            grad = gradient_shadow(grads[i], what)
            check_gradient(what, grad, self._weights[i])
            numbers = _values(grad)
            low, high = np.lib.array_utils.byte_bounds(numbers)
            kind = "scattered" if isinstance(grad, RowSparse) else "dense", numbers.dtype
            if kind != self._kinds[i] or self._written.meets(*np.array([[low], [high - low]])):
                return None
            found[i] = grad
        return found

    def _take(self, grads: dict[int, Any]) -> None:
        """Note where checked gradients lie, given as shadows."""
        for i, grad in grads.items():
            values = _values(grad)
            self.addresses[i] = values.ctypes.data if values.size else 0
            if not is_plain(values):
                buffer = self._buffer(i, values)
                self.addresses[i] = buffer.ctypes.data
                self.moved.append((values, buffer))
                self.copied += (self._labels[i],)
        if self.sparse:
            rows = [grads[i].rows for i in self.sparse]
            self.present[list(self.sparse)] = [*map(len, rows)]
            self._numbers = np.concatenate(rows)
            self._reserve(self._numbers.nbytes)

    def _reserve(self, size: int) -> None:
        """Have memory for the row numbers, with room for more."""
        if self._memory is None or self._room < size:
            memory = self._driver.allocate(self._device, 2 * size)  # first: there may be none
            self._retired.append(self._memory)
            self._sent = None
            self._memory, self._room = memory, 2 * size

    def _buffer(self, i: int, values: Array) -> Array:
        """Return the shadow of a contiguous buffer for one gradient; later calls use it again."""
        buffer = self._buffers.get(i)
        if buffer is None or len(buffer) < len(values):
            self._retired.append(buffer)
            buffer = self._buffers[i] = shadow(Owned(self._device, values.shape, values.dtype, None))
        return buffer[: len(values)]


def _values(grad: Any) -> Any:
    return grad.values if isinstance(grad, RowSparse) else grad
