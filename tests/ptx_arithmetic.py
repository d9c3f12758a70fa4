"""Arithmetic of PTX on the bits of all threads' registers."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from ptx_text import SIZES

# an array of all threads' bits, or one number that all of them share
Bits = Any
Operation = Callable[..., Bits]

KINDS: dict[str, Any] = {
    "pred": np.bool_, "f16": np.float16, "f32": np.float32, "f64": np.float64,
    **{f"{kind}{8 * size}": np.dtype(f"u{size}").type for kind in "bu" for size in (1, 2, 4, 8)},
    **{f"s{8 * size}": np.dtype(f"i{size}").type for size in (1, 2, 4, 8)},
}  # fmt: skip
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def typed(function: Operation, kind: str) -> Operation:
    """Make a function of numbers one of their bits."""
    dtype = KINDS[kind]
    if kind == "pred":
        return function
    unsigned = UNSIGNED[SIZES[kind]]
    return lambda *bits: dtype_of(function(*(b.view(dtype) for b in bits)), dtype).view(unsigned)


def dtype_of(value: Any, dtype: Any) -> Any:
    """Return a result in the type of its operands: NumPy widens some."""
    return value if value.dtype == dtype else value.astype(dtype)


def divide(a: Any, b: Any) -> Any:
    """Divide; integers towards zero, by zero anything."""
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, np.ones_like(b), b)
    return (a - np.fmod(a, b)) // b


def remainder(a: Any, b: Any) -> Any:
    return np.fmod(a, np.where(b == 0, np.ones_like(b), b))


def smaller(a: Any, b: Any) -> Any:
    """Return the smaller one: a number before a NaN, -0 before +0."""
    if a.dtype.kind != "f":
        return np.minimum(a, b)
    return np.where((a < b) | np.isnan(b) | ((a == b) & np.signbit(a)), a, b)


def larger(a: Any, b: Any) -> Any:
    """Return the larger one: a number before a NaN, +0 before -0."""
    if a.dtype.kind != "f":
        return np.maximum(a, b)
    return np.where((a > b) | np.isnan(b) | ((a == b) & ~np.signbit(a)), a, b)


def strictly(pick: Operation) -> Operation:
    """Return a NaN if there is one."""
    return lambda a, b: np.where(np.isnan(a), a, np.where(np.isnan(b), b, pick(a, b)))


def shift_left(a: Any, n: Any) -> Any:
    """Shift by 32-bit counts, which may be larger than the width."""
    width = 8 * a.dtype.itemsize
    return np.where(n < width, a << np.minimum(n, width - 1).astype(a.dtype), np.zeros_like(a))


def shift_right(a: Any, n: Any) -> Any:
    """Shift by 32-bit counts; a signed number keeps its sign."""
    width = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(n, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(n < width, shifted, np.zeros_like(a))


def high_half(a: Any, b: Any) -> Any:
    """Return the upper half of a product."""
    width = 8 * a.dtype.itemsize
    if width < 64:
        double = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return ((a.astype(double) * b.astype(double)) >> width).astype(a.dtype)
    if a.dtype.kind == "i":
        x, y = a.view(np.uint64), b.view(np.uint64)
        both = _high_unsigned(x, y) - np.where(a < 0, y, 0 * y) - np.where(b < 0, x, 0 * x)
        return both.view(np.int64)
    return _high_unsigned(a, b)


def _high_unsigned(a: Any, b: Any) -> Any:
    half, low = np.uint64(32), np.uint64(2**32 - 1)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    return a1 * b1 + (middle >> half) + ((a0 * b1 + (middle & low)) >> half)


def wide_product(a: Any, b: Any) -> Any:
    double = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(double) * b.astype(double)


def fused(a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c rounded once, so that a contraction gives other bits than two operations."""
    return _fused_single(a, b, c) if a.dtype == np.float32 else _fused_double(a, b, c)


