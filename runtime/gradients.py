"""The gradients of a plan's calls: where their numbers lie, and which rows the row-sparse ones hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepspec.arrays import Gradients, Snapshot, is_plain
from stepspec.checks import Entry, check_gradient
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

    def __init__(self, entries: Sequence[Entry], written: Snapshot) -> None:
        self._kinds = _kinds(entries)
        self._told: set[int] = set()
        self.copied: tuple[str, ...] = ()
        self._labels = [(entry.index, entry.label) for entry in entries]
        self.sparse = tuple(i for i, (is_sparse, _) in enumerate(self._kinds) if is_sparse)
        shapes, dtypes = [entry.weight.shape for entry in entries], [dtype for _, dtype in self._kinds]
        self._plain = Gradients(shapes, dtypes, self.sparse, written)
        self.addresses, self.present_rows = self._plain.addresses, self._plain.rows
        self.present = self._plain.present

    def fit(self, entries: Sequence[Entry]) -> bool:
        """Tell whether gradients of checked tensors are of the same dtypes, row-sparse where these are."""
        return self._kinds == _kinds(entries)

    def take(self, grads: tuple[Any, ...], weights: Sequence[Array]) -> Sequence[Any] | None:
        """Take gradients as they lie, or copied; None if all checks are needed.

        The caller keeps the result alive until the call has ended.
        """
        self.copied = ()
        if len(grads) != len(self._kinds):
            return None
        closer = self._plain.accept(grads)
        if not closer:
            return grads
        if not all(self._look(i, grads[i], weights[i]) for i in closer):
            return None
        return *grads, self._hold(closer, [grads[i] for i in closer])

    def take_checked(self, entries: Sequence[Entry]) -> Sequence[Any]:
        """Take checked gradients, copied where not contiguous; the caller keeps the result alive."""
        grads = tuple([entry.grad for entry in entries])
        closer = self._plain.accept(grads)
        return *grads, self._hold(closer, [grads[i] for i in closer])

    def _look(self, i: int, grad: Any, weight: Array) -> bool:
        """Tell whether one gradient is as before, after the checks of a single tensor."""
        check_gradient(f"the gradient of {self._labels[i][1]}", grad, weight)
        kind = _kind(grad)
        return kind == self._kinds[i] and not self._plain.meets_written(_values(grad))

    def _hold(self, positions: Sequence[int], grads: Sequence[Array | RowSparse]) -> list[Array]:
        """Note where gradients lie; return their numbers, copied where kernels cannot walk them."""
        held = [self._contiguous(i, _values(grad)) for i, grad in zip(positions, grads, strict=True)]
        for i, grad, values in zip(positions, grads, held, strict=True):
            self._plain.point(i, grad, values)
        moved = (
            i for i, grad, values in zip(positions, grads, held, strict=True) if values is not _values(grad)
        )
        self.copied = tuple(self._labels[i][1] for i in moved)
        return held

    def _contiguous(self, i: int, values: Array) -> Array:
        if is_plain(values):
            return values
        index, label = self._labels[i]
        if index not in self._told:
            self._told.add(index)
            log.info("the gradient of %s is not C-contiguous: such gradients are copied", label)
        return np.require(values, requirements=("C", "A"))


def _values(grad: Array | RowSparse) -> Array:
    return grad.values if isinstance(grad, RowSparse) else grad


def _kind(grad: Array | RowSparse) -> tuple[bool, np.dtype[Any]]:
    return isinstance(grad, RowSparse), grad.dtype


def _kinds(entries: Sequence[Entry]) -> list[tuple[bool, np.dtype[Any]]]:
    return [_kind(entry.grad) for entry in entries]
