"""What a piece of a tensor needs before a kernel's function sees it: a gradient without gaps, and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64, types, uint32

from stepspec import noise
from stepspec.compilation import inlined, inner, intrinsic
from stepspec.layout import Layout
from stepspec.pointers import LINE, address_in, at, prefetch
from stepspec.storage import load, memory, width

# Takes (tables, tensor, position, count, gradient, words): the elements from a position on, and the addresses
# of what is to be filled.
Step = Callable[..., None]

# words beyond those of the elements: the first block and the last one may be parts
EXTRA_WORDS = 8

# bytes of a row that are fetched ahead: beyond them the processor notices by itself
FETCHED = 8 * LINE

_philox = inlined(noise.philox)
_WORD = np.int64(0xFFFFFFFF)


def steps(layout: Layout) -> list[Step]:
    """Return what prepares a piece: at most a scattered gradient and noise."""
    found = [_scatter(layout)] if layout.scattered else []
    return [*found, _draw(layout)] if layout.formats.stochastic else found


def _scatter(layout: Layout) -> Step:
    """Return the step that writes the rows of a row-sparse gradient among zeros, in the compute dtype."""
    number, slot = layout.number, layout.slot("grad")
    columns_slot, rows_slot, present_slot = map(layout.tail, ("columns", "present_rows", "present"))
    widen = _reader(layout.formats.grad, number)

    @inner
    def scatter(tables: int, tensor: int, position: int, count: int, gradient: int, words: int) -> None:
        rows, present = address_in(tables, rows_slot, tensor), address_in(tables, present_slot, tensor)
        columns, sorted_rows = max(1, address_in(tables, columns_slot, tensor)), at(rows, int64)
        source, target, end = address_in(tables, slot, tensor), at(gradient, number), position + count
        for i in range(count):
            target[i] = 0
        j = _first_at_least(sorted_rows, present, position // columns)
        while j < present and sorted_rows[j] * columns < end:
            start = sorted_rows[j] * columns
            first = max(start, position)
            for i in range(first, min(start + columns, end)):
                target[i - position] = widen(source, j * columns + i - start)
            j += 1

    return scatter


@inner
def _first_at_least(sorted_numbers: Any, count: int, limit: int) -> int:
    """Return the index of the first of `count` sorted numbers that is not below the limit."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if sorted_numbers[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


def fetcher(layout: Layout) -> Callable[..., None]:
    """Return `fetch(tables, tensor, row, columns)`, which asks for what a kernel will write in a row.

    Present rows lie far apart: without it each one waits for memory.
    """
    places = [
        (slot, width(layout.storage(p.name)), p.role == "element")
        for slot, p in enumerate(layout.parameters)
        if p.role in ("element", "row") and p.name != "grad"
    ]
    if layout.formats.copy:
        places.append((layout.tail("copy"), width(layout.formats.copy), True))
    known = tuple(places)

    @inlined
    def fetch(tables: int, tensor: int, row: int, columns: int) -> None:
        for slot, size, wide in known:
            length = size * columns if wide else size
            start = address_in(tables, slot, tensor) + row * length
            for line in range(start, start + min(length, FETCHED), LINE):
                prefetch(line)

    return fetch


def _reader(storage: str, number: Any) -> Any:
    """Return `read(address, index)`: a stored number, widened."""

    @intrinsic
    def read(typing: Any, address: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = context.get_data_type(memory(storage)).as_pointer()
            place = builder.gep(builder.inttoptr(arguments[0], kind), [arguments[1]])
            return load(context, builder, storage, place, number)

        return number(types.int64, types.int64), generate

    return read


def _draw(layout: Layout) -> Step:
    """Return the step that draws the words of all blocks of four that the piece touches, see Note [Noise]."""
    key_slot, count_slot = layout.tail("noise_key"), layout.tail("noise_count")

    @inner
    def draw(tables: int, tensor: int, position: int, count: int, gradient: int, words: int) -> None:
        key, update = address_in(tables, key_slot, tensor), np.uint64(address_in(tables, count_slot, tensor))
        target, first = at(words, uint32), position >> 2
        stream, low, high = np.uint64(noise.ROUNDING), np.uint64(key & _WORD), np.uint64(key >> 32 & _WORD)
        for k in range(((position + count + 3) >> 2) - first):
            block = np.uint64(first + k)
            a, b, c, d = _philox(
                block & noise.WORD, block >> noise.SHIFT, update & noise.WORD, stream, low, high
            )
            target[4 * k], target[4 * k + 1] = uint32(a), uint32(b)
            target[4 * k + 2], target[4 * k + 3] = uint32(c), uint32(d)

    return draw
