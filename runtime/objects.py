"""The C structs of Python objects, for compiled code that looks into many of them at once.

Note [Bulk reading]

Asking 1000 arrays for pointer, dtype and shape in Python takes almost a millisecond, more than the update of
1000 small tensors. Compiled code reads the same in some microseconds from the C structs of `list`, `tuple`,
`bytes` and `numpy.ndarray`, whose layout is part of CPython's and NumPy's ABI, and asks dicts and ints
through functions of CPython. The GIL is held meanwhile, so nobody changes them; only a dict with keys of
odd types could run Python code, so a list is read anew for each of its items. Only objects that are alive
are looked into: those a plan knows, recognised by their addresses, and those in a tuple. With 100,000
tensors the time goes into waiting for memory, so what comes next is asked for in time.

A self-test at import (`stepspec.arrays`) compares readings with Python's answers; should it fail, as on an
interpreter with other object headers, Python does it all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import int64, types
from numpy.typing import NDArray

from stepspec.compilation import compile_entry, inlined, intrinsic, source_stamp
from stepspec.pointers import at, prefetch

# positions in objects, in words of 8 bytes
TYPE, SIZE, LIST_ITEMS, TUPLE_ITEMS, DICT_KEYS, BYTES = 1, 2, 3, 3, 4, 4
DATA, NDIM, SHAPE, STRIDES, DESCR, FLAGS = 2, 3, 4, 5, 7, 8
# the slots of a `RowSparse`, which CPython lays out by name
NUMBERS, LENGTHS, VALUES = 2, 3, 4
INT = 0xFFFFFFFF
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400
PLAIN = C_CONTIGUOUS | ALIGNED
WATCHED = PLAIN | WRITEABLE

# columns of the description of an array: id, data, dimensions, id of the dtype, watched flags, shape
WIDTH = 6
# so many items ahead, memory is asked for
FAR, NEAR = 24, 12
LINE = 64


@intrinsic
def ask(typing: Any, function: Any, one: Any, two: Any) -> Any:
    """Call a function of CPython's with two addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)] * 2)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return types.int64(types.int64, types.int64, types.int64), generate


@inlined
def fetch(fields: int, number: int) -> None:
    """Ask for the memory of one of some described arrays."""
    array = at(fields, int64)[WIDTH * number]
    prefetch(array)
    prefetch(array + LINE)
    prefetch(at(fields, int64)[WIDTH * number + 5])


def compile_reader(function: Callable[..., int]) -> Callable[..., int]:
    """Compile a function of int64s; called through ctypes, it keeps the GIL."""
    width = function.__code__.co_argcount
    name = f"bulk.{function.__name__}"
    entry = cast(Callable[..., None], function)
    address = compile_entry(entry, types.int64(*[types.int64] * width), name, source_stamp(function))
    return cast(Callable[..., int], ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * width)(address))


class Table:
    """A row of int64 for compiled code: numbers, and the addresses of arrays, which it keeps alive."""

    def __init__(self, columns: Sequence[str], **values: int | NDArray[np.int64]) -> None:
        self._held = values
        words = (values[column] for column in columns)
        row = np.array([word if isinstance(word, int) else word.ctypes.data for word in words], np.int64)
        self._words, self.address = row, int(row.ctypes.data)


def c_function(name: str) -> int:
    """Return the address of a function of CPython."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


GET, AS_INT = c_function("PyDict_GetItemWithError"), c_function("PyLong_AsLongLongAndOverflow")
