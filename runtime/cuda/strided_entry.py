"""The entry that copies arrays between any strides, see Note [Strided copies]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types

from stepspec.cuda.access import word
from stepspec.cuda.device_code import intrinsic
from stepspec.cuda.items import CHUNK, PART, TENSOR, THREADS

# the words of a record
SOURCE, TARGET, WIDTH, SIZE, AXES, EXTENTS = range(6)


def _mover(size: int) -> Any:
    """Return `move(source, target)`: copies one element of so many bytes."""
    kind = ir.IntType(8 * size).as_pointer(addrspace=1)

    @intrinsic
    def move(typing: Any, source: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            origin, place = (builder.inttoptr(address, kind) for address in given)
            builder.store(builder.load(origin), place)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return move


def strided_entry() -> Callable[..., None]:
    """Return the entry."""
    two, four, eight = _mover(2), _mover(4), _mover(8)

    def entry(table: int, items: int, count: int) -> None:
        words = word(table, 0)
        most = (words - EXTENTS) // 3
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            record = table + 8 * (1 + words * (item & TENSOR))
            extents, width = record + 8 * EXTENTS, word(record, WIDTH)
            first = (item >> PART) * CHUNK
            for element in range(first + cuda.threadIdx.x, min(first + CHUNK, word(record, SIZE)), THREADS):
                source, target, left = word(record, SOURCE), word(record, TARGET), element
                for axis in range(word(record, AXES) - 1, -1, -1):
                    extent = word(extents, axis)
                    index = left % extent
                    left //= extent
                    source += index * word(extents, most + axis)
                    target += index * word(extents, 2 * most + axis)
                if width == 4:
                    four(source, target)
                elif width == 2:
                    two(source, target)
                else:
                    eight(source, target)

    return entry
