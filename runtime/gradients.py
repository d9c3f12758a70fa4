"""The gradients of a plan's calls: where their numbers lie, and which rows the row-sparse ones hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepspec.arrays import Gradients, is_plain
from stepspec.checks import Entry
from stepspec.compilation import log
from stepspec.sparse import RowSparse
from stepspec.states import Array


class GradientRows:
    """Rows of kernels' tables, one entry per tensor, filled anew by every call.

    Attributes
    ----------
    addresses
        Where the gradients' numbers begin, int64.
    present_rows, present
        Where the row numbers of row-sparse gradients begin, and how many they are, int64; 0 of dense ones.
    sparse
        The positions of the row-sparse gradients.
    copied
        What messages call the tensors whose gradients were copied for the present call.

    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._kinds = _kinds(entries)
        self._told: set[int] = set()
        self.copied: tuple[str, ...] = ()
        self._weights = [entry.weight for entry in entries]
        self.sparse = tuple(i for i, entry in enumerate(entries) if isinstance(entry.grad, RowSparse))
        self._dense = [i for i, entry in enumerate(entries) if not isinstance(entry.grad, RowSparse)]
        written = [array for entry in entries for array in entry.written.values()]
        # the shapes of the weights, each in the gradient's dtype, without memory of their own
        alike = [
            np.broadcast_to(np.empty((), entries[i].values.dtype), entries[i].weight.shape)
            for i in self._dense
        ]
        self._plain = Gradients(alike, written)
        self.addresses = np.zeros(len(entries), np.int64) if self.sparse else self._plain.pointers
        self.present_rows, self.present = np.zeros((2, len(entries)), np.int64)

    def fit(self, entries: Sequence[Entry]) -> bool:
        """Tell whether gradients of checked tensors are of the same dtypes, row-sparse where these are."""
        return self._kinds == _kinds(entries)

    def take(self, grads: tuple[Any, ...]) -> bool:
        """Take gradients as they lie; False if they need all checks, or copies."""
        self.copied = ()
        if not self.sparse:
            return self._plain.accept(grads)
        if not all(map(self._is_usable, self.sparse, (grads[i] for i in self.sparse))):
            return False
        if self._dense:
            if not self._plain.accept(tuple(grads[i] for i in self._dense)):
                return False
            self.addresses[self._dense] = self._plain.pointers
        for i in self.sparse:
            self._point(i, grads[i], grads[i].values)
        return True

    def copy(self, entries: Sequence[Entry]) -> tuple[Any, ...]:
        """Take checked gradients, copied where not contiguous; the caller keeps the result alive."""
        held = tuple(map(self._contiguous, entries))
        self.copied = tuple(entry.label for entry in entries if not is_plain(entry.values))
        self.addresses[:] = [values.ctypes.data for values in held]
        for i in self.sparse:
            self._point(i, entries[i].grad, held[i])
        return held, tuple(entry.grad for entry in entries)

    def _contiguous(self, entry: Entry) -> Array:
        if is_plain(entry.values):
            return entry.values
        if entry.index not in self._told:
            self._told.add(entry.index)
            log.info("the gradient of %s is not C-contiguous: such gradients are copied", entry.label)
        return np.require(entry.values, requirements=("C", "A"))

    def _is_usable(self, tensor: int, grad: Any) -> bool:
        if type(grad) is not RowSparse or grad.shape != self._weights[tensor].shape:
            return False
        values = grad.values
        whole = grad.is_whole() and values.dtype == self._kinds[tensor][1]
        return whole and is_plain(values) and not self._plain.meets_written(values)

    def _point(self, tensor: int, grad: Any, values: Array) -> None:
        self.addresses[tensor] = values.ctypes.data
        self.present_rows[tensor] = grad.rows.ctypes.data
        self.present[tensor] = grad.rows.size


def _kinds(entries: Sequence[Entry]) -> list[tuple[bool, np.dtype[Any]]]:
    return [(isinstance(entry.grad, RowSparse), entry.values.dtype) for entry in entries]
