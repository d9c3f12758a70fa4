"""The functions of the readable `step`: NumPy arrays in, the bits of the compiled kernels out.

Elementwise functions keep the compute dtype (float32 or float64) of their array arguments; where an array
meets a Python number, the number is rounded to it once. Reductions follow Note [Canonical order] in
`stepspec.canonical`: per tensor they give a `np.float64`, per row and per column an array of the compute
dtype with its dimensions kept. Strides never matter, and big arrays are taken in slabs, so that no float64
copy of a whole array is made. Call them under `np.errstate(all="ignore")`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepspec import transcendental

BLOCK = 4096
ROW_BLOCK = 256
LANES = 256
NARROW = 8
# elements taken at once, so that their float64 copies stay in the cache; functions make many copies
SLAB = 64 * BLOCK
FUNCTION_SLAB = 4 * BLOCK

Array = NDArray[Any]
Wide = NDArray[np.float64]
Load = np.ufunc
Fold = Callable[[Any, Any], Any]


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition holds, else b; one of the two must have the compute dtype."""
    return np.where(condition, a, b)[()]


def spread(value: Any, like: Any) -> Array:
    """Return an array of the shape and dtype of `like` filled with value."""
    return np.full(np.shape(like), value, like.dtype)


def clip_between(x: Any, low: Any, high: Any) -> Any:
    """Return x limited to [low, high]; NaN stays NaN."""
    x = where(x < low, low, x)
    return where(x > high, high, x)


def clip(x: Any, bound: Any) -> Any:
    """Return x limited to [-bound, bound]; NaN stays NaN."""
    # Python's int 0 has no negative
    return clip_between(x, -1.0 * bound, bound)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two, NaN if one is NaN; of equal ones (zeros) the second."""
    return where((a > b) | (a != a), a, b)


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two, NaN if one is NaN; of equal ones (zeros) the second."""
    return where((a < b) | (a != a), a, b)


def sign(x: Any) -> Any:
    """Return -1, 0 or 1; +0 for either zero, NaN for NaN."""
    return np.sign(x)


def square(x: Any) -> Any:
    """Return x * x."""
    return x * x


def sqrt(x: Any) -> Any:
    """Return the square root; NaN below zero."""
    return np.sqrt(x)


def power(x: Any, n: int) -> Any:
    """Return the product of n factors x, from left to right."""
    product = x
    for _ in range(1, n):
        product = product * x
    return product


def exp(x: Any) -> Any:
    """Return e**x, computed in float64 and rounded once."""
    return _in_float64(transcendental.exp, x)


