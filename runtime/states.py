"""What an optimizer keeps per tensor: the layout of its states, tensor flags and variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stepspec.places import copied, new, shadow

Array = NDArray[Any]

# the truth of each static condition of a rule for one tensor; it selects the kernels
Variant = tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class State:
    """One state of a tensor: over which axes it varies, and what it starts from.

    Parameters
    ----------
    per
        ``"element"``: the weight's shape. ``"row"``: one value per index of the first axis, ``(n, 1, ...)``.
        ``"column"``: ``(1, ...)``. ``"tensor"``: one float64, of shape ``(1,)``.
    init
        The number every element starts from, or ``"weight"``: a copy of the weight.
    mxnet_sign
        -1 where MXNet keeps the opposite number.

    """

    per: Literal["element", "row", "column", "tensor"]
    init: float | Literal["weight"]
    mxnet_sign: Literal[1, -1] = 1

    def shape(self, weight: Array) -> tuple[int, ...]:
        """Return the shape of this state for `weight`, reduced axes kept as 1."""
        match self.per:
            case "element":
                return weight.shape
            case "row":
                return (*weight.shape[:1], *(1 for _ in weight.shape[1:]))
            case "column":
                return (*(1 for _ in weight.shape[:1]), *weight.shape[1:])
            case "tensor":
                return (1,)

    def dtype(self, weight: Array) -> np.dtype[Any]:
        """Return float64 for one value per tensor, else the dtype of `weight`."""
        return np.dtype(np.float64) if self.per == "tensor" else weight.dtype

    def create(self, weight: Array) -> Array:
        """Return a new C-contiguous array with the initial value for `weight`, where that lies."""
        seen = shadow(weight)
        if self.init == "weight":
            made: Array = copied(weight, seen.dtype)
        else:
            made = new(weight, self.shape(seen), self.dtype(seen), self.init)
        return made


Layout = dict[str, State]


@dataclass(frozen=True, slots=True)
class TensorFlag:
    """A static yes or no of each tensor.

    ``param_dict[index].<flag>`` decides; else it is `default`, or the opposite for names with such an ending.
    """

    default: bool
    unless_name_ends: tuple[str, ...] = ()

    def for_name(self, name: str) -> bool:
        """Return the flag of a tensor of this name (case-sensitive; no separator is needed)."""
        return self.default != name.endswith(self.unless_name_ends)
