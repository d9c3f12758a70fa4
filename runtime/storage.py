"""Arrays of kernels: plain ones, and a type of their own for numbers that are stored otherwise than computed.

Note [Storage]
A kernel says `weight[i] = weight[i] - lr * grad[i]` whatever its arrays are stored in. An array in the
compute dtype is an array of Numba's. Any other is `Stored`: reading an element widens it, writing one rounds
it. A weight with a master is one array, too: the master is read and written, and the half precision weight
beside it gets each value that is written, rounded. A weight that is rounded stochastically brings its noise,
one word per element. An index counts from the front; nothing is checked.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_global, signature
from numba.extending import infer_getattr, lower_builtin, lower_getattr, models, register_model
from numba.np.arrayobj import make_array, populate_array

from stepspec.compilation import intrinsic
from stepspec.formats import HALF
from stepspec.halves import Target, rounded, rounded_with_noise, widened

INT = ir.IntType(64)


class Stored(types.Type):  # type: ignore[misc]  # Numba is untyped
    """The Numba type of an array whose elements are not stored as they are computed.

    Parameters
    ----------
    number
        Type of the elements in arithmetic: float32 or float64.
    ndim
        1 or 2.
    storage
        dtype of the elements in memory.
    copy
        dtype of the half precision copy that gets what is written, empty if there is none.
    noisy
        Whether elements are rounded stochastically.

    """

    def __init__(self, number: Any, ndim: int, storage: str, copy: str, noisy: bool) -> None:
        self.number, self.ndim, self.storage, self.copy, self.noisy = number, ndim, storage, copy, noisy
        super().__init__(f"Stored({number}, {ndim}, {storage}, {copy}, {noisy})")


def array_type(number: Any, ndim: int, storage: str, copy: str = "", noisy: bool = False) -> Any:
    """Return the type of a C-contiguous array: Numba's own where elements are stored as they are computed."""
    if storage == str(number) and not copy:
        return types.Array(number, ndim, "C")
    return Stored(number, ndim, storage, copy, noisy)


def width(storage: str) -> int:
    """Return how many bytes an element takes."""
    return 2 if storage in HALF else 4 if storage == "float32" else 8


def make(
    context: Any, builder: Any, kind: Any, base: Any, extents: Sequence[Any], copy: Any, noise: Any
) -> Any:
    """Return (in LLVM) an array over foreign memory, given addresses; `copy` and `noise` if it has them."""
    if isinstance(kind, types.Array):
        return _make_plain(context, builder, kind, base, extents)
    array = cgutils.create_struct_proxy(kind)(context, builder)
    array.data = builder.inttoptr(base, array.data.type)
    array.shape = cgutils.pack_array(builder, extents)
    if kind.copy:
        array.copy = builder.inttoptr(copy, array.copy.type)
    if kind.noisy:
        array.noise = builder.inttoptr(noise, array.noise.type)
    return array._getvalue()


