"""Work items of many tensors, gathered to batches and runs.

Note [Batches and runs]

A *batch* is a list of work items which one thread does in order; a *run* starts all its batches at once and
ends when all are done. A tensor small enough to be one batch takes all its stages there, while it is in the
cache. A big one is cut into chunks: those of a stage with reductions fill one run; finishing these and the
scalar stages after it are one batch of the next. Tensors are aligned at the last run, and only stages
after the last reduction write, so everything before them can be abandoned without a trace.

Note [Lazy tensors]

A lazy tensor's rows are known at the call only, so its items are parts of the present rows instead: a fixed
number of them, whatever the rows. Stages with reductions read the whole tensor in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepspec.formats import Formats
from stepspec.states import Array, Variant

# what one batch should hold: small enough to balance threads, big enough to outweigh taking it
BATCH_ELEMENTS = 16384
# parts of a lazy tensor's present rows, at most
LAZY_PARTS = 64

Kernel = Any
Stage = Mapping[Variant, Kernel]
Item = tuple[int, int, int, int, int]
Batch = list[Item]


@dataclass(frozen=True, slots=True)
class Run:
    """The arguments of one `cpu.run`: items, and the bounds of the batches among them."""

    items: Array
    batches: Array

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Run:
        """Lay batches out as arrays."""
        items = np.array([item for batch in batches for item in batch], np.int64).reshape(-1, 5)
        return cls(items, np.cumsum([0, *map(len, batches)], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Segment:
    """Batches of one tensor that may run at the same time, and whether they write weights or states."""

    batches: list[Batch]
    writes: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """One tensor read as rows (the first axis) and columns (the product of the others)."""

    rows: int
    columns: int
    formats: Formats
    variant: Variant

    @classmethod
    def of(cls, shape: tuple[int, ...], formats: Formats, variant: Variant) -> Shape:
        """Read an array's shape; 0-d is one row of one element, 1-D is rows of one element."""
        return cls(shape[0] if shape else 1, math.prod(shape[1:]), formats, variant)

    @property
    def size(self) -> int:
        return self.rows * self.columns


def parted(kernel: Kernel, items: Batch, shape: Shape) -> Iterator[Batch]:
    """Part a tensor's chunks into batches of about equal work; a tensor without items is one empty batch."""
    width = shape.columns if kernel.form == "rows" else 1
    batch: Batch = []
    work = 0
    for item in items:
        if batch and work + item[4] * width > BATCH_ELEMENTS:
            yield batch
            batch, work = [], 0
        batch.append(item)
        work += item[4] * width
    yield batch


def gathered(whole: Sequence[tuple[int, Batch]]) -> Iterator[Batch]:
    """Join small tensors to batches worth taking."""
    joined: Batch = []
    work = 0
    for size, batch in whole:
        if joined and work + size > BATCH_ELEMENTS:
            yield joined
            joined, work = [], 0
        joined += batch
        work += size
    if joined:
        yield joined
