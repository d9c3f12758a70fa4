"""The device tables of many tensors, in one block of a GPU's memory.

Note [Device tables]
A block holds, one after the other: rows of addresses that stay; the table and the items of every launch; rows
that change from call to call (scalars that the host computes, where gradients lie, which rows they hold);
rows of numbers that launches compute; and scratch. All but the last two are copied when a program is first
run. Later calls copy, of the rows that change, those from the first changed one to the last: in training
these are a learning rate and the addresses of new gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stepspec.batches import Shape
from stepspec.cuda.items import cut
from stepspec.layout import ARRAYS, Parameter
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.cuda.passes import Pass

Int64s = NDArray[np.int64]
# what a row holds: "array" addresses, "column" addresses of results, "number", "buffer" or "values" (scratch)
Key = tuple[str, Any]

WORD = 8
ALIGNMENT = 16  # of scratch, for wide accesses


@dataclass(frozen=True, eq=False)
class Use:
    """A pass over some tensors; `items` are its work, see Note [Device tables]."""

    run: Pass
    tensors: Sequence[int]
    items: Int64s

    @classmethod
    def of(cls, run: Pass, tensors: Sequence[int], shapes: Sequence[Shape]) -> Use:
        """Cut the tensors into the parts of the pass."""
        return cls(
            run, tensors, cut(tensors, [run.parts(shapes[i].rows, shapes[i].columns) for i in tensors])
        )


class Rows:
    """Which rows the slots of some passes stand for, in the order of the block.

    Parameters
    ----------
    shapes
        The tensors.
    fixed, live
        By name, what rows hold that stay, and that change from call to call: int64 arrays, one number per
        tensor.
    slots
        Of all passes.

    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        fixed: Mapping[str, Array],
        live: Mapping[str, Array],
        slots: Sequence[Parameter],
    ) -> None:
        self._shapes, self._given, self._live = shapes, fixed, live
        results = [slot for slot in slots if slot.role == "result"]
        self._columns = {slot.name for slot in results if _is_per_column(slot)}
        self._results = {slot.name for slot in results} - self._columns
        keys = list(dict.fromkeys(map(self.key, slots)))
        self.scratch = [key for key in keys if key[0] in ("buffer", "values", "column")]
        self.inputs = [key for key in keys if key[0] == "number" and key[1] not in self._results]
        self.live = [key for key in keys if key[0] == "array" and key[1] in live]
        self.results = [key for key in keys if key[0] == "number" and key[1] in self._results]
        moving = {*self.scratch, *self.inputs, *self.live, *self.results}
        self.fixed = [key for key in keys if key not in moving]

    def key(self, slot: Parameter) -> Key:
        """Return what the row of a slot holds."""
        match slot.role:
            case "scalar":
                return "number", slot.name
            case "result":
                return ("column" if _is_per_column(slot) else "number"), slot.name
            case "buffer":
                return "buffer", slot
            case "noise":
                return "array", "noise_key"
            case "values":
                return "values", slot.name
            case role if role in ARRAYS and slot.name in self._columns:
                return "column", slot.name
        return "array", slot.name

    def given(self, key: Key) -> Array:
        """Return what the caller gave for a row of addresses."""
        name = key[1]
        return self._live[name] if name in self._live else self._given[name]

    def sizes(self, key: Key) -> Int64s:
        """Return how many bytes of scratch each tensor has behind a row."""
        kind, what = key
        if kind == "buffer":
            sizes = [WORD * what.reduction.partials(shape.rows, shape.columns) for shape in self._shapes]
        else:
            sizes = [
                np.dtype(shape.formats.compute).itemsize * (shape.columns if kind == "column" else shape.rows)
                for shape in self._shapes
            ]
        return np.array(sizes, np.int64)


def _is_per_column(slot: Parameter) -> bool:
    return slot.reduction is not None and slot.reduction.per == "column"


class Tables:
    """The block of a program, see Note [Device tables].

    Parameters
    ----------
    rows
        What the slots of the uses stand for.
    count
        How many tensors there are.
    uses
        All launches; the same may be there more than once.

    Attributes
    ----------
    size
        Bytes of the block.
    inputs
        Name to a row of float64 that the caller fills before it calls `send`.
    places
        Where the table and the items of each use begin in the block.

    """

    def __init__(self, rows: Rows, count: int, uses: Sequence[Use]) -> None:
        self._rows, self._uses, self._count = rows, uses, count
        width = WORD * count
        self._offsets: dict[Key, int] = {}
        end = self._reserve([*rows.fixed, *rows.scratch], 0, width)
        self.places: list[tuple[int, int]] = []
        for use in uses:
            items = end + WORD * len(use.run.slots)
            self.places.append((end, items))
            end = items + WORD * use.items.size
        self._first = end
        moving = [*rows.inputs, *rows.live]
        end = self._reserve(moving, end, width)
        self._numbers = np.zeros((len(moving), count), np.int64)
        self._sent = self._numbers.copy()
        self._is_new = True
        self.inputs = {
            name: row.view(np.float64) for (_, name), row in zip(rows.inputs, self._numbers, strict=False)
        }
        live = self._numbers[len(rows.inputs) :]
        self._copies = [(row, rows.given(key)) for key, row in zip(rows.live, live, strict=True)]
        end = self._reserve(rows.results, end, width)
        self._scratch: dict[Key, Int64s] = {}
        for key in rows.scratch:
            sizes = -(-rows.sizes(key) // ALIGNMENT) * ALIGNMENT
            begin = -(-end // ALIGNMENT) * ALIGNMENT
            self._scratch[key] = begin + np.cumsum(sizes) - sizes
            end = begin + int(sizes.sum())
        self.size = end

    def _reserve(self, keys: Sequence[Key], end: int, width: int) -> int:
        for key in keys:
            self._offsets[key] = end
            end += width
        return end

    def send(self, base: int, copy: Callable[[int, Array], None]) -> None:
        """Bring the block, which begins at `base`, up to date; `copy` copies an array to an address."""
        for row, source in self._copies:
            row[:] = source
        if self._is_new:
            copy(base, np.concatenate([*self._head(base), self._numbers.ravel()]))
        else:
            changed = np.flatnonzero((self._numbers != self._sent).any(axis=1))
            if not changed.size:
                return
            first, end = int(changed[0]), int(changed[-1]) + 1
            self._is_new = True  # until it is sure: Ctrl-C may come
            copy(base + self._first + WORD * self._count * first, self._numbers[first:end])
        self._sent[:] = self._numbers
        self._is_new = False

    def result(self, name: str) -> int:
        """Return where the row of a result per tensor begins in the block."""
        return self._offsets["number", name]

    def _head(self, base: int) -> Iterator[Int64s]:
        """Yield the rows that stay, and the tables and items of the launches."""
        for key in self._rows.fixed:
            yield self._rows.given(key)
        for key in self._rows.scratch:
            yield base + self._scratch[key]
        for use in self._uses:
            keys = map(self._rows.key, use.run.slots)
            yield np.array([base + self._offsets[key] for key in keys], np.int64)
            yield use.items
