"""exp, log, tanh, a cosine and normal numbers in float64: one source for NumPy and Numba.

Math libraries differ in the last bit, so these are spelled out, from + - * /, square roots and the bits of
the exponent. The functions run as they stand on arrays; `stepspec.arithmetic` teaches Numba the four
primitives (`select`, `bits`, `number`, `root`) and compiles the same functions for scalars. No operation may
be contracted or reordered.
"""

from __future__ import annotations

from math import factorial, inf, nan
from typing import Any

import numpy as np

# float64 numbers or int64 integers: a NumPy array here, a scalar in compiled code
Floats = Any
Integers = Any
# uint64 numbers below 2**32, likewise
Words = Any

# log(2) in two parts: the products of the high one (37 bits) with exponents (11 bits) are exact
LN2_HIGH = float.fromhex("0x1.62e42fefap-1")
LN2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")
LOG2_E = float.fromhex("0x1.71547652b82fep+0")
# a number plus SHIFT is rounded to an integer, which then stands in the low bits
SHIFT = 1.5 * 2.0**52
SHIFT_BITS = 0x4338000000000000
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
SIGN_BIT = -(2**63)
EXPONENT_BIAS = 1023
MANTISSA_WIDTH = 52
SMALLEST_NORMAL = 2.0**-1022
# the bits of 1.0, below which 52 random ones make a number in [1, 2)
ONE_BITS = np.uint64(0x3FF0000000000000)
HIGH_WORD, LOW_WORD = np.uint64(20), np.uint64(12)

