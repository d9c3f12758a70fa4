"""How a kernel says that it ran out of memory.

Note [Out of memory]
An entry returns nothing, and no exception can leave it. One that fails to allocate scratch calls `report`,
which counts the failures of this process, and leaves undone what is left of its work item. Work that sees the
count change while it is done does no further item, whoever reported, and ends in a MemoryError: what a failed
reduction left undone is never used.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types

from stepspec.compilation import intrinsic

# never freed: a worker may look at it while the interpreter exits
_count = ctypes.c_int64(0)
# by name, so that cached code finds it in any process
_SYMBOL = "stepspec_out_of_memory"
llvmlite.binding.add_symbol(_SYMBOL, ctypes.addressof(_count))


def _counter(builder: Any) -> Any:
    """Return (in LLVM) a pointer to the number of failures."""
    known = builder.module.globals.get(_SYMBOL)
    return known or ir.GlobalVariable(builder.module, ir.IntType(64), _SYMBOL)


@intrinsic
def report(typing: Any) -> Any:
    """Count, in compiled code, one failure to allocate scratch."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.atomic_rmw("add", _counter(builder), ir.IntType(64)(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def failures_address(typing: Any) -> Any:
    """Return the address of the number of failures."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(_counter(builder), ir.IntType(64))

    return types.int64(), generate
