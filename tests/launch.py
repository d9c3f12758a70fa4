"""Kernels run by hand, with tables as the runtime makes them, for tests of the layer below it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from stepspec import cpu
from stepspec.formats import Formats
from stepspec.layout import TAIL

DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


class Launch:
    """Tables of some tensors for any kernel.

    Arrays, scalars and what the tail of a table holds are given by name, one entry per tensor; what is not
    given is 0, or NaN for a scalar.
    """

    def __init__(self, formats: Formats | str, shapes: list[tuple[int, int]], **rows: list[Any]) -> None:
        self.formats = Formats.plain(formats) if isinstance(formats, str) else formats
        self.shapes = shapes
        self.arrays = {k: v for k, v in rows.items() if isinstance(v[0], np.ndarray)}
        whole = {slot.name for slot in TAIL}  # a key has 64 bits
        self.numbers = {
            k: np.array(v, np.int64 if k in whole else np.float64)
            for k, v in rows.items()
            if k not in self.arrays
        }
        # arrays that hold results of reductions
        self.produced: set[str] = set()
        self.kept: list[Any] = []

    def addresses(self, arrays: list[np.ndarray]) -> np.ndarray:
        self.kept.append(arrays)
        return np.array([array.ctypes.data for array in arrays], np.int64)

    def row(self, slot: cpu.Parameter) -> np.ndarray:
        if slot.role in ("scalar", "result"):
            return self.numbers.setdefault(slot.name, np.full(len(self.shapes), np.nan))
        if slot.role == "columns":
            return np.array([columns for _, columns in self.shapes], np.int64)
        if slot.role == "present":
            return np.array([rows.size for rows in self.arrays.get("present_rows", [])], np.int64)
        if slot.role == "noise":
            return self.numbers["noise_key"]
        if slot.reduction is not None:
            return self.addresses([np.full(slot.reduction.partials(*s), np.nan) for s in self.shapes])
        if slot in TAIL and slot.name not in self.arrays:
            return self.numbers.get(slot.name, np.zeros(len(self.shapes), np.int64))
        return self.addresses(self.arrays[slot.name])

    def table(self, rows: list[np.ndarray]) -> int:
        addresses = self.addresses(rows)
        self.kept.append(addresses)
        return addresses.ctypes.data

    def run(self, kernel: cpu.Kernel, threads: int, chunks: int = 1) -> None:
        """Run a kernel over all tensors in items of some chunks, then finish its reductions.

        A lazy kernel gets each tensor in so many parts.
        """
        slots = {slot.name: self.row(slot) for slot in kernel.slots}
        head = kernel.address(self.formats, frozenset(self.produced)), self.table(list(slots.values()))
        items: list[tuple[int, ...]] = []
        for tensor, shape in enumerate(self.shapes):
            if self.formats.gradient == "lazy":
                items += [(*head, tensor, part, chunks) for part in range(chunks)]
                continue
            unit, total = kernel.chunks(*shape)
            for start in range(0, total, unit * chunks):
                items.append((*head, tensor, start, min(unit * chunks, total - start)))
        self.execute(items, threads)
        self.finish(kernel, slots, threads)

    def finish(self, kernel: cpu.Kernel, slots: dict[str, np.ndarray], threads: int) -> None:
        items: list[tuple[int, ...]] = []
        for slot in kernel.reductions:
            assert slot.reduction is not None
            sizes = [np.array(size, np.int64) for size in zip(*self.shapes, strict=True)]
            table = self.table([slots[slot.name], *sizes, self.results(slot.name, slot.reduction)])
            address = slot.reduction.finish_address(self.formats.compute)
            items += [(address, table, tensor, 0, 1) for tensor in range(len(self.shapes))]
        self.execute(items, threads)

    def results(self, name: str, reduction: cpu.Reduction) -> np.ndarray:
        if reduction.per == "tensor":
            return self.numbers.setdefault(name, np.full(len(self.shapes), np.nan))
        self.produced.add(name)
        self.arrays[name] = [np.full(columns, np.nan, self.formats.compute) for _, columns in self.shapes]
        return self.addresses(self.arrays[name])

    @staticmethod
    def execute(items: list[tuple[int, ...]], threads: int) -> None:
        if items:
            cpu.run(cpu.Work(np.array(items, np.int64), np.arange(len(items) + 1)), threads)


def draw(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()
