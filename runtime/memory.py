"""How a kernel says that it ran out of memory.

Note [Out of memory]
An entry returns nothing, and no exception can leave it. One that fails to allocate scratch calls `report`
with the address of its table, and leaves undone what is left of its work item. When the run is over,
`raise_if_reported` raises MemoryError if it used such a table: nobody goes on with half a step unawares.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from stepspec.compilation import intrinsic

_reported: set[int] = set()
# called without the GIL, which ctypes takes; by name, so that cached code finds it in any process
_add = ctypes.CFUNCTYPE(None, ctypes.c_int64)(_reported.add)
_SYMBOL = "stepspec_out_of_memory"
llvmlite.binding.add_symbol(_SYMBOL, ctypes.cast(_add, ctypes.c_void_p).value)


@intrinsic
def report(typing: Any, tables: Any) -> Any:
    """Remember, in compiled code, that the entry with this table could not do its work."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        function = builder.module.globals.get(_SYMBOL) or ir.Function(builder.module, kind, _SYMBOL)
        builder.call(function, arguments)
        return context.get_dummy_value()

    return types.void(types.int64), generate


def raise_if_reported(items: npt.NDArray[np.int64]) -> None:
    """Raise MemoryError if one of these work items, which have run, was out of memory."""
    if not _reported:
        return
    failed = _reported.intersection(items[:, 1].tolist())
    if failed:
        _reported.difference_update(failed)
        raise MemoryError("no memory for the scratch of a kernel: some rows may not have been updated")
