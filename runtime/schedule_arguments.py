"""Reading the arguments of learning rate schedules: each function returns the checked value or raises."""

from __future__ import annotations

import math

import numpy as np


def rate(name: str, value: float) -> float:
    """Return a finite number >= 0 as float."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, not {value!r}; write it as a float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, not {value!r}")
    return number


def decay_factor(value: float) -> float:
    """Return the factor of a decay as float."""
    number = rate("factor", value)
    if number > 1:
        raise ValueError(f"factor must be at most 1, not {value!r}; a schedule only lowers the rate")
    return number


def count(name: str, value: int, least: int) -> int:
    """Return a whole number from `least` on as int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, not {value!r}; write it as an int")
    number = int(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return number
