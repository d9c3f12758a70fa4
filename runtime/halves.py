"""float32 from and to float16 and bfloat16 in LLVM: to the nearest even, or stochastically.

Instructions are used for float16 where the processor has them, else integers: LLVM would call library
functions that need not be there. bfloat16 is integers everywhere, as its instructions lose subnormals.
The bits are those of NumPy and ml_dtypes, and for stochastic rounding those of `stepspec.noise`.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

# the triple, the processor and its features, as LLVM spells them
Target = tuple[str, str, str]

I16, I32, FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()

# float32: the sign, infinity, the hidden bit
SIGN, INFINITY, HIDDEN = 0x80000000, 0x7F800000, 1 << 23
# float16: 2**-14, the smallest normal number, and the difference of the biases of the exponents
SMALLEST_NORMAL, REBIAS = 0x38800000, 112 << 23
NAN16, INFINITY16 = 0x7E00, 0x7C00
NAN_BFLOAT16 = 0x7FC0


def widened(target: Target, builder: Any, storage: str, half: Any) -> Any:
    """Return the float32 value of the bits of a half precision number; exact."""
    if storage == "bfloat16":
        return builder.bitcast(builder.shl(builder.zext(half, I32), I32(16)), FLOAT)
    if has_float16(*target):
        return builder.fpext(builder.bitcast(half, ir.HalfType()), FLOAT)
    return _widened_float16(builder, half)


def rounded(target: Target, builder: Any, storage: str, value: Any) -> Any:
    """Return the bits of the half precision number nearest to a float32 value."""
    if storage == "bfloat16":
        return _rounded_bfloat16(builder, value)
    if has_float16(*target):
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), I16)
    return _rounded_float16(builder, value)


def rounded_with_noise(target: Target, builder: Any, storage: str, value: Any, noise: Any) -> Any:
    """Return the bits of one of the two half precision numbers around a float32 value, by 32 random bits."""
    if storage == "bfloat16":
        return _noisy_bfloat16(builder, value, noise)
    return _noisy_float16(target, builder, value, noise)


@functools.cache
def has_float16(triple: str, processor: str, features: str) -> bool:
    """Tell whether the target converts float32 from and to float16 by instructions."""
    return triple.startswith(("aarch64", "arm64", "nvptx64")) or "+f16c" in features.split(",")


def _widened_float16(builder: Any, half: Any) -> Any:
    bits = builder.zext(half, I32)
    body = builder.shl(builder.and_(bits, I32(0x7FFF)), I32(13))
    exponent = builder.and_(body, I32(INFINITY16 << 13))
    normal = builder.add(body, I32(REBIAS))
    special = builder.add(normal, I32(REBIAS))
    # 2**-14 * 1.mantissa - 2**-14
    above = builder.bitcast(builder.add(normal, I32(HIDDEN)), FLOAT)
    small = builder.fsub(above, builder.bitcast(I32(SMALLEST_NORMAL), FLOAT))
    found = builder.select(_equal(builder, exponent, INFINITY16 << 13), special, normal)
    found = builder.select(_equal(builder, exponent, 0), builder.bitcast(small, I32), found)
    sign = builder.shl(builder.and_(bits, I32(0x8000)), I32(16))
    return builder.bitcast(builder.or_(found, sign), FLOAT)


def _rounded_float16(builder: Any, value: Any) -> Any:
    sign, magnitude = _parts(builder, value)
    odd = builder.and_(builder.lshr(magnitude, I32(13)), I32(1))
    normal = builder.add(builder.add(magnitude, I32(0xFFF - REBIAS & 0xFFFFFFFF)), odd)
    found = builder.lshr(normal, I32(13))
    found = builder.select(_below(builder, magnitude, 0x47800000), found, I32(INFINITY16))
    # the last bit of numbers from 0.5 on is 2**-24, as that of subnormal numbers
    shifted = builder.fadd(builder.bitcast(magnitude, FLOAT), FLOAT(0.5))
    small = builder.sub(builder.bitcast(shifted, I32), builder.bitcast(FLOAT(0.5), I32))
    found = builder.select(_below(builder, magnitude, SMALLEST_NORMAL), small, found)
    found = builder.select(_below(builder, magnitude, INFINITY + 1), found, I32(NAN16))
    return builder.trunc(builder.or_(found, builder.lshr(sign, I32(16))), I16)


def _rounded_bfloat16(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, I32)
    odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
    found = builder.lshr(builder.add(bits, builder.add(odd, I32(0x7FFF))), I32(16))
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, I32(NAN_BFLOAT16), found), I16)


def _noisy_bfloat16(builder: Any, value: Any, noise: Any) -> Any:
    _, magnitude = _parts(builder, value)
    raised = builder.add(builder.bitcast(value, I32), builder.and_(noise, I32(0xFFFF)))
    found = builder.trunc(builder.lshr(raised, I32(16)), I16)
    return builder.select(_below(builder, magnitude, INFINITY), found, _rounded_bfloat16(builder, value))


def _noisy_float16(target: Target, builder: Any, value: Any, noise: Any) -> Any:
    sign, magnitude = _parts(builder, value)
    raised = builder.add(magnitude, builder.and_(noise, I32(0x1FFF)))
    cut = builder.and_(raised, I32(~0x1FFF & 0xFFFFFFFF))
    cut = builder.select(_below(builder, magnitude, INFINITY), cut, magnitude)
    found = rounded(target, builder, "float16", builder.bitcast(cut, FLOAT))
    # a subnormal number is a multiple of 2**-24; everything here is exact
    scaled = builder.fmul(builder.bitcast(magnitude, FLOAT), FLOAT(2.0**24))
    below = builder.fptoui(scaled, I32)
    fraction = builder.fsub(scaled, builder.uitofp(below, FLOAT))
    threshold = builder.fptoui(builder.fmul(fraction, FLOAT(2.0**32)), I32)
    up = builder.zext(builder.icmp_unsigned("<", noise, threshold), I32)
    small = builder.trunc(builder.add(below, up), I16)
    found = builder.select(_below(builder, magnitude, SMALLEST_NORMAL), small, found)
    return builder.or_(found, builder.trunc(builder.lshr(sign, I32(16)), I16))


def _parts(builder: Any, value: Any) -> tuple[Any, Any]:
    """Return the sign bit and the other bits of a float32 value."""
    bits = builder.bitcast(value, I32)
    return builder.and_(bits, I32(SIGN)), builder.and_(bits, I32(SIGN - 1))


def _below(builder: Any, bits: Any, limit: int) -> Any:
    return builder.icmp_unsigned("<", bits, I32(limit))


def _equal(builder: Any, bits: Any, value: int) -> Any:
    return builder.icmp_unsigned("==", bits, I32(value))