def _fused_single(a: Any, b: Any, c: Any) -> Any:
    """Round in double precision to odd, then to single."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = np.asarray(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(np.isfinite(total) & (error != 0) & even, odd, total).astype(np.float32)


def _fused_double(a: Any, b: Any, c: Any) -> Any:
    return np.vectorize(_fused_number, otypes=[np.float64])(a, b, c)


def _fused_number(a: float, b: float, c: float) -> float:
    plain = a * b + c
    if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(c)):
        return plain
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    try:
        return float(exact) if exact else plain
    except OverflowError:
        return np.inf if exact > 0 else -np.inf


def extracted(a: Any, position: Any, length: Any) -> Any:
    """Return a field of bits, bfe: of a signed number with its sign."""
    width = 8 * a.dtype.itemsize
    position, length = position & np.uint32(255), np.minimum(length & np.uint32(255), np.uint32(width))
    kept = np.minimum(length, np.maximum(width - position.astype(np.int64), 0)).astype(np.uint32)
    unsigned = a.view(UNSIGNED[a.dtype.itemsize])
    field = shift_right(unsigned, position) & ~shift_left(~np.zeros_like(unsigned), length)
    if a.dtype.kind == "u":
        return field
    last = np.minimum(position.astype(np.int64) + length - 1, width - 1).astype(np.uint32)
    negative = (length > 0) & ((shift_right(unsigned, last) & unsigned.dtype.type(1)) != 0)
    return np.where(negative, field | shift_left(~np.zeros_like(unsigned), kept), field).view(a.dtype)


def inserted(a: Any, b: Any, position: Any, length: Any) -> Any:
    """Return b with a field of bits replaced by those of a, bfi."""
    position, length = position & np.uint32(255), length & np.uint32(255)
    field = shift_left(~shift_left(~np.zeros_like(b), length), position)
    return (b & ~field) | (shift_left(a, position) & field)


def permuted(a: Any, b: Any, selection: Any) -> Any:
    """Return four of the eight bytes of a and b, prmt."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.zeros_like(both)
    for index in range(4):
        choice = (selection.astype(np.uint64) >> np.uint64(4 * index)) & np.uint64(15)
        byte = both >> (choice & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        signs = np.where(byte >> np.uint64(7) != 0, np.uint64(255), np.uint64(0))
        result = result | np.where(choice & np.uint64(8) != 0, signs, byte) << np.uint64(8 * index)
    return result.astype(np.uint32)


def leading_zeros(a: Any) -> Any:
    """Count them, clz."""
    width, found = 8 * a.dtype.itemsize, np.zeros(np.shape(a), np.uint32)
    for bits in range(1, width + 1):
        found = found + (a < a.dtype.type(1) << a.dtype.type(width - bits)).astype(np.uint32)
    return found


def funnel(a: Any, b: Any, n: Any, *, left: bool, wrap: bool) -> Any:
    """Shift the 64 bits of b and a and return the upper (left) or the lower half, shf."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    count = (n & np.uint32(31) if wrap else np.minimum(n, np.uint32(32))).astype(np.uint64)
    moved = (both << count) >> np.uint64(32) if left else both >> count
    return moved.astype(np.uint32)


COMPARISONS: dict[str, Operation] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip


def comparison(name: str, kind: str) -> Operation:
    """Return a comparison of bits; of floats `ne` is false where one is NaN, and `equ`, `neu` are true."""
    dtype = KINDS[kind]
    floats = kind.startswith("f")
    unordered = floats and name.endswith("u") and name[:-1] in COMPARISONS
    compare = COMPARISONS[name[:-1] if unordered else name]

    def result(a: Bits, b: Bits) -> Bits:
        a, b = a.view(dtype), b.view(dtype)
        if unordered:
            return compare(a, b) | np.isnan(a) | np.isnan(b)
        if floats and name == "ne":
            return compare(a, b) & ~np.isnan(a) & ~np.isnan(b)
        return compare(a, b)

    return result
