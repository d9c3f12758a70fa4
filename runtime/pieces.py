"""What a piece of a tensor needs before a kernel's function sees it: a gradient without gaps, and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import int64, types, uint32

from stepspec import noise
from stepspec.arithmetic import normal
from stepspec.compilation import inlined, inner, intrinsic
from stepspec.layout import Layout
from stepspec.pointers import LINE, address_in, at, prefetch
from stepspec.storage import load, memory, width


class Piece(NamedTuple):
    """Some elements of a tensor, from a position on, and the addresses of what is to be filled for them.

    `gradient` and `words` are those of a scattered gradient and of what rounds at random; noise is one of the
    arrays that begin at `values`, `room` bytes apart.
    """

    tables: int
    tensor: int
    position: int
    length: int
    gradient: int
    words: int
    values: int
    room: int


Step = Callable[[Piece], None]

# words beyond those of the elements: the first block and the last one may be parts
EXTRA_WORDS = 8

# bytes of a row that are fetched ahead: beyond them the processor notices by itself
FETCHED = 8 * LINE

_philox = inlined(noise.philox)
_WORD = np.int64(0xFFFFFFFF)


def steps(layout: Layout) -> list[Step]:
    """Return what prepares a piece: a scattered gradient, words of stochastic rounding, the rule's noise."""
    found = [_scatter(layout)] if layout.scattered else []
    found += [_words(layout)] if layout.formats.stochastic else []
    return found + [_normals(layout, slot, stream) for slot, stream in layout.noise]


def _scatter(layout: Layout) -> Step:
    """Return the step that writes the rows of a row-sparse gradient among zeros, in the compute dtype."""
    number, slot = layout.number, layout.gradient
    columns_slot, rows_slot, present_slot = map(layout.tail, ("columns", "present_rows", "present"))
    widen = _reader(layout.formats.grad, number)

    @inner
    def scatter(piece: Piece) -> None:
        tables, tensor, position = piece.tables, piece.tensor, piece.position
        rows, present = address_in(tables, rows_slot, tensor), address_in(tables, present_slot, tensor)
        columns, sorted_rows = max(1, address_in(tables, columns_slot, tensor)), at(rows, int64)
        source, target = address_in(tables, slot, tensor), at(piece.gradient, number)
        end = position + piece.length
        for i in range(piece.length):
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


def _words(layout: Layout) -> Step:
    """Return the step that draws the words of all blocks of four that the piece touches, see Note [Noise]."""
    counter, number = _counter(layout, layout.tail("noise_key")), np.uint64(noise.ROUNDING)

    @inner
    def draw(piece: Piece) -> None:
        update, low, high = counter(piece)
        target, first = at(piece.words, uint32), piece.position >> 2
        for k in range(((piece.position + piece.length + 3) >> 2) - first):
            block = np.uint64(first + k)
            a, b, c, d = _philox(block & noise.WORD, block >> noise.SHIFT, update, number, low, high)
            target[4 * k], target[4 * k + 1] = uint32(a), uint32(b)
            target[4 * k + 2], target[4 * k + 3] = uint32(c), uint32(d)

    return draw


def _normals(layout: Layout, slot: int, stream: int) -> Step:
    """Return the step that draws the normal numbers of a stream for the piece, see Note [Noise]."""
    counter, number, place = _counter(layout, slot), np.uint64(stream), layout.places[slot]
    dtype = layout.number

    @inner
    def draw(piece: Piece) -> None:
        update, low, high = counter(piece)
        target, first = at(piece.values + place * piece.room, dtype), piece.position
        for k in range(piece.length):
            element = np.uint64(first + k)
            a, b, c, d = _philox(element & noise.WORD, element >> noise.SHIFT, update, number, low, high)
            target[k] = dtype(normal(a, b, c, d))

    return draw


def _counter(layout: Layout, key_slot: int) -> Callable[..., Any]:
    """Return `counter(piece)`: of the piece's tensor the update count and the words of the key."""
    count_slot = layout.tail("noise_count")

    @inlined
    def counter(piece: Piece) -> Any:
        key = address_in(piece.tables, key_slot, piece.tensor)
        count = np.uint64(address_in(piece.tables, count_slot, piece.tensor))
        return count & noise.WORD, np.uint64(key & _WORD), np.uint64(key >> 32 & _WORD)

    return counter