# (exp(r) - 1 - r) / r**2 = 1/2! + r/3! + ...: the next term is below 2**-57 for |r| <= log(2) / 2
EXP = tuple(1 / factorial(n) for n in range(2, 14))
# (log((1 + s) / (1 - s)) - 2 * s) / s**3 = 2/3 + 2/5 * s**2 + ...: enough for |s| <= 3 - sqrt(8)
LOG = tuple(2 / n for n in range(3, 23, 2))
# sin(r * pi / 2) / r and cos(r * pi / 2) in powers of r**2: the next terms are below 2**-57 for |r| <= 1/2.
# Quotients of whole numbers, pi / 2 in units of 10**-35, are rounded once.
_HALF_PI, _UNIT = 157079632679489661923132169163975144, 10**35
_TURNED = [(-1) ** (n // 2) * _HALF_PI**n / (factorial(n) * _UNIT**n) for n in range(18)]
SIN, COS = tuple(_TURNED[1::2]), tuple(_TURNED[0::2])


def select(condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition holds, else b."""
    return np.where(condition, a, b)


def bits(x: Floats) -> Integers:
    """Return the bits of float64 numbers."""
    return x.view(np.int64)


def number(n: Integers) -> Floats:
    """Return the float64 numbers with the given bits."""
    return n.view(np.float64)


def root(x: Floats) -> Floats:
    """Return the square root."""
    return np.sqrt(x)


def power_of_two(n: Integers) -> Floats:
    """Return 2**n for -1023 < n < 1024."""
    return number((n + EXPONENT_BIAS) << MANTISSA_WIDTH)


def reduced_expm1(x: Floats) -> tuple[Floats, Integers]:
    """Return (exp(r) - 1, n) with x = r + n * log(2) and |r| at most about log(2) / 2, for |x| < 1024."""
    shifted = x * LOG2_E + SHIFT
    k = shifted - SHIFT
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = EXP[11]
    p = p * r + EXP[10]
    p = p * r + EXP[9]
    p = p * r + EXP[8]
    p = p * r + EXP[7]
    p = p * r + EXP[6]
    p = p * r + EXP[5]
    p = p * r + EXP[4]
    p = p * r + EXP[3]
    p = p * r + EXP[2]
    p = p * r + EXP[1]
    p = p * r + EXP[0]
    return r + r * r * p, bits(shifted) - SHIFT_BITS


def exp(x: Floats) -> Floats:
    """Return e**x."""
    x = select(x < -746.0, -746.0, x)
    x = select(x > 710.0, 710.0, x)
    m, n = reduced_expm1(x)
    # in two factors, as 2**n itself may be out of range; only the last product rounds
    half = n >> 1
    return (1.0 + m) * power_of_two(half) * power_of_two(n - half)


def log(x: Floats) -> Floats:
    """Return the natural logarithm: -inf at either zero, NaN below."""
    tiny = x < SMALLEST_NORMAL
    finite = reduced_log(bits(select(tiny, x * 2.0**54, x)), select(tiny, 54.0, 0.0))
    return select(x > 0.0, select(x < inf, finite, x), select(x == 0.0, -inf, nan))


def reduced_log(scaled: Integers, down: Floats) -> Floats:
    """Return log(x / 2**down) of a positive normal number x, given its bits."""
    # x = 2**n * (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)
    n = (scaled - SQRT_HALF_BITS) >> MANTISSA_WIDTH
    f = number(scaled - (n << MANTISSA_WIDTH)) - 1.0
    k = (number(n + SHIFT_BITS) - SHIFT) - down
    # log(1 + f) = log((1 + s) / (1 - s)) = 2 * s + s * p, and 2 * s = f - f**2 / 2 + s * f**2 / 2
    s = f / (2.0 + f)
    z = s * s
    p = LOG[9]
    p = p * z + LOG[8]
    p = p * z + LOG[7]
    p = p * z + LOG[6]
    p = p * z + LOG[5]
    p = p * z + LOG[4]
    p = p * z + LOG[3]
    p = p * z + LOG[2]
    p = p * z + LOG[1]
    p = p * z + LOG[0]
    p = p * z
    half_square = 0.5 * f * f
    return k * LN2_HIGH + (f - (half_square - (s * (half_square + p) + k * LN2_LOW)))


def cos_of_turns(u: Floats) -> Floats:
    """Return cos(2 * pi * u) for |u| < 2**40."""
    # 4 * u = n + r with |r| <= 1/2, exactly
    quarters = 4.0 * u
    shifted = quarters + SHIFT
    r = quarters - (shifted - SHIFT)
    z = r * r
    sine = SIN[8]
    sine = sine * z + SIN[7]
    sine = sine * z + SIN[6]
    sine = sine * z + SIN[5]
    sine = sine * z + SIN[4]
    sine = sine * z + SIN[3]
    sine = sine * z + SIN[2]
    sine = sine * z + SIN[1]
    sine = (sine * z + SIN[0]) * r
    cosine = COS[8]
    cosine = cosine * z + COS[7]
    cosine = cosine * z + COS[6]
    cosine = cosine * z + COS[5]
    cosine = cosine * z + COS[4]
    cosine = cosine * z + COS[3]
    cosine = cosine * z + COS[2]
    cosine = cosine * z + COS[1]
    cosine = cosine * z + COS[0]
    # cos, -sin, -cos, sin of r quarters in turn; the low bits of n are those of `shifted`
    n = bits(shifted)
    chosen = select((n & 1) == 1, sine, cosine)
    return number(bits(chosen) ^ ((n + 1) << 62 & SIGN_BIT))


def uniform(high: Words, low: Words) -> Floats:
    """Return a number in [1, 2) of two random words: a multiple of 2**-52."""
    return number(ONE_BITS | high << HIGH_WORD | low >> LOW_WORD)


def normal(a: Words, b: Words, c: Words, d: Words) -> Floats:
    """Return a standard normal number of four random words: Box and Muller's, see Note [Noise]."""
    # both differences are exact: an odd multiple of 2**-53 in (0, 1), and a multiple of 2**-52 in [0, 1)
    u, v = uniform(a, b) - (1.0 - 2.0**-53), uniform(c, d) - 1.0
    return root(-2.0 * reduced_log(bits(u), 0.0)) * cos_of_turns(v)


def tanh(x: Floats) -> Floats:
    """Return the hyperbolic tangent, odd to the bit."""
    magnitude = abs(x)
    # above 22 the result is 1
    magnitude = select(magnitude > 22.0, 22.0, magnitude)
    m, n = reduced_expm1(2.0 * magnitude)
    scale = power_of_two(n)
    expm1 = m * scale + (scale - 1.0)
    return number(bits(expm1 / (expm1 + 2.0)) | (bits(x) & SIGN_BIT))
