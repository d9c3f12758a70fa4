"""Walks along rows: strips that ask for memory ahead, and scratch for the terms of a row.

Note [Strips]
A rule with a row reduction walks along each row more than once, and each walk meets arrays that no walk
before it has read. Left to itself the processor would wait for memory in a walk's first strips, and leave
memory idle while it reduces. So each strip of a walk asks for the same strip of the arrays that the next walk
will be the first to read: the last walk for those of the next row, whatever lies there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from stepspec.canonical import BLOCK
from stepspec.compilation import inlined, intrinsic
from stepspec.pointers import LINE, prefetch_far
from stepspec.storage import INT, Stored, address, make

# elements of a strip: enough to vectorize, few enough lines for the processor to wait for all at once
STRIP = 256


@inlined
def strip(array: Any, column: int) -> range:
    """Return the positions of a strip that starts at `column`, in a row of a 2-D array."""
    # unsigned, as an index that may count from the end keeps LLVM from vectorizing
    return range(np.uint64(column), np.uint64(min(column + STRIP, array.shape[1])))


@inlined
def prefetch(array: Any, row: int, column: int) -> None:
    """Ask for a strip of a row of a 2-D array, without waiting; the row may lie beyond the last one."""
    end = min(column + STRIP, array.shape[1])
    for line in range(address(array, row, column), address(array, row, end), LINE):
        prefetch_far(line)


@intrinsic
def row_scratch(typing: Any, array: Any) -> Any:
    """Return a 1-D buffer for a row of a 2-D array, in its dtype: on the stack if the row is short."""
    number = array.number if isinstance(array, Stored) else array.dtype
    kind = types.Array(number, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = cgutils.unpack_tuple(builder, context.make_helper(builder, array, arguments[0]).shape)[1]
        space = cgutils.alloca_once(builder, context.get_data_type(number), size=BLOCK)
        scratch = cgutils.alloca_once(builder, context.get_value_type(kind))
        with builder.if_else(builder.icmp_signed("<=", columns, INT(BLOCK))) as (short, long):
            with short:
                base = builder.ptrtoint(space, INT)
                builder.store(make(context, builder, kind, base, [columns], None, None), scratch)
            with long:
                builder.store(context.compile_internal(builder, _long_row, kind(array), arguments), scratch)
        return builder.load(scratch)

    return kind(array), generate


def _long_row(array: Any) -> Any:
    return np.empty(array.shape[1], array.dtype)
