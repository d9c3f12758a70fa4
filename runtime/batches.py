"""Batches of many tensors, and the order they are done in.

Note [Order of work]

A tensor small enough to be one batch takes all its stages there, while it is in the cache. A big one is cut
into chunks, and each of its stages is a wave (see Note [Waves and latches]): the last batch of a stage with
reductions finishes these and does the scalar stages after it, then the next stage may begin. The waves of a
tensor follow each other, so that what a thread has read in one stage is still in its cache in the next. Every
other stage walks backwards: of a tensor larger than the cache the end is still there. What needs no other
stage stands last, in one wave.

Note [Lazy tensors]

A lazy tensor's rows are known at the call only, so its items are parts of the present rows instead: a fixed
number of them, whatever the rows. Stages with reductions read the whole tensor in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stepspec.formats import Formats
from stepspec.states import Variant

# what one batch should hold: small enough to balance threads, big enough to outweigh taking it
BATCH_ELEMENTS = 16384
# parts of a lazy tensor's present rows, at most
LAZY_PARTS = 64
# in place of a latch
NONE = -1

Kernel = Any
# one kernel, or several that run in order
Stage = Mapping[Variant, Kernel]
Item = tuple[int, int, int, int, int]
Batch = list[Item]


class Segment(NamedTuple):
    """Batches of one tensor that may run at the same time, and what comes after the last of them."""

    batches: list[Batch]
    after: Batch


class Wave(NamedTuple):
    """Batches that may run at the same time, see Note [Waves and latches]."""

    batches: list[Batch]
    waits: int = NONE
    counts: int = NONE
    backwards: bool = False


class Latch(NamedTuple):
    """What opens when so many batches are done, and these items after them."""

    number: int
    items: Batch


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


def kernels_of(stage: Stage, variant: Variant) -> tuple[Kernel, ...]:
    """Return the kernels that tensors of a variant run in a stage, in order."""
    found = stage.get(variant, ())
    return found if isinstance(found, tuple) else (found,)


def parted(kernel: Kernel, items: Batch, shape: Shape) -> Iterator[Batch]:
    """Part a tensor's chunks into batches of about equal work; a tensor without items is one empty batch."""
    width = shape.columns if kernel.form == "rows" else 1
    batch: Batch = []
    work = 0
    for item in items:
        size = item[4] * width
        if batch and work + size > BATCH_ELEMENTS:
            yield batch
            batch, work = [item], size
        else:
            batch.append(item)
            work += size
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


def ordered(tensors: Sequence[Sequence[Segment]], alone: list[Batch]) -> tuple[list[Wave], list[Latch]]:
    """Order the segments of tensors, and batches that depend on nothing; see Note [Order of work]."""
    waves: list[Wave] = []
    latches: list[Latch] = []
    for segments in tensors:
        opened = NONE
        for stage, (batches, after) in enumerate(segments):
            counts = NONE
            if after or stage + 1 < len(segments):
                counts = len(latches)
                latches.append(Latch(len(batches), after))
            waves.append(Wave(batches, opened, counts, stage % 2 == 1))
            opened = counts
    return ([*waves, Wave(alone)] if alone else waves), latches