def log(x: Any) -> Any:
    """Return the natural logarithm, computed in float64 and rounded once: -inf at either zero, NaN below."""
    return _in_float64(transcendental.log, x)


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent, computed in float64 and rounded once."""
    return _in_float64(transcendental.tanh, x)


def _in_float64(function: Callable[[Wide], Wide], x: Any) -> Any:
    """Apply an elementwise float64 function slab by slab, rounding to the dtype of x."""
    terms = np.asarray(x)
    flat = terms.reshape(-1)
    results = np.empty_like(flat)
    for start in range(0, flat.size, FUNCTION_SLAB):
        part = slice(start, start + FUNCTION_SLAB)
        results[part] = function(flat[part].astype(np.float64))
    return results.reshape(terms.shape)[()]


def total(x: Any) -> np.float64:
    """Return the sum of all elements; 0 if there are none."""
    number: np.float64 = _sums(_as_tensor(x))[0]
    return number


def norm(x: Any) -> np.float64:
    """Return the 2-norm of all elements; 0 if there are none."""
    number: np.float64 = _norms(_as_tensor(x))[0]
    return number


def mean(x: Any) -> np.float64:
    """Return the mean of all elements; NaN if there are none."""
    number: np.float64 = _means(_as_tensor(x))[0]
    return number


def largest(x: Any) -> np.float64:
    """Return the largest of all elements, NaN if one is NaN. ValueError if there are none."""
    number: np.float64 = _maxima(_as_tensor(x))[0]
    return number


def row_sum(x: Any) -> Array:
    """Return the sum of each row, shape (n, 1, ..., 1)."""
    return _per_row(_sums, x)


def row_norm(x: Any) -> Array:
    """Return the 2-norm of each row, shape (n, 1, ..., 1)."""
    return _per_row(_norms, x)


def row_mean(x: Any) -> Array:
    """Return the mean of each row, shape (n, 1, ..., 1); NaN where a row is empty."""
    return _per_row(_means, x)


def row_max(x: Any) -> Array:
    """Return the largest element of each row, shape (n, 1, ..., 1). ValueError if rows are empty."""
    return _per_row(_maxima, x)


def column_sum(x: Any) -> Array:
    """Return the sum over the first axis, shape (1, ...)."""
    return _per_column(_sums, x)


def column_norm(x: Any) -> Array:
    """Return the 2-norm over the first axis, shape (1, ...)."""
    return _per_column(_norms, x)


def column_mean(x: Any) -> Array:
    """Return the mean over the first axis, shape (1, ...); NaN if there are no rows."""
    return _per_column(_means, x)


def column_max(x: Any) -> Array:
    """Return the largest over the first axis, shape (1, ...). ValueError if there are no rows."""
    return _per_column(_maxima, x)


def _as_tensor(x: Any) -> Array:
    """Return x as one operand, shape (1, size)."""
    terms = np.asarray(x)
    return terms.reshape(1, terms.size)


def _as_rows(x: Array) -> Array:
    """Return x as an operand per row, shape (rows, columns); a 0-d array is one row of one element."""
    return x.reshape(x.shape[0] if x.ndim else 1, math.prod(x.shape[1:]))


def _per_row(reduce: Callable[..., Wide], x: Any) -> Array:
    terms = np.asarray(x)
    results = reduce(_as_rows(terms)).astype(terms.dtype)
    return results.reshape(terms.shape[:1] + (1,) * (terms.ndim - 1))


def _per_column(reduce: Callable[..., Wide], x: Any) -> Array:
    terms = np.asarray(x)
    results = reduce(_as_rows(terms).T, ROW_BLOCK, 1).astype(terms.dtype)
    return results.reshape((1,) * min(terms.ndim, 1) + terms.shape[1:])


def _sums(terms: Array, block: int = BLOCK, lanes: int = LANES) -> Wide:
    return _reduce(terms, np.positive, np.add, 0.0, block, lanes)


def _norms(terms: Array, block: int = BLOCK, lanes: int = LANES) -> Wide:
    norms: Wide = np.sqrt(_reduce(terms, np.square, np.add, 0.0, block, lanes))
    return norms


def _means(terms: Array, block: int = BLOCK, lanes: int = LANES) -> Wide:
    means: Wide = _sums(terms, block, lanes) / terms.shape[1]
    return means


def _maxima(terms: Array, block: int = BLOCK, lanes: int = LANES) -> Wide:
    if terms.shape[1] == 0:
        raise ValueError("the largest of no elements is undefined; leave empty arrays out")
    return _reduce(terms, np.positive, maximum, -math.inf, block, lanes)


def _reduce(terms: Array, load: Load, fold: Fold, start: float, block: int, lanes: int) -> Wide:
    """Reduce each row of `terms` in the canonical order; (operands, elements) -> (operands,)."""
    results = _reduce_blocks(terms, load, fold, start, block, lanes)
    while results.shape[1] > 1:
        results = _reduce_blocks(results, np.positive, fold, start, block, lanes)
    return results[:, 0]


def _reduce_blocks(terms: Array, load: Load, fold: Fold, start: float, block: int, lanes: int) -> Wide:
    """Reduce the blocks of each row of `terms`, in slabs; (operands, elements) -> (operands, blocks)."""
    operands, elements = terms.shape
    if elements < lanes:
        lanes = min(lanes, NARROW)
    results = np.empty((operands, max(1, -(-elements // block))))
    # a slab is `high` operands by `wide` blocks
    high = SLAB // min(block, max(1, elements))
    wide = max(1, SLAB // block // max(1, min(high, operands)))
    for row in range(0, operands, high):
        for first in range(0, results.shape[1], wide):
            slab = terms[row : row + high, first * block : (first + wide) * block]
            part = _reduce_slab(slab, load, fold, start, block, lanes)
            results[row : row + high, first : first + wide] = part
    return results


def _reduce_slab(terms: Array, load: Load, fold: Fold, start: float, block: int, lanes: int) -> Wide:
    """Reduce the blocks of each row of `terms` at once; (operands, elements) -> (operands, blocks)."""
    operands, elements = terms.shape
    block = min(block, max(1, -(-elements // lanes)) * lanes)
    blocks = max(1, -(-elements // block))
    # operands last: NumPy's inner loops are long for narrow rows too
    wide = np.empty((blocks * block, operands))
    load(terms.T, out=wide[:elements], dtype=np.float64)
    wide[elements:] = start  # changes no lane
    steps = wide.reshape(blocks, block // lanes, lanes, operands)
    sums = np.full((blocks, lanes, operands), start)
    for step in range(steps.shape[1]):
        sums = fold(sums, steps[:, step])
    while lanes > 1:
        lanes //= 2
        sums = fold(sums[:, :lanes], sums[:, lanes:])
    return sums[:, 0].T
