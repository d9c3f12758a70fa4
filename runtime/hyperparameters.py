"""Hyperparameters as data descriptors: every set checks type and range, every read gives a float."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np

Value = TypeVar("Value", float, bool, str)

_RANGE = re.compile(r"\s*([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])\s*")


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of the reals. An infinity belongs to it only at a closed end, as in ``[0, inf]``."""

    text: str
    low: float
    high: float
    holds_low: bool
    holds_high: bool

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``[0, 1)``, ``(0, inf)``, ``[0, inf]``; anything else is a ValueError."""
        match = _RANGE.fullmatch(text)
        if match is None:
            raise ValueError(f"a range looks like '[0, 1)' or '(0, inf)', not {text!r}")
        opening, low, high, closing = match.groups()
        return cls(text, float(low), float(high), opening == "[", closing == "]")

    def __contains__(self, value: float) -> bool:
        above = value > self.low or (self.holds_low and value == self.low)
        below = value < self.high or (self.holds_high and value == self.high)
        return above and below

    @property
    def infinity(self) -> float | None:
        """Return the one infinity the range holds, which is what `None` means; None if there is not one."""
        ends = [end for end in (self.low, self.high) if math.isinf(end) and end in self]
        return ends[0] if len(ends) == 1 else None


def number(label: str, value: object) -> float:
    """Return `value` as a Python float.

    Parameters
    ----------
    label
        What the number is, for messages: ``"NAG: momentum"``.
    value
        An int, a float or a NumPy integer or float scalar.

    Raises
    ------
    TypeError
        If it is anything else; bool and str among it.
    ValueError
        If it is NaN or an int beyond the range of a float.

    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{label} must be a number, not {value!r} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(f"{label} is too large for a float") from None
    if math.isnan(result):
        raise ValueError(f"{label} must not be NaN")
    return result


class _Checked(Generic[Value]):
    """The part that all kinds of hyperparameters share: storage, and changes that can be refused."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, optimizer: None, owner: type) -> Self: ...

    @overload
    def __get__(self, optimizer: object, owner: type) -> Value: ...

    def __get__(self, optimizer: object | None, owner: type) -> Self | Value:
        if optimizer is None:
            return self
        try:
            value: Value = optimizer.__dict__[self.name]
        except KeyError:
            raise AttributeError(f"{owner.__name__}: {self.name.lstrip('_')} is not set yet") from None
        return value

    def __set__(self, optimizer: Any, value: object) -> None:
        checked = self.check(type(optimizer).__name__, value)
        change: Callable[[str, Value], None] = optimizer._change
        change(self.name, checked)

    def check(self, owner: str, value: object) -> Value:
        """Return `value` in the form in which it is stored, or raise; `owner` is the optimizer's name."""
        raise NotImplementedError  # abstract: Hyperparameter and Flag say what they take


class Hyperparameter(_Checked[float]):
    """A real hyperparameter of an optimizer.

    Parameters
    ----------
    range_text
        The values it may take, such as ``"[0, 1)"``. Infinity is one only at a closed end: ``"[0, inf]"``.
    default
        What `None` means. Where the range holds one infinity, that one; otherwise `None` is refused.
    off
        An infinity outside the range that is a value, too: a bound that is not set. `None` means it.
    called
        The name in messages, where it differs from the attribute's.

    Raises
    ------
    TypeError
        On setting anything but an int, a float, a NumPy number (or `None`, see above).
    ValueError
        On setting NaN or a value outside the range, and on a change that the optimizer refuses: one that
        breaks a requirement across hyperparameters, or that makes a state that exists appear or vanish.

    """

    def __init__(
        self,
        range_text: str,
        *,
        default: float | None = None,
        off: float | None = None,
        called: str | None = None,
    ) -> None:
        self.range = Range.parse(range_text)
        self.off = off
        self.default = next((v for v in (default, off) if v is not None), self.range.infinity)
        self.called = called

    def check(self, owner: str, value: object) -> float:
        if value is None and self.default is not None:
            return self.default
        label = f"{owner}: {self.called or self.name}"
        result = number(label, value)
        if result not in self.range and result != self.off:
            none = "" if self.default is None else " or None"
            raise ValueError(f"{label} = {value!r} is outside of its range {self.range.text}{none}")
        return result


class Choice(_Checked[str]):
    """One of a few words: another str is a ValueError, anything else a TypeError."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def check(self, owner: str, value: object) -> str:
        known = " or ".join(repr(word) for word in self.words)
        if not isinstance(value, str):
            raise TypeError(f"{owner}: {self.name} must be {known}, not {value!r}")
        if value not in self.words:
            raise ValueError(f"{owner}: {self.name} must be {known}, not {value!r}")
        return value


class Flag(_Checked[bool]):
    """A boolean hyperparameter: True or False, nothing else (TypeError)."""

    def check(self, owner: str, value: object) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{owner}: {self.name} must be True or False, not {value!r}")
        return bool(value)
