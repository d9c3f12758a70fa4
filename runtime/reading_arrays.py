"""Compiled code that describes arrays and accepts gradients, see Note [Bulk reading]."""

from __future__ import annotations

from numba import int64

from stepspec.compilation import inlined
from stepspec.objects import (
    BYTES,
    DATA,
    DESCR,
    FAR,
    FLAGS,
    INT,
    LENGTHS,
    LINE,
    NDIM,
    NEAR,
    NUMBERS,
    PLAIN,
    SHAPE,
    SIZE,
    STRIDES,
    TUPLE_ITEMS,
    TYPE,
    VALUES,
    WATCHED,
    WIDTH,
    ask,
    compile_reader,
)
from stepspec.pointers import at, prefetch

# what gradients must be: numbers, and addresses of types, functions and rows
EXPECTED = (
    *("count", "array", "memmap", "row_sparse", "as_int", "fields", "extents", "is_sparse", "sizes"),
    *("starts", "ends", "ranges", "near", "addresses", "rows", "present", "closer", "overflow"),
)
_COUNT, _ARRAY, _MEMMAP, _ROW_SPARSE, _AS_INT, _FIELDS, _EXTENTS = range(7)
_IS_SPARSE, _SIZES, _STARTS, _ENDS, _RANGES, _NEXT, _ADDRESSES, _ROWS, _PRESENT, _CLOSER, _OVERFLOW = range(
    7, 18
)


@inlined
def _is_plain(array: int, expected: int, i: int, first: int, extents: int) -> bool:
    """Tell whether an object is a plain array as expected, the first dimension apart."""
    words, want = at(array, int64), at(expected, int64)
    field = at(want[_FIELDS] + 8 * WIDTH * i, int64)
    if words[TYPE] != want[_ARRAY] and words[TYPE] != want[_MEMMAP]:
        return False
    if words[NDIM] & INT != field[2] or words[DESCR] != field[3] or words[FLAGS] & PLAIN != PLAIN:
        return False
    shape, extent = at(words[SHAPE], int64), at(extents, int64)
    same = field[2] == 0 or shape[0] == first
    for k in range(1, field[2]):
        same = same and shape[k] == extent[2 * k]
    return bool(same)


@inlined
def _meets(expected: int, i: int, first: int, end: int) -> bool:
    """Tell whether a piece of memory meets one of the sorted, disjoint ranges; note which is the next one."""
    want = at(expected, int64)
    starts, ends, near = at(want[_STARTS], int64), at(want[_ENDS], int64), at(want[_NEXT], int64)
    if at(want[_ADDRESSES], int64)[i] == first and not at(want[_IS_SPARSE], int64)[i]:  # as last time
        return False
    guess, low, high = near[i], 0, want[_RANGES]
    if (guess == high or end <= starts[guess]) and (guess == 0 or ends[guess - 1] <= first):
        return False
    while low < high:
        middle = (low + high) // 2
        if ends[middle] <= first:
            low = middle + 1
        else:
            high = middle
    near[i] = low
    return bool(low < want[_RANGES] and starts[low] < end)


@inlined
def _is_whole(grad: int, expected: int, i: int, extents: int) -> bool:
    """Tell whether a row-sparse gradient has the right shape, and as many values as rows."""
    want, dimensions = at(expected, int64), at(at(expected, int64)[_FIELDS] + 8 * WIDTH * i, int64)[2]
    lengths = at(at(grad, int64)[LENGTHS], int64)
    if lengths[SIZE] != dimensions:
        return False
    for k in range(dimensions):
        if ask(want[_AS_INT], lengths[TUPLE_ITEMS + k], want[_OVERFLOW]) != at(extents, int64)[2 * k]:
            return False
    rows = at(at(grad, int64)[NUMBERS], int64)[SIZE] // 8
    return _is_plain(at(grad, int64)[VALUES], expected, i, rows, extents)


def _accept(expected: int, grads: int) -> int:
    """Note where the numbers of gradients lie; return how many need a closer look, and note which."""
    want, items = at(expected, int64), at(grads, int64)
    extents, closer, count = want[_EXTENTS], 0, want[_COUNT]
    for i in range(count):
        far = items[TUPLE_ITEMS + min(i + FAR, count - 1)]
        prefetch(far)
        prefetch(far + LINE)
        near = at(items[TUPLE_ITEMS + min(i + NEAR, count - 1)], int64)
        if near[TYPE] == want[_ARRAY]:
            prefetch(near[SHAPE])
        grad, rows, present = items[TUPLE_ITEMS + i], 0, at(extents, int64)[0]
        size, good = at(want[_SIZES], int64)[i], False
        if at(want[_IS_SPARSE], int64)[i]:
            good = at(grad, int64)[TYPE] == want[_ROW_SPARSE] and _is_whole(grad, expected, i, extents)
            if good:
                rows = at(grad, int64)[NUMBERS]
                present = at(rows, int64)[SIZE] // 8
                rows, size, grad = rows + 8 * BYTES, size * present, at(grad, int64)[VALUES]
        else:
            good = _is_plain(grad, expected, i, present, extents)
        if good:
            first = at(grad, int64)[DATA]
            good = size == 0 or not _meets(expected, i, first, first + size)
        if good:
            at(want[_ADDRESSES], int64)[i] = at(grad, int64)[DATA]
            if at(want[_IS_SPARSE], int64)[i]:
                at(want[_ROWS], int64)[i], at(want[_PRESENT], int64)[i] = rows, present
        else:
            at(want[_CLOSER], int64)[closer] = i
            closer += 1
        extents += 16 * at(want[_FIELDS] + 8 * WIDTH * i, int64)[2]
    return closer


def _describe(objects: int, count: int, fields: int, extents: int) -> int:
    """Describe the arrays in a tuple."""
    for i in range(count):
        address = at(objects, int64)[TUPLE_ITEMS + i]
        array, field = at(address, int64), at(fields + 8 * WIDTH * i, int64)
        field[0], field[1], field[2] = address, array[DATA], array[NDIM] & INT
        field[3], field[4], field[5] = array[DESCR], array[FLAGS] & WATCHED, array[SHAPE]
        shape, strides = at(array[SHAPE], int64), at(array[STRIDES], int64)
        for k in range(field[2]):
            at(extents, int64)[2 * k], at(extents, int64)[2 * k + 1] = shape[k], strides[k]
        extents += 16 * field[2]
    return count


accept, describe = compile_reader(_accept), compile_reader(_describe)
