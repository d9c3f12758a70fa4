"""Norms over many gradients in the canonical order, in float64: for clipping, and to find inf and NaN.

Note [Norms tell what is finite]
A sum of squares has no cancellation: it is finite exactly if all elements are and nothing overflows. Squares
of float16, bfloat16 and float32 cannot overflow float64. Those of float64 can, and can vanish; where that may
have happened the norm is taken once more, of elements multiplied by a power of two. So one number per tensor
answers both questions, and in most cases its gradient is read once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepspec import reference
from stepspec.places import on_device, shadow
from stepspec.states import Array

Floats = NDArray[np.float64]

# float64 norms from LEAST on have lost nothing that matters to vanishing squares
LEAST = 2.0**-400
# no square of a float64 times 2**-SHIFT overflows, nor any sum of such squares
SHIFT = 600


class Norm(NamedTuple):
    """A 2-norm: ``value * 2.0**exponent``, which float64 need not hold. Of what is not finite: inf or NaN."""

    value: float
    exponent: int

    def __float__(self) -> float:
        try:
            return math.ldexp(self.value, self.exponent)
        except OverflowError:
            return math.inf

    def factor_to(self, bound: float) -> float:
        """Return what limits the norm to `bound`: at most 1, and 1 where it is 0 or not finite."""
        if not 0 < self.value < math.inf:
            return 1.0
        try:
            return min(1.0, math.ldexp(bound / self.value, -self.exponent))
        except OverflowError:
            return 1.0


@dataclass(frozen=True, slots=True)
class Norms:
    """The 2-norm of each of some tensors: ``values * 2.0**exponents``, two arrays of shape (n,)."""

    values: Floats
    exponents: NDArray[np.int64]

    def first_not_finite(self) -> int | None:
        """Return the position of the first tensor with an inf or NaN among its elements, None if none has."""
        broken = np.flatnonzero(~np.isfinite(self.values))
        return int(broken[0]) if broken.size else None

    def combined(self, factors: Sequence[float]) -> Norm:
        """Return the norm of all tensors, each times its factor, in the canonical order of the tensors."""
        # tensors that the largest one dwarfs underflow, whatever np.seterr says of that
        with np.errstate(all="ignore"):
            if self.first_not_finite() is not None:
                return Norm(float(self.values.sum()), 0)
            values, exponents = np.frexp(self.values)
            scales, more = np.frexp(factors)
            values, exponents = values * scales, exponents + more + self.exponents
            highest = int(exponents[values != 0].max()) if values.any() else 0
            return Norm(float(reference.norm(np.ldexp(values, exponents - highest))), highest)


def measure(grads: Sequence[Array], fused: bool) -> Norms:
    """Return the norm of each gradient.

    Parameters
    ----------
    grads
        Any shapes and strides, of float16, bfloat16, float32 and float64; on the host or a GPU; not written.
    fused
        Compiled kernels (True) or NumPy: they give the same bits.

    """
    values, exponents = _norms(grads, 1.0, fused), np.zeros(len(grads), np.int64)
    doubles = np.array([shadow(grad).dtype == np.float64 for grad in grads], bool)
    for lost, shift in ((values < LEAST, SHIFT), (~np.isfinite(values), -SHIFT)):
        again = np.flatnonzero(lost & doubles).tolist()
        if again:
            values[again] = _norms([grads[i] for i in again], math.ldexp(1, shift), fused)
            exponents[again] = -shift
    return Norms(values, exponents)


def _norms(grads: Sequence[Array], scale: float, fused: bool) -> Floats:
    """Return the norm of each gradient times `scale`, a power of two."""
    away = [i for i, grad in enumerate(grads) if on_device(grad)]
    if away:
        from stepspec.cuda.norms import norms

        found = np.empty(len(grads))
        found[away] = norms([grads[i] for i in away], scale)
        here = sorted({*range(len(grads))}.difference(away))
        if here:
            found[here] = _norms([grads[i] for i in here], scale, fused)
        return found
    if fused:
        from stepspec import norms_cpu

        return norms_cpu.norms(grads, scale)
    with np.errstate(all="ignore"):
        return np.array([reference.norm(grad if scale == 1 else grad * scale) for grad in grads], float)
