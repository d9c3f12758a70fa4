"""Compiled code that recognises a call, see Note [Bulk reading]."""

from __future__ import annotations

from numba import int64

from stepspec.compilation import inlined, inner
from stepspec.objects import (
    DATA,
    DESCR,
    DICT_KEYS,
    FAR,
    FLAGS,
    INT,
    LINE,
    LIST_ITEMS,
    NDIM,
    NEAR,
    SHAPE,
    SIZE,
    STRIDES,
    TUPLE_ITEMS,
    TYPE,
    WATCHED,
    WIDTH,
    ask,
    compile_reader,
    fetch,
)
from stepspec.pointers import at, prefetch

# what is known of a call: numbers, and addresses of types, functions and rows
KNOWN = (
    *("count", "list", "tuple", "get", "as_int", "fields", "extents", "int", "indices", "values"),
    *("dicts", "kept", "names", "places", "ahead", "report"),
)
_COUNT, _LIST, _TUPLE, _GET, _AS_INT, _FIELDS, _EXTENTS, _INT_TYPE, _INDICES, _INDEX_VALUES = range(10)
_DICTS, _KEPT, _NAMES, _PLACES, _AHEAD, _REPORT = range(10, 16)


@inlined
def _item(sequence: int, position: int, list_type: int) -> int:
    """Return the address of an item of a list or tuple."""
    words = at(sequence, int64)
    items = words[LIST_ITEMS] if words[TYPE] == list_type else sequence + 8 * TUPLE_ITEMS
    found: int = at(items, int64)[position]
    return found


@inlined
def _holds(sequence: int, known: int) -> bool:
    """Tell whether an object is a list or tuple of the right length."""
    words, want = at(sequence, int64), at(known, int64)
    is_either = words[TYPE] == want[_LIST] or words[TYPE] == want[_TUPLE]
    return bool(is_either and words[SIZE] == want[_COUNT])


@inner
def _is_same(address: int, fields: int, number: int, extents: int) -> int:
    """Return where the extents of the next array stand if an object is a described array, else 0."""
    want = fields + 8 * WIDTH * number
    if address != at(want, int64)[0]:
        return 0
    array, expected = at(address, int64), at(want, int64)
    if array[DATA] != expected[1] or array[NDIM] & INT != expected[2]:
        return 0
    if array[DESCR] != expected[3] or array[FLAGS] & WATCHED != expected[4]:
        return 0
    shape, strides, extent = at(array[SHAPE], int64), at(array[STRIDES], int64), at(extents, int64)
    for k in range(expected[2]):
        if shape[k] != extent[2 * k] or strides[k] != extent[2 * k + 1]:
            return 0
    following: int = extents + 16 * expected[2]
    return following


def _recognise(known: int, indices: int, weights: int, states: int, counts: int, begin: int) -> int:
    """Return 1 if a call is about the known tensors; report their first count, and if the others fit it."""
    want = at(known, int64)
    count, kind, fields, extents = want[_COUNT], want[_LIST], want[_FIELDS], want[_EXTENTS]
    if not (_holds(indices, known) and _holds(weights, known) and _holds(states, known)):
        return 0
    for i in range(count):
        index = _item(indices, i, kind)
        if index != at(want[_INDICES], int64)[i]:
            if at(index, int64)[TYPE] != want[_INT_TYPE]:
                return 0
            number = ask(want[_AS_INT], index, want[_REPORT] + 16)
            if number < 0 or number != at(want[_INDEX_VALUES], int64)[i]:  # what is too large reads as -1
                return 0
    for i in range(count):
        fetch(fields, min(i + NEAR, count - 1))
        extents = _is_same(_item(weights, i, kind), fields, i, extents)
        if extents == 0:
            return 0
    number, name = count, 0
    for i in range(count):
        far = at(want[_DICTS], int64)[min(i + FAR, count - 1)]
        prefetch(far)
        prefetch(far + LINE)
        near = at(at(want[_DICTS], int64)[min(i + NEAR, count - 1)], int64)[DICT_KEYS]
        prefetch(near)
        prefetch(near + LINE)
        if at(states, int64)[SIZE] != count:
            return 0
        state = _item(states, i, kind)
        kept = at(want[_KEPT], int64)[i]
        if state != at(want[_DICTS], int64)[i] or at(state, int64)[SIZE] != kept:
            return 0
        for _ in range(kept):
            fetch(fields, number + min(NEAR, at(want[_KEPT], int64)[count] - name - 1))
            found = ask(want[_GET], state, at(want[_NAMES], int64)[name])
            extents = _is_same(found, fields, number, extents)
            if extents == 0:
                return 0
            number, name = number + 1, name + 1
    return _tally(known, counts, begin)


@inlined
def _tally(known: int, counts: int, begin: int) -> int:
    """Report the first count, and whether the distances of the others have changed."""
    want, numbers = at(known, int64), at(counts, int64)
    report, places, ahead = at(want[_REPORT], int64), at(want[_PLACES], int64), at(want[_AHEAD], int64)
    report[0], report[1] = -1, 0
    for i in range(want[_COUNT]):
        number = numbers[places[i]]
        number = begin if number < 0 else number
        report[0] = number if i == 0 else report[0]
        report[1] |= number - report[0] != ahead[i]
    return 1


recognise = compile_reader(_recognise)