def _make_plain(context: Any, builder: Any, kind: Any, base: Any, extents: Sequence[Any]) -> Any:
    array, size = make_array(kind)(context, builder), INT(kind.dtype.bitwidth // 8)
    strides = [size] if len(extents) == 1 else [builder.mul(extents[1], size), size]
    populate_array(
        array,
        data=builder.inttoptr(base, array.data.type),
        shape=cgutils.pack_array(builder, extents),
        strides=cgutils.pack_array(builder, strides),
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()


def load(context: Any, builder: Any, storage: str, place: Any, number: Any) -> Any:
    """Return (in LLVM) the element at a pointer to its storage, widened."""
    value, kind = builder.load(place), storage
    if storage in HALF:
        # float64 via float32 is exact, and LLVM has no half to float64 without a library
        value, kind = widened(_target(context), builder, storage, value), "float32"
    return context.cast(builder, value, getattr(numba, kind), number)


def _target(context: Any) -> Target:
    target: Target = context.codegen().magic_tuple()
    return target


def memory(storage: str) -> Any:
    """Return the type of what memory holds: bits for half precision."""
    return types.uint16 if storage in HALF else getattr(numba, storage)


@register_model(Stored)
class _Model(models.StructModel):  # type: ignore[misc]  # Numba is untyped
    """Pointers are members, so that they become arguments of their own, known not to overlap."""

    def __init__(self, manager: Any, kind: Stored) -> None:
        members = [
            ("data", types.CPointer(memory(kind.storage))),
            ("shape", types.UniTuple(types.intp, kind.ndim)),
        ]
        if kind.copy:
            members.append(("copy", types.CPointer(memory(kind.copy))))
        if kind.noisy:
            members.append(("noise", types.CPointer(types.uint32)))
        super().__init__(manager, kind, members)


@infer_getattr
class _Attributes(AttributeTemplate):  # type: ignore[misc]  # Numba is untyped
    key = Stored

    def resolve_shape(self, kind: Stored) -> Any:
        return types.UniTuple(types.intp, kind.ndim)

    def resolve_size(self, kind: Stored) -> Any:
        return types.intp

    def resolve_dtype(self, kind: Stored) -> Any:
        return types.DType(kind.number)


@lower_getattr(Stored, "shape")  # type: ignore[untyped-decorator]  # Numba is untyped
def _shape(context: Any, builder: Any, kind: Stored, value: Any) -> Any:
    return context.make_helper(builder, kind, value).shape


@lower_getattr(Stored, "size")  # type: ignore[untyped-decorator]  # Numba is untyped
def _size(context: Any, builder: Any, kind: Stored, value: Any) -> Any:
    extents = cgutils.unpack_tuple(builder, context.make_helper(builder, kind, value).shape)
    return builder.mul(*extents) if kind.ndim == 2 else extents[0]


@lower_getattr(Stored, "dtype")  # type: ignore[untyped-decorator]  # Numba is untyped
def _dtype(context: Any, builder: Any, kind: Stored, value: Any) -> Any:
    return context.get_dummy_value()


def _index_type(kind: Any, index: Any) -> Any:
    """Return the type of a whole index into an array, None for any other."""
    if not isinstance(kind, Stored):
        return None
    if kind.ndim == 1 and isinstance(index, types.Integer):
        return types.intp
    if isinstance(index, types.BaseTuple) and len(index) == kind.ndim == 2:
        return types.UniTuple(types.intp, 2)
    return None


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):  # type: ignore[misc]  # Numba is untyped
    def generic(self, arguments: Any, keywords: Any) -> Any:
        kind, index = arguments
        index = _index_type(kind, index)
        return index and signature(kind.number, kind, index)


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):  # type: ignore[misc]  # Numba is untyped
    def generic(self, arguments: Any, keywords: Any) -> Any:
        kind, index, _ = arguments
        index = _index_type(kind, index)
        # float64 is stored as float64: such an array is a gradient
        if index is None or kind.number == types.float64:
            return None
        return signature(types.none, kind, index, kind.number)


def _position(builder: Any, kind: Stored, array: Any, index: Any) -> Any:
    if kind.ndim == 1:
        return index
    _, columns = cgutils.unpack_tuple(builder, array.shape)
    row, column = cgutils.unpack_tuple(builder, index)
    return builder.add(builder.mul(row, columns), column)


@intrinsic
def address(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Return the address of an element of a C-contiguous 2-D array, which may lie beyond its end."""
    if not isinstance(array, types.Array | Stored):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        helper = context.make_helper(builder, array, arguments[0])
        _, columns = cgutils.unpack_tuple(builder, helper.shape)
        position = builder.add(builder.mul(arguments[1], columns), arguments[2])
        return builder.ptrtoint(builder.gep(helper.data, [position]), INT)

    return types.int64(array, types.int64, types.int64), generate


@lower_builtin(operator.getitem, Stored, types.Any)  # type: ignore[untyped-decorator]  # Numba is untyped
def _get(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind, (value, index) = signature.args[0], arguments
    array = context.make_helper(builder, kind, value)
    place = builder.gep(array.data, [_position(builder, kind, array, index)], inbounds=True)
    return load(context, builder, kind.storage, place, kind.number)


@lower_builtin(operator.setitem, Stored, types.Any, types.Any)  # type: ignore[untyped-decorator]  # Numba is untyped
def _set(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind, (value, index, element) = signature.args[0], arguments
    array = context.make_helper(builder, kind, value)
    position = _position(builder, kind, array, index)
    place = builder.gep(array.data, [position], inbounds=True)
    if kind.copy:
        copied = rounded(_target(context), builder, kind.copy, element)
        builder.store(copied, builder.gep(array.copy, [position], inbounds=True))
    if kind.noisy:
        noise = builder.load(builder.gep(array.noise, [position], inbounds=True))
        element = rounded_with_noise(_target(context), builder, kind.storage, element, noise)
    elif kind.storage in HALF:
        element = rounded(_target(context), builder, kind.storage, element)
    builder.store(element, place)
    return context.get_dummy_value()
