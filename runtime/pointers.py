"""Typed pointers for compiled code, without reference counts or wraparound: loops stay vectorizable."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from stepspec.compilation import intrinsic

# bytes of a cache line
LINE = 64


@intrinsic
def at(typing: Any, address: Any, number: Any) -> Any:
    """Return an address as a pointer to numbers of one type: `at(address, float64)[i]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(number.dtype)(types.int64, number), generate


def place(builder: Any, tables: Any, slot: Any, tensor: Any, kind: Any) -> Any:
    """Return (in LLVM) a pointer to what the row whose address is in a slot of a table holds for a tensor."""
    rows = builder.inttoptr(tables, ir.IntType(64).as_pointer())
    row = builder.load(builder.gep(rows, [slot]))
    return builder.gep(builder.inttoptr(row, kind.as_pointer()), [tensor])


@intrinsic
def address_in(typing: Any, tables: Any, slot: Any, tensor: Any) -> Any:
    """Return what the int64 row in a slot of a table holds for a tensor."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tables, slot, tensor = arguments
        return builder.load(place(builder, tables, slot, tensor, ir.IntType(64)))

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """Return the address of the first element of a C-contiguous array as a pointer.

    The array must be an argument of the calling function: Numba frees a local after its last use.
    """
    if not isinstance(array, types.Array) or array.layout != "C":
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(array)(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def advance(typing: Any, pointer: Any, count: Any) -> Any:
    """Return a pointer to what stands `count` numbers further."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.int64), generate


@intrinsic
def address_of(typing: Any, pointer: Any) -> Any:
    """Return a pointer as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(pointer), generate


def _prefetcher(write: bool, near: int) -> Any:
    """Return `ask(address)`, which asks for a cache line without waiting for it; 3 is the nearest cache."""

    @intrinsic
    def ask(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            place, data = builder.inttoptr(arguments[0], byte), word(1)
            builder.call(function, [place, word(int(write)), word(near), data])
            return context.get_dummy_value()

        return types.void(types.int64), generate

    return ask


# for what will be written soon, for what will be read soon, and for what is further off than the first
# cache is large
prefetch = _prefetcher(write=True, near=3)
prefetch_near = _prefetcher(write=False, near=3)
prefetch_far = _prefetcher(write=False, near=2)


def stack(count: int, number: Any, alignment: int | None = None) -> Any:
    """Return a function for compiled code: `count` numbers on the stack of its caller, as a pointer.

    With an alignment of LINE bytes no vector lies in two lines; without one it is as LLVM likes.
    """

    @intrinsic
    def allocate(typing: Any) -> Any:
        result = types.CPointer(number)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            space = cgutils.alloca_once(builder, context.get_data_type(number), size=count)
            space.align = alignment
            return space

        return result(), generate

    return allocate
