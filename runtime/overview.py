"""What a fused call would do: its launches, the bytes they move, and what makes it slower than need be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepspec.batches import kernels_of
from stepspec.formats import HALF, Formats
from stepspec.plan import Order, Plan


@dataclass(frozen=True, slots=True)
class Streams:
    """The arrays with a value per element that a kernel walks, as the bytes that a value takes in each.

    `read`: arrays that are only read; `updated`: read and written in place; `written`: only written.
    """

    read: tuple[int, ...] = ()
    updated: tuple[int, ...] = ()
    written: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel over some tensors: how many they are, their elements, and the bytes read and written.

    `streams` tells how one element adds to these bytes; arrays with a value per row or column come on top.
    """

    kernel: str
    tensors: int
    elements: int
    bytes: int
    streams: Streams


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors launched together: how many, their launches in order, and the batches that threads share.

    On a GPU blocks share the batches, and `regions` counts what the driver is asked to launch; on the host
    there is one parallel region for all.
    """

    tensors: int
    launches: tuple[Launch, ...]
    batches: int
    regions: int = 1


@dataclass(frozen=True, slots=True)
class Overview:
    """What one fused call does; `str` gives a table.

    Attributes
    ----------
    optimizer
        Its name.
    groups
        Launched one after the other; see `aggregate_num`.
    copied
        Tensors whose weights or states are copied into buffers and back, as they are not C-contiguous.
    copied_gradients
        Tensors whose gradients are copied for the same reason.
    lazy, scattered
        Tensors with row-sparse gradients: of the lazy ones only the rows of the gradient are updated.
    frozen
        Tensors that a learning rate of 0 leaves alone.
    device
        The number of the GPU that does it; None for the host.

    """

    optimizer: str
    groups: tuple[Group, ...]
    copied: tuple[str, ...]
    copied_gradients: tuple[str, ...]
    lazy: tuple[str, ...]
    scattered: tuple[str, ...]
    frozen: tuple[str, ...]
    device: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes that all launches read and write."""
        return sum(launch.bytes for group in self.groups for launch in group.launches)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        tensors = sum(group.tensors for group in self.groups)
        place = "" if self.device is None else f", on GPU {self.device}"
        yield f"{self.optimizer}: {tensors} tensors in {len(self.groups)} groups, {self.bytes:,} bytes{place}"
        for number, group in enumerate(self.groups, 1):
            regions = "" if self.device is None else f" in {group.regions} launches"
            yield f"group {number}: {group.tensors} tensors, {group.batches} batches{regions}"
            for launch in group.launches:
                yield (
                    f"    {launch.kernel}: {launch.tensors} tensors, {launch.elements:,} elements, "
                    f"{launch.bytes:,} bytes"
                )
        notes = {
            "copied each step, not C-contiguous": self.copied,
            "gradients copied, not C-contiguous": self.copied_gradients,
            "row-sparse, rows of the gradient only": self.lazy,
            "row-sparse, other rows as zeros": self.scattered,
            "left alone at a learning rate of 0": self.frozen,
        }
        yield from (f"{note}: {', '.join(names)}" for note, names in notes.items() if names)


def describe(optimizer: str, plan: Plan[Any], order: Order) -> Overview:
    """Describe the launches of a plan."""
    groups = []
    for part, counts in zip(order.parts(len(plan.indices)), plan.counts(order), strict=True):
        moving = [tensor for tensor in part if tensor not in order.frozen]
        groups.append(Group(len(part), tuple(_launches(plan, order, moving)), *counts))
    sparse = frozenset(plan.gradients.sparse)
    return Overview(
        optimizer,
        tuple(groups),
        plan.copied,
        plan.gradients.copied,
        lazy=_labels(plan, order.lazy),
        scattered=_labels(plan, sparse - order.lazy),
        frozen=_labels(plan, order.frozen),
        device=plan.device,
    )


def _labels(plan: Plan[Any], tensors: frozenset[int]) -> tuple[str, ...]:
    return tuple(plan.labels[tensor] for tensor in sorted(tensors))


def _launches(plan: Plan[Any], order: Order, tensors: list[int]) -> Iterator[Launch]:
    for stage in order.stages:
        using: dict[Any, list[int]] = {}
        for tensor in tensors:
            shape = plan.shapes[tensor]
            for kernel in kernels_of(stage, shape.variant):
                using.setdefault((kernel, _streams(kernel, shape.formats)), []).append(tensor)
        for (kernel, streams), users in using.items():
            pairs = [_work(plan, kernel, tensor, tensor in order.lazy) for tensor in users]
            elements, moved = map(sum, zip(*pairs, strict=True))
            yield Launch(kernel.name.rpartition(".")[2], len(users), elements, moved, streams)


def _streams(kernel: Any, formats: Formats) -> Streams:
    """Return a kernel's streams: one that reduces writes no array, any other all but the gradient."""
    names = [p.name for p in kernel.slots if p.role == "element"]
    sizes = [
        _itemsize(formats.weight if name == "weight" else formats.state) for name in names if name != "grad"
    ]
    grad = (_itemsize(formats.grad),) if "grad" in names else ()
    if kernel.reductions:
        return Streams(read=(*grad, *sizes))
    copies = (_itemsize(formats.copy),) if formats.copy and "weight" in names else ()
    return Streams(grad, tuple(sizes), copies)


def _work(plan: Plan[Any], kernel: Any, tensor: int, lazy: bool) -> tuple[int, int]:
    """Return how many elements of a tensor a kernel visits, and the bytes it reads and writes."""
    shape = plan.shapes[tensor]
    if kernel.form == "scalars":
        return 0, 0
    rows = int(plan.gradients.present[tensor]) if lazy and not kernel.reductions else shape.rows
    units = {"element": rows * shape.columns, "row": rows, "column": shape.columns}
    moved = 0
    for parameter in kernel.slots:
        if parameter.role not in units:
            continue
        count = units[parameter.role]
        if parameter.name == "grad":
            held = (
                int(plan.gradients.present[tensor]) * shape.columns
                if tensor in plan.gradients.sparse
                else count
            )
            moved += held * _itemsize(shape.formats.grad)
            continue
        stored = shape.formats.weight if parameter.name == "weight" else shape.formats.state
        passes = 1 if kernel.reductions else 2
        moved += passes * count * _itemsize(stored)
        if parameter.name == "weight" and shape.formats.copy and not kernel.reductions:
            moved += count * _itemsize(shape.formats.copy)
    return units["element"], moved


def _itemsize(dtype: str) -> int:
    return 2 if dtype in HALF else np.dtype(dtype).itemsize
