"""How numbers are stored, and which dtype they are computed in: float32 for half precision."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# by name: bfloat16 is no dtype of NumPy's own, and its package need not be installed
HALF = ("float16", "bfloat16")
SUPPORTED = (*HALF, "float32", "float64")


# NumPy spells a name anew whenever it is asked, in microseconds
@functools.lru_cache(maxsize=64)
def spelled(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype."""
    return dtype.name


def is_half(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is one of the two half precisions."""
    return spelled(dtype) in HALF


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Tell whether arrays of this dtype can be weights."""
    return spelled(dtype) in SUPPORTED and dtype.isnative


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that values of this stored dtype are computed in: float32 or float64."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def is_rounded(weight: np.ndarray[Any, Any], master: np.ndarray[Any, Any]) -> bool:
    """Tell whether a half precision weight is what its master is rounded to."""
    with np.errstate(all="ignore"):  # a master may be beyond the range of its weight
        return np.array_equal(master.astype(weight.dtype), weight, equal_nan=True)


@dataclass(frozen=True, slots=True)
class Formats:
    """How a kernel finds the arrays of one tensor; dtypes by name.

    Parameters
    ----------
    weight
        dtype of the weight that the rule reads: with a master, the master's.
    grad, state
        dtypes of the gradient and of the states.
    copy
        dtype of the half precision weight that is written beside its master; empty without a master.
    stochastic
        Whether the weight, in half precision without a master, is rounded stochastically.
    gradient
        ``"dense"``; ``"scattered"``: row-sparse, rows that are absent count as zeros; ``"lazy"``: row-sparse,
        rows that are absent are left alone.

    """

    weight: str
    grad: str
    state: str
    copy: str = ""
    stochastic: bool = False
    gradient: Literal["dense", "scattered", "lazy"] = "dense"

    @property
    def compute(self) -> str:
        """Return the dtype of all arithmetic."""
        return "float64" if self.weight == "float64" else "float32"

    @classmethod
    def plain(cls, dtype: str) -> Formats:
        """Return the formats of a tensor whose arrays all have one dtype."""
        return cls(dtype, dtype, dtype)


@functools.lru_cache(maxsize=256)
def formats_of(
    target: np.dtype[Any], grad: np.dtype[Any], copy: str, stochastic: bool, is_sparse: bool
) -> Formats:
    """Return the formats of a tensor whose states have the dtype of its target; equal ones are one object."""
    stored = spelled(target)
    gradient: Literal["dense", "scattered"] = "scattered" if is_sparse else "dense"
    return Formats(stored, spelled(grad), stored, copy, stochastic, gradient)
