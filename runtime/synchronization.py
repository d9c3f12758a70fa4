"""What threads in compiled code meet through: atomic operations on shared memory, and CPython's locks."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from llvmlite import ir
from numba import types

from stepspec.compilation import intrinsic


def _atomic(operation: str) -> Any:
    """Return `change(address, value) -> old`: one atomic operation on an int64."""

    @intrinsic
    def change(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw(operation, place, arguments[1], "seq_cst")

        return types.int64(types.int64, types.int64), generate

    return change


add, bit_and, bit_or, exchange = _atomic("add"), _atomic("and"), _atomic("or"), _atomic("xchg")


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """Read an int64 that other threads change."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), generate


def _call(builder: Any, result: Any, function: Any, *arguments: Any) -> None:
    """Call (in LLVM) a C function by its address."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)


@intrinsic
def acquire(typing: Any, function: Any, lock: Any) -> Any:
    """Take a lock with PyThread_acquire_lock, waiting for it without regard to signals."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wait = ir.IntType(32)(1)
        _call(builder, ir.IntType(32), *arguments, wait)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def acquire_within(typing: Any, function: Any, lock: Any, microseconds: Any) -> Any:
    """Take a lock with PyThread_acquire_lock_timed, or give up after so many microseconds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        heed_signals = ir.IntType(32)(0)
        _call(builder, ir.IntType(32), *arguments, heed_signals)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def release(typing: Any, function: Any, lock: Any) -> Any:
    """Release a lock with PyThread_release_lock; who waits for it wakes up."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, ir.VoidType(), *arguments)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def give_way(typing: Any, function: Any) -> Any:
    """Let other threads have this processor, with sched_yield; return at once if none waits for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, ir.IntType(32), *arguments)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@functools.cache
def c_function(name: str) -> int:
    """Return the address of a function of CPython, or of the C library."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def locked_lock() -> int:
    """Return the address of a new lock that is taken.

    Raises
    ------
    MemoryError
        If there is no memory for it.

    """
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    take = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
        ("PyThread_acquire_lock", ctypes.pythonapi)
    )
    lock = allocate()
    if not lock:
        raise MemoryError("no lock for a worker thread")
    take(lock, 1)
    return int(lock)
