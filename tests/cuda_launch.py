"""Launches of single passes on the PTX machine, over tables that are made by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ptx_machine import Machine, Memory

from stepspec.cuda.items import PART
from stepspec.cuda.recipes import Pass
from stepspec.layout import Parameter

Array = np.ndarray[Any, Any]
Shape = tuple[int, int]

SM_90 = (9, 0)


class Launcher:
    """Runs passes over tensors of `shapes` (rows, columns); keeps the rows of tables in the machine's memory.

    `rows` are by names of slots: addresses, scalars, or counts of each tensor. Those of the shapes are known,
    results and buffers made; what the passes do not need may be absent.
    """

    def __init__(self, memory: Memory, shapes: Sequence[Shape], rows: Mapping[str, Any]) -> None:
        self.memory, self.shapes = memory, shapes
        self._rows = {name: memory.put(self._row(row)) for name, row in rows.items()}
        for name, count in (("rows", [r for r, _ in shapes]), ("columns", [c for _, c in shapes])):
            self._rows[name] = memory.put(np.array(count, np.int64))
        self._scratch: dict[Parameter, int] = {}

    @staticmethod
    def _row(row: Any) -> Array:
        values = np.array(row)
        return values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)

    def run(self, these: Sequence[Pass], grid: int = 3, first: int = 0) -> None:
        """Run passes in order; parts before the `first` are left out."""
        for this in these:
            table = self.memory.put(np.array([self._address(slot) for slot in this.slots], np.int64))
            items = [
                tensor | part << PART
                for tensor, shape in enumerate(self.shapes)
                for part in range(first, this.parts(*shape))
            ]
            arguments = table, self.memory.put(np.array(items, np.int64)), len(items)
            Machine(this.code(SM_90).ptx).launch(self.memory, grid, arguments)

    def put_scratch(self, slot: Parameter, arrays: Sequence[Array]) -> None:
        """Fill the scratch of a buffer."""
        self._scratch[slot] = self.memory.put(
            np.array([self.memory.put(array) for array in arrays], np.int64)
        )

    def result(self, name: str) -> Array:
        """Return a row of results."""
        return self.memory.get(self._rows[name], like=np.empty(len(self.shapes)))

    def _address(self, slot: Parameter) -> int:
        if slot.role == "buffer":
            if slot not in self._scratch:
                assert slot.reduction is not None
                sizes = [slot.reduction.partials(*shape) for shape in self.shapes]
                places = [self.memory.allocate(8 * size) for size in sizes]
                self._scratch[slot] = self.memory.put(np.array(places, np.int64))
            return self._scratch[slot]
        if slot.name not in self._rows:
            known = slot.role == "result"
            empty = np.zeros(len(self.shapes), np.int64)
            self._rows[slot.name] = self.memory.allocate(empty.nbytes) if known else self.memory.put(empty)
        return self._rows[slot.name]


def launch(
    memory: Memory,
    this: Pass,
    shapes: Sequence[Shape],
    rows: Mapping[str, Any],
    grid: int = 3,
    first: int = 0,
) -> None:
    """Run one pass; see `Launcher`."""
    Launcher(memory, shapes, rows).run([this], grid, first)


def same_bits(got: Array, want: Array) -> bool:
    """Tell whether bits are equal; every NaN equals every NaN."""
    whole = np.dtype(f"u{got.itemsize}")
    with np.errstate(all="ignore"):
        both_nan = np.isnan(got.astype(np.float64)) & np.isnan(want.astype(np.float64))
    equal = (got.view(whole) == want.view(whole)) | both_nan
    return got.dtype == want.dtype and got.shape == want.shape and bool(equal.all())
