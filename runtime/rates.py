"""The learning rate, weight decay and update count of every tensor of a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from stepspec.hyperparameters import number
from stepspec.states import TensorFlag

Int64s = NDArray[np.int64]
Item = TypeVar("Item")

# numbers from here on are infinite in float32
BEYOND_FLOAT32 = (2 - 2.0**-24) * 2.0**127

# a scalar that the host computes: of the optimizer and of one tensor's rate
HostScalar = Callable[[Any, "Rate"], float]


class Rate(NamedTuple):
    """What the host knows of one tensor in one call: multipliers and schedule applied; `t` counts from 1."""

    lr: float
    wd: float
    t: int


class Multipliers(NamedTuple):
    """The distinct (lr_mult, wd_mult) of some tensors, and for each tensor the position of its own."""

    distinct: tuple[tuple[float, float], ...]
    of: tuple[int, ...]


class Rates(NamedTuple):
    """The distinct rates of a call, and for each tensor the position of its own.

    While tensors are grouped alike, `of` is one and the same array in all calls.
    """

    distinct: tuple[Rate, ...]
    of: Int64s

    def first(self, k: int) -> int:
        """Return the first tensor with a rate."""
        return int(np.argmax(self.of == k))


@dataclass(slots=True)
class PerTensor:
    """What the user said about single tensors: names, multipliers, and objects with attributes of both.

    The first of these decides, nothing is combined: the attribute of ``objects[index]``, the entry under the
    index, the entry under the name, 1.
    """

    owner: str
    names: dict[int, str] = field(default_factory=dict)
    objects: Mapping[int, Any] = field(default_factory=dict)
    lr_mult: dict[int | str, float] = field(default_factory=dict)
    wd_mult: dict[int | str, float] = field(default_factory=dict)

    def label(self, index: int) -> str:
        """Return what messages call a tensor: ``'fc1_weight' (index 0)`` or ``tensor 3``."""
        return f"{self.names[index]!r} (index {index})" if index in self.names else f"tensor {index}"

    def flag(self, index: int, name: str, rule: TensorFlag) -> bool:
        """Return a tensor's flag, from its object or else by its name (unnamed: its decimal index)."""
        value = getattr(self.objects.get(index), name, None)
        if value is None:
            return rule.for_name(self.names.get(index, str(index)))
        if not isinstance(value, bool):
            raise TypeError(f"param_dict[{index}].{name} must be True or False, not {value!r}")
        return value

    def multipliers(self, indices: Sequence[int]) -> Multipliers:
        """Look up the multipliers of some tensors."""
        if not (self.objects or self.lr_mult or self.wd_mult):
            return Multipliers(((1.0, 1.0),), (0,) * len(indices))
        lr = [self._lookup(index, "lr_mult", self.lr_mult) for index in indices]
        wd = [self._lookup(index, "wd_mult", self.wd_mult) for index in indices]
        return Multipliers(*distinct(list(zip(lr, wd, strict=True))))

    def _lookup(self, index: int, attribute: str, table: dict[int | str, float]) -> float:
        own = getattr(self.objects.get(index), attribute, None)
        if own is not None:
            return multiplier(f"{self.owner}: param_dict[{index}].{attribute}", own)
        if index in table:
            return table[index]
        return table.get(self.names.get(index, ""), 1.0)


def multiplier(label: str, value: object) -> float:
    """Return a multiplier as a float; TypeError unless a number, ValueError unless finite and >= 0."""
    result = number(label, value)
    if not 0 <= result < math.inf:
        raise ValueError(f"{label} = {value!r} must be finite and >= 0")
    return result


def host_scalar(optimizer: Any, name: str, rate: Rate, label: str) -> float:
    """Compute one host scalar; what Python cannot compute is a ValueError naming tensor and scalar."""
    owner = type(optimizer).__name__
    given = f"{label}: the scalar {name!r} of {owner} at lr={rate.lr}, wd={rate.wd}, t={rate.t}"
    compute: HostScalar = optimizer.host[name]
    try:
        value = compute(optimizer, rate)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{given} cannot be computed: {error}") from error
    if isinstance(value, complex):
        raise ValueError(  # noqa: TRY004  # numbers led here, not types
            f"{given} is not a real number: {value}"
        )
    return float(value)


def distinct(items: Sequence[Item]) -> tuple[tuple[Item, ...], tuple[int, ...]]:
    """Return the distinct items in order, and for each item its position among them."""
    position: dict[Item, int] = {}
    of = tuple(position.setdefault(item, len(position)) for item in items)
    return tuple(position), of
