"""Passes over numbers of a tensor, a thread for each: scalars kernels, and states kept per tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import types

from stepspec.cuda.access import INT, element_address, load_slot, load_word, reader, store, word, writer
from stepspec.cuda.device_code import call, intrinsic
from stepspec.cuda.items import THREADS
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import Pass
from stepspec.layout import Layout, Parameter

Entry = Callable[[int, int, int], None]

_read, _write = reader("float64", "float64"), writer("float64", "float64")


def passes_of(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    """Return the pass of a scalars kernel, all in float64."""
    return (Pass.of(kernel.name, kernel.slots, once, scalars_entry, kernel),)


def gather(state: str, row: str) -> Pass:
    """Return the pass that reads states kept per tensor, at their addresses, into a row of numbers."""
    slots = Parameter(state, "address"), Parameter(row, "result")
    return Pass.of("gather", slots, once, gather_entry)


def scatter(state: str, row: str) -> Pass:
    """Return the pass that makes numbers of a row the states kept per tensor, at their addresses."""
    slots = Parameter(state, "address"), Parameter(row, "result")
    return Pass.of("scatter", slots, once, scatter_entry)


def once(rows: int, columns: int) -> int:
    """Return one: the work items of a tensor of any shape."""
    return 1


def scalars_entry(kernel: Kernel) -> Entry:
    """Return the entry of a scalars kernel."""
    return _each_tensor(_computer(kernel))


def gather_entry() -> Entry:
    """Return the entry of `gather`."""

    def of_tensor(table: int, tensor: int) -> None:
        _write(word(table, 1), tensor, _read(word(word(table, 0), tensor), 0))

    return _each_tensor(of_tensor)


def scatter_entry() -> Entry:
    """Return the entry of `scatter`."""

    def of_tensor(table: int, tensor: int) -> None:
        _write(word(word(table, 0), tensor), 0, _read(word(table, 1), tensor))

    return _each_tensor(of_tensor)


def _each_tensor(of_tensor: Callable[[int, int], None]) -> Entry:
    """Return the entry with one thread for each item."""

    def entry(table: int, items: int, count: int) -> None:
        k = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        while k < count:
            of_tensor(table, word(items, k))
            k += np.int64(cuda.gridDim.x) * THREADS

    return entry


def _computer(kernel: Kernel) -> Any:
    """Return `compute(table, tensor)`: call the kernel's function, and write what it returns into rows."""
    assert kernel.function is not None, "a scalars kernel computes something"
    function, taken = kernel.function, tuple(inspect.signature(kernel.function).parameters)
    assert taken == kernel.scalars, "slots are in the order of the function's parameters"
    number, many = types.float64, len(kernel.returns)
    result = number if many == 1 else types.UniTuple(number, many)

    @intrinsic
    def compute(typing: Any, table: Any, tensor: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            table, tensor = given
            values = [load_slot(builder, table, slot, tensor, ir.DoubleType()) for slot in range(len(taken))]
            found = call(context, builder, function, result, [number] * len(values), values)
            for k in range(many):
                row = load_word(builder, builder.add(table, INT(8 * (len(taken) + k))))
                value = found if many == 1 else builder.extract_value(found, k)
                store(builder, "float64", element_address(builder, row, tensor, "float64"), [value])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return compute
