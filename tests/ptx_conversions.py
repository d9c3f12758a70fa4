"""Conversions of the PTX machine: the bits of one type into those of another."""

from typing import Any

import numpy as np
from ptx_arithmetic import KINDS, UNSIGNED, Bits, Operation
from ptx_text import SIZES

_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_ROUNDINGS = {*_INTEGRAL, "rn", "sat"}


def conversion(modifiers: tuple[str, ...], target: str, source: str) -> Operation:
    """Return the function from a register of at least `source`'s width to bits of `target`.

    Of a floating-point type smaller than its source nothing but rounding to nearest, ties to even, is known.
    """
    unknown = {name for name in modifiers if name not in _ROUNDINGS}
    if unknown:
        raise NotImplementedError(f"cvt.{'.'.join(unknown)}")
    if target.endswith("x2"):
        one = conversion(modifiers, target[:-2], source)
        return lambda a, b: one(a).astype(np.uint32) << np.uint32(16) | one(b).astype(np.uint32)

    def convert(bits: Bits) -> Bits:
        with np.errstate(all="ignore"):
            number = _number(narrowed(bits, source), source)
            return _bits(_integral(number, modifiers), target, saturate="sat" in modifiers)

    return convert


def narrowed(bits: Bits, kind: str) -> Bits:
    """Return the low bits of a register that is wider than its type."""
    unsigned = UNSIGNED[SIZES[kind]]
    return bits if bits.dtype == unsigned else bits.astype(unsigned)


def widened(bits: Bits, kind: str, register: Any) -> Bits:
    """Return bits of a type in a register of at least its width, signed numbers with their sign."""
    if bits.dtype == register:
        return bits
    if kind.startswith("s"):
        signed = bits.view(KINDS[kind])
        return signed.astype(KINDS[f"s{8 * register().itemsize}"]).view(register)
    return bits.astype(register)


def _number(bits: Bits, kind: str) -> Any:
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(KINDS[kind])


def _integral(number: Any, modifiers: tuple[str, ...]) -> Any:
    for name in modifiers:
        if name in _INTEGRAL and number.dtype.kind == "f":
            return _INTEGRAL[name](number)
    return number


def _bits(number: Any, kind: str, *, saturate: bool) -> Bits:
    if kind == "bf16":
        return _rounded_to_bfloat16(number)
    target = np.dtype(KINDS[kind])
    if target.kind == "f":
        if saturate:
            number = np.where(number > 0, np.minimum(number, 1), 0).astype(number.dtype)
        return number.astype(target).view(UNSIGNED[target.itemsize])
    if number.dtype.kind == "f":
        number = _clamped(number, target)
    elif saturate:
        raise NotImplementedError("cvt.sat of integers")
    return number.astype(target).view(UNSIGNED[target.itemsize])


def _clamped(number: Any, target: np.dtype[Any]) -> Any:
    """Return integers: the range's ends for floats outside; for a NaN zero, or the highest of 64 bits."""
    limits = np.iinfo(target)
    wide = number.dtype == np.float64 or target.itemsize == 8
    nan = target.type(limits.min if limits.min else 1 << 63) if wide and target.itemsize == 8 else 0
    low, high = float(limits.min), float(limits.max)
    inside = (number > low) & (number < high)
    whole = np.where(inside, number, 0).astype(target)
    ends = np.where(number <= low, target.type(limits.min), np.where(number >= high, limits.max, whole))
    return np.where(np.isnan(number), nan, ends).astype(target)


def _rounded_to_bfloat16(number: Any) -> Bits:
    if number.dtype != np.float32:
        raise NotImplementedError("cvt to bf16 of anything but f32")
    bits = number.view(np.uint32)
    even = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = np.where(np.isnan(number), np.uint32(0x7FFF0000), even)
    return (rounded >> np.uint32(16)).astype(np.uint16)
