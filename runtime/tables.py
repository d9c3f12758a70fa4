"""Many tensors in one call: the tables that compiled kernels walk. See Note [Order of work]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stepspec.batches import (
    BATCH_ELEMENTS,
    LAZY_PARTS,
    Batch,
    Kernel,
    Segment,
    Shape,
    Stage,
    gathered,
    ordered,
    parted,
)
from stepspec.formats import Formats
from stepspec.states import Array
from stepspec.work import Work


class Tables:
    """Rows of addresses and of scalars with one entry per tensor, and one table of rows per kernel.

    Parameters
    ----------
    shapes
        The tensors.
    arrays
        Array parameter to the addresses of its arrays, one per tensor, 0 where a tensor has none.
    present_rows, present
        Where the rows of row-sparse gradients are listed, and how many they are.

    """

    def __init__(
        self, shapes: Sequence[Shape], arrays: Mapping[str, Array], present_rows: Array, present: Array
    ) -> None:
        self.shapes = shapes
        self.rows = np.array([shape.rows for shape in shapes], np.int64)
        self.columns = np.array([shape.columns for shape in shapes], np.int64)
        self.addresses = dict(arrays)
        self.noise_key, self.noise_count = np.zeros((2, len(shapes)), np.int64)
        # what stands behind the parameters in every table of an array kernel
        self._tail = {
            "columns": self.columns,
            "present_rows": present_rows,
            "present": present,
            "copy": self.addresses.get("copy", np.zeros(len(shapes), np.int64)),
            "noise_key": self.noise_key,
            "noise_count": self.noise_count,
        }
        self.scalars: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}
        self._results: set[str] = set()
        # by parameter: variants may give one name to reductions of different sizes
        self._scratch: dict[Any, tuple[Array, Array]] = {}
        self._columns: dict[str, Array] = {}
        self._tables: dict[Kernel, Array] = {}
        self._finishes: dict[tuple[Kernel, str], Array] = {}

    def work(
        self, stages: Sequence[Stage], tensors: Sequence[int], lazy: frozenset[int] = frozenset()
    ) -> Work:
        """Return the work of some tensors: all stages, in the order of Note [Order of work].

        Of the tensors that are `lazy`, the stages that write see the rows of the gradient only.
        """
        small: list[tuple[int, Batch]] = []
        alone: list[Batch] = []
        chains: list[list[Segment]] = []
        for tensor in tensors:
            segments = list(self._segments(stages, tensor, tensor in lazy))
            if all(len(segment.batches) == 1 for segment in segments):
                batch = [item for segment in segments for item in (*segment.batches[0], *segment.after)]
                small.append((self.shapes[tensor].size, batch))
            elif len(segments) == 1 and not segments[0].after:
                alone += segments[0].batches
            else:
                chains.append(segments)
        return Work.of(*ordered(chains, [*alone, *gathered(small)]))

    def _segments(self, stages: Sequence[Stage], tensor: int, lazy: bool) -> Iterator[Segment]:
        """Yield what one tensor has to do, one segment after the other."""
        batches: list[Batch] = []
        after: Batch = []
        for stage in stages:
            kernel = stage.get(self.shapes[tensor].variant)
            if kernel is None:
                continue
            if kernel.form == "scalars":
                after += self._items(kernel, tensor)
                continue
            if batches or after:
                yield Segment(batches or [[]], after)
            if lazy and not kernel.reductions:
                batches = self._lazy_parts(kernel, tensor)
            else:
                batches = list(parted(kernel, self._items(kernel, tensor), self.shapes[tensor]))
            after = self._finish(kernel, tensor)
        if batches or after:
            yield Segment(batches or [[]], after)

    def _items(self, kernel: Kernel, tensor: int) -> Batch:
        shape = self.shapes[tensor]
        unit, total = kernel.chunks(shape.rows, shape.columns)
        if total == 0:
            return []
        head = self._head(kernel, tensor, shape.formats)
        return [(*head, start, min(unit, total - start)) for start in range(0, total, unit)]

    def _lazy_parts(self, kernel: Kernel, tensor: int) -> list[Batch]:
        shape = self.shapes[tensor]
        parts = min(LAZY_PARTS, max(1, shape.size // BATCH_ELEMENTS))
        head = self._head(kernel, tensor, replace(shape.formats, gradient="lazy"))
        return [[(*head, part, parts)] for part in range(parts)]

    def _head(self, kernel: Kernel, tensor: int, formats: Formats) -> tuple[int, int, int]:
        address = kernel.address(formats, frozenset(self._columns))
        return address, self._table(kernel).ctypes.data, tensor

    def _finish(self, kernel: Kernel, tensor: int) -> Batch:
        dtype = self.shapes[tensor].formats.compute
        self._table(kernel)
        return [
            (p.reduction.finish_address(dtype), self._finishes[kernel, p.name].ctypes.data, tensor, 0, 1)
            for p in kernel.reductions
        ]

    def _table(self, kernel: Kernel) -> Array:
        if kernel not in self._tables:
            table = np.array([self._row(slot).ctypes.data for slot in kernel.slots], np.int64)
            for parameter in kernel.reductions:
                self._finishes[kernel, parameter.name] = self._finish_table(parameter)
            self._tables[kernel] = table  # last: Ctrl-C may come before
        return self._tables[kernel]

    def _row(self, slot: Any) -> Array:
        """Return the row of one parameter of a kernel."""
        match slot.role:
            case "scalar":
                row = self._scalar(slot.name)
                if slot.name not in self._results:
                    self.inputs[slot.name] = row
                return row
            case "result":
                return self._result(slot.name)
            case "buffer":
                return self._partials(slot)
            case "element" | "row" | "column":
                return self.addresses[slot.name]
            case "noise":
                return self.noise_key
            case role if role in self._tail:
                return self._tail[role]
        raise AssertionError(f"a kernel's parameter has no role {slot.role!r}")

    def known_scalar(self, name: str) -> Array:
        """Return a row that the caller fills: a state with one number per tensor."""
        return self._result(name)

    def _scalar(self, name: str) -> Array:
        return self.scalars.setdefault(name, np.zeros(len(self.shapes)))

    def _result(self, name: str) -> Array:
        self._results.add(name)
        return self._scalar(name)

    def _partials(self, parameter: Any) -> Array:
        """Return the addresses of a reduction's scratch."""
        if parameter not in self._scratch:
            sizes = [parameter.reduction.partials(shape.rows, shape.columns) for shape in self.shapes]
            self._scratch[parameter] = _carve(sizes, 8)
        return self._scratch[parameter][0]

    def _finish_table(self, parameter: Any) -> Array:
        """Return the table of the entry that finishes one reduction: scratch, rows, columns, result."""
        if parameter.reduction.per == "tensor":
            result = self._result(parameter.name)
        else:
            if parameter.name not in self._columns:
                sizes = [shape.columns for shape in self.shapes]
                self.addresses[parameter.name], self._columns[parameter.name] = _carve(sizes, 8)
            result = self.addresses[parameter.name]
        rows = (self._partials(parameter), self.rows, self.columns, result)
        return np.array([row.ctypes.data for row in rows], np.int64)


def _carve(sizes: Sequence[int], width: int) -> tuple[Array, Array]:
    """Return the addresses of pieces of one new block of memory, and the block."""
    ends = np.cumsum(sizes, dtype=np.int64) * width
    memory = np.empty(int(ends[-1]) if len(sizes) else 0, np.uint8).view(np.float64)
    return memory.ctypes.data + np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]]), memory
