"""What generated CPU kernels call: scalar functions and row reductions with the bits of `stepspec.reference`.

Every function keeps the dtype of its argument: a literal is written `type(x)(0)`, as a bare one is float64 in
compiled code. The scalar ones are always inlined, so that the loops around them vectorize.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from stepspec import canonical, transcendental
from stepspec.compilation import OPTIONS, compiled, inlined
from stepspec.pointers import pointer


@inlined
def clip_between(x: Any, low: Any, high: Any) -> Any:
    """Return x limited to [low, high]; NaN stays NaN."""
    x = low if x < low else x
    return high if x > high else x


@inlined
def clip(x: Any, bound: Any) -> Any:
    """Return x limited to [-bound, bound]; NaN stays NaN."""
    return clip_between(x, -bound, bound)


@inlined
def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two, NaN if one is NaN; of equal ones (zeros) the second."""
    return a if a > b or a != a else b


@inlined
def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two, NaN if one is NaN; of equal ones (zeros) the second."""
    return a if a < b or a != a else b


@inlined
def sign(x: Any) -> Any:
    """Return -1, 0 or 1; +0 for either zero, NaN for NaN."""
    zero, one = type(x)(0), type(x)(1)
    nonzero = one if x > zero else -one if x < zero else x
    return zero if x == zero else nonzero


@inlined
def square(x: Any) -> Any:
    """Return x * x."""
    return x * x


@inlined
def sqrt(x: Any) -> Any:
    """Return the square root; NaN below zero."""
    return math.sqrt(x)


@inlined
def power(x: Any, n: int) -> Any:
    """Return the product of n factors x, from left to right."""
    product = x
    for _ in range(1, n):
        product = product * x
    return product


def _select(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


def _bits(x: Any) -> Any:
    return np.float64(x).view(np.int64)


def _number(n: Any) -> Any:
    return np.int64(n).view(np.float64)


def _root(x: Any) -> Any:
    return math.sqrt(x)


def _teach(function: Callable[..., Any], scalar_form: Callable[..., Any]) -> None:
    """Let compiled code call `function`, a plain one, as `scalar_form`."""
    options: Any = OPTIONS | {"forceinline": True}
    overload(function, jit_options=options, strict=False)(lambda *arguments: scalar_form)


# the primitives for scalars, then the functions made of them as they stand
_teach(transcendental.select, _select)
_teach(transcendental.bits, _bits)
_teach(transcendental.number, _number)
_teach(transcendental.root, _root)
for _function in (
    transcendental.power_of_two,
    transcendental.reduced_expm1,
    transcendental.exp,
    transcendental.log,
    transcendental.reduced_log,
    transcendental.tanh,
    transcendental.cos_of_turns,
    transcendental.uniform,
    transcendental.normal,
):
    _teach(_function, _function)


# the float64 functions, by names that code for other targets can replace
_exp, _log, _tanh = transcendental.exp, transcendental.log, transcendental.tanh
# of four random words, in float64: what stands behind `normal()` in a rule
normal = inlined(transcendental.normal)


@inlined
def exp(x: Any) -> Any:
    """Return e**x, computed in float64 and rounded once."""
    return type(x)(_exp(np.float64(x)))


@inlined
def log(x: Any) -> Any:
    """Return the natural logarithm, computed in float64 and rounded once: -inf at either zero, NaN below."""
    return type(x)(_log(np.float64(x)))


@inlined
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent, computed in float64 and rounded once."""
    return type(x)(_tanh(np.float64(x)))


@compiled
def row_sum(terms: Any) -> Any:
    """Return the sum of a 1-D buffer in the canonical order, rounded once to its dtype."""
    return terms.dtype.type(canonical.sum_whole(pointer(terms), terms.size))


@compiled
def row_norm(terms: Any) -> Any:
    """Return the 2-norm of a 1-D buffer in the canonical order, rounded once to its dtype."""
    return terms.dtype.type(math.sqrt(canonical.norm_whole(pointer(terms), terms.size)))


@compiled
def row_mean(terms: Any) -> Any:
    """Return the mean of a 1-D buffer in the canonical order, rounded once to its dtype; NaN if empty."""
    return terms.dtype.type(canonical.sum_whole(pointer(terms), terms.size) / terms.size)


@compiled
def row_max(terms: Any) -> Any:
    """Return the largest element of a 1-D buffer, NaN if one is NaN; -inf if it is empty."""
    return terms.dtype.type(canonical.max_whole(pointer(terms), terms.size))
