"""Numbers in a GPU's memory, by address: as they are stored, read and written as they are computed.

Everything here writes LLVM, for intrinsics. Addresses are int64; consecutive numbers go in as few accesses
of at most 16 bytes as they can. Half precision has the bits of `stepspec.halves`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import types

from stepspec.cuda.device_code import intrinsic
from stepspec.formats import HALF
from stepspec.halves import Target, rounded, rounded_with_noise, widened
from stepspec.layout import Parameter
from stepspec.storage import width

INT, SHORT = ir.IntType(64), ir.IntType(32)
# elements that a thread takes at once, in one access each of 16 bytes (float32)
PACKET = 4

_TARGET: Target = ("nvptx64-nvidia-cuda", "", "")
_GLOBAL_MEMORY = 1
_WIDEST = 16


def number_type(dtype: str) -> Any:
    """Return numba-cuda's type of a dtype."""
    return getattr(types, dtype)


def element_address(builder: Any, base: Any, index: Any, storage: str) -> Any:
    """Return the address of an element of an array."""
    return builder.add(base, builder.mul(index, INT(width(storage))))


def load(context: Any, builder: Any, storage: str, address: Any, number: Any, size: int = 1) -> list[Any]:
    """Return `size` consecutive numbers, widened to (or, of a gradient, rounded to) the type `number`.

    Several ones must lie at a multiple of their bytes, or of 16.
    """
    values, kind = _load_bits(builder, storage, address, size), storage
    if storage in HALF:
        values, kind = [widened(_TARGET, builder, storage, value) for value in values], "float32"
    return [context.cast(builder, value, number_type(kind), number) for value in values]


def store(
    builder: Any, storage: str, address: Any, values: Sequence[Any], noise: Sequence[Any] | None = None
) -> None:
    """Write consecutive numbers, rounded as they are stored: to the nearest, or by a random word each."""
    if storage in HALF and noise is not None:
        pairs = zip(values, noise, strict=True)
        values = [rounded_with_noise(_TARGET, builder, storage, value, word) for value, word in pairs]
    elif storage in HALF:
        values = [rounded(_TARGET, builder, storage, value) for value in values]
    _store_bits(builder, storage, address, values)


def load_word(builder: Any, address: Any, kind: Any = INT) -> Any:
    """Return the 8-byte value at an address."""
    return builder.load(_place(builder, address, kind))


def load_slot(builder: Any, table: Any, slot: int, tensor: Any, kind: Any = INT) -> Any:
    """Return the 8-byte value that a slot of a table holds for a tensor."""
    row = load_word(builder, builder.add(table, INT(8 * slot)))
    return load_word(builder, builder.add(row, builder.shl(tensor, INT(3))), kind)


@intrinsic
def word(typing: Any, address: Any, index: Any) -> Any:
    """Return an int64 of an array, given its address."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return load_word(builder, builder.add(given[0], builder.shl(given[1], INT(3))))

    return types.int64(types.int64, types.int64), generate


def opener(slots: Sequence[Parameter], number: Any) -> Any:
    """Return `opened(table, tensor)`: a tuple of what each slot holds for a tensor.

    Scalars are rounded to `number`. An entry reads all once for each item, every thread the same addresses.
    """
    kinds = [number if slot.role == "scalar" else types.int64 for slot in slots]

    @intrinsic
    def opened(typing: Any, table: Any, tensor: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            found = []
            for slot, kind in enumerate(kinds):
                if kind is types.int64:
                    found.append(load_slot(builder, given[0], slot, given[1]))
                else:
                    wide = load_slot(builder, given[0], slot, given[1], ir.DoubleType())
                    found.append(context.cast(builder, wide, types.float64, kind))
            return context.make_tuple(builder, signature.return_type, found)

        return types.Tuple(kinds)(types.int64, types.int64), generate

    return opened


def alignment(slots: Sequence[int]) -> Any:
    """Return `aligned(opened)`: whether packets of the arrays in these slots can go in one access."""

    @intrinsic
    def aligned(typing: Any, opened: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            bits = INT(0)
            for slot in slots:
                bits = builder.or_(bits, builder.extract_value(given[0], slot))
            return builder.icmp_signed("==", builder.and_(bits, INT(_WIDEST - 1)), INT(0))

        return types.boolean(opened), generate

    return aligned


@functools.cache
def reader(storage: str, dtype: str) -> Any:
    """Return `read(address, index)`: an element of an array, in the compute dtype."""

    @intrinsic
    def read(typing: Any, address: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            place = element_address(builder, given[0], given[1], storage)
            return load(context, builder, storage, place, signature.return_type)[0]

        return number_type(dtype)(types.int64, types.int64), generate

    return read


@functools.cache
def writer(storage: str, dtype: str) -> Any:
    """Return `write(address, index, value)`: the value, of the compute dtype, is rounded to the nearest."""

    @intrinsic
    def write(typing: Any, address: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            store(builder, storage, element_address(builder, given[0], given[1], storage), [given[2]])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, number_type(dtype)), generate

    return write


def _place(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer(addrspace=_GLOBAL_MEMORY))


def _memory(storage: str) -> Any:
    """Return what memory holds: bits for half precision."""
    if storage in HALF:
        return ir.IntType(16)
    return ir.FloatType() if storage == "float32" else ir.DoubleType()


def _load_bits(builder: Any, storage: str, address: Any, size: int) -> list[Any]:
    if size == 1:
        return [builder.load(_place(builder, address, _memory(storage)))]
    found = []
    for place, kind in _accesses(builder, storage, address, size):
        several = builder.load(place, align=_bytes(kind))
        found += [builder.extract_element(several, SHORT(k)) for k in range(kind.count)]
    return [half for pair in found for half in _apart(builder, pair)] if storage in HALF else found


def _store_bits(builder: Any, storage: str, address: Any, values: Sequence[Any]) -> None:
    if len(values) == 1:
        builder.store(values[0], _place(builder, address, _memory(storage)))
        return
    left = iter(_pairs(builder, values) if storage in HALF else values)
    for place, kind in _accesses(builder, storage, address, len(values)):
        several = ir.Constant(kind, ir.Undefined)
        for k in range(kind.count):
            several = builder.insert_element(several, next(left), SHORT(k))
        builder.store(several, place, align=_bytes(kind))


def _accesses(builder: Any, storage: str, address: Any, size: int) -> list[tuple[Any, Any]]:
    """Return pointers to consecutive vectors that make up so many numbers, and the vectors' type."""
    whole = size * width(storage)
    at_once = min(whole, _WIDEST)
    # NVVM takes vectors of 16-bit numbers apart
    kind = SHORT if storage in HALF else _memory(storage)
    vector = ir.VectorType(kind, at_once // (4 if storage in HALF else width(storage)))
    places = [builder.add(address, INT(first)) for first in range(0, whole, at_once)]
    return [(_place(builder, place, vector), vector) for place in places]


def _bytes(vector: Any) -> int:
    return int(vector.count) * (8 if vector.element == ir.DoubleType() else 4)


def _apart(builder: Any, pair: Any) -> list[Any]:
    """Return the two 16-bit numbers in one of 32 bits."""
    half = ir.IntType(16)
    return [builder.trunc(pair, half), builder.trunc(builder.lshr(pair, SHORT(16)), half)]


def _pairs(builder: Any, values: Sequence[Any]) -> list[Any]:
    """Return 16-bit numbers as half as many of 32 bits."""
    wide = [builder.zext(value, SHORT) for value in values]
    pairs = zip(wide[::2], wide[1::2], strict=True)
    return [builder.or_(low, builder.shl(high, SHORT(16))) for low, high in pairs]
